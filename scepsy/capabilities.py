"""What each way of realising a plan can enforce, so that a planner refuses what its target cannot do. Pure values.

The flags of every target are in ``TARGETS``, once: the renderer, the command line and the planners read them here.
"""

from scepsy.cluster import Gpu
from scepsy.plans import Instance, Plan
from scepsy.value import Value


class Capabilities(Value, frozen=True, kw_only=True):
    """What one target enforces about an instance on its GPUs."""

    exact_gpu: bool
    """An instance runs on the very GPUs that the plan names, not on any GPU of the node."""
    sm_percent: bool
    """A share below 100 % is enforced in whole percent of a GPU's SMs."""
    mem_cap: bool
    """An instance cannot take more GPU memory than planned."""
    tp_on_shared_gpu: bool
    """A tensor-parallel group may share its GPUs with other instances."""
    isolation: bool
    """A fault of one instance cannot reach its neighbours on the same GPU."""


TARGETS: dict[str, Capabilities] = {
    # One MPS daemon per domain serves every client of its GPUs: one fault domain, so no isolation between them.
    "dra": Capabilities(exact_gpu=True, sm_percent=True, mem_cap=True, tp_on_shared_gpu=True, isolation=False),
    "mps": Capabilities(exact_gpu=True, sm_percent=True, mem_cap=True, tp_on_shared_gpu=True, isolation=False),
    # HAMi's core limit stops an engine with TP > 1, and does not reach kernels that are replayed from CUDA graphs.
    "hami": Capabilities(exact_gpu=True, sm_percent=True, mem_cap=True, tp_on_shared_gpu=False, isolation=False),
    "local": Capabilities(exact_gpu=True, sm_percent=True, mem_cap=True, tp_on_shared_gpu=True, isolation=False),
}


def shared_gpus(plan: Plan) -> set[Gpu]:
    """The GPUs that some instance uses in part: two or more instances, or one at less than 100 %.

    Each of them needs a limiter (an MPS daemon, or HAMi's library) between the instances and the device; a GPU that
    one instance has whole needs none.
    """
    users: dict[Gpu, int] = {}
    partial: set[Gpu] = set()
    for instance in plan.instances:
        for gpu in instance.gpus:
            users[gpu] = users.get(gpu, 0) + 1
            if instance.share_pct < 100:
                partial.add(gpu)
    return partial | {gpu for gpu, count in users.items() if count > 1}


def refusals(plan: Plan, target: str, *, isolated: bool = False) -> tuple[str, ...]:
    """Why ``target`` cannot realise ``plan``: one sentence per instance, empty when it can.

    ``isolated`` asks for fault isolation between instances on one GPU. Raises ``KeyError`` for an unknown target.
    """
    can = TARGETS[target]
    shared = shared_gpus(plan)
    found: list[str] = []
    for instance in plan.instances:
        reason = _refusal(instance, can, on_shared=any(gpu in shared for gpu in instance.gpus), isolated=isolated)
        if reason:
            found.append(f"target {target} cannot run instance {instance.name}: {reason}")
    return tuple(found)


def _refusal(instance: Instance, can: Capabilities, *, on_shared: bool, isolated: bool) -> str:
    if not can.exact_gpu:
        return f"it does not choose the GPU ({', '.join(map(str, instance.gpus))})"
    if not on_shared:
        return ""
    if not can.sm_percent:
        return f"it does not enforce a share of {instance.share_pct} %"
    if not can.mem_cap:
        return f"it does not cap GPU memory at {instance.memory_bytes} bytes"
    if instance.tensor_parallel > 1 and not can.tp_on_shared_gpu:
        return f"tensor parallelism {instance.tensor_parallel} on shared GPUs is not possible there"
    if isolated and not can.isolation:
        return f"neighbours on {', '.join(map(str, instance.gpus))} are not isolated from its faults"
    return ""
