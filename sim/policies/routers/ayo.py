"""Ayo's routing: instances in turn, except that a call follows what it continues.

That is the part of its prompt that was prefilled early, or the piece of its answer that was decoded before.
"""

from typing import Any

from sim.engine.replica import Replica
from sim.engine.request import Request
from sim.policies.routers.builtin import RoundRobin

EARLY = "~early"
"""Ending of the id of a call that only prefills the known part of another call's prompt."""
PART = "~part"
"""In the id of a call that decodes a piece of another call's answer, before the piece's number."""


class AyoRouter(RoundRobin):
    """Round robin; a call follows its early prefill, or the piece before it, to their instance."""

    def __init__(self, llm: str, seed: int) -> None:
        super().__init__(llm, seed)
        self._early: dict[tuple[str, str], Replica] = {}
        self._pieces: dict[tuple[str, str], Replica] = {}

    def __call__(self, request: Request, session: str) -> Replica:
        """Choose the next instance, or the one that has the prefix."""
        if not self.replicas:
            return super().__call__(request, session)  # which says so
        caller: Any = request.caller
        name = caller.walk.run.calls[request.node].id
        home = self._early.pop((caller.id, name + EARLY), None)
        answer, part, _ = name.partition(PART)
        home = self._pieces.pop((caller.id, answer), home)
        chosen = home if home is not None and home in self.replicas else super().__call__(request, session)
        if part:
            self._pieces[caller.id, answer] = chosen
        if name.endswith(EARLY):
            self._early[caller.id, name] = chosen
        return chosen
