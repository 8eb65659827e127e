"""Which instances take calls: two refusals or three unanswered probes take one out, an answer brings it back.

What this process itself was too slow to notice says nothing about an engine: after a stall of the event loop, late answers
are not counted.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import aiohttp

from executor.gateway.config import GatewayLimits
from executor.gateway.pool import InstancePool, Upstream

REFUSED = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
"""The connection never stood, so nothing was sent and another instance may be tried."""

MAX_REFUSALS = 2
"""In a row, until an instance takes no more calls."""

MAX_UNANSWERED_PROBES = 3
"""Probes in a row without an answer, while no byte of any other answer came: the instance hangs."""

PROBE_S, CONNECT_S = 5.0, 2.0
"""How long a probe waits for its answer, and for its connection."""

TICK_S, STALL_S = 0.1, 0.5
"""The loop is looked at so often; later than due by this much, it stalled."""


class Stalls:
    """When the event loop last stood still."""

    def __init__(self) -> None:
        self._ended_s = float("-inf")

    async def watch(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due_s = loop.time() + TICK_S
            await asyncio.sleep(TICK_S)
            if loop.time() - due_s > STALL_S:
                self._ended_s = loop.time()

    def since(self, time_s: float) -> bool:
        """Whether the loop stood still after ``time_s``."""
        # The watcher itself may not have run yet since the stall: then the loop is still catching up.
        return self._ended_s >= time_s


class HealthWatch:
    """Looks after the instances of a pool."""

    def __init__(self, session: aiohttp.ClientSession, pool: InstancePool, limits: GatewayLimits) -> None:
        self._session, self._pool, self._limits = session, pool, limits
        self.stalls = Stalls()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Probe all instances every ``health_s``."""
        tasks = [asyncio.create_task(self.stalls.watch()), asyncio.create_task(self._watch())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            await asyncio.gather(*(self.probe(upstream) for upstream in self._pool.upstreams))
            await asyncio.sleep(self._limits.health_s)

    async def refused(self, upstream: Upstream, error: BaseException, since_s: float) -> None:
        """A connection was refused, or did not stand in time (which a stall of our own may have caused)."""
        if isinstance(error, TimeoutError):
            await asyncio.sleep(2 * TICK_S)  # the watcher runs first
            if self.stalls.since(since_s):
                return
        upstream.refusals += 1
        if upstream.refusals >= MAX_REFUSALS:
            upstream.up = False

    async def probe(self, upstream: Upstream) -> None:
        """Look at /health once."""
        since_s = asyncio.get_running_loop().time()
        timeout = aiohttp.ClientTimeout(total=PROBE_S, sock_connect=CONNECT_S)
        try:
            async with self._session.get(upstream.base + "/health", timeout=timeout, allow_redirects=False) as answer:
                upstream.up = answer.status < 500
                upstream.refusals = upstream.silences = 0
        except REFUSED as error:
            await self.refused(upstream, error, since_s)
        except TimeoutError:
            await asyncio.sleep(2 * TICK_S)
            if not self.stalls.since(since_s) and upstream.last_byte_s < since_s:
                upstream.silences += 1
                if upstream.silences >= MAX_UNANSWERED_PROBES:
                    upstream.up = False
        except (aiohttp.ClientError, OSError):
            return
