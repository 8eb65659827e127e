"""Tokens of a call whose reply did not tell: the engine's /tokenize is asked, briefly."""

import asyncio

import aiohttp
import msgspec

from executor.gateway.pool import Upstream
from executor.wire.body import Body
from executor.wire.stream import MAX_TOKENS, Output, Usage

COUNT_TIMEOUT_S = 0.5
"""How long an end of a stream is held back for the count."""

PAUSE_AFTER_FAILURE_S = 60.0
"""After a failure the instance is not asked again for so long."""

MAX_ANSWER_BYTES = 4 * 1024**2
"""Longest answer that is read: it lists the tokens, up to some ten bytes each."""


async def count_tokens(session: aiohttp.ClientSession, upstream: Upstream, body: Body, output: Output) -> Usage | None:
    """What /tokenize says of prompt and output; None when it cannot say, or not soon enough."""
    now_s = asyncio.get_running_loop().time
    if now_s() < upstream.count_after_s or output.dropped_bytes:
        return None
    if isinstance(body.messages, list):
        prompt: dict[str, object] = {"model": body.model, "messages": body.messages}
    elif isinstance(body.prompt if body.prompt is not None else body.input, str):
        prompt = {"model": body.model, "prompt": body.prompt if body.prompt is not None else body.input}
    else:
        return None
    said = {"model": body.model, "prompt": "".join(output.texts), "add_special_tokens": False}
    counts = []
    try:
        async with asyncio.timeout(COUNT_TIMEOUT_S):
            for question in (prompt, said) if said["prompt"] else (prompt,):
                counts.append(await _ask(session, upstream, question))
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
        upstream.count_after_s = now_s() + PAUSE_AFTER_FAILURE_S
        return None
    return Usage(counts[0], counts[1] if len(counts) > 1 else 0)


async def _ask(session: aiohttp.ClientSession, upstream: Upstream, question: dict[str, object]) -> int:
    """Raises ``ValueError`` for anything but a count."""
    async with session.post(
        upstream.base + "/tokenize",
        data=msgspec.json.encode(question),
        headers={"Content-Type": "application/json"},
        allow_redirects=False,
    ) as answer:
        data = await answer.content.read(MAX_ANSWER_BYTES) if answer.status == 200 else b""
        while answer.status == 200 and len(data) <= MAX_ANSWER_BYTES and (more := await answer.content.read(MAX_ANSWER_BYTES)):
            data += more
    count = msgspec.json.decode(data, type=_Count).count if data else -1
    if not 0 <= count <= MAX_TOKENS:
        raise ValueError("no count")
    return count


class _Count(msgspec.Struct):
    count: int
