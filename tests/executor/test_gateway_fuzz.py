"""Malformed and adversarial requests, drawn by chance, against a real gateway whose engine answers as oddly.

After all of them: no traceback, no key and no prompt in the log (at debug level), no answer later than 5 s, no growth beyond
64 MiB, and an honest call still answered.
"""

import asyncio
import contextlib
import gzip
import json
import random
import time

import psutil
import pytest

from executor.gateway.config import Endpoint, GatewayLimits
from tests.executor.raw_engine import streamed_reply, whole_reply
from tests.executor.test_gateway_hostile import CANARY, CHAT, KEY, MALFORMED, ODD_REPLIES, REPLY, delta, port_of, post

LATE_S, GROWTH_BYTES = 5.0, 64 * 1024**2

# fmt: off
PATHS = [
    "/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses", "/v1/embeddings", "/rerank", "/v1/score",
    "/run/%00%ff/v1/chat/completions", "/workflow/x/run/y/v1/completions", "/v1/models/../..", "/v1//", "/health",
    "/metrics", "/" + "a" * 5000, "/v1/chat/completions?" + "q=1&" * 500, "*", "http://x/v1/completions", "/%", "//",
]
METHODS = ["POST"] * 6 + ["GET", "PUT", "HEAD", "OPTIONS", "DELETE", "TRACE", "FOO"]
VALUES = [
    None, True, -1, 1e308, "", CANARY, [], {}, [[]], [None], {"content": CANARY}, [{"role": 1, "content": [[{}]]}],
    "\ud800", "x" * 3000, [1, 2, "3"], [{"tool_call_id": []}], 2**70, {"include_usage": "yes"}, [{"type": "tool_result"}],
]
FIELDS = [
    "model", "messages", "prompt", "input", "stream", "stream_options", "tools", "metadata", "session_id", "documents",
    "query", "system", "text_1", "queries", "instructions",
]
HEADERS = [
    f"authorization: Bearer {KEY}", f"authorization: Bearer {CANARY}", "authorization: Basic x", f"x-api-key: {KEY}",
    f"api-key: {KEY}#r", "connection: close, x-a, ,", "expect: 100-continue", "content-encoding: gzip",
    "x-scepsy-run: \x7f", "content-encoding: deflate", "content-encoding: zstd", "te: trailers", "upgrade: h2c",
    "traceparent: 00-zz", "baggage: =,;=", "x-stainless-retry-count: 99999999999", f"cookie: a={KEY}", "accept: */*",
    f"x-b: {'y' * 4000}", "content-type: text/plain", "range: bytes=0-", "host: y", "x-scepsy-workflow: ../../x",
]
# fmt: on


def body_of(rng):
    document = dict(CHAT) if rng.random() < 0.8 else {}
    for _ in range(rng.randint(0, 4)):
        document[rng.choice(FIELDS)] = rng.choice(VALUES)
    data = json.dumps(document).encode(errors="surrogatepass")
    way = rng.randrange(8)
    if way == 0:
        data = data[: rng.randrange(len(data) + 1)]
    elif way == 1:
        data = bytes(byte ^ (rng.random() < 0.02) * 255 for byte in data)
    elif way == 2:
        data = b"[" * rng.choice([10, 100_000]) + data
    elif way == 3:
        data = gzip.compress(data * rng.choice([1, 1000]))
    return data


def request_of(rng):
    if rng.random() < 0.1:
        return rng.choice(MALFORMED).encode("latin-1")
    data = body_of(rng)
    headers = [f"authorization: Bearer {KEY}"] if rng.random() < 0.6 else []
    headers += rng.sample(HEADERS, rng.randint(0, 4))
    framing = rng.randrange(6)
    if framing == 0:
        headers.append("transfer-encoding: chunked")
        data = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if rng.random() < 0.7 else b"ffffffffff\r\n" + data
    elif framing == 1:
        headers.append(f"content-length: {len(data) + rng.choice([-1, 1, 10**12])}")
    else:
        headers.append(f"content-length: {len(data)}")
    rng.shuffle(headers)
    end = rng.choice(["\r\n"] * 8 + ["\n", "\r"])
    head = end.join([f"{rng.choice(METHODS)} {rng.choice(PATHS)} HTTP/1.{rng.choice('1110')}", "host: x", *headers, "", ""])
    raw = head.encode("latin-1") + data
    if rng.random() < 0.1:
        raw = bytes(byte if rng.random() > 0.01 else rng.randrange(256) for byte in raw[:2000]) + raw[2000:]
    return raw if rng.random() > 0.1 else raw[: rng.randrange(len(raw) + 1)]


async def send(served, raw, rng):
    """One connection; how long until its first answer or its end, after all was sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(served))
    with contextlib.suppress(OSError, TimeoutError):
        cuts = sorted(rng.randrange(len(raw) + 1) for _ in range(rng.randint(0, 2)))
        for start, stop in zip([0, *cuts], [*cuts, len(raw)], strict=True):
            writer.write(raw[start:stop])
            await writer.drain()
        if rng.random() < 0.2:
            writer.write_eof()
        await asyncio.wait_for(reader.read(2000), 2.5)  # headers are cut off after 1 s, bodies after 1 s
    writer.close()


@pytest.mark.parametrize("count", [250, pytest.param(2500, marks=pytest.mark.slow)])
async def test_fuzz(raw_engine, gateway, tmp_path, count):
    rng = random.Random(count)
    replies = [whole_reply(REPLY), streamed_reply(delta("a"), "[DONE]"), *(reply.encode("latin-1") for reply in ODD_REPLIES)]

    async def answer(_head, _body, writer):
        writer.write(rng.choice(replies))

    engine = await raw_engine(answer)
    (tmp_path / "keys").write_text(KEY + "\n")
    limits = GatewayLimits(header_s=1.0, body_s=1.0, idle_s=3.0, body_bytes=1024**2, drain_s=5.0)
    served = gateway(
        [Endpoint(name="m-0", llm="m", url=engine.url)], api_keys_file="keys", limits=limits, options=["--log-level", "debug"]
    )
    process = psutil.Process(served.pid)
    for _ in range(20):
        await send(served, request_of(rng), rng)
    before, late = process.memory_info().rss, []
    for _ in range(0, count, 25):
        began_s = time.monotonic()
        await asyncio.gather(*(send(served, request_of(rng), rng) for _ in range(25)))
        late.append(time.monotonic() - began_s)
    growth = process.memory_info().rss - before
    engine.replies = [whole_reply(REPLY)]
    assert (await post(served.url, Authorization=f"Bearer {KEY}"))[0] == 200
    assert served.stop() == 0
    log = served.log.read_text()
    recorded = served.recording.read_text()
    print(f"{count} requests, longest batch {max(late):.1f} s, growth {growth / 1024**2:.1f} MiB, log {len(log)} bytes")
    assert "Traceback" not in log
    assert "internal error" not in log
    for secret in (CANARY, KEY):
        assert secret not in log
        assert secret not in recorded
    assert max(late) < LATE_S
    assert growth < GROWTH_BYTES
