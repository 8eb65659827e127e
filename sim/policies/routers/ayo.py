"""Ayo's routing: instances in turn, except that a call follows the part of its prompt that was prefilled early."""

from typing import Any

from sim.engine.replica import Replica
from sim.engine.request import Request
from sim.policies.routers.builtin import RoundRobin

EARLY = "~early"
"""Ending of the id of a call that only prefills the known part of another call's prompt."""


class AyoRouter(RoundRobin):
    """Round robin; a call whose prompt was prefilled early follows it to its instance."""

    def __init__(self, llm: str, seed: int) -> None:
        super().__init__(llm, seed)
        self._early: dict[tuple[str, str], Replica] = {}

    def __call__(self, request: Request, session: str) -> Replica:
        """Choose the next instance, or the one that has the prefix."""
        if not self.replicas:
            return super().__call__(request, session)  # which says so
        caller: Any = request.caller
        name = caller.walk.run.calls[request.node].id
        home = self._early.pop((caller.id, name + EARLY), None)
        if home is not None and home in self.replicas:
            return home
        chosen = super().__call__(request, session)
        if name.endswith(EARLY):
            self._early[caller.id, name] = chosen
        return chosen
