"""A plan on two cores with made-up step times, for tests that need any plan."""

from executor.random_models import RandomModel, llm_of
from scepsy.cluster import Cluster, Gpu, GpuType, Node
from scepsy.plans import Allocation, Instance, Plan
from scepsy.profile.model import EngineLimits, Profile, ProfileSet
from scepsy.profile.share import ColdStartLaw, ContentionLaw, ShareLaw
from scepsy.profile.step import StepModel

CORE = GpuType(name="cpu-core", memory_bytes=2 * 2**30, bandwidth_bytes_per_s=1e10, flops_per_s=5e10)


def two_core_plan(*llms: str) -> tuple[Plan, ProfileSet]:
    engine = EngineLimits(max_num_seqs=16, max_num_batched_tokens=1024, activation_bytes=2**26, block_tokens=32)
    step = StepModel(base_s=0.01, prefill_s_per_token=1e-5)
    profiles = tuple(
        Profile(llm=llm_of(RandomModel(name=llm)), gpu=CORE, tensor_parallel=1, step=step, engine=engine, source="a test")
        for llm in llms
    )
    law = ShareLaw(prefill_k=1, prefill_small_k=1, decode_k=1, decode_large_k=1)
    known = ProfileSet(
        profiles=profiles, share_law=law, contention=ContentionLaw(interference=0.0),
        cold_start=ColdStartLaw(base_s=0.0, s_per_billion=0.0),
    )  # fmt: skip
    cluster = Cluster(name="here", gpu_types=(CORE,), nodes=(Node(name="host", gpu_type="cpu-core", gpus=max(2, len(llms))),))
    plan = Plan(
        planner="hand",
        cluster=cluster,
        targets=(),
        allocations=tuple(
            Allocation(llm=llm, share_pct=100, tensor_parallel=1, replicas=1, gpu_type="cpu-core") for llm in llms
        ),
        instances=tuple(
            Instance(llm=llm, index=0, gpus=(Gpu(node="host", index=core),), share_pct=100, memory_bytes=2**30)
            for core, llm in enumerate(llms)
        ),
    )
    return plan, known
