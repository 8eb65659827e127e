"""Systems with a run time of their own: autoscaling, pooled engines, dataflow engines, queue orders."""

from collections.abc import Generator, Mapping
from dataclasses import replace
from typing import Any

import msgspec
import simpy

from experiments.systems.allocations import oracle_user, planner, static
from experiments.systems.deployment import Deployment, Option, allocations_text
from scepsy.api.case import Case
from scepsy.api.judge import SEED
from scepsy.backend import Stream, Workload
from scepsy.cluster import Cluster
from scepsy.errors import Infeasible
from scepsy.place.hierarchical import layout, pack
from scepsy.plans import Allocation, Plan
from scepsy.profile.model import Profile, kv_capacity_tokens
from scepsy.profile.share import ColdStartLaw
from scepsy.records import Records
from scepsy.search.assemble import instances
from scepsy.search.problem import Problem
from scepsy.workload import Trace
from sim.policies.autoscaling.hpa import KEDA, METRICS, HpaSettings
from sim.policies.autoscaling.hpa import hpa as autoscaler
from sim.policies.engines.aegaeon import simulate_aegaeon
from sim.policies.engines.aegaeon_rules import DISPATCHES, Settings, splits
from sim.policies.engines.ayo import optimised
from sim.policies.engines.muxserve import simulate_muxserve
from sim.policies.engines.muxserve_placement import Estimator, demands, place
from sim.world.control import READY, Control
from sim.world.run import simulate

AYO_ALLOCATIONS = {"equal": planner("equal"), "proportional": planner("proportional"), "oracle": oracle_user}


def ayo_options(cluster: Cluster) -> tuple[Option, ...]:
    """The three user allocations, topology batching off (the default) and on."""
    return tuple({"allocation": name, "topology": topology} for name in AYO_ALLOCATIONS for topology in (False, True))


def ayo(case: Case, option: Option) -> Deployment:
    """Ayo's graph passes and run time over instances that a user fixed."""
    fixed = AYO_ALLOCATIONS[str(option["allocation"])](case, {})
    plan = _plan(fixed)
    order = "topology" if option["topology"] else "fcfs"
    passed: dict[int, tuple[Trace, Trace]] = {}

    def run(workload: Workload) -> Records:
        streams = []
        for stream in workload.streams:
            if id(stream.trace) not in passed:
                passed[id(stream.trace)] = (stream.trace, optimised(stream.trace))
            streams.append(Stream(trace=passed[id(stream.trace)][1], arrivals=stream.arrivals))
        load = msgspec.structs.replace(workload, streams=tuple(streams))
        return simulate(plan, load, profiles=case.problem.profiles, router="ayo", queue_order=order)

    return Deployment(replay=run, decided=f"{fixed.decided}; queue {order}", gpus=fixed.gpus)


def aegaeon_options(cluster: Cluster) -> tuple[Option, ...]:
    """Every split of the GPUs under every dispatch."""
    return tuple(
        {"prefill": prefill, "decode": decode, "dispatch": dispatch}
        for dispatch in DISPATCHES
        for prefill, decode in splits(len(cluster.gpus))
    )


def aegaeon(case: Case, option: Option) -> Deployment:
    """All GPUs pooled, split into prefill and decode engines."""
    cluster, profiles = case.problem.cluster, case.problem.profiles
    settings = msgspec.convert(
        {"prefill_engines": option["prefill"], "decode_engines": option["decode"], "dispatch": option["dispatch"]}, Settings
    )

    def run(workload: Workload) -> Records:
        return simulate_aegaeon(workload, profiles, cluster, settings)

    text = f"{settings.prefill_engines} prefill and {settings.decode_engines} decode engines"
    return Deployment(replay=run, decided=f"{text}, {settings.dispatch} dispatch", gpus=len(cluster.gpus))


MOST_COPIES = 16
"""Every number of copies is tried up to here, beyond it only doublings."""


def muxserve_options(cluster: Cluster) -> tuple[Option, ...]:
    """One copy of each LLM as published, then every number of copies up to one on every GPU."""
    gpus = len(cluster.gpus)
    counts = [copies for copies in range(1, gpus + 1) if copies <= MOST_COPIES or copies & (copies - 1) == 0]
    return tuple({"copies": copies} for copies in counts)


def muxserve(case: Case, option: Option) -> Deployment:
    """LLMs placed onto meshes, prefill first, decode on the SMs left."""
    return _muxserve(case, int(option["copies"]), alone=False)


def muxserve_whole(case: Case, option: Option) -> Deployment:
    """MuxServe with every mesh for one LLM: its placement and its scheduler, nothing shared."""
    return _muxserve(case, int(option["copies"]), alone=True)


def _muxserve(case: Case, copies: int, *, alone: bool) -> Deployment:
    problem = case.problem
    gpu_type = problem.cluster.gpu_types[0].name
    nodes = [node.gpus for node in problem.cluster.nodes]
    meshes = place(demands(case.streams, copies), nodes, Estimator(problem.profiles, gpu_type), alone=alone)
    used = sum(mesh.size for mesh in meshes)

    def run(workload: Workload) -> Records:
        return simulate_muxserve(workload, meshes, problem.profiles, gpu_type)

    text = "; ".join(
        f"mesh of {m.size}: " + ", ".join(f"{t.demand.name} {t.decode_share_pct} %" for t in m.tenants) for m in meshes
    )
    return Deployment(replay=run, decided=text, gpus=used)


