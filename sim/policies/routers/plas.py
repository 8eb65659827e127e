"""Autellix's routing, to go with its queue order: short prompts anywhere, long ones where their run's prefix is."""

from sim.engine.replica import Replica
from sim.engine.request import Request
from sim.policies.routers.builtin import LeastOutstanding

SHORT_TOKENS = 2_048
"""Prompts up to this are worth recomputing on an emptier instance."""


class PlasRouter(LeastOutstanding):
    """Prompts of at most ``SHORT_TOKENS`` to the least loaded instance, longer ones to their run's home: where its first
    one went.
    """

    def __init__(self, llm: str, seed: int) -> None:
        super().__init__(llm, seed)
        self._home: dict[str, Replica] = {}

    def __call__(self, request: Request, session: str) -> Replica:
        """Choose an instance."""
        if request.input_tokens <= SHORT_TOKENS:
            return super().__call__(request, session)
        home = self._home.get(request.caller.id)
        if home is None or home not in self.replicas:
            home = self._home[request.caller.id] = super().__call__(request, session)
        return home
