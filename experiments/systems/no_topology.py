"""What ignoring nodes costs: a plan's instances on GPUs in random order, groups that span nodes paying for the network.

A tensor-parallel group does two all-reduces per layer. Inside a node the step model has them; across nodes a ring over
the network adds ``2·layers·(latency + 2(t−1)/t · tokens · hidden · 2 bytes / bandwidth)`` to every iteration. Where only
some of an LLM's groups are broken, all of them pay that part of it: a mean, since an LLM has one profile.
"""

import msgspec
import numpy as np

from scepsy.cluster import Cluster, Gpu, Node
from scepsy.errors import Infeasible
from scepsy.plans import Instance, Plan
from scepsy.profile.model import Profile, ProfileSet
from scepsy.rng import stream

NETWORK_BYTES_PER_S = 12.5e9
"""100 Gb/s Ethernet, as of common A100 clouds (assumed)."""
ALL_REDUCE_S = 30e-6
"""Latency of one all-reduce over it (assumed)."""
TRIES = 50


def slower(profile: Profile, part: float) -> Profile:
    """The profile of groups of which ``part`` span nodes."""
    llm, degree = profile.llm, profile.tensor_parallel
    per_step = part * 2 * llm.layers * ALL_REDUCE_S
    per_token = part * 2 * llm.layers * 2 * (degree - 1) / degree * llm.hidden_size * 2 / NETWORK_BYTES_PER_S
    step = msgspec.structs.replace(
        profile.step,
        base_s=profile.step.base_s + per_step,
        prefill_s_per_token=profile.step.prefill_s_per_token + per_token,
        decode_s_per_sequence=profile.step.decode_s_per_sequence + per_token,
    )
    return msgspec.structs.replace(profile, step=step, source=f"{profile.source}; {part:.0%} of groups across nodes")


def scattered(plan: Plan, profiles: ProfileSet, seed: int = 0) -> tuple[Plan, ProfileSet, int]:
    """The plan on a random GPU order, first fit; profiles slowed where groups span nodes; how many do.

    The plan's cluster becomes one flat node, whose GPU i is the cluster's i-th GPU. Raises ``Infeasible`` when first fit
    finds no room in ``TRIES`` orders.
    """
    gpus = plan.cluster.gpus
    flat = Cluster(
        name=f"{plan.cluster.name}-flat",
        gpu_types=plan.cluster.gpu_types,
        nodes=(Node(name="flat", gpu_type=plan.cluster.nodes[0].gpu_type, gpus=len(gpus)),),
    )
    for attempt in range(TRIES):
        order = stream(seed, "scatter", attempt).permutation(len(gpus)).tolist()
        slots = _first_fit(plan.instances, order)
        if slots is not None:
            break
    else:
        raise Infeasible(f"no topology: first fit placed the plan on none of {TRIES} random orders of {len(gpus)} GPUs")
    moved = tuple(
        msgspec.structs.replace(instance, gpus=tuple(Gpu(node="flat", index=n) for n in sorted(slot)))
        for instance, slot in zip(plan.instances, slots, strict=True)
    )
    broken = {
        a.llm: sum(
            len({gpus[n].node for n in slot}) > 1
            for instance, slot in zip(plan.instances, slots, strict=True)
            if instance.llm == a.llm
        )
        for a in plan.allocations
    }
    found = tuple(
        slower(p, broken[a.llm] / a.replicas) if broken[a.llm] and p.tensor_parallel == a.tensor_parallel else p
        for p in profiles.profiles
        for a in plan.allocations
        if a.llm == p.llm.name
    )
    targets = plan.targets
    new = Plan(
        planner="no-topology",
        cluster=flat,
        targets=targets,
        allocations=plan.allocations,
        instances=moved,
        expected=plan.expected,
        assumptions=plan.assumptions,
    )
    return new, msgspec.structs.replace(profiles, profiles=found), sum(broken.values())


def _first_fit(instances: tuple[Instance, ...], order: list[int]) -> list[list[int]] | None:
    free = np.full(len(order), 100)
    slots = []
    for instance in instances:
        room = [n for n in order if free[n] >= instance.share_pct][: instance.tensor_parallel]
        if len(room) < instance.tensor_parallel:
            return None
        free[room] -= instance.share_pct
        slots.append(room)
    return slots
