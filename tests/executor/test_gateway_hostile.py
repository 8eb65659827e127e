"""Hostile clients and engines that cannot be trusted, against a real gateway process: what each may cost, and what leaks."""

import asyncio
import contextlib
import gc
import gzip
import json
import signal
import socket
import sys
import time

import aiohttp
import psutil
import pytest
from aiohttp import web

from executor.gateway.config import Endpoint, GatewayConfig, GatewayLimits, save_gateway
from executor.gateway.discreet import hush, on_loop_error
from executor.gateway.health import HealthWatch
from executor.gateway.keys import KeyRing
from executor.gateway.pool import InstancePool
from executor.gateway.server import Server
from scepsy.importers.recorded.reader import load_recording
from tests.executor.raw_engine import streamed_reply, whole_reply

CANARY = "canary-c1f9e7"
KEY = f"sk-{CANARY}-key"
CHAT = {"model": "m", "messages": [{"role": "user", "content": f"a secret: {CANARY}"}]}
REPLY = {"choices": [{"index": 0, "message": {"content": "fine"}}], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}
MIB = 1024**2


def endpoint(engine, name="m-0", llm="m"):
    return Endpoint(name=name, llm=llm, url=engine.url)


def keyed(tmp_path, *keys):
    (tmp_path / "keys").write_text("\n".join(keys or (KEY,)) + "\n")
    return {"api_keys_file": "keys"}


async def post(url, body=None, *, path="/v1/chat/completions", data=None, timeout_s=20, **headers):
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout_s), auto_decompress=False) as session,
        session.post(url + path, json=CHAT if body is None and data is None else body, data=data, headers=headers) as answer,
    ):
        return answer.status, await answer.read(), answer.headers


def port_of(process):
    return int(process.url.rsplit(":", 1)[1])


async def connect(process, data=b""):
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(process))
    writer.write(data)
    await writer.drain()
    return reader, writer


def rss(process):
    return psutil.Process(process.pid).memory_info().rss


# --- who may call: what is bound decides -----------------------------------------------------------------------------


@pytest.mark.parametrize("by_option", [False, True])
async def test_a_reload_never_opens_what_is_bound_to_the_world(stub, gateway, tmp_path, eventually, by_option):
    engine = stub()
    options = ["--host", "0.0.0.0"] if by_option else []
    host = {} if by_option else {"host": "0.0.0.0"}
    served = gateway([endpoint(engine)], options=options, **keyed(tmp_path), **host)
    served.url = served.url.replace("0.0.0.0", "127.0.0.1")
    assert (await post(served.url))[0] == 401
    save_gateway(served.config, GatewayConfig(port=0, endpoints=(endpoint(engine),)))  # loopback, no keys
    eventually(lambda: "not reloaded: api_keys_file: no keys" in served.log.read_text(), what="the refusal")
    assert (await post(served.url))[0] == 401
    assert (await post(served.url, Authorization=f"Bearer {KEY}"))[0] == 200


async def test_a_key_taken_out_of_its_file_is_refused_soon(stub, gateway, tmp_path):
    served = gateway([endpoint(stub())], **keyed(tmp_path, "old", "new"))
    assert (await post(served.url, Authorization="Bearer old"))[0] == 200
    (tmp_path / "keys").write_text("new\n")
    deadline = time.monotonic() + 10
    while (await post(served.url, Authorization="Bearer old"))[0] != 401:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)
    assert (await post(served.url, Authorization="Bearer new"))[0] == 200


async def test_keys_may_hold_a_hash_and_still_name_a_run(stub, gateway, tmp_path):
    served = gateway([endpoint(stub())], **keyed(tmp_path, "# a comment", "sk#with#hashes", "plain  # team a"))
    for sent, status in (
        ("sk#with#hashes", 200),
        ("sk#with#hashes#run-1", 200),
        ("plain#run-2", 200),
        ("plain", 200),
        ("sk", 401),
        ("sk#with", 401),
        ("# a comment", 401),
        ("", 401),
    ):
        assert (await post(served.url, Authorization=f"Bearer {sent}"))[0] == status, sent
    runs = [call.run for call in load_recording(served.recording).calls]
    assert (runs[1], runs[2]) == ("run-1", "run-2")
    assert runs[0].startswith("call-")


