"""The compiled core against the SimPy engine: everything equal, to the femtosecond, whatever the load."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scepsy.backend import Stream, Workload
from scepsy.profile.share import ContentionLaw
from scepsy.workload import Arrivals, Call, Piece, Run, Trace, TraceSource
from sim.policies.orders import QUEUE_ORDERS
from sim.policies.orders.plas import Plas
from sim.policies.routers import ROUTERS
from tests.sim.compiled.both import Case, check
from tests.sim.engine.test_exactness import specs_and_places

pytest.importorskip("llvmlite")

ROUTER_NAMES = sorted(set(ROUTERS) - {"ayo"})

CHAINS = [[family * 1000 + block for block in range(64)] for family in range(2)]
FORKS = [chain[:3] + [9000 + 100 * n + block for block in range(61)] for n, chain in enumerate(CHAINS)]


@pytest.fixture(scope="module", autouse=True)
def plas_with_short_levels():
    """Levels that runs of these sizes go through; gone afterwards, since other tests look at the registry."""
    QUEUE_ORDERS["plas-short"] = Plas(first_level_tokens=40, beta=0.5)
    yield
    del QUEUE_ORDERS["plas-short"]


def a_call(rng: Random, number: int, before: list[Call], llms: list[str]) -> Call:
    node = len(before)
    inputs, output = rng.randint(1, 60), rng.choice([0, 1, 5, rng.randint(1, 36), rng.randint(1, 36)])
    own = [10**6 + 1000 * number + 100 * node + block for block in range(60)]
    ids = rng.choice([[], *CHAINS, *FORKS, CHAINS[0][:4] + own])
    return Call(
        id=f"c{node}",
        llm=rng.choice(llms),
        input_tokens=inputs,
        output_tokens=output,
        kind="generate" if output else "embed",
        parents=tuple(call.id for call in before if rng.random() < 0.4),
        gap_s=rng.choice([0.0, 0.0, 0.0, 0.01, 0.25]),
        prefix_hashes=tuple(ids[: inputs // 4]),
    )


def a_run(rng: Random, number: int, workflow: str, llms: list[str]) -> Run:
    calls: list[Call] = []
    for _ in range(rng.randint(1, 5)):
        calls.append(a_call(rng, number, calls, llms))
    return Run(
        id=f"r{number}",
        workflow=workflow,
        calls=tuple(calls),
        arrival_s=rng.choice([0.0, 0.25, 0.5, 1.0, 1.37]),
        tail_s=rng.choice([0.0, 0.0, 0.1]),
        session=rng.choice(["", "", "s1", "s2"]),
    )


@st.composite
def some_arrivals(draw) -> Arrivals:
    kind = draw(st.sampled_from(["poisson", "gamma", "deterministic", "trace", "trace", "closed", "piecewise"]))
    if kind == "closed":
        return Arrivals(kind=kind, users=draw(st.integers(1, 6)), think_s=draw(st.sampled_from([0.0, 0.3])))
    if kind == "piecewise":
        return Arrivals(kind=kind, pieces=(Piece(duration_s=1.0, rate_per_s=3.0), Piece(duration_s=0.5, rate_per_s=20.0)))
    rate = draw(st.sampled_from([2.0, 4.0, 20.0]))
    return Arrivals(kind=kind, rate_per_s=rate, **({"cv": 2.0} if kind == "gamma" else {}))


@st.composite
def cases(draw) -> Case:
    specs, places = draw(specs_and_places())
    twins = draw(st.integers(0, 3)) == 0  # equal instances on one GPU with equal runs at once: they switch at one instant
    if twins:
        specs, places = [specs[0]] * 2, [places[0]] * 2
    llms = ["m", "k"][: draw(st.integers(1, 2))]
    named = [replace(spec, llm=(llm := llms[n % len(llms)]), name=f"{llm}-{n}") for n, spec in enumerate(specs)]
    used = sorted({spec.llm for spec in named})
    streams = []
    for place in range(draw(st.integers(1, 2))):
        rng = Random(draw(st.integers(0, 10**6)))  # many small choices: drawing each costs more than both engines
        runs = [a_run(rng, 100 * place + n, f"w{place}", used) for n in range(draw(st.integers(1, 6)))]
        if twins:
            runs = [msgspec.structs.replace(each, id=each.id + end) for each in runs for end in ("", "-twin")]
        trace = Trace(source=TraceSource(origin="test"), runs=tuple(runs), prefix_block_tokens=4)
        order = draw(st.sampled_from(["sampled", "shuffled"]))
        streams.append(Stream(trace=trace, arrivals=draw(some_arrivals()), order=order))
    workload = Workload(
        streams=tuple(streams),
        seed=draw(st.integers(0, 3)),
        runs=draw(st.integers(1, 25)),
        horizon_s=draw(st.sampled_from([None, None, 1.0, 5.0])),
        drain_s=draw(st.sampled_from([None, None, 0.0, 0.25, 1.0])),
    )
    router = draw(st.sampled_from(ROUTER_NAMES))
    order = draw(st.sampled_from(["fcfs", "fcfs", "plas", "plas-short", "shortest-remaining"]))
    capacity = draw(st.sampled_from([None, 0.4, 1.0, 1.0]))
    law = ContentionLaw(interference=draw(st.sampled_from([0.0, 0.4])), compute_capacity=capacity)
    return Case(named, places, law, workload, router, order)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases())
def test_compiled_equals_simpy(case):
    check(case)


@st.composite
def ahead(draw) -> Case:
    """Instances that schedule ahead and have few blocks for many calls: who is about to leave is preempted too."""
    case = draw(cases())
    specs = []
    for spec in case.specs:
        engine = msgspec.structs.replace(
            spec.engine,
            async_scheduling=True,
            prefix_caching=True,
            max_num_seqs=8,
            max_num_batched_tokens=60,
            max_num_queued=None,
        )
        specs.append(replace(spec, engine=engine, kv_blocks=-(-96 // engine.block_tokens) + draw(st.integers(0, 8))))
    return replace(case, specs=specs)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(ahead())
def test_compiled_equals_simpy_where_calls_are_scheduled_ahead(case):
    check(case)


@pytest.mark.slow
@settings(max_examples=5000, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.one_of(cases(), ahead()))
def test_compiled_equals_simpy_thousands_of_times(case):
    check(case)


def test_the_made_up_loads_press_hard_enough():
    """The loads above must preempt, reuse prefixes, reject, chain and slow each other, or their equality would say little."""
    seen = Counter()

    @settings(max_examples=200, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(cases())
    def look(case):
        found = check(case)
        if found.error:
            seen["errors"] += 1
            return
        calls = found.calls.to_pandas()
        seen["preemptions"] += int(calls.preemptions.sum())
        seen["cached"] += int((calls.cached_tokens > 0).sum())
        for status, count in calls.status.value_counts().items():
            seen[status] += int(count)
        seen["shared"] += sum(len(case.places) > 1 for _ in case.places)

    look()
    assert min(seen[n] for n in ("preemptions", "cached", "completed", "rejected", "unfinished", "shared")) >= 20, seen
