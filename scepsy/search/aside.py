"""A plan on other GPUs, so that nothing has to stop before what is new serves.

A new instance on a GPU that is in use has to wait until what runs there has gone, and meanwhile fewer serve. Where GPUs are
free, the same allocations can be placed on those.
"""

from collections.abc import Sequence
from time import perf_counter

import msgspec

from scepsy.cluster import Gpu
from scepsy.place.hierarchical import Placement, layout, pack_around, spread
from scepsy.plans import Allocation, Instance, Plan
from scepsy.search.assemble import accepts, assemble, evaluate
from scepsy.search.change import PlanDiff, diff
from scepsy.search.problem import Problem


def evicted(steps: PlanDiff) -> tuple[Instance, ...]:
    """Running instances that must go before the new plan's can start, because they stand on the same GPUs."""
    needed = {gpu for instance in steps.started for gpu in instance.gpus}
    return tuple(instance for instance in steps.stopped if needed & set(instance.gpus))


def aside(problem: Problem, plan: Plan, running: Plan) -> list[Plan]:
    """Other placements of ``plan`` that no running instance is in the way of, at most two.

    One leaves every GPU alone from which something goes, so it seldom ends on more GPUs than ``plan``. The other fills what is
    free beside the instances that go. Each keeps, together with the running plan, to the goal's number of GPUs. Empty where
    nothing is in the way, or nothing is free.
    """
    steps = diff(running, plan)
    if not evicted(steps):
        return []
    kept = [instance for instance in plan.instances if instance.name in steps.kept]
    stopped = list(steps.stopped)
    beside = _placed(problem, plan, kept, [(i.share_pct, i.gpus) for i in stopped])
    gpus = {gpu for instance in stopped for gpu in instance.gpus}
    while True:  # an instance on two GPUs brings the other one with it
        staying = [instance for instance in kept if not gpus & set(instance.gpus)]
        more = gpus | {gpu for instance in kept if instance not in staying for gpu in instance.gpus}
        if more == gpus:
            break
        gpus = more
    fresh = _placed(problem, plan, staying, [(100, (gpu,)) for gpu in sorted(gpus)])
    found = []
    for placement in (fresh, beside):
        made = _accepted(problem, plan, placement) if placement is not None else None
        if made is not None and not evicted(diff(running, made)) and _within(problem, running, made):
            found.append(made)
    return found


def _placed(
    problem: Problem, plan: Plan, kept: Sequence[Instance], taken: Sequence[tuple[int, tuple[Gpu, ...]]]
) -> Placement | None:
    """``kept`` where it is, the rest around that and around what is ``taken`` (percent, GPUs)."""
    slots: Placement = {a.llm: tuple(i.gpus for i in kept if i.llm == a.llm) for a in plan.allocations}
    blocks = []
    for number, (share_pct, gpus) in enumerate(taken):
        name = f"\0{number}"
        gpu_type = problem.cluster.type_of(gpus[0]).name
        blocks.append(Allocation(llm=name, share_pct=share_pct, tensor_parallel=len(gpus), replicas=1, gpu_type=gpu_type))
        slots[name] = (gpus,)
    found = pack_around(layout(problem.cluster), (*plan.allocations, *blocks), slots)
    return None if found is None else spread({a.llm: found[a.llm] for a in plan.allocations})


def _accepted(problem: Problem, plan: Plan, placement: Placement) -> Plan | None:
    if not accepts(problem, evaluate(problem, plan.allocations, placement)):
        return None
    made = assemble(problem, "exact", plan.allocations, placement, perf_counter())
    return msgspec.structs.replace(made, planner=plan.planner)


def _within(problem: Problem, running: Plan, made: Plan) -> bool:
    both = set(running.gpu_shares) | set(made.gpu_shares)
    return problem.goal.max_gpus is None or len(both) <= problem.goal.max_gpus
