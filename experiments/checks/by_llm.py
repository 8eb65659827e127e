"""Measured and simulated calls by LLM: ``python -m experiments.checks.by_llm x.plan.yaml measured -o by-llm.csv``.

What ``scepsy compare --records`` says of whole runs, LLM by LLM, with the CPU time per work that each one's engines took.
"""

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from experiments.code_version import stamped
from scepsy.api.compare import by_conditions
from scepsy.api.rows import simulated, slowdowns, workload_of
from scepsy.files.atomic import write_bytes
from scepsy.files.plan import load_plan
from scepsy.files.profiles import load_profiles
from scepsy.files.trace import load_trace
from scepsy.records import Records


def call_means_s(records: Records) -> dict[str, float]:
    """Mean seconds from issue to end of the calls of each LLM."""
    calls = records.calls.to_pandas()
    means = (calls["end_s"] - calls["issued_s"]).groupby(calls["llm"]).mean()
    return {str(llm): float(mean_s) for llm, mean_s in means.items()}


def main(
    plan_file: Annotated[Path, typer.Argument(metavar="PLAN", help="Plan file, its trace and profiles beside it.")],
    records: Annotated[list[Path], typer.Argument(help="Measured records: folders or files.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="CSV file to write.")],
) -> None:
    """Write one row per load, seed and LLM."""
    plan = load_plan(plan_file)
    profiles = load_profiles(plan_file.parent / plan.profiles)
    traces = {target.workflow: load_trace(plan_file.parent / target.trace) for target in plan.targets}
    rows = []
    for (load, seed), measured in sorted(by_conditions(records).items()):
        workload = workload_of(plan, traces, runs=measured.runs.num_rows, seed=seed, scale=load)
        expected, slow = call_means_s(simulated(plan, workload, profiles)), slowdowns(measured, plan, profiles)
        for llm, mean_s in call_means_s(measured).items():
            rows.append((load, seed, llm, mean_s, expected[llm], slow.get(llm)))
    columns = ["load", "seed", "llm", "measured_call_mean_s", "simulated_call_mean_s", "slowdown"]
    write_bytes(output, stamped(pd.DataFrame(rows, columns=columns).round(4)).to_csv(index=False).encode())


if __name__ == "__main__":
    typer.run(main)
