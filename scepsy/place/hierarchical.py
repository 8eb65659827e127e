"""Placement as in the paper: nodes first, the largest groups first inside an NVLink domain, then fractions onto occupied GPUs.

This is "best fit, decreasing". Instances come in order of tensor-parallel degree, then of share, largest first. A group goes
to the domain where it leaves the fewest usable GPUs, onto the fullest GPUs that still have room. An instance of one GPU goes
to the fullest GPU that has room. This is fast and usually tight. Where it fails, ``place.exact`` decides whether anything
fits.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scepsy.cluster import Cluster, Gpu
from scepsy.place.links import Uneven, arrange, uneven_domains
from scepsy.plans import Allocation
from scepsy.predictors.aggregate import Integers

Slots = tuple[tuple[Gpu, ...], ...]
"""GPUs of each instance, one group per instance."""
Placement = dict[str, Slots]
"""Slots by LLM, in instance order."""


@dataclass(frozen=True)
class ClusterLayout:
    """A cluster's GPUs as arrays, built once and packed into many times."""

    gpus: tuple[Gpu, ...]
    gpu_type: tuple[str, ...]
    """Type name by GPU."""
    domains: tuple[tuple[str, Integers], ...]
    """(GPU type, GPU numbers) of every NVLink domain."""
    of_type: Mapping[str, Integers]
    """GPU numbers by type."""
    grids: Mapping[str, Integers]
    """By type, one row of GPU numbers per domain, short rows filled up with the number of a GPU that is always full."""
    uneven: tuple[Uneven, ...] = ()
    """The domains whose links are not all alike."""


ORDERS: tuple[Callable[[Allocation], tuple[int, int, str]], ...] = (
    lambda a: (-a.tensor_parallel, -a.share_pct, a.llm),
    lambda a: (-a.tensor_parallel * a.share_pct, -a.share_pct, a.llm),
    lambda a: (-a.share_pct, -a.tensor_parallel, a.llm),
)
"""The paper's order, by degree; then, where that finds no room, by size and by share."""


def layout(cluster: Cluster) -> ClusterLayout:
    """The layout of a cluster."""
    number = {gpu: n for n, gpu in enumerate(cluster.gpus)}
    types = tuple(node.gpu_type for node in cluster.nodes for _ in range(node.gpus))
    domains = []
    for node in cluster.nodes:
        for domain in node.domains:
            domains.append((node.gpu_type, np.array([number[Gpu(node=node.name, index=i)] for i in domain], dtype=np.int64)))
    of_type = {name: np.array([n for n, t in enumerate(types) if t == name], dtype=np.int64) for name in sorted(set(types))}
    grids = {}
    for name in of_type:
        rows = [domain for kind, domain in domains if kind == name]
        grid = np.full((len(rows), max(len(row) for row in rows)), len(types), dtype=np.int64)
        for n, row in enumerate(rows):
            grid[n, : len(row)] = row
        grids[name] = grid
    return ClusterLayout(
        gpus=cluster.gpus, gpu_type=types, domains=tuple(domains), of_type=of_type, grids=grids, uneven=uneven_domains(cluster)
    )


def pack(where: ClusterLayout, allocations: Sequence[Allocation], free_pct: Integers | None = None) -> Placement | None:
    """Place every instance of the allocations, or return None when this heuristic finds no room.

    ``free_pct`` is what is free on each GPU to begin with (100 everywhere by default). An instance's memory is its share's
    part of the GPU, so shares that fit also fit in memory. Deterministic: ties go to the lowest GPU number.
    """
    tried: list[list[Allocation]] = []
    for order in ORDERS:
        ordered = sorted(allocations, key=order)
        if ordered in tried:
            continue
        tried.append(ordered)
        free = np.full(len(where.gpus), 100, dtype=np.int64) if free_pct is None else free_pct.copy()
        slots = _place(where, free, ordered, {allocation.llm: [] for allocation in allocations})
        if slots is not None:
            begun = [100] * len(where.gpus) if free_pct is None else free_pct.tolist()
            taken = frozenset(gpu for gpu, free_now in zip(where.gpus, begun, strict=True) if free_now < 100)
            return spread(arrange(where.uneven, slots, taken))
    return None


def pack_around(where: ClusterLayout, allocations: Sequence[Allocation], kept: Placement) -> Placement | None:
    """Place the instances that ``kept`` does not hold already, leaving those where they are; None when there is no room."""
    number = {gpu: n for n, gpu in enumerate(where.gpus)}
    free = np.full(len(where.gpus), 100, dtype=np.int64)
    for allocation in allocations:
        for slot in kept.get(allocation.llm, ()):
            free[[number[gpu] for gpu in slot]] -= allocation.share_pct
    if free.min() < 0:
        return None
    ordered = sorted(allocations, key=ORDERS[0])
    slots = _place(where, free, ordered, {a.llm: list(kept.get(a.llm, ())) for a in ordered})
    held = frozenset(gpu for groups in kept.values() for slot in groups for gpu in slot)
    return None if slots is None else spread(arrange(where.uneven, slots, held))


def _place(
    where: ClusterLayout, free: Integers, allocations: Sequence[Allocation], slots: dict[str, list[tuple[Gpu, ...]]]
) -> dict[str, list[tuple[Gpu, ...]]] | None:
    """Add what is missing to ``slots`` in the given order, onto what is ``free``."""
    free = np.append(free, -1)  # the GPU that is always full, see ``ClusterLayout.grids``
    for allocation in allocations:
        for _ in range(allocation.replicas - len(slots[allocation.llm])):
            if allocation.tensor_parallel == 1:
                chosen = _fullest(where, free, allocation)
            else:
                chosen = _group(where, free, allocation)
            if chosen is None:
                return None
            free[chosen] -= allocation.share_pct
            slots[allocation.llm].append(tuple(where.gpus[n] for n in sorted(chosen.tolist())))
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


def _fullest(where: ClusterLayout, free: Integers, allocation: Allocation) -> Integers | None:
    mine = where.of_type.get(allocation.gpu_type)
    if mine is None:
        return None
    room = free[mine]
    room = np.where(room >= allocation.share_pct, room, 1000)
    best = int(room.argmin())
    return None if room[best] == 1000 else mine[best : best + 1]


def _group(where: ClusterLayout, free: Integers, allocation: Allocation) -> Integers | None:
    grid = where.grids.get(allocation.gpu_type)
    degree = allocation.tensor_parallel
    if grid is None or grid.shape[1] < degree:
        return None
    room = free[grid]
    usable = room >= allocation.share_pct
    counts = usable.sum(axis=1)
    if counts.max() < degree:
        return None
    room[~usable] = 1000
    left = np.where(counts >= degree, np.sort(room, axis=1)[:, :degree].sum(axis=1) * 1000 + counts, 10**9)
    best = int(left.argmin())
    # The fullest GPUs with room come first; numbers break ties, since the sort is stable.
    chosen: Integers = grid[best, np.argsort(room[best], kind="stable")[:degree]]
    return chosen


def gpus_touched(placement: Placement) -> int:
    """How many GPUs carry at least one instance."""
    return len({gpu for groups in placement.values() for group in groups for gpu in group})
