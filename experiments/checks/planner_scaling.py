"""How search time and memory grow with LLMs, GPUs and the share unit, and how far from the bound the plan ends.

    python -m experiments.checks.planner_scaling            # → experiments/results/planner_scaling.parquet, and a table

Random problems with closed-form curves (``scepsy.search.random_problems``); profiles count as loaded. CPU seconds, since a
shared machine stretches wall time. Peak memory is Python's and numpy's own (tracemalloc), from a second run.
"""

import argparse
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.code_version import stamped
from scepsy.errors import Infeasible
from scepsy.search import PLANNERS, Problem
from scepsy.search.random_problems import Size, random_problem

DEFAULT_OUT = Path(__file__).parents[1] / "results" / "planner_scaling.parquet"
SIZES = (
    *(
        (llms, nodes, 10)
        for llms, nodes in ((2, 2), (3, 2), (5, 2), (8, 2), (5, 4), (5, 8), (5, 16), (19, 4), (16, 16), (64, 128))
    ),
    *((5, 2, unit) for unit in (50, 20, 5)),
)
HIERARCHICAL_UP_TO = 5
"""LLMs up to which the paper's search is timed beside it."""


def ready(size: Size, seed: int) -> Problem:
    """A problem with its curves stacked."""
    problem = random_problem(size, seed)
    for use in problem.uses:
        for item in use.llms:
            problem.index.stack(use.workflow, item.llm)
    return problem


def row_of(llms: int, nodes: int, unit: int, planner: str, seed: int) -> dict[str, Any] | None:
    """Time one planner on one problem; None where it finds no plan."""
    size = Size(llms=llms, nodes=nodes, share_unit_pct=unit, load=0.3)
    problem = ready(size, seed)
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        plan = PLANNERS[planner](problem)
    except Infeasible:
        return None
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    tracemalloc.start()
    PLANNERS[planner](problem)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    bound = plan.bound_latency_s
    return {
        "planner": planner,
        "llms": llms,
        "gpus": nodes * 8,
        "share_unit_pct": unit,
        "seed": seed,
        "cpu_s": cpu,
        "wall_s": wall,
        "peak_bytes": peak,
        "objective_s": plan.objective_s,
        "optimal": plan.optimal,
        "gap_pct": 100 * (plan.objective_s / bound - 1) if bound and plan.objective_s else None,
    }


def table(rows: pd.DataFrame) -> str:
    """Medians over seeds, as Markdown."""
    lines = [
        "| planner | LLMs | GPUs | share unit | CPU s | peak MB | proved optimal | gap |",
        "|---|---|---|---|---|---|---|---|",
    ]
    keys = ["planner", "llms", "gpus", "share_unit_pct"]
    for values, part in rows.groupby(keys, sort=False):
        planner, llms, gpus, unit = values
        gap = part["gap_pct"].median()
        lines.append(
            f"| {planner} | {llms} | {gpus} | {unit} % | {part['cpu_s'].median():.3f} | "
            f"{part['peak_bytes'].median() / 1e6:.0f} | "
            f"{int(part['optimal'].sum())} of {len(part)} | {'–' if pd.isna(gap) else f'{gap:.2f} %'} |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Time every size and write tidy rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    options = parser.parse_args(argv)
    rows = []
    for llms, nodes, unit in SIZES:
        for planner in ("exact", *(("hierarchical",) if llms <= HIERARCHICAL_UP_TO else ())):
            for seed in range(options.seeds if llms < 64 else 1):
                row = row_of(llms, nodes, unit, planner, seed)
                if row is not None:
                    rows.append(row)
    made = stamped(pd.DataFrame(rows))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    made.to_parquet(options.out, index=False)
    print(table(made))


if __name__ == "__main__":
    main()
