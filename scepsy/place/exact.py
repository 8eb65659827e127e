"""Exact placement by constraint programming (OR-tools CP-SAT): fewest GPUs touched, or a proof that nothing fits.

One integer per (kind of instance, GPU) counts the slices on that GPU and one per (kind, NVLink domain) the groups in
that domain. k groups of t slices fit a domain exactly when the slices number k·t and no GPU holds more than k of them (deal
them out in turn), so single instances need no variables. The total share is given, so the fewest GPUs touched is also the
least stranded share. Effort is bounded in CP-SAT's deterministic time, with one worker and a fixed seed: the same
question has the same answer on any machine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from scepsy.cluster import Gpu
from scepsy.place.hierarchical import ClusterLayout, Placement, spread
from scepsy.place.links import arrange
from scepsy.plans import Allocation

SOLVER_TIME_UNITS = 2.0
"""Deterministic time units (about seconds of a fast core) before giving up."""


@dataclass(frozen=True)
class Packing:
    """What CP-SAT found."""

    status: Literal["optimal", "feasible", "infeasible", "unknown"]
    placement: Placement | None
    gpus_touched: int
    bound_gpus: int
    """No placement touches fewer."""


def pack_exactly(
    where: ClusterLayout,
    allocations: Sequence[Allocation],
    *,
    caps: Mapping[str, int] | None = None,
    effort: float = SOLVER_TIME_UNITS,
    minimise: bool = True,
) -> Packing:
    """Place every instance, touching the fewest GPUs (or any number of them unless ``minimise``).

    ``caps`` bounds the GPUs touched of each type. An instance's memory is its share's part of the GPU, so shares that fit
    also fit
    in memory.
    """
    from ortools.sat.python import cp_model  # takes a second to import, and most questions never need a proof

    model = cp_model.CpModel()
    count, groups, touched = _variables(model, where, allocations)
    for gpu_type, cap in (caps or {}).items():
        model.add(sum(touched[n] for n, name in enumerate(where.gpu_type) if name == gpu_type) <= cap)
    if minimise:
        model.minimize(sum(touched))
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 0
    solver.parameters.max_deterministic_time = effort
    status = solver.solve(model)
    if status == cp_model.INFEASIBLE:
        return Packing("infeasible", None, 0, 0)
    bound = int(-(-solver.best_objective_bound // 1)) if minimise else 0
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return Packing("unknown", None, 0, max(bound, 0))
    dealt = {a.llm: _deal(solver, where, a, count[k], groups[k]) for k, a in enumerate(allocations)}
    placement = spread(arrange(where.uneven, dealt))
    used = len({gpu for slots in placement.values() for slot in slots for gpu in slot})
    return Packing("optimal" if status == cp_model.OPTIMAL else "feasible", placement, used, bound or used)


def _variables(
    model: Any, where: ClusterLayout, allocations: Sequence[Allocation]
) -> tuple[list[dict[int, Any]], list[dict[int, Any]], list[Any]]:
    touched = [model.new_bool_var(f"touched{n}") for n in range(len(where.gpus))]
    load: list[list[Any]] = [[] for _ in where.gpus]
    count: list[dict[int, Any]] = []
    groups: list[dict[int, Any]] = []
    for k, a in enumerate(allocations):
        counts: dict[int, Any] = {}
        per_domain: dict[int, Any] = {}
        for d, (gpu_type, domain) in enumerate(where.domains):
            if gpu_type != a.gpu_type or len(domain) < a.tensor_parallel:
                continue
            most = min(a.replicas, len(domain) * (100 // a.share_pct) // a.tensor_parallel)
            per_domain[d] = model.new_int_var(0, most, f"groups{k}_{d}")
            for n in domain.tolist():
                counts[n] = model.new_int_var(0, min(most, 100 // a.share_pct), f"count{k}_{n}")
                load[n].append(a.share_pct * counts[n])
                if a.tensor_parallel > 1:
                    model.add(counts[n] <= per_domain[d])
            model.add(sum(counts[n] for n in domain.tolist()) == a.tensor_parallel * per_domain[d])
        model.add(sum(per_domain.values()) == a.replicas)
        count.append(counts)
        groups.append(per_domain)
    for n, terms in enumerate(load):
        model.add(sum(terms) <= 100 * touched[n])
    # GPUs of one domain are interchangeable, and so are equal domains: order them by load.
    for _, domain in where.domains:
        for first, second in zip(domain.tolist(), domain.tolist()[1:], strict=False):
            model.add(sum(load[first]) >= sum(load[second]))
    for (type_a, a_gpus), (type_b, b_gpus) in zip(where.domains, where.domains[1:], strict=False):
        if type_a == type_b and len(a_gpus) == len(b_gpus):
            model.add(sum(t for n in a_gpus.tolist() for t in load[n]) >= sum(t for n in b_gpus.tolist() for t in load[n]))
    return count, groups, touched


def _deal(
    solver: Any, where: ClusterLayout, a: Allocation, count: dict[int, Any], groups: dict[int, Any]
) -> tuple[tuple[Gpu, ...], ...]:
    """Deal each domain's slices out to its groups in turn: no group gets the same GPU twice."""
    slots: list[tuple[Gpu, ...]] = []
    for d, variable in groups.items():
        hands: list[list[int]] = [[] for _ in range(solver.value(variable))]
        turn = 0
        for n in where.domains[d][1].tolist():
            for _ in range(solver.value(count[n])):
                hands[turn % len(hands)].append(n)
                turn += 1
        slots.extend(tuple(where.gpus[n] for n in sorted(hand)) for hand in hands)
    return tuple(slots)
