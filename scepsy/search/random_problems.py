"""Random planning problems of any size, with closed-form curves: for oracle tests, scaling tables and benchmarks.

Curves are those of a processor-sharing queue, mean = service / (1 − utilisation), softened for fan-out by replicas. Nothing is
claimed about real engines: only the shape of the search matters here.
"""

from dataclasses import dataclass
from math import fsum

import numpy as np

from scepsy.cluster import Cluster, GpuType, Node
from scepsy.llm import Llm
from scepsy.plans import Target
from scepsy.predictors.aggregate import curve_key
from scepsy.profile.curve import Curve
from scepsy.profile.model import EngineLimits, Profile, ProfileSet
from scepsy.profile.share import ColdStartLaw, ContentionLaw, ShareLaw
from scepsy.profile.step import StepModel
from scepsy.rng import stream
from scepsy.search.problem import Problem
from scepsy.stats.use import LlmUse, WorkflowUse
from scepsy.workload import Arrivals

GIB = 1024**3
UTILISATION = (0.05, 0.3, 0.6, 0.8, 0.95)


@dataclass(frozen=True)
class Size:
    """How large a random problem is."""

    llms: int
    nodes: int
    gpus_per_node: int = 8
    workflows: int = 1
    degrees: tuple[int, ...] = (1, 2, 4, 8)
    share_unit_pct: int = 10
    load: float = 0.5
    """Part of the cluster that the target rates need at least, roughly."""
    interference: float = 0.0
    """0: neighbours do not slow each other, so the aggregate is the whole objective."""
    gpu_types: int = 1


def random_problem(size: Size, seed: int) -> Problem:
    """Draw a problem. The same (size, seed) gives the same problem."""
    rng = stream(seed, "planner-problem", size.llms, size.nodes)
    types = tuple(_gpu_type(number) for number in range(size.gpu_types))
    nodes = tuple(
        Node(name=f"n{n}", gpu_type=types[n % size.gpu_types].name, gpus=size.gpus_per_node) for n in range(size.nodes)
    )
    cluster = Cluster(name=f"{size.nodes}x{size.gpus_per_node}", gpu_types=types, nodes=nodes)
    names = [f"m{m}" for m in range(size.llms)]
    uses = []
    for w in range(size.workflows):
        mine = names[w :: size.workflows]
        shared = [names[0]] if w and rng.random() < 0.5 and names[0] not in mine else []
        members = tuple(
            LlmUse(llm=name, calls_per_run=float(rng.integers(1, 9)), parallelism=float(rng.uniform(1, 3)))
            for name in [*mine, *shared]
        )
        uses.append(WorkflowUse(workflow=f"w{w}", runs=100, llms=members, tool_s=float(rng.uniform(0, 1))))
    service = {name: float(np.exp(rng.normal(-1.0, 1.0))) for name in names}
    gain = {name: float(rng.uniform(0.05, 0.9)) for name in names}
    share_k = {name: float(rng.uniform(0.1, 0.9)) for name in names}
    gpus = size.nodes * size.gpus_per_node
    work = fsum(use.calls_per_run * service[use.llm] for w in uses for use in w.llms) / 8
    rate = size.load * gpus / work
    targets = tuple(Target(workflow=u.workflow, arrivals=Arrivals(rate_per_s=rate * rng.uniform(0.7, 1.0))) for u in uses)
    curves = {}
    for use in uses:
        for item in use.llms:
            for number, gpu in enumerate(types):
                for degree in (d for d in size.degrees if d <= size.gpus_per_node):
                    for share in range(size.share_unit_pct, 101, size.share_unit_pct):
                        pace = service[item.llm] * (1 + share_k[item.llm] * (100 / share - 1)) * (1 + number)
                        for replicas in (1, 8):
                            curve = _curve(use.workflow, item, gpu.name, degree, share, replicas, pace, gain[item.llm])
                            curves[curve_key(curve)] = curve
    return Problem(
        cluster=cluster,
        profiles=_profiles(names, types, size),
        targets=targets,
        uses=tuple(uses),
        curves=curves,
        share_unit_pct=size.share_unit_pct,
    )


def _curve(workflow: str, use: LlmUse, gpu: str, degree: int, share: int, replicas: int, pace: float, gain: float) -> Curve:
    service = pace * (1 - gain + gain / degree)
    mean = tuple(service / (1 - u) for u in UTILISATION)
    parallel = 1 + (use.parallelism - 1) * (1 - 0.5 / replicas)
    busy = tuple(m * use.calls_per_run / parallel for m in mean)
    return Curve(
        workflow=workflow,
        llm=use.llm,
        gpu_type=gpu,
        tensor_parallel=degree,
        share_pct=share,
        replicas=replicas,
        capacity_per_s=8.0 / service,
        utilisation=UTILISATION,
        mean_s=mean,
        p50_s=mean,
        p95_s=mean,
        p99_s=mean,
        busy_s=busy,
        parallelism=(parallel,) * len(UTILISATION),
    )


def _gpu_type(number: int) -> GpuType:
    return GpuType(
        name=f"G{number}",
        memory_bytes=80 * GIB,
        bandwidth_bytes_per_s=2e12,
        flops_per_s=3e14,
        cost_per_hour=2.0 / (1 + number),
        price="made up",
    )


def _profiles(names: list[str], types: tuple[GpuType, ...], size: Size) -> ProfileSet:
    profiles = []
    for name in names:
        llm = Llm(name=name, parameters=1e9, weight_bytes=2 * GIB, kv_bytes_per_token=65536, context_limit=8192)
        for gpu in types:
            for degree in size.degrees:
                # Without a base there is nothing to draw bandwidth for, so neighbours do not slow each other at all.
                step = StepModel(base_s=0.004 if size.interference > 0 else 0.0, prefill_s_per_token=2e-5)
                engine = EngineLimits(activation_bytes=GIB)
                profiles.append(
                    Profile(llm=llm, gpu=gpu, tensor_parallel=degree, step=step, engine=engine, source="simulated: closed form")
                )
    return ProfileSet(
        profiles=tuple(profiles),
        share_law=ShareLaw(prefill_k=0.7, prefill_small_k=0.4, decode_k=0.2, decode_large_k=0.5),
        contention=ContentionLaw(interference=size.interference),
        cold_start=ColdStartLaw(base_s=30.0, s_per_billion=2.0),
    )
