"""How much slower the default plan is than the best that anybody finds: the judged plan against all planners and neighbours.

    python -m experiments.checks.regret                                  # → experiments/results/regret.csv
    python -m experiments.checks.regret --workflow chat --gpus 8 --out /tmp/regret.csv
    python -m experiments.checks.regret --table                          # the table from the stored rows

Per workflow and load (of the highest rate for which the exact planner has a plan) the default of ``scepsy plan`` is made.
Against it stand every planner's plan, the best whole-GPU splits, and neighbours of the default and of the exact plan. All
replay the same runs, with arrivals that the judge did not see; the better ones again ``LONGER_REPLAYS`` times as long. The
default and the fastest of these that keeps up are then replayed once more, with arrivals that neither choice has seen.
``regret_pct`` is how much longer the default's mean latency is in that last replay, with the half-width of the 95 % interval of
the paired differences. It is 0 where the default is the fastest. Below 0 the fastest was only lucky before.

Workflows are those of ``traces/`` and, where ``$SCEPSY_DATA`` is set, real traces (``real:NAME``) on 16 GPUs.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.code_version import stamped
from experiments.points.questions import Question, planning_case
from experiments.points.real_traces import REAL, data_folder
from scepsy.api.case import Case
from scepsy.api.judge import Replayed, Replays, difference, judged_plan, starts
from scepsy.api.settle import calls_per_run
from scepsy.generate import WORKFLOWS
from scepsy.search.climb import neighbour_plans
from scepsy.steady.verdict import STABLE

LOADS = (0.5, 0.7, 0.9)
GPUS, GPUS_REAL = 4, 16
NEIGHBOURS_TRIED = 6
LONGER_REPLAYS = 5
FINALISTS_REPLAYED = 4
SEED, FRESH_SEED = 77_000_003, 78_000_011
DEFAULT_OUT = Path(__file__).parents[1] / "results" / "regret.csv"


def rows_of(name: str, *, gpus: int, calls: int) -> Iterator[dict[str, Any]]:
    """One row per load."""
    question = Question((name,), gpus=gpus)
    for part in LOADS:
        yield {"workflow": name, "gpus": gpus, "load": part} | row_of(planning_case(question, part), calls)


def row_of(case: Case, calls: int) -> dict[str, Any]:
    """The default plan of one question against everybody's."""
    default = judged_plan(case).best
    plans = {default.allocations: default}
    for plan in starts(case.problem):
        plans.setdefault(plan.allocations, plan)
    exact = starts(case.problem)[0]
    for origin in (default, exact):
        for plan in neighbour_plans(case.problem, origin.allocations, NEIGHBOURS_TRIED):
            plans.setdefault(plan.allocations, plan)
    replays, runs = Replays(case, seed=SEED), max(300, int(calls / calls_per_run(case.streams)))
    ranked = sorted((replays.replay(plan, runs) for plan in plans.values()), key=lambda one: one.rank)
    left = [one.plan for one in ranked[:FINALISTS_REPLAYED]]
    left += [default] if default not in left else []
    finalists = {plan.allocations: replays.replay(plan, LONGER_REPLAYS * runs) for plan in left}
    exact_s = finalists[exact.allocations].mean_s if exact.allocations in finalists else float("nan")
    fastest = min(finalists.values(), key=lambda one: one.rank).plan
    fresh = Replays(case, seed=FRESH_SEED)
    mine = fresh.replay(default, LONGER_REPLAYS * runs)
    best = mine if fastest.allocations == default.allocations else fresh.replay(fastest, LONGER_REPLAYS * runs)
    return {
        "rate_per_s": case.problem.rates_per_s[0],
        "candidates": len(plans),
        "default_s": mine.mean_s,
        "exact_s": exact_s,
        "best_s": best.mean_s,
        "best_planner": best.plan.planner,
        **regret(mine, best),
        "default_stable": keeps_up(mine),
        "best_stable": keeps_up(best),
        "calls": replays.calls + fresh.calls,
    }


def keeps_up(one: Replayed) -> bool:
    """Whether every workflow is shown to."""
    return all(found.verdict == STABLE for found in one.outcome.values())


def regret(mine: Replayed, best: Replayed) -> dict[str, float]:
    """Percent of the best's latency that the default takes more, and the half-width."""
    if mine.plan.allocations == best.plan.allocations:
        return {"regret_pct": 0.0, "half_width_pct": 0.0}
    if mine.grows > best.grows:
        return {"regret_pct": float("inf"), "half_width_pct": float("nan")}
    gap = difference(best, mine)
    return {"regret_pct": 100 * gap.relative, "half_width_pct": 100 * abs(gap.half_width * gap.relative / gap.value)}


def table(rows: pd.DataFrame) -> str:
    """Regret by workflow and load, as Markdown."""
    loads = sorted(rows["load"].unique())
    lines = ["| workflow | GPUs | " + " | ".join(f"{load:.0%}" for load in loads) + " |", "|---|---|" + "---|" * len(loads)]
    for (workflow, gpus), part in rows.groupby(["workflow", "gpus"], sort=False):
        cells = []
        for load in loads:
            (one,) = part[part["load"] == load].itertuples()
            said = f"{one.regret_pct:.1f} ± {one.half_width_pct:.1f} %" if one.regret_pct else "0 %"
            cells.append(said + ("" if one.default_stable else " (not settled)"))
        lines.append(f"| {workflow} | {gpus} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def every_workflow() -> list[str]:
    """Those of ``traces/``, and the real traces that this machine has."""
    return [*WORKFLOWS, *(f"real:{name}" for name in REAL if data_folder())]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the comparison and write one CSV, workflow by workflow."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workflow", action="append", help="workflow of traces/, or real:NAME (default: all)")
    parser.add_argument("--gpus", type=int, help=f"default: {GPUS}, and {GPUS_REAL} for real traces")
    parser.add_argument("--calls", type=int, default=100_000, help="simulated calls of a first replay of each plan")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    parser.add_argument("--table", action="store_true", help="print the table of what is stored, run nothing")
    options = parser.parse_args(argv)
    made = pd.read_csv(options.out) if options.out.exists() else pd.DataFrame()
    for name in [] if options.table else options.workflow or every_workflow():
        gpus = options.gpus or (GPUS_REAL if name.startswith("real:") else GPUS)
        fresh = pd.DataFrame(list(rows_of(name, gpus=gpus, calls=options.calls)))
        kept = made[(made["workflow"] != name) | (made["gpus"] != gpus)] if len(made) else made
        made = pd.concat([kept, fresh], ignore_index=True)
        stamped(made).to_csv(options.out, index=False, float_format="%.5g")
        print(f"{name}: worst {fresh['regret_pct'].max():.1f} %", flush=True)
    print(table(made))


if __name__ == "__main__":
    main()
