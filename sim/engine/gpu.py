"""GPUs: what their instances do to each other.

Memory bandwidth: a decode step is slowed by the instances that decode. Its speed is fixed when it starts, from what decoded
just before that instant: an iteration counts from just after its start up to and including its end. So at a tie it does not
matter who is asked first. Compute: an iteration with prompt tokens ends when the GPU's budget allows (``sim.engine.budget``).
"""

from bisect import insort
from collections.abc import Sequence
from typing import Protocol

from scepsy.profile.share import ContentionLaw
from sim.engine.budget import Promise, earliest_end, worked_off


class Neighbour(Protocol):
    """What a GPU knows of an instance."""

    bandwidth_demand: float
    shared: bool

    def neighbours_changed(self, now: int) -> None:
        """Some other instance on one of my GPUs began or stopped decoding."""


class GpuState:
    """One GPU."""

    __slots__ = (
        "_before", "_changed_at", "_factors", "_law", "_mask", "_promises", "_worked_until", "compute_capacity", "name",
        "tenants",
    )  # fmt: skip

    def __init__(self, name: str, law: ContentionLaw) -> None:
        self.name = name
        self.tenants: list[Neighbour] = []
        self._law = law
        self._mask = 0
        self._before = 0
        self._changed_at = -1
        self._factors: dict[tuple[int, int], float] = {}
        self.compute_capacity = law.compute_capacity
        self._promises: list[Promise] = []
        self._worked_until = 0

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
            others = 0.0
            for n, tenant in enumerate(self.tenants):
                if n != number and mask >> n & 1:
                    others += tenant.bandwidth_demand  # one by one: ``sum`` rounds differently from Python 3.12 on
            factor = self._factors[mask, number] = self._law.slowdown(own, others)
        return factor

    def earliest_end(self, now: int, floor: int, work: int) -> int:
        """When an iteration with ``work`` ticks of prompt work that starts ``now`` can end, at ``floor`` or later."""
        self._promises = worked_off(self._promises, now - self._worked_until)
        self._worked_until = now
        return earliest_end(now, floor, work, self._promises)

    def promise(self, number: int, end: int, work: int) -> None:
        """Tenant ``number``'s iteration, which starts now, ends at ``end``."""
        insort(self._promises, (end, number, work))

    def withdraw(self, number: int) -> None:
        """Tenant ``number`` died: its iteration will not end."""
        self._promises = [promise for promise in self._promises if promise[1] != number]


class Slots:
    """The place of one instance: its number on each of its GPUs."""

    __slots__ = ("_places", "compute_capacity")

    def __init__(self, tenant: Neighbour, gpus: Sequence[GpuState]) -> None:
        self._places = [(gpu, gpu.admit(tenant)) for gpu in gpus]
        self.compute_capacity = gpus[0].compute_capacity if gpus else None

    def slowdown(self, now: int) -> float:
        """The largest factor over the GPUs of a tensor-parallel group: all wait for the slowest."""
        return max(gpu.slowdown(number, now) for gpu, number in self._places)

    def slowdown_after(self) -> float:
        """The same for iterations that start later."""
        return max(gpu.slowdown_after(number) for gpu, number in self._places)

    def promise(self, now: int, length: int, work: int) -> int:
        """How long an iteration takes that starts ``now`` and would take ``length`` ticks beside nobody computing.

        A tensor-parallel group does the same work on each of its GPUs and waits for the latest of them.
        """
        if not work:
            return length
        end = now + length
        for gpu, _ in self._places:
            end = gpu.earliest_end(now, end, work)
        for gpu, number in self._places:
            gpu.promise(number, end, work)
        return end - now

    def withdraw(self) -> None:
        """The instance died: what it promised will not happen."""
        for gpu, number in self._places:
            gpu.withdraw(number)

    def switch(self, tenant: Neighbour, now: int) -> None:
        """Begin or stop decoding and let the neighbours know."""
        for gpu, number in self._places:
            gpu.switch(number, now)
        if tenant.shared:
            for gpu, _ in self._places:
                for other in gpu.tenants:
                    if other is not tenant:
                        other.neighbours_changed(now)
