"""Reading a request's body: only after its key was seen, in bounded time, size and memory."""

import asyncio
import zlib

from aiohttp import web

from executor.gateway.replies import bad_request, body_too_slow, held_too_much, too_large, unsupported_encoding

_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
"""zlib's own numbers for the two formats."""


class Budget:
    """Bytes that all calls together hold."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes, self.held_bytes = limit_bytes, 0

    def hold(self) -> "HeldBodies":
        """A share of the budget, empty at first. Release it when what it holds is gone."""
        return HeldBodies(self)


class HeldBodies:
    """What one call holds of the budget."""

    __slots__ = ("_budget", "held_bytes")

    def __init__(self, budget: Budget) -> None:
        self._budget, self.held_bytes = budget, 0

    def add(self, more_bytes: int) -> None:
        """Raises ``Refusal`` (503) when all calls together would hold too much."""
        if self._budget.held_bytes + more_bytes > self._budget.limit_bytes:
            raise held_too_much(self._budget.limit_bytes)
        self._budget.held_bytes += more_bytes
        self.held_bytes += more_bytes

    def release(self) -> None:
        """Give everything back; more than once does no harm."""
        self._budget.held_bytes -= self.held_bytes
        self.held_bytes = 0


async def read_request(request: web.BaseRequest, limit_bytes: int, limit_s: float, held: HeldBodies) -> bytes:
    """The whole body, decompressed. Raises ``Refusal``: 408, 413, 415, 400 for a broken compression, 503."""
    encoding = request.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in ("", "identity", *_WINDOW_BITS):
        raise unsupported_encoding(encoding)
    if (request.content_length or 0) > limit_bytes:
        raise too_large(limit_bytes)
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
    content = request.content
    try:
        if content.is_eof():
            data = content.read_nowait()
            held.add(len(data))
        else:
            async with asyncio.timeout(limit_s):
                data = await _read(request, limit_bytes, held)
    except TimeoutError:
        raise body_too_slow(limit_s) from None
    if len(data) > limit_bytes:
        raise too_large(limit_bytes)
    if encoding in _WINDOW_BITS:
        plain = _inflate(data, _WINDOW_BITS[encoding], limit_bytes)
        held.add(len(plain))
        return plain
    return data


async def _read(request: web.BaseRequest, limit_bytes: int, held: HeldBodies) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        part = await request.content.readany()
        if not part:
            return b"".join(parts) if len(parts) != 1 else parts[0]
        size += len(part)
        if size > limit_bytes:
            raise too_large(limit_bytes)
        held.add(len(part))
        parts.append(part)


def _inflate(data: bytes, window_bits: int, limit_bytes: int) -> bytes:
    """Decompress until the limit, never beyond: a bomb costs what an honest body of that size costs."""
    inflater = zlib.decompressobj(window_bits)
    parts: list[bytes] = []
    left, rest = limit_bytes + 1, data
    try:
        while rest and not inflater.eof and left > 0:
            part = inflater.decompress(rest, left)
            parts.append(part)
            left -= len(part)
            rest = inflater.unconsumed_tail
    except zlib.error:
        raise bad_request("The request body is not compressed as its Content-Encoding says.") from None
    if left <= 0:
        raise too_large(limit_bytes)
    if not inflater.eof or inflater.unused_data:
        raise bad_request("The request body's compression is cut short or followed by something else.")
    return b"".join(parts)
