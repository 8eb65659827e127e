"""Systems with a run time of their own: autoscaling, pooled engines, dataflow engines, queue orders."""

import msgspec
import numpy as np
import numpy.typing as npt

from experiments.allocations import oracle_user, planner, static
from experiments.deployment import Case, Deployment, Option
from scepsy.backend import Stream, Workload
from scepsy.cluster import Cluster
from scepsy.errors import Infeasible
from scepsy.plan import Plan
from scepsy.records import Records
from scepsy.workload import Trace
from sim.policies.aegaeon import simulate_aegaeon
from sim.policies.aegaeon_rules import Settings, splits
from sim.policies.ayo import optimised
from sim.policies.muxserve import simulate_muxserve
from sim.policies.muxserve_placement import Demand, Estimator, place
from sim.run import simulate

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
    """Every split of the GPUs, with the published dispatch and a balanced one."""
    return tuple(
        {"prefill": prefill, "decode": decode, "spread": spread}
        for prefill, decode in splits(len(cluster.gpus))
        for spread in (False, True)
    )


def aegaeon(case: Case, option: Option) -> Deployment:
    """All GPUs pooled, split into prefill and decode engines."""
    cluster, profiles = case.problem.cluster, case.problem.profiles
    settings = Settings(
        prefill_engines=int(option["prefill"]), decode_engines=int(option["decode"]), spread=bool(option["spread"])
    )

    def run(workload: Workload) -> Records:
        return simulate_aegaeon(workload, profiles, cluster, settings)

    text = f"{settings.prefill_engines} prefill and {settings.decode_engines} decode engines"
    return Deployment(
        replay=run, decided=f"{text}, {'balanced' if settings.spread else 'published'} dispatch", gpus=len(cluster.gpus)
    )


COPIES = (1, 2, 4)


def muxserve_options(cluster: Cluster) -> tuple[Option, ...]:
    """One copy of each LLM as published, and more where the cluster has GPUs for them."""
    return tuple({"copies": copies} for copies in COPIES if copies == 1 or copies * 2 <= len(cluster.gpus))


def muxserve(case: Case, option: Option) -> Deployment:
    """LLMs placed onto meshes, prefill first, decode on the SMs left."""
    problem = case.problem
    gpu_type = problem.cluster.gpu_types[0].name
    nodes = [node.gpus for node in problem.cluster.nodes]
    meshes = place(demands(case, int(option["copies"])), nodes, Estimator(problem.profiles, gpu_type))
    used = sum(mesh.size for mesh in meshes)

    def run(workload: Workload) -> Records:
        return simulate_muxserve(workload, meshes, problem.profiles, gpu_type)

    text = "; ".join(
        f"mesh of {m.size}: " + ", ".join(f"{t.demand.name} {t.decode_share_pct} %" for t in m.tenants) for m in meshes
    )
    return Deployment(replay=run, decided=text, gpus=used)


def demands(case: Case, copies: int) -> list[Demand]:
    """What every LLM is asked: calls per second and mean tokens over all workflows, divided over its copies."""
    totals: dict[str, npt.NDArray[np.float64]] = {}
    for stream, rate in zip(case.streams, case.problem.rates_per_s, strict=True):
        weight = rate / len(stream.trace.runs)
        for run in stream.trace.runs:
            for call in run.calls:
                sums = totals.setdefault(call.llm, np.zeros(3))
                sums += weight * np.array([1.0, call.input_tokens, call.output_tokens])
    return [
        Demand(
            llm=llm,
            copy=copy,
            rate_per_s=float(rate) / copies,
            input_tokens=float(tokens / rate),
            output_tokens=float(out / rate),
        )
        for llm, (rate, tokens, out) in totals.items()
        for copy in range(copies)
    ]


def plas(case: Case, option: Option) -> Deployment:
    """Scepsy's exact plan under Autellix's queue order."""
    plan = _plan(planner("exact")(case, {}))
    return static(plan, case.problem.profiles, queue_order="plas")


def _plan(deployment: Deployment) -> Plan:
    if deployment.plan is None:
        raise Infeasible(f"{deployment.decided}: no static plan to run on")
    return deployment.plan


def hpa_options(cluster: Cluster) -> tuple[Option, ...]:
    """The four metrics with their targets, and KEDA."""
    return ({"metric": "waiting"},)


def hpa(case: Case, option: Option) -> Deployment:
    """Every LLM scaled by itself."""
    raise Infeasible("hpa")
