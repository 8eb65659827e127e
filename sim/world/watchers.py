"""Several who watch one world: a timeline, and a policy that wants to know which runs or calls have ended."""

from collections.abc import Callable

from sim.engine.replica import Replica, Work
from sim.engine.request import Request
from sim.world.agent import Agent
from sim.world.world import Observer


def _nothing(_: object) -> None:
    """Nobody wants to know."""


class Watchers:
    """Passes everything on to ``first``, and tells of ended runs and calls too."""

    def __init__(
        self,
        first: Observer | None,
        run_ended: Callable[[Agent], None] = _nothing,
        call_ended: Callable[[Request], None] = _nothing,
    ) -> None:
        self._first, self._tell_run, self._tell_call = first, run_ended, call_ended

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
        self._tell_call(request)

    def run_ended(self, agent: Agent) -> None:
        """A run completed or was rejected."""
        if self._first is not None:
            self._first.run_ended(agent)
        self._tell_run(agent)
