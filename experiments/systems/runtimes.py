"""Systems with a run time of their own: autoscaling, pooled engines, dataflow engines, queue orders."""

from collections.abc import Generator, Mapping
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import simpy

from experiments.systems.allocations import oracle_user, planner, static
from experiments.systems.deployment import Deploy, Deployment, Option, allocations_text
from scepsy.api.case import Case
from scepsy.api.judge import SEED
from scepsy.backend import Stream, Workload
from scepsy.cluster import Cluster
from scepsy.errors import Infeasible
from scepsy.place.hierarchical import layout, pack
from scepsy.plans import Allocation, Plan
from scepsy.predictors.aggregate import call_rates_per_s, capacity_calls_per_s, read_replicas
from scepsy.profile.model import Profile, kv_capacity_tokens
from scepsy.profile.share import ColdStartLaw
from scepsy.records import Records
from scepsy.search import PLANNERS
from scepsy.search.assemble import instances
from scepsy.search.problem import Problem
from scepsy.workload import Trace
from sim.policies.autoscaling.dynamo import DynamoSettings, dynamo
from sim.policies.autoscaling.hpa import KEDA, METRICS, HpaSettings
from sim.policies.autoscaling.hpa import hpa as autoscaler
from sim.policies.autoscaling.wva import WvaSettings, wva
from sim.policies.engines.aegaeon import pooled, simulate_aegaeon
from sim.policies.engines.aegaeon_rules import DISPATCHES, Settings, splits
from sim.policies.engines.ayo import optimised
from sim.policies.engines.muxserve import simulate_muxserve
from sim.policies.engines.muxserve_placement import Estimator, demands, place
from sim.world.control import READY, Control, Policy
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
    """All GPUs pooled, split into prefill and decode engines. Raises ``Infeasible`` where two models do not fit one GPU."""
    cluster, profiles = case.problem.cluster, case.problem.profiles
    pooled(case.streams, profiles, cluster)
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


ORDER_ROUTERS = {"plas": "plas", "hexagent": "least-outstanding"}
"""Queue orders that are tried on everybody's plans, each with its own routing."""


def under_order(plan_of: Deploy, order: str) -> Deploy:
    """Another system's static plan under a queue order and the routing that goes with it."""

    def deploy(case: Case, option: Option) -> Deployment:
        fixed = plan_of(case, option)
        made = static(_plan(fixed), case.problem.profiles, router=ORDER_ROUTERS[order], queue_order=order)
        return replace(made, decided=f"{fixed.decided}; queue {order}")

    return deploy


def _plan(deployment: Deployment) -> Plan:
    if deployment.plan is None:
        raise Infeasible(f"{deployment.decided}: no static plan to run on")
    return deployment.plan


def hpa_options(cluster: Cluster) -> tuple[Option, ...]:
    """The four metrics at their usual targets, each with a gentler one, and KEDA, from a settled start.

    The usual ones from a cold start too; the first two also with pods as large as suits each LLM by itself.
    """
    options: list[Option] = []
    for metric, (_, target) in METRICS.items():
        options += [{"metric": metric, "target": target}, {"metric": metric, "target": target / 2}]
    options.append({"metric": "waiting", "target": METRICS["waiting"][1], "keda": True})
    options += [{"metric": metric, "target": target, "start": "cold"} for metric, (_, target) in METRICS.items()]
    options += [{"metric": metric, "target": METRICS[metric][1], "pods": "own"} for metric in ("waiting", "load")]
    return tuple(options)


SETTLING_SPEED = 15.0
"""While it settles, an autoscaler acts this many times as fast and pods start at once."""
SETTLING_MEMORIES = 2.0
"""It settles for so many times its longest memory, at that speed."""


