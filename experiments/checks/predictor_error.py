"""How far the predictors are from the simulator: every workflow, 10 to 90 % of a plan's capacity, mean and p95.

    python -m experiments.checks.predictor_error                       # → experiments/results/predictor_error.parquet
    python -m experiments.checks.predictor_error --workflow rag-rerank --runs 600 --out /tmp/error.parquet
    python -m experiments.checks.predictor_error --workflow real:tau2-retail
    python -m experiments.checks.predictor_error --table               # the table from the stored rows
    python -m experiments.checks.predictor_error --table --workflow debate --workflow map-reduce

Per workflow one exact plan is made for half of the cluster's highest rate, and simulated at parts of the highest rate *of
that plan*, until the mean is known to ±3 % or ``--calls`` calls are done (``scepsy.steady``). One row per (workflow, load,
predictor, statistic), errors signed, with the simulated mean's half-width and whether it is settled. Rows that are not are
counted apart in the table. The drawn runs offer the nominal load exactly.
All generated workflows, and the real traces where ``$SCEPSY_DATA`` names their folder (models of like size stand in for hosted
ones, as everywhere in the experiments); without it they are skipped, which is said.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.code_version import stamped
from experiments.points.questions import Question, base_case
from experiments.points.real_traces import REAL, data_folder
from scepsy.api.prepare import Load, prepare
from scepsy.api.settle import settle
from scepsy.backend import Stream
from scepsy.generate import WORKFLOWS, generate
from scepsy.profile.catalogue import builtin_profiles, cluster_preset
from scepsy.search import PLANNERS, Problem
from scepsy.search.assemble import evaluate, latencies_of
from scepsy.search.goals import at_factor
from scepsy.search.infeasible import rate_bound
from scepsy.workload import Arrivals, Trace
from sim.world.run import simulate

LOADS = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9)
CLUSTER = "2x8-a100-80g"
ARRIVALS_PER_LATENCY = 8.0
"""Arrivals last at least this many predicted latencies: queues at high load settle over several, not within one."""
MAX_CALLS = 80_000
REAL_PREFIX = "real:"
DEFAULT_OUT = Path(__file__).parents[1] / "results" / "predictor_error.parquet"


def question(name: str, *, traces: int, seed: int, cache_dir: Path | None) -> tuple[Trace, Problem]:
    """A workflow's trace and its planning problem at one run per second. Raises ``InputError`` for an unknown name."""
    if name.startswith(REAL_PREFIX):
        case = base_case(Question(workflows=(name,)), (1.0,))
        return case.streams[0].trace, case.problem
    cluster = cluster_preset(CLUSTER)
    trace = generate(name, runs=traces, seed=seed + 1)
    profiles = builtin_profiles(list(trace.llms), [gpu.name for gpu in cluster.gpu_types])
    load = Load(trace=trace, arrivals=Arrivals(rate_per_s=1.0))
    return trace, prepare([load], cluster, profiles, seed=seed, cache_dir=cache_dir)


def rows_of(
    trace: Trace, problem: Problem, *, runs: int, seed: int, most_calls: int = MAX_CALLS, planner: str = "exact"
) -> Iterator[dict[str, Any]]:
    """Plan, then simulate and predict at every load."""
    workflow = trace.workflows[0]
    problem = at_factor(problem, 0.5 * rate_bound(problem).factor)
    plan = PLANNERS[planner](problem)
    top = plan.expected[0].throughput_per_s
    per_run = sum(len(run.calls) for run in trace.runs) / len(trace.runs)
    for part in LOADS:
        rate = part * top
        at = at_factor(problem, rate / problem.rates_per_s[0])
        predicted = predictions(at, plan.allocations, plan.placement)
        first = max(runs, int(ARRIVALS_PER_LATENCY * rate * predicted["aggregate", "mean"]))
        found = settle(
            lambda workload: simulate(plan, workload, profiles=problem.profiles),
            [Stream(trace=trace, arrivals=Arrivals(rate_per_s=rate), order="shuffled")],
            seed=seed + 1,
            first_runs=int(min(first, max(100.0, most_calls / per_run))),
            most_calls=most_calls,
        )
        one = found.by_workflow[workflow]
        simulated = {"mean": (one.latency.value, one.latency.half_width), "p95": (one.p95_s.value, one.p95_s.half_width)}
        for (predictor, statistic), value in predicted.items():
            yield {
                "workflow": workflow,
                "planner": planner,
                "load": part,
                "rate_per_s": rate,
                "seed": seed,
                "runs": one.issued,
                "stable": one.latency.stable,
                "settled": one.latency.settled,
                "predictor": predictor,
                "statistic": statistic,
                "predicted_s": value,
                "simulated_s": simulated[statistic][0],
                "half_width_s": simulated[statistic][1],
                "error_pct": 100.0 * (value / simulated[statistic][0] - 1.0),
            }


