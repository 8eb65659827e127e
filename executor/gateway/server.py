"""Connections of clients: how many there may be, how long each may take to say what it wants, and their end.

aiohttp's server reads requests; what it leaves open is closed here. It has no limit on the time that headers take, none on
the number of connections, logs what it cannot parse, and when told to stop waits for handlers twice.
"""

import asyncio
import contextlib
import logging
import resource
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from executor.gateway.config import GatewayLimits
from executor.gateway.discreet import describe
from executor.gateway.replies import error_body

log = logging.getLogger("scepsy.gateway")

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

SWEEP_EVERY_S = 0.5
"""Between two looks for connections that take too long: what a timer for each request would cost is saved."""

LINGER_S = 1.0
"""How long the rest of a refused body is read and dropped, so that its client can read the refusal."""

KEEP_ALIVE_S = 75.0
"""An idle connection is closed then (as nginx does)."""

RESERVED_FILES = 64
"""Files that are neither a client's nor an engine's: logs, recording, libraries."""

STOP_S = 0.5
"""What the end of all connections may take once they are cut off."""


def allowed_connections(limits: GatewayLimits) -> int:
    """``limits.connections``, or fewer where the process may not open two files for each: a client's and an engine's."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * limits.connections + RESERVED_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(OSError, ValueError):  # what is allowed must do then
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY:
        return limits.connections
    return max(8, min(limits.connections, (soft - RESERVED_FILES) // 2))


class Connection(web.RequestHandler):
    """One client's connection."""

    __slots__ = ("_server", "busy", "waiting_since_s")

    def __init__(self, server: "Server", **settings: Any) -> None:
        super().__init__(server, **settings)
        self._server = server
        self.busy = False
        """Whether a request of it is being handled."""
        self.waiting_since_s = 0.0
        """Since when its next request's headers are on their way; 0: nothing of them is here."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Headers are due from now on, or the connection is one too many."""
        self.waiting_since_s = self._server.now_s()
        super().connection_made(transport)
        if not self._server.room_for(self):
            self.cut_off()

    def data_received(self, data: bytes) -> None:
        """The first bytes of a request start its clock."""
        if not self.busy and not self.waiting_since_s:
            self.waiting_since_s = self._server.now_s()
        super().data_received(data)

    def cut_off(self) -> None:
        """Close at once, whatever is still to be sent."""
        transport = self.transport
        self.force_close()
        if transport is not None:
            transport.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What could not be parsed or went wrong inside, in the form that clients expect; nothing of it is logged."""
        self._server.on_error(status)
        if status >= 500:
            log.error("internal error: %s", describe(exc))
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun already")
        told = "The request is no valid HTTP." if status < 500 else "The gateway failed on this request."
        kind = "invalid_request_error" if status < 500 else "server_error"
        answer = web.Response(status=status, body=error_body(told, kind), content_type="application/json")
        answer.force_close()
        return answer

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Kind and place only: messages of errors may quote what was sent."""
        error = kw.get("exc_info")
        log.error("internal error: %s", describe(error if isinstance(error, BaseException) else None))

    def log_debug(self, *args: Any, **kw: Any) -> None:
        """Nothing: these messages carry exceptions."""


class Server(web.Server):
    """All connections of one gateway."""

    def __init__(self, handler: Handler, limits: GatewayLimits, on_error: Callable[[int], None]) -> None:
        super().__init__(self._handled, handler_cancellation=True)  # a client that goes away frees the engine
        self._handler, self._limits, self.on_error = handler, limits, on_error
        self._most = allowed_connections(limits)
        self._open: set[Connection] = set()
        self.now_s = asyncio.get_running_loop().time

    def __call__(self) -> web.RequestHandler:
        """For each connection, its protocol."""
        return Connection(
            self,
            loop=asyncio.get_running_loop(),
            access_log=None,
            keepalive_timeout=KEEP_ALIVE_S,
            lingering_time=LINGER_S,
            auto_decompress=False,  # not before the key was seen
            max_line_size=self._limits.header_bytes,
            max_field_size=self._limits.header_bytes,
        )

    async def _handled(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        assert isinstance(connection, Connection)
        connection.busy, connection.waiting_since_s = True, 0.0
        try:
            return await self._handler(request)
        finally:
            connection.busy = False

    def room_for(self, connection: Connection) -> bool:
        """Take a new connection in, at the cost of one that has waited longest for its headers or its next request."""
        self._open.add(connection)
        if len(self._open) <= self._most:
            return True
        idle = [other for other in self._open if not other.busy and other is not connection]
        if not idle:
            return False
        now_s = self.now_s()
        # Kept connections that say nothing at all go after those that began to say something and do not end.
        min(idle, key=lambda other: other.waiting_since_s or now_s).cut_off()
        return True

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        """One fewer."""
        self._open.discard(handler)
        super().connection_lost(handler, exc)

    async def sweep(self) -> None:
        """Close connections whose headers take too long, until cancelled."""
        while True:
            await asyncio.sleep(min(SWEEP_EVERY_S, self._limits.header_s / 4))
            before_s = self.now_s() - self._limits.header_s
            for connection in [one for one in self._open if 0 < one.waiting_since_s < before_s and not one.busy]:
                connection.cut_off()

    async def shutdown(self, timeout: float | None = None) -> None:
        """Cut everybody off; their handlers end by being cancelled."""
        for connection in list(self._open):
            connection.cut_off()
        await super().shutdown(STOP_S / 2)
