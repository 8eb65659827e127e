"""What the gateway costs: requests per second of one process on one core, and what it adds to a call's latency.

``python -m experiments.checks.gateway_load`` starts a gateway with recording and streaming on. Where there are two cores,
the gateway has one to itself, and an engine stub and a load generator have the other. The same calls are sent directly and
through the gateway, in turns, within one run. Stub and load generator are bare protocols on sockets: they must cost little
beside what is measured.
"""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from itertools import cycle
from math import fsum
from pathlib import Path
from typing import Annotated, Any, NamedTuple, cast

import numpy as np
import psutil
import typer

from executor.gateway.config import Endpoint, GatewayConfig, GatewayLimits, save_gateway
from executor.recording.config import Recording

TOKENS = 16
"""Events per streamed answer, a usage event and [DONE] beside them."""

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


def new_loop() -> asyncio.AbstractEventLoop:
    """uvloop where it is installed, as the gateway does."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _event(text: str) -> bytes:
    document = {"id": "cmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m",
                "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}  # fmt: skip
    return b"data: " + json.dumps(document).encode() + b"\n\n"


_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
_USAGE = b'data: {"id":"cmpl-1","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":16,"total_tokens":25}}\n\n'
_END = _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
_EVENTS = [_chunk(_event(f"token{index} ")) for index in range(TOKENS)]


RUNS = 500
"""Runs that the calls belong to, in turns."""


class Stub(asyncio.Protocol):
    """Answers every POST with a stream: all at once, or an event every ``pace_s``; anything else with 200."""

    def __init__(self, pace_s: float) -> None:
        self._pace_s = pace_s
        self._data = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        """Answer each request once its body is here."""
        self._data += data
        while (end := self._data.find(b"\r\n\r\n")) >= 0:
            head = self._data[:end]
            match = _LENGTH.search(head)
            total = end + 4 + (int(match[1]) if match else 0)
            if len(self._data) < total:
                return
            body, self._data = self._data[end + 4 : total], self._data[total:]
            if head.startswith(b"POST"):
                usage = _chunk(_USAGE) if b"include_usage" in body else b""
                if self._pace_s:
                    self._transport.write(_HEAD)
                    self._pace(0, usage)
                else:
                    self._transport.write(_HEAD + _EVENTS[0])
                    self._transport.write(b"".join(_EVENTS[1:]) + usage + _END)
            else:
                self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    def _pace(self, index: int, usage: bytes) -> None:
        if index < TOKENS:
            self._transport.write(_EVENTS[index])
            asyncio.get_running_loop().call_later(self._pace_s, self._pace, index + 1, usage)
        else:
            self._transport.write(usage + _END)


async def serve_stub(port: int, pace_s: float) -> asyncio.AbstractServer:
    """Serve the stub on this event loop, beside the load: two processes on one core would wait for each other's turns."""
    return await asyncio.get_running_loop().create_server(lambda: Stub(pace_s), "127.0.0.1", port, backlog=4096)


