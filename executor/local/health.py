"""Is an engine well? Decided by deadlines on proof: answers of /health, and work done while calls wait.

A process that exists may be stopped, wedged or refuse for ever, and a server whose core hangs still answers 200. So an engine
counts as

- *unhealthy* when its /health has not been 200 for ``eject_s``. It gets no new calls until it answers again.
- *hung* when that has lasted ``hung_s``, or when it has calls in hand and its counters of work have not moved for
  ``stall_s``. It is ended and started again, with growing pauses, like an engine that died.

One fault is not seen until the gateway's own time limit: a core hangs while its server has nothing in hand and goes on
saying so. Taking an engine for hung whenever the gateway waits for it would end engines whose clients are slow to read.
"""

import asyncio
import re
import time
from collections.abc import Sequence
from math import fsum
from typing import Literal, Protocol

import aiohttp

from scepsy.value import Value, require_finite

Verdict = Literal["well", "unhealthy", "hung"]

PROBE_S, FIRST_PROBE_S = 1.0, 0.25
"""Between two looks at one engine's /health, and until it is well for the first time."""

PROBE_TIMEOUT_S = 5.0
"""What one look may take at most; a server that is busy tokenising answers late, not never."""

WORK_COUNTERS = (
    "vllm:iteration_tokens_total_count",
    "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total",
    "vllm:request_success_total",
)
"""Counters that move when an engine works. Only their sum is looked at."""

IN_HAND_GAUGES = ("vllm:num_requests_running", "vllm:num_requests_waiting")
"""Gauges of the calls that an engine has in hand."""

_SAMPLE = re.compile(rb"^([a-zA-Z_:][\w:]*)(?:\{([^}]*)\})? +([0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?)", re.MULTILINE)


class Deadlines(Value, frozen=True, kw_only=True):
    """How long an engine may fail to give proof, in seconds."""

    eject_s: float = 10.0
    hung_s: float = 60.0
    stall_s: float = 300.0

    def __post_init__(self) -> None:
        for field in ("eject_s", "hung_s", "stall_s"):
            require_finite(field, getattr(self, field), exclusive=True)


class EngineHealth:
    """What is known of one engine's health. Times are seconds of ``time.monotonic``."""

    def __init__(self, deadlines: Deadlines, now_s: float) -> None:
        self._deadlines = deadlines
        self.well_s = now_s
        """When /health was last as it should be."""
        self.ever_well = False
        """Whether it has been well since it was started."""
        self.problem = ""
        self._work = -1.0
        self._idle_since_s: float | None = None

    def answered(self, now_s: float, problem: str) -> None:
        """Take in one look at /health; ``problem`` is empty when it was as it should be."""
        self.problem = problem
        if not problem:
            self.well_s, self.ever_well = now_s, True

    def worked(self, now_s: float, in_hand: float, work: float) -> None:
        """Take in how many calls the engine has in hand, and the sum of its counters of work."""
        if in_hand <= 0 or work != self._work:
            self._work, self._idle_since_s = work, None
        elif self._idle_since_s is None:
            self._idle_since_s = now_s

    def verdict(self, now_s: float) -> tuple[Verdict, str]:
        """What to do about the engine, and why."""
        silent_s = now_s - self.well_s
        idle_s = now_s - self._idle_since_s if self._idle_since_s is not None else 0.0
        if silent_s >= self._deadlines.hung_s:
            return "hung", f"{self.problem} for {silent_s:.0f} s"
        if idle_s >= self._deadlines.stall_s:
            return "hung", f"it has calls in hand and computed nothing for {idle_s:.0f} s"
        if silent_s >= self._deadlines.eject_s:
            return "unhealthy", f"{self.problem} for {silent_s:.0f} s"
        return "well", ""


async def look(
    session: aiohttp.ClientSession, url: str, accepted: tuple[int, ...] = (200,), answer_s: float = PROBE_TIMEOUT_S
) -> str:
    """Ask ``url``/health; empty when the answer is as it should be, else what was wrong with it."""
    try:
        async with session.get(f"{url}/health", timeout=aiohttp.ClientTimeout(total=answer_s), allow_redirects=False) as answer:
            return "" if answer.status in accepted else f"/health answered {answer.status}"
    except TimeoutError:
        return "/health did not answer"
    except (aiohttp.ClientError, OSError, ValueError):
        return "/health refused the connection"


def samples(text: bytes, names: tuple[str, ...]) -> dict[tuple[str, str], float]:
    """(name, labels as written) → value, of those metrics; a fast reader, since engines tell thousands.

    >>> samples(b'a_total{x="1"} 2.0\\nb 3\\n', ("a_total",))
    {('a_total', 'x="1"'): 2.0}
    """
    found = {}
    for name, labels, value in _SAMPLE.findall(text):
        if (key := name.decode()) in names:
            found[key, labels.decode(errors="replace")] = float(value)
    return found


async def fetch(session: aiohttp.ClientSession, url: str) -> bytes:
    """What ``url``/metrics tells; nothing when it does not answer."""
    try:
        async with session.get(f"{url}/metrics", timeout=aiohttp.ClientTimeout(total=PROBE_TIMEOUT_S)) as answer:
            return await answer.content.read(2**24)
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
        return b""


async def outstanding(session: aiohttp.ClientSession, gateway: str) -> dict[str, float]:
    """Instance → calls that the gateway has sent to it and that have not ended."""
    found: dict[str, float] = {}
    for (_, labels), value in samples(await fetch(session, gateway), ("scepsy_gateway_outstanding",)).items():
        if match := re.search(r'instance="([^"]*)"', labels):
            found[match[1]] = found.get(match[1], 0.0) + value
    return found


async def work_done(session: aiohttp.ClientSession, url: str) -> tuple[float, float]:
    """(calls in hand, sum of the counters of work) of one engine; nothing in hand when it does not tell."""
    told = samples(await fetch(session, url), (*WORK_COUNTERS, *IN_HAND_GAUGES))
    parts = {
        group: fsum(value for (name, _), value in told.items() if name in group) for group in (IN_HAND_GAUGES, WORK_COUNTERS)
    }
    return parts[IN_HAND_GAUGES], parts[WORK_COUNTERS]


class Watched(Protocol):
    """What is looked at: an address, and the health of the process that was started last behind it."""

    name: str
    health: EngineHealth

    @property
    def url(self) -> str:
        """Where it listens."""


async def watch_health(
    session: aiohttp.ClientSession, watched: Watched, accepted: tuple[int, ...] = (200,), answer_s: float = PROBE_TIMEOUT_S
) -> None:
    """Look at one /health every second, until cancelled."""
    while True:
        health = watched.health
        problem = await look(session, watched.url, accepted, answer_s)
        health.answered(time.monotonic(), problem)
        await asyncio.sleep(min(PROBE_S, answer_s) if health.ever_well else FIRST_PROBE_S)


async def watch_work(session: aiohttp.ClientSession, gateway: str, engines: Sequence[Watched], every_s: float) -> None:
    """Look at what engines compute, until cancelled.

    Only those are asked for which the gateway has calls in flight: writing an engine's metrics takes it milliseconds.
    """
    while True:
        await asyncio.sleep(every_s)
        busy = await outstanding(session, gateway)
        for engine in engines:
            health = engine.health
            in_hand, work = await work_done(session, engine.url) if busy.get(engine.name) else (0.0, -1.0)
            health.worked(time.monotonic(), in_hand, work)
