"""Running a gateway: listen, reload on SIGHUP or when its file changes, drain on SIGTERM."""

import asyncio
import contextlib
import gc
import logging
import signal
from collections.abc import Callable
from pathlib import Path

from aiohttp import web

from executor.gateway.app import Gateway, make_recorder
from executor.gateway.config import GatewayConfig, load_gateway, load_keys
from scepsy.errors import BackendError, InputError

log = logging.getLogger("scepsy.gateway")

WATCH_S = 1.0
"""Between two looks at the configuration file."""


async def start(gateway: Gateway, config: GatewayConfig) -> tuple[web.AppRunner, int]:
    """Listen; return the runner (its ``cleanup`` stops it) and the port. Raises ``BackendError`` when the port is taken."""
    runner = web.AppRunner(
        gateway.app,
        access_log=None,
        handler_cancellation=True,  # a client that goes away frees the engine
        shutdown_timeout=config.limits.drain_s,
        max_line_size=config.limits.header_bytes,
        max_field_size=config.limits.header_bytes,
    )
    await runner.setup()
    site = web.TCPSite(runner, config.host, config.port, backlog=4096)
    try:
        await site.start()
    except OSError as error:
        await runner.cleanup()
        reason = error.strerror or error
        raise BackendError(f"gateway: cannot listen on {config.host}:{config.port}: {reason} (free it or set port)") from error
    port = runner.addresses[0][1]
    return runner, port


async def serve(path: Path, config: GatewayConfig, announce: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT, then let calls in flight finish (at most ``limits.drain_s``)."""
    gateway = Gateway(config, load_keys(config, path.parent), make_recorder(config, path.parent))
    runner, port = await start(gateway, config)
    _calm_collector()
    announce(f"http://{config.host}:{port}")
    # A second signal stops the waiting.
    loop, stop, hurry = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()

    def told() -> None:
        (hurry if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told)
    loop.add_signal_handler(signal.SIGHUP, lambda: _reload(gateway, path))
    watcher = asyncio.create_task(_watch(gateway, path))
    try:
        await stop.wait()
        gateway.draining = True
        await _drain(gateway, config.limits.drain_s, hurry)
    finally:
        watcher.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watcher
        await runner.cleanup()


def _calm_collector() -> None:
    """Keep the cycle collector from looking again and again at what stays for good: its pauses are the slowest calls."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


async def _drain(gateway: Gateway, limit_s: float, hurry: asyncio.Event) -> None:
    log.info("draining: %d calls in flight", gateway.in_flight)
    deadline = asyncio.get_running_loop().time() + limit_s
    while gateway.in_flight and not hurry.is_set() and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.02)
    if gateway.in_flight:
        log.warning("stopping with %d calls in flight", gateway.in_flight)


def _reload(gateway: Gateway, path: Path) -> None:
    """Take over the file as it is now; a wrong one is reported and the gateway goes on as it was."""
    try:
        config = load_gateway(path)
        gateway.reload(config, load_keys(config, path.parent))
    except InputError as error:
        log.error("not reloaded: %s", error)


async def _watch(gateway: Gateway, path: Path) -> None:
    seen = _stamp(path)
    while True:
        await asyncio.sleep(WATCH_S)
        now = _stamp(path)
        if now is not None and now != seen:
            seen = now
            _reload(gateway, path)


def _stamp(path: Path) -> tuple[int, int, int] | None:
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
