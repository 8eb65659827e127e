"""The gateway against stub engines, each a real process."""

import asyncio
import json
import signal

import aiohttp
import pytest

from executor.gateway.config import Endpoint, GatewayConfig, GatewayLimits, load_gateway, save_gateway
from executor.gateway.keys import KeyRing, load_keys
from executor.gateway.pool import InstancePool
from executor.gateway.replies import Refusal
from scepsy.importers.recorded.reader import load_recording
from tests.executor.raw_engine import whole_reply

CHAT = {"model": "m", "messages": [{"role": "user", "content": "a secret question"}]}


def endpoint(process, name="m-0", llm="m", **fields):
    return Endpoint(name=name, llm=llm, url=process.url, **fields)


async def post(url, body, **headers):
    async with aiohttp.ClientSession() as session, session.post(url, json=body, headers=headers) as answer:
        return answer.status, await answer.read(), answer.headers


# --- what passes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
@pytest.mark.parametrize("options", [None, {"include_usage": True}, {"include_usage": False}])
async def test_a_stream_has_the_same_bytes_as_without_the_gateway(stub, gateway, path, options):
    engine = stub()
    served = gateway([endpoint(engine)])
    body = {**CHAT, "prompt": "p", "stream": True, "max_tokens": 50}
    if options is not None:
        body["stream_options"] = options
    direct = await post(f"{engine.url}/v1/{path}", body)
    through = await post(f"{served.url}/v1/{path}", body)
    assert through[:2] == direct[:2]
    assert through[2]["Content-Type"] == direct[2]["Content-Type"]
    (record,) = load_recording(served.recording).calls
    assert (record.output_tokens, record.counted_by, record.outcome) == (50, "usage", "completed")


@pytest.mark.parametrize("ends_with", [b"", b": later\n\n"], ids=["complete", "more after [DONE]"])
async def test_every_part_of_a_stream_is_passed_on_before_the_next_one_comes(raw_engine, gateway, ends_with):
    parts = [b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n', b"data: [DONE]\n\n" + ends_with]
    seen = asyncio.Event()

    async def answer(_head, _body, writer):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for part in parts:
            await asyncio.wait_for(seen.wait(), 10)
            seen.clear()
            writer.write(b"%x\r\n%b\r\n" % (len(part), part))
        await asyncio.wait_for(seen.wait(), 10)
        writer.write(b"0\r\n\r\n")

    served = gateway([endpoint(await raw_engine(answer))])
    url = f"{served.url}/v1/chat/completions"
    async with aiohttp.ClientSession() as session, session.post(url, json={**CHAT, "stream": True}) as reply:
        seen.set()  # the headers came before the first event
        for part in parts:
            assert await asyncio.wait_for(reply.content.readexactly(len(part)), 10) == part
            seen.set()
        assert await reply.content.read() == b""


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        ("chat/completions", CHAT, "generate"),
        ("completions", {"model": "m", "prompt": "p"}, "generate"),
        ("embeddings", {"model": "m", "input": ["a", "b"]}, "embed"),
        ("score", {"model": "m", "text_1": "q", "text_2": ["a", "b"]}, "rerank"),
        ("rerank", {"model": "m", "query": "q", "documents": ["a", "b"]}, "rerank"),
    ],
)
async def test_a_whole_reply_passes_unchanged_and_is_recorded(stub, gateway, path, body, kind):
    engine = stub()
    served = gateway([endpoint(engine)])
    direct = await post(f"{engine.url}/v1/{path}", body)
    through = await post(f"{served.url}/v1/{path}", body)
    assert through[:2] == direct[:2]
    (record,) = load_recording(served.recording).calls
    assert (record.kind, record.outcome, record.instance) == (kind, "completed", "m-0")
    assert record.input_tokens == json.loads(direct[1])["usage"]["prompt_tokens"]
    assert record.id == through[2]["x-scepsy-call"]


async def test_tokens_are_counted_by_the_engine_when_the_reply_does_not_tell(stub, gateway):
    served = gateway([endpoint(stub())])
    await post(f"{served.url}/v1/completions", {"model": "m", "prompt": "twelve bytes", "stub": {"no_usage": True}})
    (record,) = load_recording(served.recording).calls
    assert (record.input_tokens, record.counted_by) == (12, "tokenize")
    assert record.output_tokens == len("word-0 word-1 word-2 word-3 ")


