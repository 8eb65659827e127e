"""An engine of raw bytes: whatever a broken or hostile one may send, and what a gateway sent to it."""

import asyncio
import contextlib
import json
import re
from collections.abc import Callable


class RawEngine:
    """An engine whose word cannot be trusted: it answers with the bytes it is told to, and keeps what it was asked."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.replies: list[bytes | Callable] = []
        self.server: asyncio.Server
        self.url = ""

    async def start(self) -> "RawEngine":
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"
        return self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"(?i)content-length: *(\d+)", head)
                body = await reader.readexactly(int(length[1])) if length else b""
                if head.startswith(b"GET /health"):
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                    continue
                self.heads.append(head)
                self.bodies.append(body)
                reply = self.replies[0] if len(self.replies) == 1 else self.replies.pop(0)
                if callable(reply):
                    await reply(head, body, writer)
                else:
                    writer.write(reply)
                await writer.drain()
                if not isinstance(reply, bytes) or b"content-length" not in reply.lower().split(b"\r\n\r\n")[0]:
                    break
        writer.close()


def whole_reply(document: object, *, status: str = "200 OK", headers: str = "") -> bytes:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return (
        f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{headers}content-length: {len(body)}\r\n\r\n".encode() + body
    )


def streamed_reply(*events: str) -> bytes:
    """A stream that ends with its connection."""
    data = "".join(f"data: {event}\n\n" for event in events).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n" + data
