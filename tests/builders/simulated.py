"""Small plans, profiles and traces that the simulator's tests share."""

import numpy as np

from scepsy.backend import Stream, Workload
from scepsy.cluster import Cluster, GpuType, Node
from scepsy.llm import Llm
from scepsy.plans import Allocation, Instance, Plan
from scepsy.profile.model import EngineLimits, Profile, ProfileSet, instance_memory_bytes
from scepsy.profile.share import ColdStartLaw, ContentionLaw, ShareLaw
from scepsy.profile.step import StepModel
from scepsy.workload import Arrivals, Call, Run, Trace, TraceSource

H100 = GpuType(name="H100", memory_bytes=80 * 10**9, bandwidth_bytes_per_s=3.35e12, flops_per_s=9.9e14)
LAW = ShareLaw(prefill_k=0.69, prefill_small_k=0.46, decode_k=0.18, decode_large_k=0.51)
NO_SHARE_COST = ShareLaw(prefill_k=0, prefill_small_k=0, decode_k=0, decode_large_k=0)
QWEN_7B_H100 = StepModel(
    base_s=8.5e-3, prefill_s_per_token=2.22e-5, decode_s_per_sequence=6.7e-5, context_s_per_token=6e-7
)  # Aegaeon's table


def llm(name: str = "m", **fields) -> Llm:
    values = {"parameters": 7e9, "weight_bytes": 15 * 10**9, "kv_bytes_per_token": 57344, "context_limit": 32768} | fields
    return Llm(name=name, **values)


def profile(
    name: str = "m", step: StepModel = QWEN_7B_H100, engine: EngineLimits | None = None, tp: int = 1, **fields
) -> Profile:
    return Profile(
        llm=llm(name, **fields), gpu=H100, tensor_parallel=tp, step=step, engine=engine or EngineLimits(), source="test"
    )


def profile_set(*profiles: Profile, law: ShareLaw = LAW, interference: float = 0.4) -> ProfileSet:
    return ProfileSet(
        profiles=profiles,
        share_law=law,
        contention=ContentionLaw(interference=interference),
        cold_start=ColdStartLaw(base_s=30.0, s_per_billion=2.0),
    )


def plan(*wanted: tuple[Profile, int, int], gpus: int | None = None) -> Plan:
    """(profile, share, replicas) each; instances go to GPUs first-fit, TP groups onto neighbouring empty ones."""
    total = gpus or sum(replicas * profile.tensor_parallel for profile, _, replicas in wanted)
    nodes = tuple(Node(name=f"n{i}", gpu_type="H100", gpus=8) for i in range(-(-total // 8)))
    cluster = Cluster(name="c", gpu_types=(H100,), nodes=nodes)
    left = dict.fromkeys(cluster.gpus, 100)
    instances, allocations = [], []
    for each, share, replicas in wanted:
        allocations.append(
            Allocation(
                llm=each.llm.name, share_pct=share, tensor_parallel=each.tensor_parallel, replicas=replicas, gpu_type="H100"
            )
        )
        for index in range(replicas):
            place = next(
                group
                for node in nodes
                for start in range(8 - each.tensor_parallel + 1)
                for group in [[g for g in cluster.gpus if g.node == node.name][start : start + each.tensor_parallel]]
                if all(left[gpu] >= share for gpu in group)
            )
            for gpu in place:
                left[gpu] -= share
            instances.append(
                Instance(
                    llm=each.llm.name,
                    index=index,
                    gpus=tuple(place),
                    share_pct=share,
                    memory_bytes=instance_memory_bytes(each, share),
                )
            )
    return Plan(planner="test", cluster=cluster, targets=(), allocations=tuple(allocations), instances=tuple(instances))


def run(calls: list[Call] | tuple[Call, ...], id: str = "r", **fields) -> Run:
    return Run(id=id, workflow="w", calls=tuple(calls), **fields)


def call(input_tokens: int, output_tokens: int = 1, id: str = "c", llm: str = "m", **fields) -> Call:
    return Call(id=id, llm=llm, input_tokens=input_tokens, output_tokens=output_tokens, **fields)


def trace(*runs: Run, prefix_block_tokens: int = 0) -> Trace:
    return Trace(source=TraceSource(origin="test"), runs=tuple(runs), prefix_block_tokens=prefix_block_tokens)


def single_calls(count: int = 2000, input_mean: float = 500, output_mean: float = 250, seed: int = 0) -> Trace:
    """Runs of one call, exponential lengths."""
    rng = np.random.default_rng(seed)
    sizes = zip(rng.exponential(input_mean, count).tolist(), rng.exponential(output_mean, count).tolist(), strict=True)
    return trace(*(run([call(1 + int(a), 1 + int(b))], id=f"r{n}") for n, (a, b) in enumerate(sizes)))


def load(what: Trace, rate_per_s: float | None = None, *, runs: int | None = None, seed: int = 0, **fields) -> Workload:
    kind = fields.pop("kind", "poisson" if rate_per_s else "trace")
    arrivals = Arrivals(kind=kind, rate_per_s=rate_per_s, **fields.pop("arrivals", {}))
    return Workload(streams=(Stream(trace=what, arrivals=arrivals),), seed=seed, runs=runs or len(what.runs), **fields)