async def test_an_engines_error_passes_unchanged(stub, gateway):
    engine = stub()
    served = gateway([endpoint(engine)])
    body = {**CHAT, "stub": {"status": 503}}
    assert (await post(f"{served.url}/v1/chat/completions", body))[:2] == (
        await post(f"{engine.url}/v1/chat/completions", body)
    )[:2]
    assert len(engine.get("/stub/seen")) == 2, "a call that reached an engine is not repeated"
    assert load_recording(served.recording).calls[0].outcome == "rejected"


# --- who may call, and how much --------------------------------------------------------------------------------------


async def test_only_known_keys_are_admitted_and_none_is_logged(stub, gateway, tmp_path):
    (tmp_path / "keys").write_text("# one a line\nsk-right\nsk-other\n")
    served = gateway([endpoint(stub())], api_keys_file="keys")
    url = f"{served.url}/v1/chat/completions"
    assert (await post(url, CHAT))[0] == 401
    wrong = await post(url, CHAT, Authorization="Bearer sk-wrong")
    assert wrong[0] == 401
    assert json.loads(wrong[1])["error"]["code"] == "invalid_api_key"
    assert (await post(url, CHAT, Authorization="Bearer sk-right"))[0] == 200
    assert (await post(url, CHAT, Authorization="Bearer sk-other#run-9"))[0] == 200
    assert served.stop() == 0
    written = (tmp_path / "gateway.log").read_text() + served.recording.read_text()
    assert "sk-" not in written
    assert "secret question" not in written
    assert [call.run for call in load_recording(served.recording).calls][1] == "run-9"


def test_keys_come_from_files_and_the_environment(tmp_path):
    (tmp_path / "keys").write_text("from-file\n")
    config = GatewayConfig(endpoints=(), api_keys_env=("KEY",), api_keys_file="keys")
    ring = load_keys(config, tmp_path, {"KEY": "from-env"})
    assert [ring.admits(key) for key in ("from-file", "from-env", "", "from")] == [True, True, False, False]
    assert KeyRing([]).admits("anything")
    with pytest.raises(Exception, match="KEY is not set"):
        load_keys(config, tmp_path, {})


def test_an_open_gateway_only_listens_on_loopback():
    with pytest.raises(ValueError, match=r"host is '0\.0\.0\.0': must be a loopback address unless api_keys"):
        GatewayConfig(host="0.0.0.0", endpoints=())
    GatewayConfig(host="0.0.0.0", endpoints=(), allow_unauthenticated=True)


async def test_limits_on_bodies_headers_and_calls_in_flight(stub, gateway):
    served = gateway([endpoint(stub())], limits=GatewayLimits(body_bytes=2000, header_bytes=4096, concurrent=2))
    url = f"{served.url}/v1/chat/completions"
    large = await post(url, {**CHAT, "x": "y" * 3000})
    assert (large[0], json.loads(large[1])["error"]["code"]) == (413, "request_too_large")
    assert (await post(url, CHAT, **{"x-long": "y" * 9000}))[0] == 400
    slow = {**CHAT, "stub": {"delay_s": 0.6}}
    statuses = [reply[0] for reply in await asyncio.gather(*(post(url, slow) for _ in range(5)))]
    assert sorted(statuses) == [200, 200, 429, 429, 429]


@pytest.mark.parametrize("data", [b"", b"[1]", b"{", b'{"messages": []}', b"\xff\xfe", b'{"model": 3}'])
async def test_a_body_that_is_no_call_is_refused(stub, gateway, data):
    served = gateway([endpoint(stub())])
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{served.url}/v1/chat/completions", data=data) as answer,
    ):
        assert answer.status == 400
        assert (await answer.json())["error"]["type"] == "invalid_request_error"
    assert load_recording(served.recording).calls == ()


async def test_a_model_is_listed_and_looked_up_as_openai_does(stub, gateway):
    engine = stub()
    served = gateway([endpoint(engine), endpoint(engine, "x-0", "org/x")])
    assert [model["id"] for model in served.get("/v1/models")["data"]] == ["m", "org/x"]
    for path in ("/v1/models/m", "/run/r/v1/models/org/x", "/v1/models/org%2Fx"):
        found = served.get(path)
        assert (found["object"], found["id"]) == ("model", "m" if path.endswith("/m") else "org/x")
    async with aiohttp.ClientSession() as session, session.get(f"{served.url}/v1/models/gpt-4") as answer:
        error = (await answer.json())["error"]
    assert (answer.status, error["code"], error["type"], error["param"]) == (
        404,
        "model_not_found",
        "invalid_request_error",
        None,
    )
    assert error["message"].startswith("The model `gpt-4` does not exist or you do not have access to it.")


