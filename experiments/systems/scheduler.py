"""Where a scheduler that knows no topology puts a plan's instances: what placement brings, against what clusters do by default.

Kubernetes' default scheduler takes pods in the order in which they were created and scores nodes by ``LeastAllocated``: the
emptiest node that fits (kubernetes.io, "Resource Bin Packing"). A pod's GPUs are always on one node, so no tensor-parallel
group spans the network. What is lost is room: small pods may break up the GPUs that a later large one needs. A pod that fits
nowhere stays pending, so the plan cannot run.

Granted: the device plugin gives a group GPUs of one NVLink domain, and a share goes to the fullest GPU with room on its node.
"""

import msgspec

from scepsy.cluster import Gpu
from scepsy.errors import Infeasible
from scepsy.plans import Plan
from scepsy.search.assemble import evaluate, instances, with_latencies
from scepsy.search.problem import Problem


def scheduled(plan: Plan, problem: Problem) -> Plan:
    """The plan's instances placed in the order of its allocations. Raises ``Infeasible`` when one stays pending."""
    free = dict.fromkeys(plan.cluster.gpus, 100)
    slots: dict[str, tuple[tuple[Gpu, ...], ...]] = {}
    for a in plan.allocations:
        found = []
        for index in range(a.replicas):
            group = _choose(plan, free, a.gpu_type, a.tensor_parallel, a.share_pct)
            if group is None:
                raise Infeasible(
                    f"default scheduler: instance {index} of {a.llm} ({a.tensor_parallel} GPUs at {a.share_pct} %) stays "
                    "pending: no node has room"
                )
            for gpu in group:
                free[gpu] -= a.share_pct
            found.append(group)
        slots[a.llm] = tuple(found)
    outlook = evaluate(problem, plan.allocations, slots)
    return msgspec.structs.replace(
        plan,
        planner="default-scheduler",
        instances=instances(problem, plan.allocations, slots),
        expected=with_latencies(outlook.expected, None),
        predictor="aggregate",
        objective_s=outlook.objective_s,
        optimal=False,
        bound_latency_s=None,
    )


def _choose(plan: Plan, free: dict[Gpu, int], gpu_type: str, degree: int, share_pct: int) -> tuple[Gpu, ...] | None:
    """The emptiest node with a domain that has room (ties: the first); inside it the fullest GPUs that do."""
    best: tuple[int, tuple[Gpu, ...]] | None = None
    room_of = {node.name: 0 for node in plan.cluster.nodes}
    for gpu, room in free.items():
        room_of[gpu.node] += room
    for domain in plan.cluster.nvlink_domains():
        if plan.cluster.type_of(domain[0]).name != gpu_type:
            continue
        fitting = sorted((gpu for gpu in domain if free[gpu] >= share_pct), key=lambda gpu: (free[gpu], gpu.index))
        if len(fitting) >= degree and (best is None or room_of[domain[0].node] > best[0]):
            best = (room_of[domain[0].node], tuple(sorted(fitting[:degree], key=lambda gpu: gpu.index)))
    return None if best is None else best[1]