def hpa(case: Case, option: Option) -> Deployment:
    """Every LLM scaled by itself, whole GPUs at the least degree that fits, or with ``pods`` own at the degree that
    ``independent`` gives the LLM at this load.

    ``start`` settled (the default): from what its own autoscaler settles on under this load. Cold: from one pod per LLM.
    From there it acts at its published pace, cold starts of pods included.
    """
    settings = replace(
        KEDA if option.get("keda") else HpaSettings(), metric=str(option["metric"]), target=float(option["target"])
    )
    pace = SETTLING_SPEED
    fast = replace(settings, sync_s=settings.sync_s / pace, stabilisation_s=settings.stabilisation_s / pace)
    return _autoscaled(case, option, autoscaler(settings), autoscaler(fast), settings.stabilisation_s)


WVA_TARGETS = (1.5, 2.0, 4.0)
"""Latency targets of the variant autoscaler: times an idle instance's mean call latency."""


def wva_options(cluster: Cluster) -> tuple[Option, ...]:
    """By saturation alone, and with three latency targets; the middle one from a cold start and with larger pods too."""
    targets: list[Option] = [{"slo": slo} for slo in WVA_TARGETS]
    middle = WVA_TARGETS[1]
    return ({"slo": 0.0}, *targets, {"slo": middle, "start": "cold"}, {"slo": middle, "pods": "own"})


def variant_autoscaler(case: Case, option: Option) -> Deployment:
    """llm-d's variant autoscaler, one variant per LLM."""
    slo = float(option["slo"])
    rates = rates_within(case.problem, slo, own_degrees(case.problem, option)) if slo else {}
    settings = WvaSettings(rates_per_s=rates)
    fast = replace(settings, interval_s=settings.interval_s / SETTLING_SPEED)
    return _autoscaled(case, option, wva(settings), wva(fast), WVA_MEMORY_S)


WVA_MEMORY_S = 300.0
"""It takes one instance per minute at most: five of them is what a window must see."""


def rates_within(problem: Problem, slo: float, degrees: Mapping[str, int]) -> dict[str, float]:
    """Calls per second of one whole-GPU pod of each LLM at which its mean call latency is ``slo`` times an idle one's."""
    loads = call_rates_per_s(problem.uses, problem.rates_per_s)
    found = {}
    for llm, profile in pod_profiles(problem, degrees).items():
        curves = problem.index.by_workflow(llm, profile.gpu.name, profile.tensor_parallel, 100)
        steps = np.linspace(0.02, 0.95, 94)
        parts = [
            (rate * use.calls_per_run(llm) / loads[llm], curves[use.workflow])
            for use, rate in zip(problem.uses, problem.rates_per_s, strict=True)
            if use.calls_per_run(llm) > 0
        ]
        capacity = min(float(capacity_calls_per_s(by_replicas, 1)) for _, by_replicas in parts)
        latency = np.sum([part * read_replicas(each, "mean_s", 1, steps * capacity) for part, each in parts], axis=0)
        within = steps[latency <= slo * latency[0]]
        found[llm] = float(within[-1]) * capacity
    return found


def dynamo_options(cluster: Cluster) -> tuple[Option, ...]:
    """Half, once and twice the default of 50 ms between tokens; the default from a cold start and with larger pods too."""
    targets: list[Option] = [{"itl_ms": ms} for ms in (25, 50, 100)]
    return (*targets, {"itl_ms": 50, "start": "cold"}, {"itl_ms": 50, "pods": "own"})


