"""Placement rules on random allocations: what they strand, which tensor-parallel groups they break, how often they fail."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from experiments.points.measured import Row
from experiments.runner import Experiment, Scale, Task
from scepsy.cluster import Cluster, Gpu
from scepsy.place.exact import pack_exactly
from scepsy.place.hierarchical import Placement, layout, pack
from scepsy.plans import Allocation
from scepsy.profile import catalogue
from scepsy.rng import stream

Slots = list[list[int]]
Order = npt.NDArray[np.int64]


def random_allocations(cluster: Cluster, fill: float, seed: int) -> list[Allocation]:
    """Allocations of a mix of shares and degrees that fill about ``fill`` of the cluster."""
    rng = stream(seed, "placement", int(fill * 100))
    left = fill * 100 * len(cluster.gpus)
    found: list[Allocation] = []
    while left > 30 and len(found) < 24:
        degree = int(rng.choice([1, 1, 1, 2, 4]))
        share = 100 if degree > 1 and rng.random() < 0.5 else int(rng.choice([20, 30, 40, 50, 60, 70, 100]))
        replicas = max(1, min(int(rng.integers(1, 4)), int(left // (share * degree))))
        if share * degree * replicas > left and found:
            break
        found.append(
            Allocation(llm=f"m{len(found)}", share_pct=share, tensor_parallel=degree, replicas=replicas, gpu_type="A100-80G")
        )
        left -= share * degree * replicas
    return found


def _any_order(
    allocations: Sequence[Allocation], free: npt.NDArray[np.int64], choose: Callable[[Order, Allocation], Order]
) -> Slots | None:
    """Place instance by instance on the first GPUs of ``choose``'s order with room, wherever nodes begin and end."""
    slots = []
    for allocation in allocations:
        for _ in range(allocation.replicas):
            order = choose(free, allocation)
            room = [int(n) for n in order if free[n] >= allocation.share_pct][: allocation.tensor_parallel]
            if len(room) < allocation.tensor_parallel:
                return None
            free[room] -= allocation.share_pct
            slots.append(room)
    return slots


def first_fit(cluster: Cluster, allocations: Sequence[Allocation], seed: int) -> Slots | None:
    """GPUs by number."""
    free = np.full(len(cluster.gpus), 100, dtype=np.int64)
    return _any_order(allocations, free, lambda f, a: np.arange(len(f)))


def best_fit(cluster: Cluster, allocations: Sequence[Allocation], seed: int) -> Slots | None:
    """The fullest GPUs first."""
    free = np.full(len(cluster.gpus), 100, dtype=np.int64)
    return _any_order(allocations, free, lambda f, a: np.argsort(f, kind="stable"))


def at_random(cluster: Cluster, allocations: Sequence[Allocation], seed: int) -> Slots | None:
    """GPUs in random order."""
    free = np.full(len(cluster.gpus), 100, dtype=np.int64)
    rng = stream(seed, "placement", "order")
    return _any_order(allocations, free, lambda f, a: rng.permutation(len(f)))


def _numbered(cluster: Cluster, placement: Placement | None) -> Slots | None:
    if placement is None:
        return None
    number = {gpu: n for n, gpu in enumerate(cluster.gpus)}
    return [[number[gpu] for gpu in slot] for slots in placement.values() for slot in slots]


def hierarchical(cluster: Cluster, allocations: Sequence[Allocation], seed: int) -> Slots | None:
    """The paper's rule: nodes first, then fractions."""
    return _numbered(cluster, pack(layout(cluster), allocations))


def exact(cluster: Cluster, allocations: Sequence[Allocation], seed: int) -> Slots | None:
    """CP-SAT: the fewest GPUs touched, proved."""
    return _numbered(cluster, pack_exactly(layout(cluster), allocations).placement)


METHODS: Mapping[str, Callable[[Cluster, Sequence[Allocation], int], Slots | None]] = {
    "exact": exact,
    "hierarchical": hierarchical,
    "first-fit": first_fit,
    "best-fit": best_fit,
    "random": at_random,
}


def measures(cluster: Cluster, allocations: Sequence[Allocation], slots: Slots) -> Row:
    """Stranded percent of the touched GPUs, GPUs touched, and groups that leave their NVLink domain."""
    gpus = cluster.gpus
    domain: dict[Gpu, int] = {gpu: n for n, members in enumerate(cluster.nvlink_domains()) for gpu in members}
    used: dict[int, int] = {}
    instances = [a for a in allocations for _ in range(a.replicas)]
    groups = broken = 0
    by_instance = zip(instances, slots, strict=True)
    for allocation, slot in by_instance:
        for n in slot:
            used[n] = used.get(n, 0) + allocation.share_pct
        if len(slot) > 1:
            groups += 1
            broken += len({domain[gpus[n]] for n in slot}) > 1
    stranded = sum(100 - pct for pct in used.values()) / len(used)
    return {"stranded_pct": stranded, "gpus_touched": len(used), "groups": groups, "broken_groups": broken}


def tasks(scale: Scale) -> list[Task]:
    """One task per fill and seed, all methods on the same allocations."""
    fills = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95) if scale.full else (0.4, 0.6, 0.8, 0.95)
    return [Task({"fill": fill, "seed": seed}) for fill in fills for seed in range(200 if scale.full else 15)]


def rows(params: Mapping[str, Any]) -> list[Row]:
    """One row per method."""
    cluster = catalogue.cluster_preset("4x4-a100")
    allocations = random_allocations(cluster, params["fill"], params["seed"])
    found: list[Row] = []
    for name, method in METHODS.items():
        slots = method(cluster, allocations, params["seed"])
        base: Row = {"method": name, "fill": params["fill"], "seed": params["seed"], "gpus": len(cluster.gpus)}
        base["placed"] = slots is not None
        found.append(base | (measures(cluster, allocations, slots) if slots is not None else {}))
    return found


STUDY = Experiment("placement", "stranded GPUs and broken groups", "fig_11_placement", tasks, rows)