@pytest.mark.parametrize("header", ["x-api-key", "api-key", "Authorization"])
async def test_the_key_is_taken_as_any_client_sends_it_and_never_reaches_an_engine(raw_engine, gateway, tmp_path, header):
    engine = await raw_engine(whole_reply(REPLY))
    served = gateway([endpoint(engine)], **keyed(tmp_path, KEY, "sk-the-other-one"))
    value = f"Bearer {KEY}" if header == "Authorization" else KEY
    headers = {
        header: value,
        "x-api-key": KEY,
        "x-goog-api-key": KEY,
        "x-custom": f"token={KEY};v=1",
        "x-second": "sk-the-other-one",
        "x-run-key": f"{KEY}#run-1",
        "proxy-authorization": f"Basic {KEY}",
        "cookie": f"k={KEY}",
        "x-request-id": "kept-1",
        "Connection": "keep-alive, X-Hop",
        "x-hop": "not-passed-on",
        "keep-alive": "timeout=5",
        "te": "trailers",
        "upgrade": "h2c",
    } | {header: value}
    assert (await post(served.url, **headers))[0] == 200
    (head,) = engine.heads
    text = head.decode().lower()
    for secret in (KEY.lower(), "sk-the-other-one", "not-passed-on", "keep-alive: ", "te: ", "upgrade"):
        assert secret not in text
    assert "x-request-id: kept-1" in text


@pytest.mark.parametrize("bad", ["\x01", "\x1f", "\x7f", "\x0b"])
async def test_headers_that_nobody_could_send_on_are_dropped(raw_engine, gateway, bad):
    engine = await raw_engine(whole_reply(REPLY, headers=f"x-odd: a{bad}b\r\nx-kept: 1\r\n"))
    served = gateway([endpoint(engine)])
    body = json.dumps(CHAT)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-odd: a{bad}b\r\ncontent-length: {len(body)}\r\n\r\n"
    reader, writer = await connect(served, (head + body).encode())
    assert (await asyncio.wait_for(reader.readline(), 5)).split()[1] in (b"200", b"400", b"502")
    writer.close()
    assert "internal error" not in served.log.read_text()


async def test_hop_by_hop_headers_of_an_answer_stay_here(raw_engine, gateway):
    engine = await raw_engine(whole_reply(REPLY, headers="connection: keep-alive, x-mine\r\nx-mine: 1\r\nx-kept: 1\r\n"))
    answer = await post(gateway([endpoint(engine)]).url)
    assert "x-mine" not in answer[2]
    assert answer[2]["x-kept"] == "1"


# --- an engine's word ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary Redirect", "308 Permanent", "300 Choices"])
async def test_a_redirect_is_not_followed(raw_engine, gateway, status):
    thief = await raw_engine(whole_reply(REPLY))
    engine = await raw_engine(whole_reply({}, status=status, headers=f"location: {thief.url}/v1/chat/completions\r\n"))
    served = gateway([endpoint(engine)])
    code, body, headers = await post(served.url)
    assert (code, json.loads(body)["error"]["code"]) == (502, "redirected")
    assert "location" not in headers
    assert (len(engine.heads), thief.heads) == (1, [])
    assert [call.outcome for call in load_recording(served.recording).calls] == ["failed"]


def delta(text, **more):
    return json.dumps({"choices": [{"index": 0, "delta": {"content": text}}], **more})


USAGE = json.dumps({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 9}})


async def test_done_inside_an_answer_is_not_its_end(raw_engine, gateway):
    said = ["I say data: [DONE]\n\ndata: [DONE]\n", " event: response.completed ", "and go on"]
    engine = await raw_engine(streamed_reply(*map(delta, said), USAGE, "[DONE]"))
    served = gateway([endpoint(engine)])
    assert (await post(served.url, {**CHAT, "stream": True}))[1].endswith(b"data: [DONE]\n\n")
    (record,) = load_recording(served.recording).calls
    assert (record.output_bytes, record.output_tokens, record.outcome) == (len("".join(said)), 9, "completed")


