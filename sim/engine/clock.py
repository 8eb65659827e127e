"""The simulation's clock: whole femtoseconds on SimPy's kernel, and the order of events at one instant.

Integer time makes a span of k decode steps end at exactly the instant that k single steps would end at, whatever the
summation order, so ties are ties in every implementation. At one instant, in this order: arrivals and tool gaps that end
(as they were set), step ends (by instance number), new iterations (by instance number). Hence every call issued at an
instant, whoever caused it, is seen by every iteration that starts at that instant.
"""

from collections.abc import Callable
from functools import partial
from heapq import heappop, heappush
from typing import Any

import simpy
from simpy.core import EmptySchedule, StopSimulation
from simpy.events import NORMAL, URGENT

TICKS_PER_S = 10**15

ARRIVAL = 1
STEP_END = 2
"""Plus the instance's number."""
SCHEDULE = 1 << 40
"""Plus the instance's number."""


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
    """SimPy's environment with whole ticks as its time, and alarms: events without the object.

    Nearly all that happens is one callback at one instant, which nobody waits for and which neither fails nor has a value. An
    alarm is just its entry in SimPy's queue, (time, priority, number, callback); SimPy's own events, which processes yield, are
    alarms that process the event. So both kinds keep one order.
    """

    now: int = 0
    """Current time in ticks; an attribute, since everybody asks all the time."""

    def __init__(self) -> None:
        super().__init__()
        self._queue: list[tuple[int, int, int, Callable[[Any], None]]] = []  # type: ignore[assignment]

    def alarm(self, delay: int, priority: int, callback: Callable[[Any], None]) -> int:
        """Call back after ``delay`` ticks with the alarm's number, which is returned here: by it an owner knows it again."""
        number = next(self._eid)
        heappush(self._queue, (self.now + delay, priority, number, callback))
        return number

    def busy_now(self) -> bool:
        """Whether something else is still to happen at this instant."""
        queue = self._queue
        return bool(queue) and queue[0][0] <= self.now

    # ---- what SimPy's events, processes and users of an environment ask for ----------------------------------------

    def schedule(self, event: simpy.Event, priority: int = NORMAL, delay: int = 0) -> None:  # type: ignore[override]
        """Process one of SimPy's events after ``delay`` ticks."""
        self.alarm(delay, priority, partial(self._process, event))

    def _process(self, event: Any, _: int) -> None:
        callbacks, event.callbacks = event.callbacks, None
        try:
            for callback in callbacks:
                callback(event)
        except StopSimulation:  # the others' turn is when the simulation goes on
            event.callbacks = callbacks[callbacks.index(callback) + 1 :]
            self.schedule(event, URGENT - 1)
            raise
        if not event._ok and not event.defused:
            raise event._value  # nobody waits for it, so nobody else would see it

    def step(self) -> None:
        """Let the next thing happen. Raises ``EmptySchedule`` when there is none."""
        if not self._queue:
            raise EmptySchedule
        self.now, _, number, callback = heappop(self._queue)
        callback(number)

    def run(self, until: float | simpy.Event | None = None) -> Any:
        """Let things happen until the event ``until`` is processed, or that instant is reached, or nothing is left.

        Returns the event's value. Raises ``RuntimeError`` when nothing is left before.
        """
        if isinstance(until, int | float):
            delay, until = int(until) - self.now, self.event()
            if delay <= 0:
                raise ValueError(f"until is {delay} ticks from now: must be later")
            until._ok, until._value = True, None
            self.schedule(until, URGENT, delay)
        if until is not None:
            if until.callbacks is None:
                return until.value
            until.callbacks.append(StopSimulation.callback)
        queue = self._queue
        try:
            while queue:
                self.now, _, number, callback = heappop(queue)
                callback(number)
        except StopSimulation as stop:
            return stop.args[0]
        if until is not None:
            raise RuntimeError(f"nothing is left to happen, and {until} did not")
        return None