MESSAGES = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]}
ANTHROPIC = [
    {"type": "message_start", "message": {"usage": {"input_tokens": 5, "cache_read_input_tokens": 4, "output_tokens": 1}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "I look. "}},
    {
        "type": "content_block_start",
        "index": 1,
        "content_block": {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}},
    },
    {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": "{}"}},
    {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 12}},
    {"type": "message_stop"},
]


async def test_anthropic_messages_pass_and_are_recorded(raw_engine, gateway, tmp_path):
    (tmp_path / "keys").write_text("sk-right\n")
    events = b"".join(b"event: %b\ndata: %b\n\n" % (e["type"].encode(), json.dumps(e).encode()) for e in ANTHROPIC)
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
    said = {"type": "message", "content": [{"type": "text", "text": "fine"}], "usage": {"input_tokens": 3, "output_tokens": 1}}
    engine = await raw_engine(head + events, whole_reply(said), whole_reply({"input_tokens": 3}))
    served = gateway([endpoint(engine)], api_keys_file="keys")
    headers = {"x-api-key": "sk-right", "x-scepsy-run": "r"}
    url = f"{served.url}/v1/messages"
    assert (await post(url, {**MESSAGES, "stream": True}, **headers))[1] == events
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "sunny"}]}
    second = {**MESSAGES, "system": "Be kind.", "messages": [*MESSAGES["messages"], result]}
    assert json.loads((await post(url, second, **headers))[1]) == said
    assert json.loads((await post(url + "/count_tokens", MESSAGES, **headers))[1]) == {"input_tokens": 3}
    assert [head.split()[1] for head in engine.heads] == [b"/v1/messages"] * 2 + [b"/v1/messages/count_tokens"]
    first, last = load_recording(served.recording).calls
    assert (first.input_tokens, first.cached_tokens, first.output_tokens, first.outcome) == (9, 4, 12, "completed")
    assert [(source.call, source.by) for source in last.sources] == [(first.id, "tool")]
    unknown = {**MESSAGES, "model": "x"}
    for status, kind, body, key in (
        (401, "authentication_error", MESSAGES, "no"),
        (404, "not_found_error", unknown, "sk-right"),
    ):
        found = await post(url, body, **{"x-api-key": key})
        assert (found[0], json.loads(found[1])["error"]["type"], json.loads(found[1])["type"]) == (status, kind, "error")


async def test_a_clients_retries_are_marked(stub, gateway):
    served = gateway([endpoint(stub())])
    url = f"{served.url}/run/r/v1/chat/completions"
    failing = {**CHAT, "stub": {"status": 500}}
    await post(url, CHAT)
    await post(url, CHAT)  # the same question again is a call of its own
    await post(url, CHAT, **{"x-stainless-retry-count": "1"})
    await post(url, failing)
    await post(url, failing, **{"x-stainless-retry-count": "nonsense"})
    calls = load_recording(served.recording).calls
    assert [(call.attempt, call.retry_of) for call in calls] == [(0, ""), (0, ""), (1, calls[1].id), (0, ""), (0, calls[3].id)]


async def test_an_unknown_model_and_an_unknown_path_are_told_in_the_openai_way(stub, gateway):
    served = gateway([endpoint(stub())])
    status, body, _ = await post(f"{served.url}/v1/chat/completions", {**CHAT, "model": "gpt"})
    assert (status, json.loads(body)["error"]["code"]) == (404, "model_not_found")
    status, body, _ = await post(f"{served.url}/v1/audio", CHAT)
    assert (status, "error" in json.loads(body)) == (404, True)


# --- where it goes ---------------------------------------------------------------------------------------------------


def test_the_next_call_goes_where_most_share_is_free():
    pool = InstancePool(
        [
            Endpoint(name="big", llm="m", url="http://h:1", share_pct=60),
            Endpoint(name="small", llm="m", url="http://h:2", share_pct=30),
        ]
    )
    order = []
    for _ in range(6):
        chosen = pool.choose("m")
        chosen.outstanding += 1
        order.append(chosen.name)
    # keys (outstanding + 1) / share: 1/60 1/30 → big; 2/60 = 1/30 → small, used longer ago; then big, big, small, big
    assert order == ["big", "small", "big", "big", "small", "big"]


