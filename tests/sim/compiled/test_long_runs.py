"""Simulated time beyond what 64 bits of femtoseconds hold (9,223 s), where the compiled core counts epochs."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from scepsy.backend import Stream, Workload
from scepsy.profile.model import EngineLimits
from scepsy.profile.share import ContentionLaw
from scepsy.profile.step import StepModel
from scepsy.workload import Arrivals
from sim.engine.clock import TICKS_PER_S, ticks
from sim.engine.replica import ReplicaSpec
from tests.builders.simulated import LAW, call, run, trace
from tests.sim.compiled.both import Case, check

pytest.importorskip("llvmlite")

STEP = StepModel(base_s=0.5, prefill_s_per_token=1e-2, decode_s_per_sequence=1e-2, context_s_per_token=1e-4)
"""Slow, so that thousands of seconds take few events."""


def spec(number: int = 0) -> ReplicaSpec:
    engine = EngineLimits(max_num_seqs=4, max_num_batched_tokens=64)
    return ReplicaSpec(
        name=f"m-{number}",
        llm="m",
        step=STEP,
        engine=engine,
        share_law=LAW,
        share_pct=50,
        kv_blocks=40,
        context_limit=1000,
        bandwidth_demand=0.6,
    )


def case(arrivals: Arrivals, what, *, runs: int, order: str = "fcfs", **limits) -> Case:
    workload = Workload(streams=(Stream(trace=what, arrivals=arrivals),), seed=1, runs=runs, **limits)
    law = ContentionLaw(interference=0.4)
    return Case([spec(0), spec(1)], [[0], [0]], law, workload, "least-outstanding", order)


def some_runs(gap_s: float = 0.0):
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 60, size=(20, 3)).tolist()
    return trace(
        *(
            run([call(a, b, id="a"), call(c, b, id="b", parents=("a",), gap_s=gap_s)], id=f"r{n}", tail_s=gap_s / 3)
            for n, (a, b, c) in enumerate(sizes)
        )
    )


@pytest.mark.parametrize("order", ["fcfs", "plas", "shortest-remaining"])
def test_busy_for_a_day(order):
    found = check(case(Arrivals(kind="poisson", rate_per_s=0.045), some_runs(), runs=4000, order=order))
    assert found.now > 80_000 * TICKS_PER_S


def test_overloaded_waits_for_hours():
    found = check(case(Arrivals(kind="poisson", rate_per_s=5.0), some_runs(), runs=3000, order="plas", drain_s=30_000.0))
    waits = found.calls.to_pandas().eval("scheduled_s - issued_s")
    assert waits.max() > 10_000


@pytest.mark.parametrize("gap_s", [3_000.0, 12_345.6, 100_000.25])
def test_gaps_thoughts_and_tails_of_hours(gap_s):
    check(case(Arrivals(kind="poisson", rate_per_s=0.01), some_runs(gap_s), runs=60))
    check(case(Arrivals(kind="closed", users=5, think_s=gap_s), some_runs(gap_s), runs=60))
    check(case(Arrivals(kind="closed", users=5, think_s=gap_s), some_runs(), runs=60, horizon_s=4 * gap_s, drain_s=gap_s))


def test_arrivals_far_apart():
    runs = some_runs().runs
    apart = trace(*(msgspec.structs.replace(each, arrival_s=7_000.0 * n**2) for n, each in enumerate(runs)))
    found = check(case(Arrivals(kind="trace"), apart, runs=len(runs)))
    assert found.now > ticks(2_000_000.0)
