"""Running a gateway: listen, reload on SIGHUP or when its file changes, drain on SIGTERM."""

import asyncio
import contextlib
import gc
import logging
import signal
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from aiohttp import web

from executor.gateway.app import Gateway, make_recorder
from executor.gateway.config import GatewayConfig, load_gateway
from executor.gateway.discreet import hush, on_loop_error
from executor.gateway.keys import load_keys
from executor.gateway.server import Server
from scepsy.errors import BackendError, InputError

log = logging.getLogger("scepsy.gateway")

LOOK_EVERY_S = 1.0
"""Between two looks at the configuration file."""

CUT_OFF_S = 1.0
"""Part of ``drain_s`` that is kept for cutting off what does not end by itself."""


class Listening(NamedTuple):
    """A gateway's open sockets."""

    server: Server
    runner: web.ServerRunner
    port: int


async def listen(gateway: Gateway, config: GatewayConfig) -> Listening:
    """Listen. Raises ``BackendError`` when the port is taken, ``InputError`` when what is bound would be open to anyone."""
    server = Server(gateway.handle, config.limits, gateway.metrics.refused)
    runner = web.ServerRunner(server)
    await runner.setup()
    site = web.TCPSite(runner, config.host, config.port, backlog=4096)
    try:
        await site.start()
        gateway.bind(str(address[0]) for address in runner.addresses)
    except OSError as error:
        await runner.cleanup()
        reason = error.strerror or error
        raise BackendError(f"gateway: cannot listen on {config.host}:{config.port}: {reason} (free it or set port)") from error
    except InputError:
        await runner.cleanup()
        raise
    return Listening(server, runner, runner.addresses[0][1])


async def serve(path: Path, config: GatewayConfig, announce: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT, then let calls in flight finish. It is gone ``limits.drain_s`` after the signal."""
    hush()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(on_loop_error)
    gateway = Gateway(config, load_keys(config, path.parent), make_recorder(config, path.parent))
    async with gateway.running():
        listening = await listen(gateway, config)
        _calm_collector()
        announce(f"http://{config.host}:{listening.port}")
        # A second signal stops the waiting.
        stop, hurry = asyncio.Event(), asyncio.Event()

        def told() -> None:
            (hurry if stop.is_set() else stop).set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, told)
        loop.add_signal_handler(signal.SIGHUP, lambda: _reload(gateway, path))
        tasks = [asyncio.create_task(_watch(gateway, path, config)), asyncio.create_task(listening.server.sweep())]
        try:
            await stop.wait()
            gateway.draining = True
            drain_s = config.limits.drain_s
            await _drain(gateway, drain_s - min(CUT_OFF_S, drain_s / 2), hurry)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CUT_OFF_S):
                    await listening.runner.cleanup()


def _calm_collector() -> None:
    """Keep the cycle collector from looking again and again at what stays for good: its pauses are the slowest calls."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


async def _drain(gateway: Gateway, limit_s: float, hurry: asyncio.Event) -> None:
    log.info("draining: %d calls in flight", gateway.in_flight)
    deadline = asyncio.get_running_loop().time() + limit_s
    now_s = asyncio.get_running_loop().time
    while gateway.in_flight and not hurry.is_set() and now_s() < deadline:
        await asyncio.sleep(min(0.02, max(0.0, deadline - now_s())))
    if gateway.in_flight:
        log.warning("stopping with %d calls in flight", gateway.in_flight)


def _reload(gateway: Gateway, path: Path) -> GatewayConfig | None:
    """Take over the file as it is now; a wrong one is reported and the gateway goes on as it was."""
    try:
        config = load_gateway(path)
        gateway.reload(config, load_keys(config, path.parent))
    except InputError as error:
        log.error("not reloaded: %s", error)
        return None
    return config


async def _watch(gateway: Gateway, path: Path, config: GatewayConfig) -> None:
    """Reload when the file changes, or the file of keys that it names: a key taken out is refused within a second."""
    keys_file = path.parent / config.api_keys_file if config.api_keys_file else None
    seen = [_stamp(path), _stamp(keys_file)]
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        now = [_stamp(path), _stamp(keys_file)]
        if now != seen and now[0] is not None:
            seen = now
            loaded = _reload(gateway, path)
            if loaded is not None:
                keys_file = path.parent / loaded.api_keys_file if loaded.api_keys_file else None
                seen[1] = _stamp(keys_file)


def _stamp(path: Path | None) -> tuple[int, int, int] | None:
    if path is None:
        return None
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def run(path: Path, config: GatewayConfig, announce: Callable[[str], None]) -> None:
    """``serve`` on the fastest event loop at hand (uvloop does not run everywhere)."""
    new_event_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    with contextlib.suppress(ImportError):
        import uvloop

        new_event_loop = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(serve(path, config, announce))