class Client(asyncio.Protocol):
    """One kept connection; one call at a time."""

    def __init__(self, done: "Callable[[Client, bool], None]") -> None:
        self._done = done
        self._transport: asyncio.Transport
        self._tail = b""
        self._whole = False
        self.sent_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way out."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def call(self, request: bytes, due_s: float) -> None:
        """Send one request; its latency counts from ``due_s``."""
        self.sent_s, self._tail, self._whole = due_s, b"", False
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Look for the end of the answer."""
        tail = self._tail + data
        self._whole |= b"[DONE]" in tail
        if tail.endswith(b"0\r\n\r\n"):
            self._done(self, self._whole)
        else:
            self._tail = tail[-16:]

    def connection_lost(self, exc: Exception | None) -> None:
        """An answer that never ended."""
        if not self._whole:
            self._done(self, False)


def request_bytes(run: int) -> bytes:
    """A streamed chat call of one run, with a prompt of ordinary length."""
    text = "Which of these passages answers the question? " * 8
    body = json.dumps({"model": "m", "stream": True, "max_tokens": TOKENS, "messages": [{"role": "user", "content": text}]})
    return (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nx-scepsy-run: load-{run}\r\n"
        f"content-length: {len(body)}\r\n\r\n{body}"
    ).encode()


async def closed_loop(port: int, connections: int, seconds: float) -> dict[str, float]:
    """As many calls as come back: requests per second."""
    loop, requests = asyncio.get_running_loop(), cycle(request_bytes(run) for run in range(RUNS))
    end_s, done, broken = loop.time() + seconds, 0, 0
    left = connections
    finished = loop.create_future()

    def ended(client: Client, whole: bool) -> None:
        nonlocal done, broken, left
        done, broken = done + whole, broken + (not whole)
        if loop.time() < end_s:
            client.call(next(requests), loop.time())
        else:
            left -= 1
            if left == 0 and not finished.done():
                finished.set_result(None)

    clients = [(await loop.create_connection(lambda: Client(ended), "127.0.0.1", port))[1] for _ in range(connections)]
    start_s = loop.time()
    for client in clients:
        client.call(next(requests), loop.time())
    await finished
    elapsed_s = loop.time() - start_s
    for client in clients:
        client._transport.abort()
    return {"per_s": done / elapsed_s, "broken": broken}


async def open_loop(port: int, rate_per_s: float, seconds: float, seed: int) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """Poisson calls at ``rate_per_s``: latencies from the moment each was due, seconds."""
    loop, requests = asyncio.get_running_loop(), cycle(request_bytes(run) for run in range(RUNS))
    gaps = np.random.default_rng(seed).exponential(1 / rate_per_s, int(rate_per_s * seconds))
    free: deque[Client] = deque()
    found: list[float] = []
    finished = loop.create_future()

    def ended(client: Client, whole: bool) -> None:
        found.append(loop.time() - client.sent_s if whole else float("inf"))
        free.append(client)
        if len(found) == len(gaps) and not finished.done():
            finished.set_result(None)

    async def another() -> Client:
        return (await loop.create_connection(lambda: Client(ended), "127.0.0.1", port))[1]

    free.extend([await another() for _ in range(64)])
    due_s = loop.time() + 0.05
    for gap_s in gaps.tolist():
        due_s += gap_s
        while (wait_s := due_s - loop.time()) > 0:
            await asyncio.sleep(wait_s if wait_s > 2e-3 else 0)
        (free.popleft() if free else await another()).call(next(requests), due_s)
    await asyncio.wait_for(finished, 30)
    for client in free:
        client._transport.abort()
    return np.array(found)


async def many_streams(port: int, streams: int) -> dict[str, float]:
    """So many paced streams at once; how many ended whole, and after how long."""
    loop, requests = asyncio.get_running_loop(), cycle(request_bytes(run) for run in range(RUNS))
    found: list[tuple[float, bool]] = []
    finished = loop.create_future()

    def ended(client: Client, whole: bool) -> None:
        found.append((loop.time() - client.sent_s, whole))
        if len(found) == streams:
            finished.set_result(None)

    clients = [(await loop.create_connection(lambda: Client(ended), "127.0.0.1", port))[1] for _ in range(streams)]
    for client in clients:
        client.call(next(requests), loop.time())
    await asyncio.wait_for(finished, 60)
    for client in clients:
        client._transport.abort()
    seconds = [latency for latency, _ in found]
    return {"whole": sum(whole for _, whole in found), "p50_s": float(np.median(seconds)), "max_s": max(seconds)}


class GatewayBench:
    """Stub and gateway, running."""

    def __init__(self, folder: Path, runner: asyncio.Runner, pace_s: float = 0.0, *, record: bool = True) -> None:
        cores = sorted(os.sched_getaffinity(0))
        self.stub_port, self.port = _free(), _free()
        self._runner = runner
        self._stub = runner.run(serve_stub(self.stub_port, pace_s))
        config = GatewayConfig(
            port=self.port,
            endpoints=(Endpoint(name="m-0", llm="m", url=f"http://127.0.0.1:{self.stub_port}"),),
            limits=GatewayLimits(concurrent=5000),
            recording=Recording(path="calls.jsonl") if record else None,
        )
        save_gateway(folder / "gateway.yaml", config)
        self._gateway = subprocess.Popen(
            [sys.executable, "-c", "from scepsy.cli import main; main()", "gateway", "-c", str(folder / "gateway.yaml")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=lambda: os.sched_setaffinity(0, cores[:1]),
        )
        self._cores = set(cores)
        os.sched_setaffinity(0, cores[1:] or cores)
        _wait(self.port)

    @property
    def pid(self) -> int:
        """The gateway's process."""
        return self._gateway.pid

    def close(self) -> None:
        """Stop both."""
        self._gateway.send_signal(signal.SIGTERM)
        self._gateway.wait(20)
        self._stub.close()
        self._runner.run(self._stub.wait_closed())
        os.sched_setaffinity(0, self._cores)


def _free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"nothing listens on port {port}")


