"""The running plan and more of it: replicas added on free GPUs until it meets its goal. Nothing that runs has to stop."""

from collections.abc import Sequence
from time import perf_counter

import msgspec

from scepsy.place.hierarchical import layout, pack_around
from scepsy.plans import Allocation, Plan
from scepsy.search.assemble import Outlook, accepts, assemble, evaluate, latencies_of
from scepsy.search.problem import Problem


def grown(problem: Problem, running: Plan, max_started: int) -> Plan | None:
    """Add replicas, each to the LLM that is loaded most of those for which there is room; None when that is not enough.

    All instances stay where they are, so no call has to wait for the move. Not the best plan, but the quickest to reach.
    """
    started, where = perf_counter(), layout(problem.cluster)
    allocations = running.allocations
    wanted = {each.llm for use in problem.uses for each in use.llms}
    if wanted - {a.llm for a in allocations}:
        return None
    kept = running.placement
    placement = kept
    for count in range(max_started + 1):
        outlook = evaluate(problem, allocations, placement)
        if accepts(problem, outlook) and _within_percentile(problem, allocations, outlook):
            plan = assemble(problem, "exact", allocations, placement, started)
            return msgspec.structs.replace(plan, planner="grow", models=running.models) if count else None
        for llm in sorted(outlook.utilisation, key=lambda name: -outlook.utilisation[name]):
            more = tuple(msgspec.structs.replace(a, replicas=a.replicas + (a.llm == llm)) for a in allocations)
            found = pack_around(where, more, kept)
            touched = {gpu for slots in (found or {}).values() for slot in slots for gpu in slot}
            if found is not None and len(touched) <= (problem.goal.max_gpus or len(touched)):
                allocations, placement = more, found
                break
        else:
            return None
    return None


def _within_percentile(problem: Problem, allocations: Sequence[Allocation], outlook: Outlook) -> bool:
    goal = problem.goal
    if goal.percentile is None or not goal.limits_s:
        return True
    walked = latencies_of(problem, allocations, outlook)
    return walked is not None and all(
        each.percentile(goal.percentile) <= goal.limits_s.get(each.workflow, float("inf")) for each in walked
    )
