"""Several who watch one world: a timeline, and a policy that wants to know which runs have ended."""

from collections.abc import Callable

from sim.engine.replica import Replica, Work
from sim.engine.request import Request
from sim.world.agent import Agent
from sim.world.world import Observer


class Watchers:
    """Passes everything on to ``first`` and tells ``run_ended`` of ended runs too."""

    def __init__(self, first: Observer | None, run_ended: Callable[[Agent], None]) -> None:
        self._first, self._tell = first, run_ended

    def iteration_ended(self, replica: Replica, work: Work) -> None:
        """An instance ended an iteration or a span."""
        if self._first is not None:
            self._first.iteration_ended(replica, work)

    def idle(self, replica: Replica, now: int) -> None:
        """An instance has nothing to do."""
        if self._first is not None:
            self._first.idle(replica, now)

    def call_ended(self, request: Request) -> None:
        """A call completed or was rejected."""
        if self._first is not None:
            self._first.call_ended(request)

    def run_ended(self, agent: Agent) -> None:
        """A run completed or was rejected."""
        if self._first is not None:
            self._first.run_ended(agent)
        self._tell(agent)
