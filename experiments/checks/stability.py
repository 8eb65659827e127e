"""Are accepted plans stable? Random workflows, planners and rates; each plan simulated at the very rate it was accepted for.

    python -m experiments.checks.stability --cases 100 --cache DIR        # → experiments/results/stability.parquet

A case draws a generated workflow, a planner and a rate between 30 and 100 % of the highest the cluster can carry; cases
that the planner refuses are drawn again. Stable: every run completes, and runs of the last third of the arrivals are on
average at most ``GROWTH`` times as slow as those of the middle third, with the intervals of both means apart (batch means);
a queue that grows without bound fails that.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.code_version import stamped
from scepsy.api.prepare import Load, prepare
from scepsy.backend import Stream, Workload
from scepsy.errors import Infeasible
from scepsy.generate import WORKFLOWS, generate
from scepsy.metrics import mean_interval
from scepsy.plans import Plan
from scepsy.predictors.aggregate import Floats
from scepsy.profile.catalogue import builtin_profiles, cluster_preset
from scepsy.rng import stream
from scepsy.search import PLANNERS, Problem
from scepsy.search.goals import at_factor
from scepsy.search.infeasible import rate_bound
from scepsy.workload import Arrivals, Trace
from sim.world.run import simulate

CLUSTER = "2x8-a100-80g"
GROWTH = 1.3
MAX_CALLS = 30_000
DEFAULT_OUT = Path(__file__).parents[1] / "results" / "stability.parquet"


def cases(count: int, names: Sequence[str], *, seed: int, traces: int, cache_dir: Path | None) -> Iterator[dict[str, Any]]:
    """Draw, plan and simulate; one row per case."""
    known: dict[str, tuple[Trace, Problem, float]] = {}
    rng = stream(seed, "stability")
    made = 0
    while made < count:
        name = names[int(rng.integers(len(names)))]
        planner = sorted(PLANNERS)[int(rng.integers(len(PLANNERS)))]
        part = float(rng.uniform(0.3, 1.0))
        if name not in known:
            known[name] = ready(name, traces, cache_dir)
        trace, problem, top = known[name]
        target = at_factor(problem, part * top)
        try:
            plan = PLANNERS[planner](target)
        except Infeasible:
            continue
        made += 1
        yield {"case": made, "workflow": name, "planner": planner, "part": part, **judge(plan, trace, target, seed + made)}


def ready(name: str, traces: int, cache_dir: Path | None) -> tuple[Trace, Problem, float]:
    """A workflow's trace, its problem at 1 run/s, and the highest rate that the cluster may carry."""
    cluster = cluster_preset(CLUSTER)
    trace = generate(name, runs=traces, seed=1)
    profiles = builtin_profiles(list(trace.llms), [gpu.name for gpu in cluster.gpu_types])
    load = Load(trace=trace, arrivals=Arrivals(rate_per_s=1.0))
    problem = prepare([load], cluster, profiles, cache_dir=cache_dir)
    return trace, problem, rate_bound(problem).factor


def judge(plan: Plan, trace: Trace, problem: Problem, seed: int) -> dict[str, Any]:
    """Simulate at the target rate and tell whether queues stay bounded."""
    rate = problem.rates_per_s[0]
    per_run = sum(len(run.calls) for run in trace.runs) / len(trace.runs)
    runs = int(min(max(400.0, 6 * rate * plan.expected[0].latency_s), max(150.0, MAX_CALLS / per_run)))
    load = Stream(trace=trace, arrivals=Arrivals(rate_per_s=rate))
    records = simulate(plan, Workload(streams=(load,), runs=runs, seed=seed), profiles=problem.profiles)
    arrival, end = (np.asarray(records.runs[name], dtype=float) for name in ("arrival_s", "end_s"))
    latency = (end - arrival)[np.argsort(arrival)]
    middle, last = latency[runs // 3 : 2 * runs // 3], latency[2 * runs // 3 :]
    done = bool(np.isfinite(latency).all())
    return {
        "rate_per_s": rate,
        "runs": runs,
        "predicted_s": plan.expected[0].latency_s,
        "simulated_s": float(latency[runs // 3 :].mean()),
        "growth": float(last.mean() / middle.mean()),
        "stable": done and not grows(middle, last),
    }


def grows(middle: Floats, last: Floats) -> bool:
    """Whether the last third is slower beyond ``GROWTH`` and beyond chance."""
    return bool(last.mean() > GROWTH * middle.mean() and mean_interval(last)[0] > mean_interval(middle)[1])


def main(argv: Sequence[str] | None = None) -> None:
    """Run the cases, write them, and say how many were stable."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--workflow", action="append", help="generated workflow (default: all)")
    parser.add_argument("--traces", type=int, default=200, help="traced runs per workflow")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=None, help="folder in which curves are kept")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    options = parser.parse_args(argv)
    names = options.workflow or list(WORKFLOWS)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    table = pd.DataFrame()
    for row in cases(options.cases, names, seed=options.seed, traces=options.traces, cache_dir=options.cache):
        rows.append(row)
        print({key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()}, flush=True)
        table = stamped(pd.DataFrame(rows))
        table.to_parquet(options.out, index=False)
    print(f"{int(table['stable'].sum())} of {len(table)} cases stable")


if __name__ == "__main__":
    main()
