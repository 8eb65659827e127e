"""GPUs: which of their instances are decoding, and how much that slows a decode step (shared memory bandwidth).

An iteration's speed is fixed when it starts, from what decoded just before that instant: an iteration counts from
just after its start up to and including its end. So at a tie it does not matter who is asked first.
"""

from collections.abc import Sequence
from typing import Protocol

from scepsy.profile.share import ContentionLaw


class Neighbour(Protocol):
    """What a GPU knows of an instance."""

    bandwidth_demand: float
    shared: bool

    def neighbours_changed(self, now: int) -> None:
        """Some other instance on one of my GPUs began or stopped decoding."""


class GpuState:
    """One GPU."""

    __slots__ = ("_before", "_changed_at", "_factors", "_law", "_mask", "name", "tenants")

    def __init__(self, name: str, law: ContentionLaw) -> None:
        self.name = name
        self.tenants: list[Neighbour] = []
        self._law = law
        self._mask = 0
        self._before = 0
        self._changed_at = -1
        self._factors: dict[tuple[int, int], float] = {}

    def admit(self, tenant: Neighbour) -> int:
        """Add an instance; return its number here."""
        self.tenants.append(tenant)
        for each in self.tenants:
            each.shared = each.shared or len(self.tenants) > 1
        return len(self.tenants) - 1

    def switch(self, number: int, now: int) -> None:
        """Tenant ``number`` begins or stops decoding, from just after ``now``."""
        if self._changed_at != now:
            self._before, self._changed_at = self._mask, now
        self._mask ^= 1 << number

    def slowdown(self, number: int, now: int) -> float:
        """Factor on a decode step that tenant ``number`` starts at ``now``."""
        return self._factor(self._before if self._changed_at == now else self._mask, number)

    def slowdown_after(self, number: int) -> float:
        """Factor on its next decode step if nobody else begins or stops."""
        return self._factor(self._mask, number)

    def _factor(self, mask: int, number: int) -> float:
        factor = self._factors.get((mask, number))
        if factor is None:
            own = self.tenants[number].bandwidth_demand
            others = sum(t.bandwidth_demand for n, t in enumerate(self.tenants) if n != number and mask >> n & 1)
            factor = self._factors[mask, number] = self._law.slowdown(own, others)
        return factor


class Slots:
    """The place of one instance: its number on each of its GPUs."""

    __slots__ = ("_places",)

    def __init__(self, tenant: Neighbour, gpus: Sequence[GpuState]) -> None:
        self._places = [(gpu, gpu.admit(tenant)) for gpu in gpus]

    def slowdown(self, now: int) -> float:
        """The largest factor over the GPUs of a tensor-parallel group: all wait for the slowest."""
        return max(gpu.slowdown(number, now) for gpu, number in self._places)

    def slowdown_after(self) -> float:
        """The same for iterations that start later."""
        return max(gpu.slowdown_after(number) for gpu, number in self._places)

    def switch(self, tenant: Neighbour, now: int) -> None:
        """Begin or stop decoding and let the neighbours know."""
        for gpu, number in self._places:
            gpu.switch(number, now)
        if tenant.shared:
            for gpu, _ in self._places:
                for other in gpu.tenants:
                    if other is not tenant:
                        other.neighbours_changed(now)