def plas(case: Case, option: Option) -> Deployment:
    """Scepsy's exact plan under Autellix's queue order and routing."""
    plan = _plan(planner("exact")(case, {}))
    return static(plan, case.problem.profiles, router="plas", queue_order="plas")


def _plan(deployment: Deployment) -> Plan:
    if deployment.plan is None:
        raise Infeasible(f"{deployment.decided}: no static plan to run on")
    return deployment.plan


def hpa_options(cluster: Cluster) -> tuple[Option, ...]:
    """The four metrics at their usual targets, each with a gentler one, and KEDA."""
    options: list[Option] = []
    for metric, (_, target) in METRICS.items():
        options += [{"metric": metric, "target": target}, {"metric": metric, "target": target / 2}]
    return (*options, {"metric": "waiting", "target": METRICS["waiting"][1], "keda": True})


WARM_UP_S = 12.0
"""Seconds of load under which the autoscaler settles before it is measured."""
SETTLING_SPEED = 15.0
"""While it settles, the autoscaler acts this many times as fast and pods start at once."""


def hpa(case: Case, option: Option) -> Deployment:
    """Every LLM scaled by itself, from what its own autoscaler settles on under this load, whole GPUs at the least degree
    that fits.

    Measured windows are shorter than an autoscaler's minutes, so it is given a start: from one pod per LLM it runs
    ``SETTLING_SPEED`` times as fast and without cold starts until it has settled. From there it acts at its published
    pace, cold starts included.
    """
    settings = replace(
        KEDA if option.get("keda") else HpaSettings(), metric=str(option["metric"]), target=float(option["target"])
    )
    problem = case.problem
    start = pods_plan(problem, dict.fromkeys(_llms(problem), 1))
    counts = settled(start, case, settings)
    plan = pods_plan(problem, counts)

    def run(workload: Workload) -> Records:
        return simulate(plan, workload, profiles=problem.profiles, policies=[autoscaler(settings)])

    return Deployment(replay=run, decided=f"starts at {allocations_text(plan)}", gpus=len(problem.cluster.gpus))


def settled(start: Plan, case: Case, settings: HpaSettings) -> dict[str, int]:
    """Pods per LLM that the autoscaler has ready after ``WARM_UP_S`` of load, acting fast."""
    problem = case.problem
    eager = msgspec.structs.replace(problem.profiles, cold_start=ColdStartLaw(base_s=0.0, s_per_billion=0.0))
    fast = replace(settings, sync_s=settings.sync_s / SETTLING_SPEED, stabilisation_s=settings.stabilisation_s / SETTLING_SPEED)
    seen: dict[str, int] = {}

    def watch(control: Control) -> Generator[simpy.Event, Any, None]:
        while True:
            yield control.sleep(fast.sync_s)
            seen.update({llm: max(1, len(control.of(llm, READY))) for llm in control.llms})

    load = Workload(streams=case.streams, seed=SEED, horizon_s=WARM_UP_S, drain_s=0.0)
    simulate(start, load, profiles=eager, policies=[autoscaler(fast), watch])
    return seen


def pods_plan(problem: Problem, pods: Mapping[str, int]) -> Plan:
    """Whole-GPU pods at the least degree at which each LLM's longest call fits, as one would configure a deployment.

    Raises ``Infeasible`` when they do not fit the cluster.
    """
    gpu_type = problem.cluster.gpu_types[0].name
    allocations = []
    for llm, count in pods.items():
        need = problem.longest_call_tokens.get(llm, 1)
        degrees = [d for d in problem.profiles.degrees(llm, gpu_type) if fits(problem.profiles.of(llm, gpu_type, d), need)]
        if not degrees:
            raise Infeasible(f"hpa: LLM {llm} fits no pod on {gpu_type} with a call of {need} tokens")
        allocations.append(Allocation(llm=llm, share_pct=100, tensor_parallel=degrees[0], replicas=count, gpu_type=gpu_type))
    placement = pack(layout(problem.cluster), allocations)
    if placement is None:
        gpus = sum(a.replicas * a.tensor_parallel for a in allocations)
        raise Infeasible(f"hpa: {gpus} GPUs of pods do not fit {len(problem.cluster.gpus)} GPUs")
    made = instances(problem, allocations, placement)
    return Plan(
        planner="hpa",
        cluster=problem.cluster,
        targets=problem.targets,
        allocations=tuple(allocations),
        instances=made,
        assumptions=problem.assumptions,
    )


def fits(profile: Profile, tokens: int) -> bool:
    """Whether a whole-GPU instance holds a call of so many tokens."""
    return kv_capacity_tokens(profile, 100) >= tokens


def _llms(problem: Problem) -> list[str]:
    return list(dict.fromkeys(llm.llm for use in problem.uses for llm in use.llms))
