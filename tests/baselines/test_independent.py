"""Each LLM by itself: what it needs, then spare GPUs where they lower its own latency."""

from itertools import product
from math import fsum

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scepsy import search
from scepsy.baselines.independent import hand_out, own_latency_s, plan_by_rate
from scepsy.errors import Infeasible
from scepsy.plans import Plan, Target
from scepsy.search.goals import at_factor
from scepsy.search.problem import Problem
from scepsy.search.random_problems import Size, random_problem
from scepsy.search.space import build_space
from scepsy.stats.use import LlmUse, WorkflowUse
from scepsy.workload import Arrivals

plan_independent = search.PLANNERS["independent"]


def whole_gpus_of(plan: Plan) -> dict[str, int]:
    return {a.llm: a.replicas * a.tensor_parallel for a in plan.allocations}


def generator_and_reranker(rate_per_s: float) -> Problem:
    """16 GPUs: one slow LLM called once per run, and one called 20 times, each call a hundredth as long."""
    base = random_problem(Size(llms=2, nodes=2, share_unit_pct=50), seed=0)
    use = WorkflowUse(
        workflow="w0",
        runs=100,
        llms=(LlmUse(llm="m0", calls_per_run=1.0, parallelism=1.0), LlmUse(llm="m1", calls_per_run=20.0, parallelism=20.0)),
        tool_s=0.0,
    )
    curves = {}
    for key, curve in base.curves.items():
        service, gain = (4.0, 0.8) if curve.llm == "m0" else (0.04, 0.5)
        pace = service * (1 - gain + gain / curve.tensor_parallel) * (1 + 0.5 * (100 / curve.share_pct - 1))
        mean = tuple(pace / (1 - u) for u in curve.utilisation)
        curves[key] = msgspec.structs.replace(
            curve, mean_s=mean, p50_s=mean, p95_s=mean, p99_s=mean, busy_s=mean, capacity_per_s=8.0 / pace
        )
    target = Target(workflow="w0", arrivals=Arrivals(rate_per_s=rate_per_s))
    return Problem(
        cluster=base.cluster, profiles=base.profiles, targets=(target,), uses=(use,), curves=curves, share_unit_pct=50
    )


@pytest.mark.parametrize("rate", [0.5, 1, 2, 4, 8, 16, 20])
def test_a_busy_small_model_does_not_get_the_cluster(rate: float) -> None:
    """By call rate it would get 15 of 16 GPUs. It may have what the other cannot use: eight, in one group each."""
    assert hand_out([1, 1], [rate, 20 * rate], 14) == [1, 15]
    counts = whole_gpus_of(plan_independent(generator_and_reranker(rate)))
    assert counts["m1"] <= 8 <= counts["m0"]


def test_the_loaded_model_gets_the_gpus() -> None:
    """At 12 runs/s the slow LLM is what needs them: by hand, 0.04 s at a tenth of a GPU's load gain less than 4 s do."""
    assert whole_gpus_of(plan_independent(generator_and_reranker(12.0))) == {"m0": 14, "m1": 2}
    with_leftovers = whole_gpus_of(plan_by_rate(generator_and_reranker(2.0)))
    assert with_leftovers["m1"] > with_leftovers["m0"]


def test_latency_does_not_fall_with_load() -> None:
    latencies = [plan_independent(generator_and_reranker(rate)).expected[0].latency_s for rate in (0.5, 1, 2, 4, 8, 16, 20)]
    assert latencies == sorted(latencies)


def own_total_s(problem: Problem, plan: Plan) -> float:
    """The sum of the LLMs' own latencies under a plan."""
    space = build_space(problem, keep_all=True)
    total = []
    for options in space.llms:
        mine = [n for n in range(len(options)) if options.allocation(n, space.gpu_types) == plan.allocation(options.llm)]
        total.append(float(own_latency_s(space, options)[mine[0]]))
    return fsum(total)


SIZES = st.builds(
    Size,
    llms=st.integers(1, 3),
    nodes=st.just(1),
    gpus_per_node=st.sampled_from([4, 8]),
    workflows=st.integers(1, 2),
    share_unit_pct=st.just(50),
    load=st.sampled_from([0.05, 0.3, 0.8]),
)


@settings(max_examples=40, deadline=None)
@given(size=SIZES, seed=st.integers(0, 10_000))
def test_it_is_the_least_total_of_own_latencies(size: Size, seed: int) -> None:
    """Against every combination of whole-GPU options."""
    if size.workflows > size.llms:
        return
    problem = random_problem(size, seed)
    try:
        plan = plan_independent(problem)
    except Infeasible:
        return
    space = build_space(problem, keep_all=True)
    gpus = space.gpus_of[0]
    tables = []
    for options in space.llms:
        own = own_latency_s(space, options)
        tables.append(
            [
                (int(options.units[n]) * space.unit_pct // 100, float(own[n]))
                for n in range(len(options))
                if options.share_pct[n] == 100 and np.isfinite(own[n])
            ]
        )
    best = min(fsum(cost for _, cost in picked) for picked in product(*tables) if sum(n for n, _ in picked) <= gpus)
    assert own_total_s(problem, plan) == pytest.approx(best, rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(size=SIZES, seed=st.integers(0, 10_000), factors=st.tuples(st.floats(0.2, 1.5), st.floats(1.01, 2.0)))
def test_own_latency_does_not_fall_with_load(size: Size, seed: int, factors: tuple[float, float]) -> None:
    if size.workflows > size.llms:
        return
    low = at_factor(random_problem(size, seed), factors[0])
    high = at_factor(random_problem(size, seed), factors[0] * factors[1])
    try:
        heavier = plan_independent(high)
    except Infeasible:
        return
    lighter = plan_independent(low)
    assert own_total_s(low, lighter) <= own_total_s(high, heavier) * (1 + 1e-9)