class Spent(NamedTuple):
    """CPU seconds so far, and when that was."""

    at_s: float
    gateway_s: float
    load_s: float
    """Of this process: stub and load generator."""
    host_s: float
    """Of all processes of this host."""
    stolen_s: float
    """Not given to this host by the one below."""

    @classmethod
    def now(cls, gateway_pid: int) -> "Spent":
        """Look at the clocks."""
        host = psutil.cpu_times()
        gateway_s, load_s = (fsum(psutil.Process(pid).cpu_times()[:2]) for pid in (gateway_pid, os.getpid()))
        busy_s = host.user + host.nice + host.system + getattr(host, "irq", 0.0) + getattr(host, "softirq", 0.0)
        return cls(time.monotonic(), gateway_s, load_s, busy_s, getattr(host, "steal", 0.0))

    def cores_since(self, before: "Spent") -> dict[str, float]:
        """How many cores each kept busy; ``others``: all processes that are not part of the measurement."""
        gone_s = self.at_s - before.at_s
        gateway, load, host, stolen = ((new - old) / gone_s for new, old in zip(self[1:], before[1:], strict=True))
        return {"gateway": gateway, "load": load, "others": max(0.0, host - gateway - load), "stolen": stolen}


QUIET_CORES = 0.15
"""What a measurement can bear of others (as for measured plans)."""

TURNS = 10
"""Direct and through the gateway, in turns as short as this allows: what disturbs one disturbs the other too."""


def measure(seconds: float = 5.0, rate_per_s: float = 750.0, streams: int = 1000, *, record: bool = True) -> dict[str, Any]:
    """All of it: capacity, added latency at ``rate_per_s`` (direct and through, in turns), and concurrent streams.

    Whatever disturbs it is reported beside it (``others_cores``, ``stolen_cores``), and nothing is left out. Capacity is the
    gateway's only where ``capacity_gateway_cores`` is near 1; else the load generator's.
    """
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner(loop_factory=new_loop) as runner:
        bench = GatewayBench(Path(folder), runner, record=record)
        try:
            runner.run(closed_loop(bench.port, 16, 1.0))  # warm
            clocks = [Spent.now(bench.pid)]
            capacity = runner.run(closed_loop(bench.port, 64, seconds))
            clocks.append(Spent.now(bench.pid))
            direct, through = [], []
            for turn in range(TURNS):
                direct.append(runner.run(open_loop(bench.stub_port, rate_per_s, 2 * seconds / TURNS, turn)))
                through.append(runner.run(open_loop(bench.port, rate_per_s, 2 * seconds / TURNS, turn)))
            clocks.append(Spent.now(bench.pid))
        finally:
            bench.close()
        paced = GatewayBench(Path(folder), runner, pace_s=0.1, record=record)
        try:
            at_once = runner.run(many_streams(paced.port, streams))
        finally:
            paced.close()
    quantiles = {name: np.percentile(np.concatenate(parts), (50, 99)) * 1e3
                 for name, parts in (("direct", direct), ("through", through))}  # fmt: skip
    calls = sum(len(part) for part in through)
    full, half = clocks[1].cores_since(clocks[0]), clocks[2].cores_since(clocks[1])
    return {
        "capacity_per_s": capacity["per_s"],
        "capacity_gateway_cores": full["gateway"],
        "capacity_load_cores": full["load"],
        "capacity_others_cores": full["others"],
        "capacity_stolen_cores": full["stolen"],
        "capacity_cpu_us_per_call": full["gateway"] / capacity["per_s"] * 1e6,
        "broken": capacity["broken"] + sum(int(np.isinf(part).sum()) for part in through),
        "rate_per_s": rate_per_s,
        "calls": calls,
        "direct_p50_ms": quantiles["direct"][0],
        "direct_p99_ms": quantiles["direct"][1],
        "added_p50_ms": quantiles["through"][0] - quantiles["direct"][0],
        "added_p99_ms": quantiles["through"][1] - quantiles["direct"][1],
        "cpu_us_per_call": (clocks[2].gateway_s - clocks[1].gateway_s) / calls * 1e6,
        "others_cores": half["others"],
        "stolen_cores": half["stolen"],
        "streams": streams,
        "streams_whole": at_once["whole"],
        "streams_p50_s": at_once["p50_s"],
        "streams_max_s": at_once["max_s"],
        "recording": record,
    }


def main(
    seconds: Annotated[float, typer.Option(help="Length of each part.")] = 5.0,
    rate: Annotated[float, typer.Option(help="Calls per second for the latency part.")] = 750.0,
    record: Annotated[bool, typer.Option(help="With recording.")] = True,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Measure the gateway on this machine."""
    found = measure(seconds, rate, record=record)
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        print("\n".join(f"{name.replace('_', ' '):<26}{value:>12.4g}" for name, value in found.items()))
        if (noise := max(found["others_cores"], found["capacity_others_cores"])) > QUIET_CORES:
            print(f"other processes kept up to {noise:.2f} cores busy: latencies say more about them than about the gateway")


if __name__ == "__main__":
    typer.run(main)
