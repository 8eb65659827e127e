"""Hypothesis strategies for every value that has a file, and the formats themselves."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import strategies as st

from scepsy.cluster import Cluster, Gpu, GpuType, Node
from scepsy.cost import Price, PriceList
from scepsy.files.cluster import load_cluster, save_cluster
from scepsy.files.curves import load_curves, save_curves
from scepsy.files.plan import load_plan, save_plan
from scepsy.files.prices import load_prices, save_prices
from scepsy.files.profiles import load_profiles, save_profiles
from scepsy.files.records import load_records, save_records
from scepsy.files.trace import load_trace, save_trace
from scepsy.llm import Llm
from scepsy.plans import Allocation, Expectation, Instance, Plan, Target
from scepsy.profile.curve import Curve
from scepsy.profile.model import EngineLimits, Profile, ProfileSet
from scepsy.profile.share import ColdStartLaw, ContentionLaw, ShareLaw
from scepsy.profile.step import StepModel
from scepsy.records import CALL_SCHEMA, RUN_SCHEMA, Records
from scepsy.workload import Arrivals, Call, Piece, Run, Trace, TraceSource

# Names that YAML 1.1 or a careless writer would turn into something else.
names = st.sampled_from(
    ["a", "no", "1e6", "1:30", "null", "~", "é λ", "a: b", "- x", "0x1f", "2024-01-01", ".inf", "'", "#", "=", "<<"]
) | (st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=8))
texts = st.just("") | names
seconds = st.floats(0, 1e6, allow_nan=False) | st.sampled_from([0.0, 1e-9, 1e16])
positive = st.floats(1e-9, 1e15, allow_nan=False)
tokens = st.integers(1, 200_000)


@st.composite
def runs(draw: st.DrawFn, run_id: str | None = None) -> Run:
    ids = draw(st.lists(names, min_size=1, max_size=5, unique=True))
    calls = []
    for index, call_id in enumerate(ids):
        kind = draw(st.sampled_from(["generate", "embed", "rerank"]))
        start = draw(st.none() | seconds)
        calls.append(
            Call(
                id=call_id,
                llm=draw(names),
                input_tokens=draw(tokens),
                output_tokens=draw(tokens) if kind == "generate" else 0,
                kind=kind,
                parents=tuple(draw(st.lists(st.sampled_from(ids[:index]), unique=True))) if index else (),
                gap_s=draw(seconds),
                start_s=start,
                end_s=None if start is None else start + draw(seconds),
                prefix_hashes=tuple(draw(st.lists(st.integers(0, 2**63 - 1), max_size=3))),
            )
        )
    return Run(
        id=run_id or draw(names),
        workflow=draw(names),
        calls=tuple(calls),
        arrival_s=draw(st.none() | seconds),
        tail_s=draw(seconds),
        session=draw(texts),
    )


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    source = TraceSource(
        origin=draw(texts),
        licence=draw(texts),
        seed=draw(st.none() | st.integers(-(2**62), 2**62)),
        assumptions=tuple(draw(st.lists(texts, max_size=2))),
        notes=tuple(draw(st.lists(texts, max_size=2))),
    )
    ids = draw(st.lists(names, min_size=1, max_size=3, unique=True))
    return Trace(
        source=source, runs=tuple(draw(runs(run_id=run_id)) for run_id in ids), prefix_block_tokens=draw(st.integers(0, 256))
    )


@st.composite
def gpu_types(draw: st.DrawFn, name: str | None = None) -> GpuType:
    return GpuType(
        name=name or draw(names),
        memory_bytes=draw(st.integers(2**33, 2**38)),
        bandwidth_bytes_per_s=draw(positive),
        flops_per_s=draw(positive),
        cost_per_hour=draw(positive),
        partitions_pct=tuple(draw(st.lists(st.integers(1, 100), max_size=3))),
        source=draw(texts),
    )


@st.composite
def clusters(draw: st.DrawFn) -> Cluster:
    types = draw(st.lists(names, min_size=1, max_size=2, unique=True))
    nodes = []
    for name in draw(st.lists(names, min_size=1, max_size=3, unique=True)):
        gpus = draw(st.integers(1, 4))
        split = draw(st.integers(1, gpus))
        domains = tuple(d for d in (tuple(range(split)), tuple(range(split, gpus))) if d)
        nodes.append(
            Node(
                name=name,
                gpu_type=draw(st.sampled_from(types)),
                gpus=gpus,
                nvlink_domains=draw(st.sampled_from([(), domains])),
                gpu_uuids=draw(st.sampled_from([(), tuple(f"GPU-{i}" for i in range(gpus))])),
            )
        )
    return Cluster(name=draw(names), gpu_types=tuple(draw(gpu_types(name)) for name in types), nodes=tuple(nodes))


arrivals = st.builds(Arrivals, rate_per_s=positive, cv=positive, think_s=seconds) | st.builds(
    Arrivals,
    kind=st.just("piecewise"),
    pieces=st.lists(st.builds(Piece, duration_s=positive, rate_per_s=positive), min_size=1, max_size=2).map(tuple),
)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    cluster = draw(clusters())
    gpus = draw(st.lists(st.sampled_from(cluster.gpus), min_size=1, max_size=3, unique=True))
    llms = draw(st.lists(names, min_size=len(gpus), max_size=len(gpus), unique=True))
    share = draw(st.integers(1, 100))
    return Plan(
        planner=draw(names),
        cluster=cluster,
        targets=tuple(draw(st.lists(st.builds(Target, workflow=names, arrivals=arrivals, trace=texts), max_size=2))),
        allocations=tuple(
            Allocation(llm=llm, share_pct=share, tensor_parallel=1, replicas=1, gpu_type=cluster.type_of(gpu).name)
            for llm, gpu in zip(llms, gpus, strict=True)
        ),
        instances=tuple(_instance(llm, gpu, share) for llm, gpu in zip(llms, gpus, strict=True)),
        expected=(
            Expectation(workflow=draw(names), latency_s=draw(seconds | st.just(float("inf"))), throughput_per_s=draw(seconds)),
        ),
        profiles=draw(texts),
        search_s=draw(seconds),
        optimal=draw(st.booleans()),
        bound_latency_s=draw(st.none() | seconds),
        assumptions=tuple(draw(st.lists(texts, max_size=2))),
    )


def _instance(llm: str, gpu: Gpu, share: int) -> Instance:
    return Instance(llm=llm, index=0, gpus=(gpu,), share_pct=share, memory_bytes=2**30)


llms = st.builds(
    Llm,
    name=names,
    parameters=positive,
    weight_bytes=st.integers(1, 2**40),
    kv_bytes_per_token=st.integers(0, 2**20),
    context_limit=tokens,
    kind=st.sampled_from(["generate", "embed", "rerank"]),
    source=texts,
)
steps = st.builds(StepModel, base_s=positive, prefill_s_per_token=seconds, decode_s_per_sequence=seconds)
profile_sets = st.builds(
    ProfileSet,
    profiles=st.lists(
        st.builds(
            Profile,
            llm=llms,
            gpu=gpu_types(),
            tensor_parallel=st.sampled_from([1, 2]),
            step=steps,
            engine=st.builds(EngineLimits, max_num_seqs=tokens, max_num_queued=st.none() | tokens),
            source=names,
            residual_pct=st.none() | seconds,
        ),
        max_size=1,
    ).map(tuple),
    share_law=st.builds(
        ShareLaw, prefill_k=seconds, prefill_small_k=seconds, decode_k=seconds, decode_large_k=seconds, source=texts
    ),
    contention=st.builds(ContentionLaw, interference=seconds, source=texts),
    cold_start=st.builds(ColdStartLaw, base_s=seconds, s_per_billion=seconds, source=texts),
)


@st.composite
def curve_sets(draw: st.DrawFn) -> tuple[Curve, ...]:
    points = draw(st.integers(2, 3))
    column = st.lists(seconds, min_size=points, max_size=points).map(tuple)
    columns = {name: draw(column) for name in ("mean_s", "p50_s", "p95_s", "p99_s", "busy_s", "parallelism", "call_base_s")}
    return tuple(
        Curve(
            workflow=draw(names),
            llm=draw(names),
            gpu_type=draw(names),
            tensor_parallel=1,
            share_pct=draw(st.integers(1, 100)),
            replicas=replicas,
            capacity_per_s=draw(positive),
            utilisation=tuple(float(i) for i in range(points)),
            **columns,
        )
        for replicas in range(1, draw(st.integers(1, 3)))
    )


@st.composite
def record_pairs(draw: st.DrawFn) -> Records:
    ids = draw(st.lists(names, min_size=1, max_size=3, unique=True))
    status = st.sampled_from(["completed", "rejected", "unfinished"])
    run_rows = [
        {
            "run": i,
            "template": draw(names),
            "workflow": draw(names),
            "arrival_s": draw(seconds),
            "end_s": draw(st.none() | seconds),
            "status": draw(status),
        }
        for i in ids
    ]
    call_rows = [
        {
            "run": draw(st.sampled_from(ids)), "call": draw(names), "workflow": draw(names), "llm": draw(names),
            "instance": draw(st.none() | names), "issued_s": draw(seconds), "scheduled_s": draw(st.none() | seconds),
            "first_token_s": draw(st.none() | seconds), "end_s": draw(st.none() | seconds), "input_tokens": draw(tokens),
            "output_tokens": draw(st.integers(0, 9)), "cached_tokens": 0, "preemptions": 0, "status": draw(status),
        }
        for _ in range(draw(st.integers(0, 3)))
    ]  # fmt: skip
    return Records(
        runs=pa.Table.from_pylist(run_rows, schema=RUN_SCHEMA),
        calls=pa.Table.from_pylist(call_rows, schema=CALL_SCHEMA),
        meta=draw(st.dictionaries(names, texts, max_size=2)),
    )


price_lists = st.builds(
    PriceList,
    prices=st.lists(
        st.builds(Price, gpu_type=names, usd_per_hour=positive, source=texts),
        min_size=1,
        max_size=3,
        unique_by=lambda p: p.gpu_type,
    ).map(tuple),
)


@dataclass(frozen=True)
class Format:
    """One file format: how to draw, write and read its values, and the files one value makes."""

    values: st.SearchStrategy[Any]
    save: Callable[[Path, Any], None]
    load: Callable[[Path], Any]
    files: tuple[str, ...]


FORMATS = {
    "trace": Format(traces(), save_trace, load_trace, ("x.jsonl",)),
    "trace.gz": Format(traces(), save_trace, load_trace, ("x.jsonl.gz",)),
    "cluster": Format(clusters(), save_cluster, load_cluster, ("x.yaml",)),
    "prices": Format(price_lists, save_prices, load_prices, ("x.yaml",)),
    "profiles": Format(profile_sets, save_profiles, load_profiles, ("x.yaml",)),
    "plan": Format(plans(), save_plan, load_plan, ("x.plan.yaml",)),
    "curves": Format(curve_sets(), save_curves, load_curves, ("x.json",)),
    "records": Format(record_pairs(), save_records, load_records, ("x.runs.parquet", "x.calls.parquet")),
}


@pytest.fixture(params=list(FORMATS))
def form(request: pytest.FixtureRequest) -> Format:
    return FORMATS[request.param]


@pytest.fixture(scope="session")
def formats() -> dict[str, Format]:
    return FORMATS