def test_draining_and_unreachable_instances_take_no_calls():
    pool = InstancePool([Endpoint(name=f"m-{i}", llm="m", url=f"http://h:{i}", draining=i == 0) for i in range(3)])
    pool.upstreams[1].up = False
    assert pool.choose("m").name == "m-2"
    with pytest.raises(Refusal, match="No instance of m"):
        pool.choose("m", tried=[pool.upstreams[2]])


def test_a_new_list_keeps_the_counts_of_instances_that_stay():
    first = [Endpoint(name=f"m-{i}", llm="m", url=f"http://h:{i}") for i in range(2)]
    pool = InstancePool(first)
    pool.upstreams[0].outstanding = 7
    pool.replace([first[0], Endpoint(name="m-2", llm="m", url="http://h:2")])
    assert [(u.name, u.outstanding) for u in pool.upstreams] == [("m-0", 7), ("m-2", 0)]


async def test_a_refused_connection_is_tried_elsewhere_and_health_tells(stub, gateway, eventually):
    alive, dead = stub(), stub()
    port = int(dead.url.rsplit(":", 1)[1])
    dead.kill()
    served = gateway([endpoint(dead, "m-0"), endpoint(alive, "m-1")], limits=GatewayLimits(health_s=0.2))
    replies = await asyncio.gather(*(post(f"{served.url}/v1/chat/completions", CHAT) for _ in range(10)))
    assert {reply[0] for reply in replies} == {200}
    assert served.get("/health")["ready"] == {"m": 1}
    stub(port)
    eventually(lambda: served.get("/health")["ready"] == {"m": 2}, what="the instance's return")


async def test_with_no_instance_left_the_answer_is_503_at_once(stub, gateway):
    engine = stub()
    served = gateway([endpoint(engine)])
    engine.kill()
    status, body, headers = await post(f"{served.url}/v1/chat/completions", CHAT)
    assert (status, json.loads(body)["error"]["code"], headers["Retry-After"]) == (503, "unavailable", "2")
    assert [call.outcome for call in load_recording(served.recording).calls] == ["rejected"]


async def test_metrics_count_what_happened(stub, gateway):
    served = gateway([endpoint(stub())])
    for _ in range(3):
        await post(f"{served.url}/v1/chat/completions", CHAT)
    async with aiohttp.ClientSession() as session, session.get(f"{served.url}/metrics") as answer:
        text = await answer.text()
    assert 'scepsy_gateway_calls_total{instance="m-0",llm="m",outcome="completed"} 3.0' in text
    assert "scepsy_gateway_recorded_calls 3.0" in text
    assert 'scepsy_gateway_outstanding{instance="m-0",llm="m"} 0.0' in text


async def test_sighup_and_a_changed_file_reload_the_instances(stub, gateway, eventually):
    first, second = stub(), stub()
    served = gateway([endpoint(first)])
    config = load_gateway(served.config)
    save_gateway(served.config, GatewayConfig(port=0, endpoints=(*config.endpoints, endpoint(second, "b-0", "b"))))
    eventually(lambda: "b" in served.get("/health")["ready"], what="the reload")
    served.config.write_text("format: scepsy.gateway\nversion: 1\nendpoints: [{name: x}]\n")
    served.child.send_signal(signal.SIGHUP)
    eventually(lambda: "endpoints[0].llm is missing" in served.log.read_text(), what="the complaint")
    assert "b" in served.get("/health")["ready"], "a wrong file changes nothing"


async def test_sigterm_lets_calls_in_flight_finish(stub, gateway):
    served = gateway([endpoint(stub())])
    body = {**CHAT, "stream": True, "max_tokens": 10, "stub": {"delay_s": 0.1}}
    call = asyncio.create_task(post(f"{served.url}/v1/chat/completions", body))
    await asyncio.sleep(0.3)
    served.child.send_signal(signal.SIGTERM)
    status, data, _ = await call
    assert (status, data.endswith(b"data: [DONE]\n\n")) == (200, True)
    assert await asyncio.to_thread(served.child.wait, 10) == 0
    assert load_recording(served.recording).calls[0].outcome == "completed"
