"""The systems that ``scepsy simulate --system`` knows: policies on a plan's instances, and engines that take their place."""

from collections.abc import Callable, Mapping

import msgspec

from scepsy.backend import Stream, Workload
from scepsy.plans import Plan
from scepsy.profile.model import ProfileSet
from scepsy.records import Records
from sim.policies.autoscaling.hpa import KEDA, HpaSettings, hpa
from sim.policies.engines.aegaeon import simulate_aegaeon
from sim.policies.engines.aegaeon_rules import Settings
from sim.policies.engines.ayo import optimised
from sim.policies.engines.muxserve import simulate_muxserve
from sim.policies.engines.muxserve_placement import Estimator, demands, place
from sim.world.control import Policy
from sim.world.run import simulate

SYSTEMS: Mapping[str, tuple[Policy, ...]] = {
    "static": (),
    "hpa": (hpa(),),
    "hpa-load": (hpa(HpaSettings(metric="load")),),
    "hpa-kv": (hpa(HpaSettings(metric="kv-use")),),
    "hpa-gpu": (hpa(HpaSettings(metric="gpu-utilisation")),),
    "keda": (hpa(KEDA),),
}
"""Policies by name of the system: what to pass to ``simulate(…, policies=SYSTEMS[name])``."""


def under_aegaeon(plan: Plan, workload: Workload, profiles: ProfileSet) -> Records:
    """The workload on the plan's cluster under Aegaeon, three eighths of the GPUs for prefill as published."""
    gpus = len(plan.cluster.gpus)
    prefill = max(1, round(gpus * 3 / 8))
    return simulate_aegaeon(workload, profiles, plan.cluster, Settings(prefill, gpus - prefill))


def under_muxserve(plan: Plan, workload: Workload, profiles: ProfileSet) -> Records:
    """The workload on the plan's cluster under MuxServe, one copy of each LLM."""
    gpu_type = plan.cluster.gpu_types[0].name
    nodes = [node.gpus for node in plan.cluster.nodes]
    meshes = place(demands(workload.streams, 1), nodes, Estimator(profiles, gpu_type))
    return simulate_muxserve(workload, meshes, profiles, gpu_type)


def under_ayo(plan: Plan, workload: Workload, profiles: ProfileSet) -> Records:
    """The workload on the plan's instances after Ayo's graph passes, with Ayo's router."""
    streams = tuple(Stream(trace=optimised(item.trace), arrivals=item.arrivals) for item in workload.streams)
    return simulate(plan, msgspec.structs.replace(workload, streams=streams), profiles=profiles, router="ayo")


ADAPTIVE = "adaptive"
"""The controller of ``scepsy operate``: a policy that needs a planner, so ``scepsy.api.live`` makes it."""

OTHER_ENGINES: Mapping[str, Callable[[Plan, Workload, ProfileSet], Records]] = {
    "aegaeon": under_aegaeon,
    "muxserve": under_muxserve,
    "ayo": under_ayo,
}
"""What ``scepsy simulate --system`` offers beside policies. Aegaeon and MuxServe take the plan's cluster, not its
allocations.
"""
