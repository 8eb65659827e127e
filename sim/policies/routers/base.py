"""What every router is: a callable ``(request, session) -> Replica`` made for one LLM's instances."""

from collections.abc import Sequence

from scepsy.errors import SimulationError
from sim.engine.replica import Replica
from sim.engine.request import Request


class Router:
    """Base: knows the instances that accept calls; ``add`` and ``remove`` follow a changing cluster."""

    def __init__(self, llm: str, seed: int) -> None:
        self.llm = llm
        self.replicas: list[Replica] = []

    def add(self, replica: Replica) -> None:
        """An instance became ready."""
        self.replicas.append(replica)
        self.replicas.sort(key=lambda r: r.number)

    def remove(self, replica: Replica) -> None:
        """An instance takes no more calls."""
        self.replicas.remove(replica)

    def __call__(self, request: Request, session: str) -> Replica:
        """Choose an instance. Raises ``SimulationError`` when there is none."""
        raise SimulationError(f"router of {self.llm} has {len(self.replicas)} instances: cannot place a call")

    def _some(self) -> Sequence[Replica]:
        if not self.replicas:
            raise SimulationError(
                f"router of {self.llm} has 0 instances: a call has nowhere to go (allocate or start an instance of {self.llm})"
            )
        return self.replicas