def predictions(problem: Problem, allocations: Any, slots: Any) -> dict[tuple[str, str], float]:
    """What each predictor says at the problem's rate: the aggregate's mean, the critical path's mean and p95."""
    outlook = evaluate(problem, allocations, slots)
    found = {("aggregate", "mean"): outlook.expected[0].latency_s}
    walked = latencies_of(problem, allocations, outlook)
    if walked is not None:
        found["critical-path", "mean"] = walked[0].mean_s
        found["critical-path", "p95"] = walked[0].p95_s
    return found


def table(rows: pd.DataFrame) -> str:
    """MAPE by load for every predictor and statistic, and the worst signed error by workflow up to 70 % load, as Markdown.

    Only settled simulations count; the others are named below. Older rows do not say, and all count.
    """
    waiting = rows[rows["settled"].eq(False)] if "settled" in rows else rows[:0]
    rows = rows.drop(waiting.index)
    by_load = rows.assign(off=rows["error_pct"].abs()).pivot_table(
        index=["predictor", "statistic"], columns="load", values="off", aggfunc="mean"
    )
    lines = [] if len(rows) else ["No simulation is settled: raise --calls."]
    lines += ["| predictor | statistic | " + " | ".join(f"{load:.0%}" for load in by_load.columns) + " |"]
    lines.append("|---|---|" + "---|" * len(by_load.columns))
    kinds = [(str(predictor), str(statistic)) for predictor, statistic in by_load.index.tolist()]
    for (predictor, statistic), values in zip(kinds, by_load.to_numpy().tolist(), strict=True):
        lines.append(f"| {predictor} | {statistic} | " + " | ".join(f"{value:.1f} %" for value in values) + " |")
    lines += ["", "| workflow | " + " | ".join(f"{p} {s}, worst to 70 %" for p, s in kinds) + " |"]
    lines.append("|---|" + "---|" * len(kinds))
    light = rows[rows["load"] <= 0.7]
    for workflow, part in light.groupby("workflow", sort=False):
        cells = []
        for predictor, statistic in kinds:
            mine = part[(part["predictor"] == predictor) & (part["statistic"] == statistic)]["error_pct"]
            cells.append(f"{max(mine, key=abs):+.1f} %" if len(mine) else "–")
        lines.append(f"| {workflow} | " + " | ".join(cells) + " |")
    if len(waiting):
        points = waiting.drop_duplicates(["workflow", "load"])
        named = "; ".join(f"{row.workflow} at {row.load:.0%}" for row in points.itertuples())
        lines += ["", f"Not settled, and left out: {named}."]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the comparison and write one tidy parquet, workflow by workflow."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workflow", action="append", help="generated workflow, or real:NAME (default: all)")
    parser.add_argument("--runs", type=int, default=400, help="runs per simulation, at least")
    parser.add_argument("--calls", type=int, default=MAX_CALLS, help="calls per simulation, at most")
    parser.add_argument("--traces", type=int, default=200, help="traced runs per workflow")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=None, help="folder in which curves are kept")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    parser.add_argument("--table", action="store_true", help="print the table of what is stored, run nothing")
    options = parser.parse_args(argv)
    if not options.table:
        made = pd.read_parquet(options.out) if options.out.exists() and options.workflow else pd.DataFrame()
        for name in options.workflow or every_workflow():
            trace, problem = question(name, traces=options.traces, seed=options.seed, cache_dir=options.cache)
            fresh = stamped(
                pd.DataFrame(list(rows_of(trace, problem, runs=options.runs, seed=options.seed, most_calls=options.calls)))
            )
            kept = made[made["workflow"] != name] if len(made) else made
            made = pd.concat([kept, fresh], ignore_index=True)
            options.out.parent.mkdir(parents=True, exist_ok=True)
            made.to_parquet(options.out, index=False)
            print(f"{name}: {len(fresh)} rows", flush=True)
    rows = pd.read_parquet(options.out)
    if options.table and options.workflow:
        rows = rows[rows["workflow"].isin(options.workflow)]
    real = rows["workflow"].str.startswith(REAL_PREFIX)
    for title, part in (("Generated workflows", rows[~real]), ("Real traces", rows[real])):
        if len(part):
            print(f"\n{title}\n\n{table(part)}")


def every_workflow() -> list[str]:
    """All generated workflows, and the real traces where their folder is known."""
    if data_folder() is None:
        print(f"real traces skipped ({', '.join(REAL)}): SCEPSY_DATA is not set", flush=True)
        return list(WORKFLOWS)
    return [*WORKFLOWS, *(REAL_PREFIX + name for name in REAL)]


if __name__ == "__main__":
    main()
