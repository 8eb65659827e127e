"""The supervisor's voice: it tells its state to whoever of the same user asks, so that the truth needs no disk."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable

import msgspec

from executor.local.state import State, peer, voice


async def listen(deployment: str, tell: Callable[[], State]) -> asyncio.Server | None:
    """Answer every connection of this user (or root) with the state as JSON; None where there are no such sockets."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, ConnectionError):
            connection = writer.get_extra_info("socket")
            uid = peer(connection)[1]
            if uid in (0, os.geteuid()):
                writer.write(msgspec.json.encode(tell()))
                await asyncio.wait_for(writer.drain(), 5)
        writer.close()

    try:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(voice(deployment))
        listener.listen(16)
        listener.setblocking(False)
        return await asyncio.start_unix_server(answer, sock=listener)
    except (OSError, AttributeError):
        return None
