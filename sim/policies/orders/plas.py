"""Autellix's PLAS: the runs that were served least so far go first."""

from dataclasses import dataclass

from sim.engine.request import Request


@dataclass(frozen=True)
class Plas:
    """Autellix's PLAS (arXiv 2502.13965): calls of the run with the least service so far first, in levels, unless starved.

    A run's level follows from the tokens of its ended calls: below ``first_level_tokens`` it is the first, and each further
    level is twice as long. A waiting call is promoted to the first level once its run has waited ``beta`` times as long as
    it was served: both in seconds, summed over its ended calls (issue to first admission, then to the end), this call's
    wait included. The defaults are ours. To try others, put ``Plas(beta=…)`` into ``QUEUE_ORDERS`` under a name of its own.
    """

    first_level_tokens: int = 1024
    beta: float = 4.0

    def __call__(self, request: Request) -> tuple[float, ...]:
        """Sort key: the level, from 0."""
        return (float((request.caller.served_tokens // self.first_level_tokens).bit_length()),)

    def promotes_at(self, request: Request) -> int | None:
        """Tick at which wait/service reaches β, should the call still wait then; none for a call of the first level.

        Known on arrival, since the run's earlier calls have ended: issued + β·service − wait so far.
        """
        caller = request.caller
        if caller.served_tokens < self.first_level_tokens:
            return None
        return request.issued + max(0, round(self.beta * caller.served_ticks) - caller.waited_ticks)
