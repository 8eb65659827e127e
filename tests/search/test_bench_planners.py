"""How fast planning is, and how it grows (``make bench``): the numbers of docs/benchmarks-planner.md."""

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from scepsy.predictors.aggregate import sum_choices
from scepsy.predictors.critical_path import CallTimes, RunModel, latencies
from scepsy.search import PLANNERS, Problem
from scepsy.search.random_problems import Size, random_problem
from scepsy.search.space import build_space
from scepsy.workload import Call, Run


def ready(size: Size, seed: int = 1) -> Problem:
    """A problem with its curves stacked: profiles are loaded."""
    problem = random_problem(size, seed)
    for use in problem.uses:
        for item in use.llms:
            problem.index.stack(use.workflow, item.llm)
    return problem


@pytest.mark.parametrize(("llms", "nodes"), [(2, 2), (5, 2), (19, 4), (16, 16)])
def test_bench_exact(benchmark: BenchmarkFixture, llms: int, nodes: int) -> None:
    problem = ready(Size(llms=llms, nodes=nodes, load=0.3))
    plan = benchmark.pedantic(PLANNERS["exact"], args=(problem,), rounds=3, iterations=1)
    gap = plan.objective_s / plan.bound_latency_s - 1
    benchmark.extra_info.update(llms=llms, gpus=nodes * 8, optimal=plan.optimal, gap=gap)
    assert gap < 0.05


@pytest.mark.slow
def test_bench_exact_on_a_thousand_gpus(benchmark: BenchmarkFixture) -> None:
    problem = ready(Size(llms=64, nodes=128, load=0.3))
    plan = benchmark.pedantic(PLANNERS["exact"], args=(problem,), rounds=1, iterations=1)
    assert plan.objective_s / plan.bound_latency_s - 1 < 0.05


@pytest.mark.parametrize("share_unit_pct", [20, 10, 5])
def test_bench_share_unit(benchmark: BenchmarkFixture, share_unit_pct: int) -> None:
    problem = ready(Size(llms=5, nodes=2, load=0.3, share_unit_pct=share_unit_pct))
    benchmark.pedantic(PLANNERS["exact"], args=(problem,), rounds=3, iterations=1)


def test_bench_hierarchical(benchmark: BenchmarkFixture) -> None:
    problem = ready(Size(llms=5, nodes=2, load=0.3))
    benchmark.pedantic(PLANNERS["hierarchical"], args=(problem,), rounds=3, iterations=1)


def test_bench_aggregate_predictions(benchmark: BenchmarkFixture) -> None:
    space = build_space(ready(Size(llms=5, nodes=2, load=0.3)))
    rng = np.random.default_rng(0)
    choices = np.column_stack([rng.integers(len(options), size=100_000) for options in space.llms])
    columns = [options.cost_s for options in space.llms]
    values = benchmark(sum_choices, columns, choices)
    benchmark.extra_info["predictions"] = len(values)
    assert len(values) == 100_000


def test_bench_critical_path(benchmark: BenchmarkFixture) -> None:
    rng = np.random.default_rng(0)
    runs = [Run(id=f"r{n}", workflow="w", calls=twenty_calls(rng)) for n in range(1000)]
    model = RunModel(runs)
    kind = CallTimes(base_s=0.1, s_per_input_token=1e-4, s_per_output_token=0.01, residual_s=0.1, residual_shared=0.3)
    found = benchmark(latencies, model, {"a": kind, "b": kind})
    assert found.p95_s > found.mean_s > 0


def twenty_calls(rng: np.random.Generator) -> tuple[Call, ...]:
    """Five levels of four calls, each after all calls of the level before."""
    calls: list[Call] = []
    for n in range(20):
        above = tuple(f"c{m}" for m in range(n - n % 4 - 4, n - n % 4)) if n >= 4 else ()
        calls.append(
            Call(
                id=f"c{n}",
                llm="ab"[n % 2],
                input_tokens=int(rng.integers(50, 2000)),
                output_tokens=int(rng.integers(1, 300)),
                parents=above,
            )
        )
    return tuple(calls)