async def test_a_stream_without_its_end_is_no_completed_call(raw_engine, gateway):
    engine = await raw_engine(streamed_reply(delta("half an ans"), USAGE))
    served = gateway([endpoint(engine)])
    data = (await post(served.url, {**CHAT, "stream": True}))[1]
    assert b"half an ans" in data
    assert json.loads(data.strip().rsplit(b"data: ", 1)[1])["error"]["code"] == "stream_incomplete"
    assert [call.outcome for call in load_recording(served.recording).calls] == ["failed"]


def endless(
    piece, count, *, chunked_pause_s=0.0, head=b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\nconnection: close\r\n\r\n", kind
):
    async def write(_head, _body, writer):
        writer.write(head % kind)
        for _ in range(count):
            writer.write(piece)
            await writer.drain()

    return write


async def test_a_huge_event_is_cut_short_at_once_and_hurts_nobody(raw_engine, stub, gateway):
    huge = await raw_engine(endless(b"x" * 4096, 32 * MIB // 4096, kind=b"text/event-stream"))
    served = gateway([endpoint(huge), endpoint(stub(), "b-0", "b")])
    before = rss(served)
    call = asyncio.create_task(post(served.url, {**CHAT, "stream": True}))
    longest_s = 0.0
    while not call.done():
        began_s = time.monotonic()
        assert (await post(served.url, {**CHAT, "model": "b"}))[0] == 200
        longest_s = max(longest_s, time.monotonic() - began_s)
    data = (await call)[1]
    assert json.loads(data.strip().rsplit(b"data: ", 1)[1])["error"]["code"] == "event_too_large"
    assert longest_s < 4
    assert rss(served) - before < 64 * MIB


async def test_a_long_event_within_the_limit_costs_its_length(raw_engine, gateway):
    text = "y" * (6 * MIB)
    engine = await raw_engine(streamed_reply(delta(text), USAGE, "[DONE]"))
    served = gateway([endpoint(engine)])
    began_s = time.process_time(), psutil.Process(served.pid).cpu_times().user
    data = (await post(served.url, {**CHAT, "stream": True}))[1]
    assert text.encode() in data
    assert psutil.Process(served.pid).cpu_times().user - began_s[1] < 1.5


async def test_an_endless_reply_is_cut_short(raw_engine, gateway):
    engine = await raw_engine(endless(b"x" * 65536, 512 * MIB // 65536, kind=b"application/json"))
    served = gateway([endpoint(engine)], limits=GatewayLimits(reply_bytes=8 * MIB))
    before = rss(served)
    code, body, _ = await post(served.url)
    assert (code, json.loads(body)["error"]["code"]) == (502, "reply_too_large")
    assert rss(served) - before < 64 * MIB


async def test_a_very_long_stream_costs_no_memory(raw_engine, gateway):
    event = f"data: {delta('token ' * 20)}\n\n".encode()
    count = 64 * MIB // len(event)

    async def write(_head, _body, writer):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
        for _ in range(count // 64):
            writer.write(event * 64)
            await writer.drain()
        writer.write(f"data: {USAGE}\n\ndata: [DONE]\n\n".encode())

    engine = await raw_engine(write)
    served = gateway([endpoint(engine)])
    await post(served.url, {**CHAT, "model": "m"})  # warm
    before = rss(served)
    async with (
        aiohttp.ClientSession() as session,
        session.post(served.url + "/v1/chat/completions", json={**CHAT, "stream": True}) as answer,
    ):
        async for _ in answer.content.iter_any():
            pass
    assert rss(served) - before < 24 * MIB
    record = load_recording(served.recording).calls[-1]
    assert (record.outcome, record.output_bytes) == ("completed", count // 64 * 64 * len("token ") * 20)


@pytest.mark.parametrize("tokens", [-5, 2**63, 2**64, 10**30, 1.5, "many", True, [3], {"n": 1}])
async def test_absurd_usage_is_not_recorded(raw_engine, gateway, tokens):
    usage = {"prompt_tokens": 7, "completion_tokens": tokens}
    reply = {**REPLY, "usage": usage}
    engine = await raw_engine(whole_reply(reply), whole_reply({}, status="404 None"))
    served = gateway([endpoint(engine)])
    assert json.loads((await post(served.url))[1]) == reply
    (record,) = load_recording(served.recording).calls
    assert (record.counted_by, record.output_tokens, record.output_bytes) == ("bytes", 1, 4)
    assert "counts tokens that cannot be" in served.log.read_text()


async def test_a_tokenize_that_hangs_holds_no_stream_back_for_long(raw_engine, gateway):
    async def hang(_head, _body, writer):
        await asyncio.sleep(30)

    async def serve(head, body, writer):
        if b"/tokenize" in head:
            await hang(head, body, writer)
        else:
            writer.write(streamed_reply(delta("a"), "[DONE]"))

    engine = await raw_engine(serve)
    served = gateway([endpoint(engine)])
    began_s = time.monotonic()
    assert (await post(served.url, {**CHAT, "stream": True}))[1].endswith(b"[DONE]\n\n")
    assert time.monotonic() - began_s < 5
    await asyncio.gather(*(post(served.url, {**CHAT, "stream": True}) for _ in range(5)))
    assert sum(b"/tokenize" in head for head in engine.heads) == 1, "it is not asked again for a while"
    assert {call.counted_by for call in load_recording(served.recording).calls} == {"bytes"}


# --- nothing costs before the key, and little after it ---------------------------------------------------------------


async def test_a_compressed_body_without_a_key_is_not_even_read(stub, gateway, tmp_path):
    served = gateway([endpoint(stub())], **keyed(tmp_path))
    bomb = gzip.compress(bytes(512 * MIB), 9)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-encoding: gzip\r\ncontent-length: {len(bomb)}\r\n\r\n"
    before_s = psutil.Process(served.pid).cpu_times().user
    for _ in range(10):
        reader, writer = await connect(served, head.encode())
        with contextlib.suppress(ConnectionError):
            writer.write(bomb)
            await writer.drain()
        assert b" 401 " in await asyncio.wait_for(reader.readline(), 3)
        writer.close()
    assert psutil.Process(served.pid).cpu_times().user - before_s < 1


async def test_compressed_bodies_are_read_within_the_limit(stub, gateway, tmp_path):
    engine = stub()
    served = gateway([endpoint(engine)], **keyed(tmp_path))
    admitted = {"Authorization": f"Bearer {KEY}"}
    plain = json.dumps(CHAT).encode()
    for encoding, data, status in (
        ("gzip", gzip.compress(plain), 200),
        ("identity", plain, 200),
        ("gzip", gzip.compress(bytes(64 * MIB)), 413),
        ("gzip", b"not gzip", 400),
        ("gzip", gzip.compress(plain)[:-4], 400),
        ("gzip", gzip.compress(plain) * 2, 400),
        ("br", plain, 415),
    ):
        found = await post(served.url, data=data, **admitted, **{"Content-Encoding": encoding})
        assert found[0] == status, (encoding, data[:10])
    assert rss(served) < 300 * MIB


FEW_FILES = (
    "import resource, os, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256)); os.execv(sys.argv[1], sys.argv[1:])"
)


async def test_half_open_requests_eat_no_descriptors(stub, gateway):
    served = gateway([endpoint(stub())], launcher=[sys.executable, "-c", FEW_FILES], limits=GatewayLimits(header_s=2.0))
    half = [await connect(served, b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n") for _ in range(300)]
    replies = await asyncio.gather(*(post(served.url) for _ in range(20)))
    assert {reply[0] for reply in replies} == {200}
    began_s = time.monotonic()
    await asyncio.wait_for(asyncio.gather(*(reader.read() for reader, _ in half), return_exceptions=True), 6)
    assert time.monotonic() - began_s < 5, "all are closed when their time is over"
    for _, writer in half:
        writer.close()
    assert "Traceback" not in served.log.read_text()


async def test_headers_that_drip_are_cut_off(stub, gateway):
    served = gateway([endpoint(stub())], limits=GatewayLimits(header_s=1.0))
    reader, writer = await connect(served)
    began_s = time.monotonic()
    with contextlib.suppress(ConnectionError):
        for byte in b"GET /health HTTP/1.1\r\n" + b"x: y\r\n" * 100:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.02)
    assert time.monotonic() - began_s < 4
    # On a kept connection too: its second request's headers have the same time.
    reader, writer = await connect(served, b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
    assert b" 200 " in await reader.readline()
    await asyncio.sleep(1.5)
    writer.write(b"GET /health HTTP/1.1\r\n")
    began_s = time.monotonic()
    await asyncio.wait_for(reader.read(), 5)
    assert 0.5 < time.monotonic() - began_s < 4


async def test_slow_bodies_keep_nobody_out_and_the_gateway_not_from_leaving(stub, gateway, tmp_path):
    limits = GatewayLimits(concurrent=20, body_s=60.0, drain_s=10.0)
    served = gateway([endpoint(stub())], limits=limits, **keyed(tmp_path))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-length: 1000\r\n\r\n{{"
    slow = [await connect(served, head.encode()) for _ in range(40)]
    replies = await asyncio.gather(*(post(served.url, Authorization=f"Bearer {KEY}") for _ in range(20)))
    assert {reply[0] for reply in replies} == {200}
    began_s = time.monotonic()
    assert await asyncio.to_thread(served.stop) == 0
    assert time.monotonic() - began_s < limits.drain_s + 2
    for _, writer in slow:
        writer.close()


async def test_a_body_that_does_not_arrive_is_a_time_out(stub, gateway):
    served = gateway([endpoint(stub())], limits=GatewayLimits(body_s=0.5))
    reader, _ = await connect(served, b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n{")
    assert b" 408 " in await asyncio.wait_for(reader.readline(), 5)
    assert "close" in (await asyncio.wait_for(reader.read(), 5)).decode().lower()


async def test_bodies_held_are_bounded_in_all(raw_engine, gateway):
    async def never(_head, _body, writer):
        await asyncio.sleep(20)

    engine = await raw_engine(never)
    served = gateway([endpoint(engine)], limits=GatewayLimits(held_bytes=32 * MIB, drain_s=2.0))
    before = rss(served)
    body = json.dumps({**CHAT, "pad": "z" * (7 * MIB)}).encode()
    calls = [asyncio.create_task(post(served.url, data=body)) for _ in range(40)]
    done, pending = await asyncio.wait(calls, timeout=6)
    codes = [call.result()[0] for call in done if call.exception() is None]
    assert len(pending) <= 4
    assert set(codes) <= {503}
    assert len(codes) >= 30
    assert rss(served) - before < 3 * 32 * MIB
    served.child.send_signal(signal.SIGTERM)
    began_s = time.monotonic()
    assert await asyncio.to_thread(served.child.wait, 10) == 0
    assert time.monotonic() - began_s < 4
    await asyncio.gather(*calls, return_exceptions=True)


@pytest.mark.parametrize("drain_s", [0.0, 1.0, 4.0])
async def test_the_end_comes_within_the_drain_time_whatever_clients_and_engines_do(raw_engine, gateway, drain_s):
    async def drip(_head, _body, writer):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
        while True:
            writer.write(b"data: {}\n\n")
            await writer.drain()
            await asyncio.sleep(0.05)

    engine = await raw_engine(drip)
    served = gateway([endpoint(engine)], limits=GatewayLimits(drain_s=drain_s))
    body = json.dumps({**CHAT, "stream": True}).encode()
    request = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    open_ones = [await connect(served, request) for _ in range(10)]  # they read nothing
    open_ones += [await connect(served, b"GET /health HT") for _ in range(5)] + [await connect(served) for _ in range(5)]
    await asyncio.sleep(0.5)
    began_s = time.monotonic()
    served.child.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(served.child.wait, 20) == 0
    assert time.monotonic() - began_s < drain_s + 2, "twice the time is too long"
    assert [call.outcome for call in load_recording(served.recording).calls] == ["cancelled"] * 10
    for _, writer in open_ones:
        writer.close()


# --- what the gateway itself was too slow to see ---------------------------------------------------------------------


class Answers:
    """In place of a session: what each probe meets."""

    def __init__(self, *answers):
        self._answers = list(answers)

    def get(self, url, **_):
        answer = self._answers.pop(0)

        @contextlib.asynccontextmanager
        async def meet():
            if answer == "late":
                time.sleep(0.8)  # the whole loop stands still
                raise aiohttp.ConnectionTimeoutError("late")
            if answer == "silent":
                await asyncio.sleep(0)
                raise aiohttp.ServerTimeoutError("silent")
            if answer == "refused":
                raise aiohttp.ClientConnectorError(None, ConnectionRefusedError(111, "refused"))
            yield type("Answer", (), {"status": answer})()

        return meet()


@pytest.mark.parametrize(
    ("answers", "up"),
    [
        (["late", "late", "late"], True),
        (["refused"], True),
        (["refused", "late"], True),
        (["refused", 200, "refused"], True),
        (["refused", "refused"], False),
        (["silent", "silent"], True),
        (["silent", "silent", "silent"], False),
        (["silent", "silent", 200, "silent"], True),
        ([503], False),
        (["refused", "refused", 200], True),
    ],
)
async def test_two_refusals_take_an_instance_out_and_a_stall_of_our_own_never(answers, up):
    pool = InstancePool([Endpoint(name="m-0", llm="m", url="http://127.0.0.1:9")])
    health = HealthWatch(Answers(*answers), pool, GatewayLimits())
    watch = asyncio.create_task(health.stalls.watch())
    await asyncio.sleep(0.2)
    for _ in answers:
        await health.probe(pool.upstreams[0])
    watch.cancel()
    assert pool.upstreams[0].up is up


# --- logs ------------------------------------------------------------------------------------------------------------

MALFORMED = [
    f"GET /{CANARY} HTTP/1.1\r\n\r\n\r\n",
    f"{CANARY} / HTTP/1.1\r\nhost: x\r\n\r\n",
    f"POST /v1/chat/completions HTTP/9.{CANARY}\r\nhost: x\r\n\r\n",
    f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization Bearer {KEY}\r\n\r\n",
    f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\x00\r\n\r\n",
    f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY * 1000}\r\n\r\n",
    f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {CANARY}\r\n\r\n",
    f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\nx: {KEY}\r\n\r\nabcdef",
    f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n{CANARY}\r\nabc\r\n0\r\n\r\n",
    f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{CANARY}\r\n0\r\n\r\n",
    f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: {CANARY}\r\n\r\n",
    f"POST /v1/chat/completions?key={KEY} HTTP/1.1\r\nhost: [{CANARY}\r\ncontent-length: 0\r\n\r\n",
    f"POST http://[{CANARY}/v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n",
    f"CONNECT {CANARY}:443 HTTP/1.1\r\nhost: x\r\n\r\n",
    f"POST /run/{CANARY}%ff%00/v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{{}}",
    f'POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 60\r\n\r\n{{"model": "{CANARY}", "messages": ',
    f'POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 31\r\n\r\n{{"model": "{CANARY}", "m": }}',
    f"GET / HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-key: {KEY}\r\n\r\n{CANARY}",
    f"\x16\x03\x01\x02\x00\x01{CANARY}",
    f"{CANARY}\r\n\r\n",
    f"GET /v1/models/{CANARY} HTTP/1.1\r\nhost: x\r\ncookie: {KEY}; =;;{CANARY}\r\n\r\n",
]


@pytest.mark.parametrize("with_keys", [True, False])
async def test_no_malformed_request_puts_a_key_or_a_prompt_into_the_log(stub, gateway, tmp_path, with_keys):
    fields = keyed(tmp_path) if with_keys else {}
    served = gateway([endpoint(stub())], options=["--log-level", "debug"], env={"PYTHONASYNCIODEBUG": "1"}, **fields)
    for text in MALFORMED:
        reader, writer = await connect(served, text.encode("latin-1"))
        with contextlib.suppress(TimeoutError, ConnectionError):
            await asyncio.wait_for(reader.read(), 0.3)
        writer.close()
    admitted = {"Authorization": f"Bearer {KEY}"}
    for body in ({**CHAT, "model": CANARY}, {**CHAT, "stub": {"status": 500}}, {**CHAT, "stub": {"no_usage": True}}, CHAT):
        await post(served.url, body, **admitted)
    assert served.stop() == 0
    log = served.log.read_text()
    assert "Traceback" not in log
    assert CANARY not in log


ODD_REPLIES = [
    f"HTTP/1.1 {CANARY}\r\n\r\n",
    f"{CANARY}\r\n\r\n",
    f"HTTP/1.1 200 OK\r\ncontent-length: {CANARY}\r\n\r\n",
    f"HTTP/1.1 200 OK\r\nx {CANARY}\r\n\r\n",
    f"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{CANARY}\r\n",
    f"HTTP/1.1 200 OK\r\nset-cookie: {CANARY}; ;=; a b=\x01\r\ncontent-length: 2\r\n\r\n{{}}",
    f"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\ndata: {{{CANARY}\n\ndata: {CANARY}",
    f"HTTP/1.1 200 OK\r\ncontent-type: {CANARY}/;;=\r\ncontent-length: 9\r\n\r\n{CANARY[:9]}",
    f"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 9\r\n\r\n{CANARY[:9]}",
    f"HTTP/1.1 101 {CANARY}\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    f"HTTP/1.1 200 OK\r\nx-big: {CANARY * 5000}\r\n\r\n",
]


async def test_no_odd_reply_of_an_engine_puts_a_prompt_into_the_log(raw_engine, gateway):
    def sending(reply):
        async def write(_head, _body, writer):
            writer.write(reply.encode("latin-1"))

        return write

    engine = await raw_engine(*(sending(reply) for reply in ODD_REPLIES for _ in range(2)))
    served = gateway([endpoint(engine)], options=["--log-level", "debug"], env={"PYTHONASYNCIODEBUG": "1"})
    codes = []
    for number in range(2 * len(ODD_REPLIES)):
        codes.append((await post(served.url, {**CHAT, "stream": bool(number % 2)}, timeout_s=5))[0])
    assert set(codes) <= {200, 502}
    assert served.stop() == 0
    log = served.log.read_text()
    assert "Traceback" not in log
    assert CANARY not in log


async def test_a_fault_of_our_own_puts_nothing_that_was_sent_into_the_log(caplog, capfd):
    """Errors quote what they met: whichever way one takes, only its kind and its place are logged."""

    async def fail(request):
        raise ValueError(CANARY + await request.text())

    async def fail_alone():
        raise ValueError(CANARY)

    class Unlucky:
        def __del__(self):
            raise ValueError(CANARY)

    hooks = sys.unraisablehook, sys.excepthook
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    caplog.set_level("DEBUG")
    statuses = []
    try:
        hush()
        loop.set_exception_handler(on_loop_error)
        runner = web.ServerRunner(Server(fail, GatewayLimits(), statuses.append))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        status, body, _ = await post(f"http://127.0.0.1:{port}")
        assert (status, json.loads(body)["error"]["type"]) == (500, "server_error")
        await runner.cleanup()
        asyncio.create_task(fail_alone())  # noqa: RUF006 nobody asks for its result
        Unlucky()
        await asyncio.sleep(0.1)
        gc.collect()
        await asyncio.sleep(0)
        try:
            raise ValueError(CANARY)
        except ValueError as error:
            sys.excepthook(ValueError, error, error.__traceback__)
    finally:
        sys.unraisablehook, sys.excepthook = hooks
        loop.set_exception_handler(None)
        loop.set_debug(False)
    assert statuses == [500]
    told = [
        record.getMessage() for record in caplog.records if record.getMessage().startswith("internal error: ValueError at ")
    ]
    assert len(told) == 4, "a handler's, a task's, a destructor's, and one that ends the program"
    assert CANARY not in caplog.text
    assert CANARY not in "".join(capfd.readouterr())


def test_a_key_ring_finds_its_keys_wherever_they_stand():
    ring = KeyRing(["sk-one", "other#key"])
    for value in ("sk-one", "Bearer sk-one", "a=sk-one; b=2", '"sk-one"', "sk-one#run", "other#key", "x other#key#run"):
        assert ring.holds_key(value), value
    for value in ("", "sk-on", "sk-ones", "application/json", "Bearer other"):
        assert not ring.holds_key(value), value


def test_an_abandoned_connection_costs_nothing_for_long(stub, gateway):
    served = gateway([endpoint(stub())], limits=GatewayLimits(header_s=1.0))
    sockets = [socket.create_connection(("127.0.0.1", port_of(served))) for _ in range(50)]
    time.sleep(0.3)
    open_before = psutil.Process(served.pid).num_fds()
    time.sleep(2.5)
    assert psutil.Process(served.pid).num_fds() <= open_before - 50
    for each in sockets:
        each.close()
