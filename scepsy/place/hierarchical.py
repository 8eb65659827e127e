"""Placement as in the paper: nodes first, the largest groups first inside an NVLink domain, then fractions onto occupied GPUs.

Best fit, decreasing: instances by tensor-parallel degree, then share, largest first; a group goes to the domain where it leaves
the fewest usable GPUs, on the fullest GPUs that still have room; a single-GPU instance to the fullest GPU that has room. Fast
and usually tight; where it fails, ``place.exact`` decides whether anything fits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scepsy.cluster import Cluster, Gpu
from scepsy.plan import Allocation
from scepsy.predict.aggregate import Integers

Slots = tuple[tuple[Gpu, ...], ...]
"""GPUs of each instance, one group per instance."""
Placement = dict[str, Slots]
"""Slots by LLM, in instance order."""


@dataclass(frozen=True)
class Layout:
    """A cluster's GPUs as arrays, built once and packed into many times."""

    gpus: tuple[Gpu, ...]
    gpu_type: tuple[str, ...]
    """Type name by GPU."""
    domains: tuple[tuple[str, Integers], ...]
    """(GPU type, GPU numbers) of every NVLink domain."""
    of_type: Mapping[str, Integers]
    """GPU numbers by type."""


def layout(cluster: Cluster) -> Layout:
    """The layout of a cluster."""
    number = {gpu: n for n, gpu in enumerate(cluster.gpus)}
    types = tuple(node.gpu_type for node in cluster.nodes for _ in range(node.gpus))
    domains = []
    for node in cluster.nodes:
        for domain in node.domains:
            domains.append((node.gpu_type, np.array([number[Gpu(node=node.name, index=i)] for i in domain], dtype=np.int64)))
    of_type = {name: np.array([n for n, t in enumerate(types) if t == name], dtype=np.int64) for name in sorted(set(types))}
    return Layout(gpus=cluster.gpus, gpu_type=types, domains=tuple(domains), of_type=of_type)


def pack(where: Layout, allocations: Sequence[Allocation], free_pct: Integers | None = None) -> Placement | None:
    """Place every instance of the allocations, or return None when this heuristic finds no room.

    ``free_pct`` is what is free on each GPU to begin with (100 everywhere by default). An instance's memory is its share's
    part of the GPU, so shares that fit also fit in memory. Deterministic: ties go to the lowest GPU number.
    """
    free = np.full(len(where.gpus), 100, dtype=np.int64) if free_pct is None else free_pct.copy()
    slots = _place(where, free, allocations, {allocation.llm: [] for allocation in allocations})
    return None if slots is None else spread(slots)


def pack_around(where: Layout, allocations: Sequence[Allocation], kept: Placement) -> Placement | None:
    """Place the instances that ``kept`` does not hold already, leaving those where they are; None when there is no room."""
    number = {gpu: n for n, gpu in enumerate(where.gpus)}
    free = np.full(len(where.gpus), 100, dtype=np.int64)
    for allocation in allocations:
        for slot in kept.get(allocation.llm, ()):
            free[[number[gpu] for gpu in slot]] -= allocation.share_pct
    if free.min() < 0:
        return None
    slots = _place(where, free, allocations, {a.llm: list(kept.get(a.llm, ())) for a in allocations})
    return None if slots is None else spread(slots)


def _place(
    where: Layout, free: Integers, allocations: Sequence[Allocation], slots: dict[str, list[tuple[Gpu, ...]]]
) -> dict[str, list[tuple[Gpu, ...]]] | None:
    """Add what is missing to ``slots``, taking from ``free``."""
    order = sorted(allocations, key=lambda a: (-a.tensor_parallel, -a.share_pct, a.llm))
    for allocation in order:
        for _ in range(allocation.replicas - len(slots[allocation.llm])):
            if allocation.tensor_parallel == 1:
                chosen = _fullest(where, free, allocation)
            else:
                chosen = _group(where, free, allocation)
            if chosen is None:
                return None
            free[chosen] -= allocation.share_pct
            slots[allocation.llm].append(tuple(where.gpus[n] for n in np.sort(chosen)))
    return slots


def spread(slots: Mapping[str, Sequence[tuple[Gpu, ...]]]) -> Placement:
    """Number every LLM's instances so that consecutive ones stand on different GPUs.

    Routers break ties by number, so at low load the busy instances are the first ones: they should not be neighbours.
    """
    numbered: Placement = {}
    for llm, groups in slots.items():
        seen: dict[Gpu, int] = {}
        ranked = []
        for slot in sorted(groups):
            layer = max(seen.get(gpu, 0) for gpu in slot)
            ranked.append((layer, slot))
            for gpu in slot:
                seen[gpu] = layer + 1
        numbered[llm] = tuple(slot for _, slot in sorted(ranked))
    return numbered


def _fullest(where: Layout, free: Integers, allocation: Allocation) -> Integers | None:
    mine = where.of_type.get(allocation.gpu_type)
    if mine is None:
        return None
    room = free[mine]
    room = np.where(room >= allocation.share_pct, room, 1000)
    best = int(room.argmin())
    return None if room[best] == 1000 else mine[best : best + 1]


def _group(where: Layout, free: Integers, allocation: Allocation) -> Integers | None:
    best: tuple[tuple[int, int], Integers] | None = None
    for gpu_type, domain in where.domains:
        if gpu_type != allocation.gpu_type:
            continue
        usable = domain[free[domain] >= allocation.share_pct]
        if len(usable) < allocation.tensor_parallel:
            continue
        chosen = usable[np.argsort(free[usable], kind="stable")[: allocation.tensor_parallel]]
        rank = (int(free[chosen].sum()), len(usable))
        if best is None or rank < best[0]:
            best = (rank, chosen)
    return None if best is None else best[1]


def gpus_touched(placement: Placement) -> int:
    """How many GPUs carry at least one instance."""
    return len({gpu for groups in placement.values() for group in groups for gpu in group})
