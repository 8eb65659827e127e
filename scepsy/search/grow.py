"""The running plan with more replicas, or fewer. Nothing that stays has to stop.

Replicas are added on free GPUs until the goal is met. Where GPUs are what counts, those without which it is met as well go.
"""

from collections.abc import Sequence
from time import perf_counter

import msgspec

from scepsy.place.hierarchical import Placement, layout, pack_around
from scepsy.plans import Allocation, Plan
from scepsy.search.assemble import Outlook, accepts, assemble, evaluate, latencies_of
from scepsy.search.problem import Problem

Allocations = tuple[Allocation, ...]


def grown(problem: Problem, running: Plan, max_started: int) -> Plan | None:
    """Add replicas, each to the LLM that is loaded most of those for which there is room, then take away what is not needed;
    None when that is not enough, or changes nothing.

    All instances stay where they are, so no call has to wait for the move. Not the best plan, but the quickest to reach.
    """
    began = perf_counter()
    wanted = {each.llm for use in problem.uses for each in use.llms}
    if wanted - {a.llm for a in running.allocations}:
        return None
    found = _grown(problem, running.allocations, running.placement, max_started)
    if found is None:
        return None
    if problem.goal.kind == "gpus":
        found = _trimmed(problem, *found)
    allocations, placement = found
    if allocations == running.allocations:
        return None
    plan = assemble(problem, "exact", allocations, placement, began)
    return msgspec.structs.replace(plan, planner="grow", models=running.models)


def _grown(
    problem: Problem, allocations: Allocations, kept: Placement, max_started: int
) -> tuple[Allocations, Placement] | None:
    where, placement = layout(problem.cluster), kept
    for _ in range(max_started + 1):
        outlook = evaluate(problem, allocations, placement)
        if _accepted(problem, allocations, outlook):
            return allocations, placement
        for llm in sorted(outlook.utilisation, key=lambda name: -outlook.utilisation[name]):
            more = tuple(msgspec.structs.replace(a, replicas=a.replicas + (a.llm == llm)) for a in allocations)
            found = pack_around(where, more, kept)
            if found is not None and _touched(found) <= (problem.goal.max_gpus or _touched(found)):
                allocations, placement = more, found
                break
        else:
            return None
    return None


def _trimmed(problem: Problem, allocations: Allocations, placement: Placement) -> tuple[Allocations, Placement]:
    """Take replicas away while that frees GPUs and the goal is met: first what frees most, then what costs least latency."""
    while True:
        smaller: list[tuple[int, float, Allocations, Placement]] = []
        for llm, slots in placement.items():
            if len(slots) < 2:
                continue
            fewest = min(reversed(range(len(slots))), key=lambda n: _touched(_dropped(placement, llm, n)))
            left = _dropped(placement, llm, fewest)
            fewer = tuple(msgspec.structs.replace(a, replicas=len(left[a.llm])) for a in allocations)
            outlook = evaluate(problem, fewer, left)
            if _touched(left) < _touched(placement) and _accepted(problem, fewer, outlook):
                smaller.append((_touched(left), outlook.objective_s, fewer, left))
        if not smaller:
            return allocations, placement
        _, _, allocations, placement = min(smaller, key=lambda each: each[:2])


def _dropped(placement: Placement, llm: str, number: int) -> Placement:
    """One instance less."""
    return {
        name: tuple(slot for n, slot in enumerate(slots) if (name, n) != (llm, number)) for name, slots in placement.items()
    }  # fmt: skip


def _touched(placement: Placement) -> int:
    return len({gpu for slots in placement.values() for slot in slots for gpu in slot})


def _accepted(problem: Problem, allocations: Sequence[Allocation], outlook: Outlook) -> bool:
    goal = problem.goal
    if not accepts(problem, outlook):
        return False
    if goal.percentile is None or not goal.limits_s:
        return True
    walked = latencies_of(problem, allocations, outlook)
    return walked is not None and all(
        each.percentile(goal.percentile) <= goal.limits_s.get(each.workflow, float("inf")) for each in walked
    )
