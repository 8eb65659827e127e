"""Speed of the simulator: calls per second of one core, and how it scales. ``make bench`` runs them; numbers in
docs/benchmarks.md.

Processor time, not wall time, so that a busy machine does not look like a slow simulator.
"""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from scepsy.cli import app
from scepsy.workload import Trace
from sim.compiled import machine
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


def measure(benchmark, monkeypatch, what, *, share=100, replicas=4, rate=RATE_PER_INSTANCE, calls=20_000, engine="simpy"):
    one = profile()
    the_plan, profiles = plan((one, share, replicas)), profile_set(one)
    calls = min(calls, 300) if benchmark.disabled else calls  # not measuring: does it run at all
    workload = load(what, rate * replicas, runs=calls, seed=1)
    if engine == "compiled":
        simulate(
            the_plan, load(what, rate * replicas, runs=10), profiles=profiles, engine=engine
        )  # compiles, or reads the disk
    in_core = core_times(monkeypatch)
    records = benchmark(simulate, the_plan, workload, profiles=profiles, engine=engine)
    assert set(records.runs["status"].to_pylist()) == {"completed"}
    say_speed(benchmark, calls, in_core)


def core_times(monkeypatch) -> list[float]:
    """Seconds that the compiled core took by itself, one entry a simulation from now on."""
    spent: list[float] = []
    real, run = machine.advance(), machine.Machine.run

    def timed(m, begin):
        start = time.process_time()
        code = real(m, begin)
        spent[-1] += time.process_time() - start
        return code

    def counted(self):
        spent.append(0.0)
        run(self)

    monkeypatch.setattr(machine, "advance", lambda: timed)
    monkeypatch.setattr(machine.Machine, "run", counted)
    return spent


def say_speed(benchmark, calls, in_core):
    if benchmark.stats:
        benchmark.extra_info["calls_per_s"] = round(calls / benchmark.stats["min"])
        if in_core:
            benchmark.extra_info["core_calls_per_s"] = round(calls / min(in_core))


@pytest.mark.parametrize("engine", ENGINES)
def test_bench_calls(benchmark, monkeypatch, engine):
    measure(benchmark, monkeypatch, single_calls(), engine=engine)


@pytest.mark.parametrize(("engine", "calls"), [("simpy", 20_000), ("compiled", 20_000), ("compiled", 500_000)])
def test_bench_calls_with_prefix_caching_and_sharing(benchmark, monkeypatch, engine, calls):
    measure(benchmark, monkeypatch, hashed_calls(), share=50, replicas=8, rate=0.7 * 6.0, calls=calls, engine=engine)


PLANS = Path(__file__).parent / "compiled" / "plans"


WHOLE = [("beam-search", "simpy", 300), ("beam-search", "compiled", 24_000), ("rag-rerank", "compiled", 45_000)]


@pytest.mark.parametrize(("name", "engine", "runs"), WHOLE)
def test_bench_whole_command(benchmark, monkeypatch, name, engine, runs):
    """``scepsy simulate`` in this process: the plan and its trace read, a million calls simulated, measured and printed."""
    runs = min(runs, 30) if benchmark.disabled else runs
    words = ["simulate", str(PLANS / f"{name}.plan.yaml"), "--runs", str(runs), "--engine", engine, "--json"]
    in_core = core_times(monkeypatch)
    document = json.loads(
        benchmark.pedantic(lambda: CliRunner().invoke(app, words).stdout, rounds=1 if benchmark.disabled else 3)
    )
    assert document["calls"]["completed"] == document["calls"]["issued"] > 0
    benchmark.extra_info["calls"] = document["calls"]["issued"]
    say_speed(benchmark, document["calls"]["issued"], in_core)


@pytest.mark.parametrize(
    ("engine", "calls"), [("simpy", 10_000), ("simpy", 100_000), ("compiled", 10_000), ("compiled", 1_000_000)]
)
def test_bench_cost_per_call_does_not_grow_with_their_number(benchmark, monkeypatch, engine, calls):
    measure(benchmark, monkeypatch, single_calls(), calls=calls, engine=engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_bench_cost_per_call_does_not_grow_with_instances(benchmark, engine):
    """1, 16 and 256 instances in turn, since the machine's speed changes from one second to the next; equally many calls each:
    setting up, filling and draining then weigh the same."""
    sizes, calls = ((1, 2), 100) if benchmark.disabled else ((1, 16, 256), 1000 if engine == "simpy" else 4000)
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


def test_bench_output_length_costs_nothing(benchmark, monkeypatch):
    measure(benchmark, monkeypatch, single_calls(output_mean=2000), rate=0.6, calls=10_000)


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
