"""Are accepted plans stable? Random workflows, planners and rates; each plan simulated at the very rate it was accepted for.

    python -m experiments.checks.stability --cases 100 --cache DIR        # → experiments/results/stability.parquet
    python -m experiments.checks.stability --table                        # what is stored, counted by planner

A case draws a generated workflow, a planner and a rate between 30 and 100 % of the highest the cluster can carry. Cases
that the planner refuses are drawn again. Whether a plan keeps up is decided by the one measuring rule (``scepsy.steady``): a
test on the growth of the work in the system, with longer and longer simulations up to ``--calls`` calls. What is neither
shown stable nor shown unstable by then is undecided, and is counted apart.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.code_version import stamped
from scepsy.api.prepare import Load, prepare
from scepsy.api.settle import FIRST_RUNS, settle
from scepsy.backend import Stream
from scepsy.errors import Infeasible, InputError
from scepsy.generate import WORKFLOWS, generate
from scepsy.plans import Plan
from scepsy.profile.catalogue import builtin_profiles, cluster_preset
from scepsy.rng import stream
from scepsy.search import PLANNERS, Problem
from scepsy.search.goals import at_factor
from scepsy.search.infeasible import rate_bound
from scepsy.steady.verdict import STABLE, UNDECIDED, UNSTABLE
from scepsy.workload import Arrivals, Trace
from sim.world.run import simulate

CLUSTER = "2x8-a100-80g"
MAX_CALLS = 400_000
VERDICTS = (STABLE, UNDECIDED, UNSTABLE)
DEFAULT_OUT = Path(__file__).parents[1] / "results" / "stability.parquet"


def cases(
    count: int, names: Sequence[str], *, seed: int, traces: int, most_calls: int = MAX_CALLS, cache_dir: Path | None = None
) -> Iterator[dict[str, Any]]:
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
        judged = judge(plan, trace, target, seed=seed + made, most_calls=most_calls)
        yield {"case": made, "workflow": name, "planner": planner, "part": part, **judged}


def ready(name: str, traces: int, cache_dir: Path | None) -> tuple[Trace, Problem, float]:
    """A workflow's trace, its problem at 1 run/s, and the highest rate that the cluster may carry."""
    cluster = cluster_preset(CLUSTER)
    trace = generate(name, runs=traces, seed=1)
    profiles = builtin_profiles(list(trace.llms), [gpu.name for gpu in cluster.gpu_types])
    load = Load(trace=trace, arrivals=Arrivals(rate_per_s=1.0))
    problem = prepare([load], cluster, profiles, cache_dir=cache_dir)
    return trace, problem, rate_bound(problem).factor


def judge(plan: Plan, trace: Trace, problem: Problem, *, seed: int, most_calls: int) -> dict[str, Any]:
    """Simulate at the target rate until the rule decides, or ``most_calls`` calls are done."""
    rate = problem.rates_per_s[0]
    load = Stream(trace=trace, arrivals=Arrivals(rate_per_s=rate), order="shuffled")
    found = settle(
        lambda workload: simulate(plan, workload, profiles=problem.profiles),
        [load],
        seed=seed,
        first_runs=FIRST_RUNS,
        most_calls=most_calls,
    )
    one = found.by_workflow[trace.workflows[0]]
    return {
        "rate_per_s": rate,
        "runs": one.issued,
        "predicted_s": plan.expected[0].latency_s,
        "simulated_s": one.latency.value,
        "half_width_s": one.latency.half_width,
        "settled": one.latency.settled,
        "verdict": one.verdict,
        "why": one.latency.why,
    }


def table(rows: pd.DataFrame) -> str:
    """How many cases of each planner are stable, undecided and unstable, as Markdown, and the cases that are not stable."""
    if "verdict" not in rows:
        raise InputError("rows have no column 'verdict': an older rule made them: run without --table to make them again")
    lines = ["| planner | cases | " + " | ".join(VERDICTS) + " |", "|---|---|" + "---|" * len(VERDICTS)]
    for planner, mine in [*rows.groupby("planner"), ("all", rows)]:
        counts = [int((mine["verdict"] == verdict).sum()) for verdict in VERDICTS]
        lines.append(f"| {planner} | {len(mine)} | " + " | ".join(map(str, counts)) + " |")
    for row in rows[rows["verdict"] != STABLE].to_dict("records"):
        lines.append(
            f"\nCase {row['case']}, {row['workflow']} planned by {row['planner']} for {row['rate_per_s']:.4g}/s: {row['why']}."
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the cases, write them, and say how many were stable."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--workflow", action="append", help="generated workflow (default: all)")
    parser.add_argument("--traces", type=int, default=200, help="traced runs per workflow")
    parser.add_argument("--calls", type=int, default=MAX_CALLS, help="calls per simulation, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=None, help="folder in which curves are kept")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    parser.add_argument("--table", action="store_true", help="print the table of what is stored, run nothing")
    options = parser.parse_args(argv)
    if not options.table:
        run(options)
    print(table(pd.read_parquet(options.out)))


def run(options: argparse.Namespace) -> None:
    """Make the cases and write them, one after the other."""
    rows: list[dict[str, Any]] = []
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for row in cases(
        options.cases,
        options.workflow or list(WORKFLOWS),
        seed=options.seed,
        traces=options.traces,
        most_calls=options.calls,
        cache_dir=options.cache,
    ):
        rows.append(row)
        print({key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()}, flush=True)
        stamped(pd.DataFrame(rows)).to_parquet(options.out, index=False)


if __name__ == "__main__":
    main()
