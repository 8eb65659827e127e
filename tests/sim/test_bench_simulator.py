"""Speed of the simulator: calls per second of one core, and how it scales. ``make bench`` runs them; numbers in
docs/benchmarks.md.

Processor time, not wall time, so that a busy machine does not look like a slow simulator.
"""

import time

import numpy as np
import pytest

from scepsy.workload import Trace
from sim.profiling.sweep import grid, sweep
from sim.world.run import simulate
from tests.builders.simulated import call, load, plan, profile, profile_set, run, single_calls, trace

pytestmark = pytest.mark.benchmark(timer=time.process_time, min_rounds=3, warmup=False)

ENGINES = ("simpy", "compiled")
RATE_PER_INSTANCE = 5.4
"""70 % of what one instance completes when saturated (7.7 calls/s)."""


def hashed_calls(count: int = 2000, seed: int = 0) -> Trace:
    """As ``single_calls``, every prompt starting with one of ten 256-token system prompts, the rest its own."""
    rng = np.random.default_rng(seed)
    runs = []
    for number in range(count):
        inputs, outputs = 1 + int(rng.exponential(500)), 1 + int(rng.exponential(250))
        ids = [1000 * int(rng.integers(10)) + n for n in range(4)] + [10**6 + 100 * number + n for n in range(100)]
        runs.append(run([call(inputs, outputs, prefix_hashes=tuple(ids[: inputs // 64]))], id=f"r{number}"))
    return trace(*runs, prefix_block_tokens=64)


def measure(benchmark, what, *, share=100, replicas=4, rate=RATE_PER_INSTANCE, calls=20_000, engine="simpy"):
    one = profile()
    the_plan, profiles = plan((one, share, replicas)), profile_set(one)
    calls = min(calls, 300) if benchmark.disabled else calls  # not measuring: does it run at all
    workload = load(what, rate * replicas, runs=calls, seed=1)
    if engine == "compiled":
        simulate(
            the_plan, load(what, rate * replicas, runs=10), profiles=profiles, engine=engine
        )  # compiles, or reads the disk
    records = benchmark(simulate, the_plan, workload, profiles=profiles, engine=engine)
    assert set(records.runs["status"].to_pylist()) == {"completed"}
    if benchmark.stats:
        benchmark.extra_info["calls_per_s"] = round(calls / benchmark.stats["min"])


@pytest.mark.parametrize("engine", ENGINES)
def test_bench_calls(benchmark, engine):
    measure(benchmark, single_calls(), engine=engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_bench_calls_with_prefix_caching_and_sharing(benchmark, engine):
    measure(benchmark, hashed_calls(), share=50, replicas=8, rate=0.7 * 6.0, engine=engine)


@pytest.mark.parametrize(
    ("engine", "calls"), [("simpy", 10_000), ("simpy", 100_000), ("compiled", 10_000), ("compiled", 1_000_000)]
)
def test_bench_cost_per_call_does_not_grow_with_their_number(benchmark, engine, calls):
    measure(benchmark, single_calls(), calls=calls, engine=engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_bench_cost_per_call_does_not_grow_with_instances(benchmark, engine):
    """1, 16 and 256 instances in turn, since the machine's speed changes from one second to the next; equally many calls each:
    setting up, filling and draining then weigh the same."""
    sizes, calls = ((1, 2), 100) if benchmark.disabled else ((1, 16, 256), 1000)
    one, what = profile(), single_calls()
    profiles = profile_set(one)
    cases = {n: (plan((one, 100, n)), load(what, RATE_PER_INSTANCE * n, runs=calls * n, seed=1)) for n in sizes}
    rounds: list[list[float]] = []
    simulate(*cases[sizes[0]], profiles=profiles, engine=engine)

    def us_per_call(instances: int) -> float:
        the_plan, workload = cases[instances]
        repeats = max(1, 16 // instances)
        start = time.process_time()
        for _ in range(repeats):
            records = simulate(the_plan, workload, profiles=profiles, engine=engine)
        taken_s = time.process_time() - start
        assert records.runs["status"].to_pylist() == ["completed"] * (calls * instances)
        return 1e6 * taken_s / (repeats * calls * instances)

    benchmark.pedantic(lambda: rounds.append([us_per_call(n) for n in sizes]), rounds=1 if benchmark.disabled else 8)
    for place, instances in enumerate(sizes):
        benchmark.extra_info[f"us_per_call_{instances}"] = [round(row[place], 1) for row in rounds]
    benchmark.extra_info["growth_pct"] = [round(100 * (row[-1] / row[0] - 1)) for row in rounds]


def test_bench_output_length_costs_nothing(benchmark):
    measure(benchmark, single_calls(output_mean=2000), rate=0.6, calls=10_000)


def one_point(seed: int) -> float:
    one = profile()
    records = simulate(plan((one, 100, 4)), load(single_calls(), 20.0, runs=4000, seed=seed), profiles=profile_set(one))
    return float(records.runs.num_rows)


@pytest.mark.benchmark(timer=time.perf_counter, min_rounds=1, warmup=False)
@pytest.mark.parametrize("jobs", [1, 2])
def test_bench_sweep(benchmark, jobs):
    points = grid(seed=range(2 if benchmark.disabled else 16))
    sweep(one_point, points[:2], jobs=jobs)  # starts the processes
    benchmark.pedantic(sweep, (one_point, points), {"jobs": jobs}, rounds=1 if benchmark.disabled else 3)
