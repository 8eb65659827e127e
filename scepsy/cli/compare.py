"""``scepsy compare``: predicted, simulated and measured side by side."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from scepsy.cli.comparing import compare_plans
from scepsy.cli.options import Csv, OtherRates
from scepsy.cli.output import command, emit_json, notify, show_table, stdout
from scepsy.errors import InputError


@command
def compare(
    plan_files: Annotated[
        list[Path], typer.Argument(metavar="PLAN...", help="One plan file; or several, to be compared with the first.")
    ],
    rate: OtherRates = None,
    records: Annotated[
        list[Path] | None, typer.Option(help="Measured records of an earlier comparison: its folder or a file, repeatable.")
    ] = None,
    measure: Annotated[bool, typer.Option(help="Deploy on this host and measure (see: docs/engines.md).")] = False,
    local: Annotated[
        Path | None, typer.Option("--options", help="This host (format: scepsy.local); default: local.yaml.")
    ] = None,
    runs: Annotated[
        int | None, typer.Option(min=1, help="Runs to issue in each measurement (100; with --records: theirs).")
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Repeat with these seeds (0); the medians are compared.")] = None,
    load: Annotated[list[float] | None, typer.Option(help="Parts of the plan's target rate to compare at (1).")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder to keep measured records in.")] = None,
    max_mean_err: Annotated[float | None, typer.Option(help="Exit 1 if simulated mean latency is further off (%).")] = None,
    max_p95_err: Annotated[float | None, typer.Option(help="Exit 1 if simulated p95 latency is further off (%).")] = None,
    as_csv: Csv = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Compare what the predictor expects, what the simulator shows and what real engines did, with errors; or several plans.

    Several plans are simulated under the same arrivals and the same runs, so that a difference comes from the plans and not
    from luck. Each difference has its 95 % interval and its p-value. Options that go with that: --rate, --runs, one --seed.

    One plan: without --measure and --records, predicted and simulated are compared. On cores, whose speed neighbours change,
    the simulation is given twice: as planned, and with steps as long as the engines' CPU time says (slowdown: over the
    profile's).

    Example: `scepsy compare a.plan.yaml b.plan.yaml`. Or `scepsy compare x.plan.yaml --measure --runs 100 --seed 1 --seed 2
    -o measured`, and later, with another profile: `scepsy compare x.plan.yaml --records measured`
    """
    from scepsy.api.compare import Comparison, as_measured, compare_plan
    from scepsy.api.rows import medians
    from scepsy.cli.inputs import plan_inputs
    from scepsy.files.plan import load_plan

    if len(plan_files) > 1:
        if records or measure or local or load or output or max_mean_err or max_p95_err or len(seed or ()) > 1:
            raise InputError(
                "several plans are compared by simulation: only --rate, --runs, one --seed and --json go with that"
            )
        compare_plans(plan_files, rate, runs=runs, seed=(seed or [0])[0], as_json=as_json)
        return
    if rate:
        raise InputError("--rate goes with several plans; for one, --load gives parts of its target rate")
    plan_file = plan_files[0]
    plan = load_plan(plan_file)
    traces, profiles = plan_inputs(plan, plan_file)
    if records and measure:
        raise InputError("--records and --measure are both given: give one")
    options = None
    if measure:
        from executor.local.options import load_options, options_beside

        options = load_options(local) if local is not None else options_beside(plan_file)
    question = Comparison(
        plan=plan,
        traces={target.workflow: trace for target, (trace, _) in zip(plan.targets, traces, strict=True)},
        profiles=profiles,
    )
    if records:
        question = as_measured(question, records, load or (), seed or ())
    question = replace(
        question,
        runs=runs or question.runs,
        seeds=tuple(seed or question.seeds),
        loads=tuple(load or question.loads),
    )
    rows = compare_plan(
        question, options=options, records=tuple(records or ()), output=output,
        notify=notify,
    )  # fmt: skip
    summary = medians(rows)
    if as_json:
        emit_json({"rows": rows, "medians": summary})
    else:
        columns = ["workflow", "rate_per_s", "source", "latency_mean_s", "latency_p95_s", "throughput_per_s",
                   "latency_mean_err_pct", "latency_p95_err_pct", "slowdown", "others_cores"]  # fmt: skip
        title = f"medians over {len(question.seeds)} seed(s); errors against measured"
        show_table(
            title, [name.replace("_", " ") for name in columns], [[row.get(name) for name in columns] for row in summary]
        )
    problems = _beyond(summary, "latency_mean_err_pct", max_mean_err) + _beyond(summary, "latency_p95_err_pct", max_p95_err)
    if problems:
        if not as_json:
            stdout.print("\n".join(problems), highlight=False)
        raise typer.Exit(1)


def _beyond(rows: list[dict[str, Any]], name: str, limit: float | None) -> list[str]:
    if limit is None:
        return []
    found = [row for row in rows if row["source"] == "simulated" and row.get(name) is not None]
    if not found:
        raise InputError(f"--max-{name.split('_')[1]}-err: nothing was measured to compare with: give --measure or --records")
    return [
        f"{row['workflow']} at {row['rate_per_s']:.3g}/s: {name} is {row[name]:+.1f} %: must be within ±{limit:g} %"
        for row in found
        if abs(row[name]) > limit
    ]
