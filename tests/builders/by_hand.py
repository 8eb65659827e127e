"""Made-up LLMs whose step times can be added up by hand."""

from collections.abc import Sequence

from scepsy.backend import Stream, Workload
from scepsy.cluster import Cluster, GpuType, Node
from scepsy.llm import Llm
from scepsy.profile.model import EngineLimits, Profile, ProfileSet
from scepsy.profile.share import ColdStartLaw, ContentionLaw, ShareLaw
from scepsy.profile.step import StepModel
from scepsy.records import Records
from scepsy.workload import Arrivals, Call, Run, Trace, TraceSource

GPU = GpuType(name="G", memory_bytes=100 * 10**9, bandwidth_bytes_per_s=2e12, flops_per_s=3e14)


def cluster(gpus: int) -> Cluster:
    return Cluster(name="c", gpu_types=(GPU,), nodes=(Node(name="n", gpu_type="G", gpus=gpus),))


def profiles(
    names: Sequence[str],
    *,
    weight_gb: float = 16,
    decode_s: float = 0.1,
    prefill_s: float = 0.001,
    degrees: Sequence[int] = (1,),
    kv: int = 1000,
) -> ProfileSet:
    """A prefill takes ``prefill_s`` per token and nothing else (base 0), a decode step ``decode_s`` per sequence; no share
    costs.
    """
    made = []
    for name in names:
        llm = Llm(
            name=name,
            parameters=weight_gb / 2 * 1e9,
            weight_bytes=int(weight_gb * 1e9),
            kv_bytes_per_token=kv,
            context_limit=8192,
        )
        for degree in degrees:
            step = StepModel(base_s=0.0, prefill_s_per_token=prefill_s / degree, decode_s_per_sequence=decode_s / degree)
            engine = EngineLimits(activation_bytes=0, prefix_caching=False, memory_utilization=1.0)
            made.append(Profile(llm=llm, gpu=GPU, tensor_parallel=degree, step=step, engine=engine, source="made up"))
    return ProfileSet(
        profiles=tuple(made),
        share_law=ShareLaw(prefill_k=1.0, prefill_small_k=1.0, decode_k=1.0, decode_large_k=1.0),
        contention=ContentionLaw(interference=0.0),
        cold_start=ColdStartLaw(base_s=1.0, s_per_billion=0.0),
    )


def call(
    name: str,
    llm: str,
    tokens: int = 100,
    out: int = 1,
    parents: Sequence[str] = (),
    gap_s: float = 0.0,
    prefix: Sequence[int] = (),
) -> Call:
    return Call(
        id=name,
        llm=llm,
        input_tokens=tokens,
        output_tokens=out,
        parents=tuple(parents),
        gap_s=gap_s,
        prefix_hashes=tuple(prefix),
    )


def replayed(*runs: Run, block_tokens: int = 0) -> Workload:
    """The runs at their own arrival times."""
    trace = Trace(source=TraceSource(origin="test"), runs=runs, prefix_block_tokens=block_tokens)
    return Workload(streams=(Stream(trace=trace, arrivals=Arrivals(kind="trace")),), runs=len(runs))


def run(name: str, *calls: Call, at_s: float = 0.0) -> Run:
    return Run(id=name, workflow="w", calls=calls, arrival_s=at_s)


def ends(records: Records) -> dict[str, float]:
    """End of every call, to the nanosecond."""
    table = records.calls.to_pylist()
    return {f"{row['run'].split('-')[-1]}/{row['call']}": round(row["end_s"], 9) for row in table}