def dynamo_planner(case: Case, option: Option) -> Deployment:
    """Scaling as Dynamo's planner does it, one planner per LLM."""
    settings = DynamoSettings(itl_s=float(option["itl_ms"]) / 1000)
    pods = pod_profiles(case.problem, own_degrees(case.problem, option))
    fast = replace(settings, interval_s=settings.interval_s / SETTLING_SPEED)
    most = {llm: len(case.problem.cluster.gpus) // profile.tensor_parallel for llm, profile in pods.items()}
    return _autoscaled(
        case,
        option,
        dynamo(pods.__getitem__, replace(settings, most=max(most.values()))),
        dynamo(pods.__getitem__, replace(fast, most=max(most.values()))),
        settings.interval_s,
    )


def _autoscaled(case: Case, option: Option, policy: Policy, fast: Policy, memory_s: float) -> Deployment:
    problem = case.problem
    degrees = own_degrees(problem, option)
    plan = pods_plan(problem, dict.fromkeys(_llms(problem), 1), degrees)
    start = str(option.get("start", "settled"))
    if start == "settled":
        plan = pods_plan(problem, settled(plan, case, fast, SETTLING_MEMORIES * memory_s / SETTLING_SPEED), degrees)

    def run(workload: Workload) -> Records:
        return simulate(plan, workload, profiles=problem.profiles, policies=[policy])

    text = f"starts {start} at {allocations_text(plan)}"
    return Deployment(replay=run, decided=text, gpus=len(problem.cluster.gpus), memory_s=memory_s)


def settled(start: Plan, case: Case, fast: Policy, horizon_s: float) -> dict[str, int]:
    """Pods per LLM that a policy that acts fast has ready after ``horizon_s`` of load."""
    eager = msgspec.structs.replace(case.problem.profiles, cold_start=ColdStartLaw(base_s=0.0, s_per_billion=0.0))
    seen: dict[str, int] = {}

    def watch(control: Control) -> Generator[simpy.Event, Any, None]:
        while True:
            yield control.sleep(1.0)
            seen.update({llm: max(1, len(control.of(llm, READY))) for llm in control.llms})

    load = Workload(streams=case.streams, seed=SEED, horizon_s=horizon_s, drain_s=0.0)
    simulate(start, load, profiles=eager, policies=[fast, watch])
    return seen


def own_degrees(problem: Problem, option: Option) -> dict[str, int]:
    """Degrees that ``independent`` gives the LLMs at this load, with ``pods`` own; none otherwise, or without such a plan."""
    if option.get("pods") != "own":
        return {}
    try:
        plan = PLANNERS["independent"](problem)
    except Infeasible:
        return {}
    return {a.llm: a.tensor_parallel for a in plan.allocations}


def pod_profiles(problem: Problem, degrees: Mapping[str, int]) -> dict[str, Profile]:
    """The profile of each LLM's pods: whole GPUs at the given degree, else the least at which its longest call fits.

    Raises ``Infeasible`` when none does.
    """
    gpu_type = problem.cluster.gpu_types[0].name
    found = {}
    for llm in _llms(problem):
        need = problem.longest_call_tokens.get(llm, 1)
        fitting = [d for d in problem.profiles.degrees(llm, gpu_type) if fits(problem.profiles.of(llm, gpu_type, d), need)]
        if not fitting:
            raise Infeasible(f"autoscaling: LLM {llm} fits no pod on {gpu_type} with a call of {need} tokens")
        found[llm] = problem.profiles.of(llm, gpu_type, degrees.get(llm, fitting[0]))
    return found


def pods_plan(problem: Problem, pods: Mapping[str, int], degrees: Mapping[str, int]) -> Plan:
    """So many pods of each LLM. Raises ``Infeasible`` when they do not fit the cluster."""
    allocations = [
        Allocation(
            llm=llm,
            share_pct=100,
            tensor_parallel=profile.tensor_parallel,
            replicas=pods[llm],
            gpu_type=profile.gpu.name,
        )
        for llm, profile in pod_profiles(problem, degrees).items()
    ]
    placement = pack(layout(problem.cluster), allocations)
    if placement is None:
        gpus = sum(a.replicas * a.tensor_parallel for a in allocations)
        raise Infeasible(f"autoscaling: {gpus} GPUs of pods do not fit {len(problem.cluster.gpus)} GPUs")
    made = instances(problem, allocations, placement)
    return Plan(
        planner="autoscaling",
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
