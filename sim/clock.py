"""The simulation's clock: whole femtoseconds on SimPy's kernel, and the order of events at one instant.

Integer time makes a span of k decode steps end at exactly the instant that k single steps would end at, whatever the
summation order, so ties are ties in every implementation. At one instant, in this order: arrivals and tool gaps that end
(as they were set), step ends (by instance number), new iterations. Hence every call issued at an instant, whoever
caused it, is seen by every iteration that starts at that instant.
"""

from collections.abc import Callable
from operator import attrgetter
from typing import Any

import simpy

TICKS_PER_S = 10**15

ARRIVAL = 1
STEP_END = 2
"""Plus the instance's number."""
SCHEDULE = 1 << 40


def ticks(seconds: float) -> int:
    """Seconds to the nearest tick.

    >>> ticks(0.25)
    250000000000000
    """
    return round(seconds * TICKS_PER_S)


def seconds(at: int) -> float:
    """Ticks to seconds."""
    return at / TICKS_PER_S


class Kernel(simpy.Environment):
    """SimPy's environment with whole ticks as its time."""

    def __init__(self) -> None:
        super().__init__(initial_time=0)

    now: int = property(attrgetter("_now"))  # type: ignore[assignment]
    """Current time in ticks."""


class Alarm(simpy.Event):
    """One callback after a delay: what ``simpy.Timeout`` does, with a priority and without a process."""

    _ok = True
    _value = None

    def __init__(self, env: Kernel, delay: int, priority: int, callback: Callable[[Any], None]) -> None:
        self.callbacks = [callback]
        env.schedule(self, priority, delay)  # type: ignore[arg-type]
