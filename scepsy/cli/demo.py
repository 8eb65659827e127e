"""``scepsy demo``: the whole way through, with nothing to install or download."""

import time
from pathlib import Path
from typing import Annotated

import typer

from scepsy.cli.options import Csv, Json
from scepsy.cli.output import command, emit_json, progress_bar, show_table, stdout
from scepsy.errors import InputError


@command
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the report, plans and tables.")] = Path("demo-out"),
    trace: Annotated[
        list[Path] | None, typer.Option("--trace", "-t", help="A trace of yours beside the two built-in ones.")
    ] = None,
    rename: Annotated[list[str] | None, typer.Option("--as", help="NAME=MODEL: serve the trace's NAME by this model.")] = None,
    cluster: Annotated[str, typer.Option("--cluster", "-c", help="Cluster file or preset.")] = "2x8-a100-80g",
    seeds: Annotated[int, typer.Option(help="Seeds with which each point is simulated.")] = 1,
    jobs: Annotated[int, typer.Option(help="Processes to use.")] = 2,
    as_csv: Csv = False,
    as_json: Json = False,
) -> None:
    """Plan two workflows on 16 GPUs; compare with three allocation rules, predicted and simulated, with a report.

    Example: `scepsy demo -o demo-out --trace mine.jsonl --as my-model=llama-3.1-8b`
    """
    from scepsy.api.demo import PLANNERS, demo_traces, run_workflow
    from scepsy.api.demo_page import headline, not_settled, side_by_side, within_tolerance, write_demo_page
    from scepsy.cli.inputs import read_cluster
    from scepsy.stats.shares import shares_per_run

    if seeds < 1:
        raise InputError(f"--seeds is {seeds}: must be >= 1")
    renames = {}
    for item in rename or []:
        name, _, model = item.partition("=")
        if not model:
            raise InputError(f"--as is {item!r}: must be NAME=MODEL")
        renames[name] = model
    began = time.perf_counter()
    output.mkdir(parents=True, exist_ok=True)
    machines = read_cluster(cluster, None, "")
    results = []
    with progress_bar("demo") as progress:
        for one, path in demo_traces(output, trace or []):
            results.append(
                run_workflow(
                    one,
                    path,
                    machines,
                    output,
                    renames=renames,
                    seeds=range(1, seeds + 1),
                    jobs=jobs,
                    cache_dir=output / "cache",
                    progress=progress,
                )
            )
    import pandas as pd

    frame = pd.concat([result.frame for result in results], ignore_index=True)
    shares = pd.concat([shares_per_run(result.load.trace) for result in results], ignore_index=True)
    table = side_by_side(frame)
    files = write_demo_page(output, results, machines, shares, list(range(1, seeds + 1)), time.perf_counter() - began)
    good, checked, worst = within_tolerance(table)
    if as_json:
        rows = frame.to_dict(orient="records")
        emit_json(
            {
                "rows": rows,
                "predictions_within_15_pct": good,
                "predictions_checked": checked,
                "worst_deviation_pct": worst,
                "planners": list(PLANNERS),
                "report": str(output / "report.html"),
            }
        )
        return
    for result in results:
        mine = table[table["workflow"] == result.workflow]
        show_table(
            f"{result.workflow} on {machines.name} ({', '.join(result.load.trace.llms)}), Poisson arrivals",
            ["load", "runs/s", "planner", "GPUs", "predicted s", "simulated s", "off by %", "p95 s", "done/s", "stable"],
            [
                [
                    f"{r['load']:.0%}",
                    float(r["rate_per_s"]),
                    r["planner"],
                    int(r["gpus"]),
                    float(r["predicted_s"]),
                    f"{r['simulated_s']:.3g} ± "
                    + (f"{r['half_width_s']:.2g}" if r["half_width_s"] == r["half_width_s"] else "?"),
                    None if r["deviation_pct"] != r["deviation_pct"] else round(float(r["deviation_pct"]), 1),
                    float(r["p95_s"]),
                    float(r["throughput_per_s"]),
                    r["standing"],
                ]
                for r in mine.to_dict(orient="records")
            ],
        )
        stdout.print(headline(table, result.workflow), highlight=False)
        if waiting := not_settled(mine):
            stdout.print(waiting, highlight=False)
        stdout.print()
    stdout.print(
        f"{good} of {checked} predictions at up to 70 % load within 15 % of the simulated mean (worst {worst:+.0f} %).",
        highlight=False,
    )
    stdout.print(
        f"GPU type {machines.gpu_types[0].name}; seeds {', '.join(map(str, range(1, seeds + 1)))}; assumptions are listed in "
        "the report.",
        highlight=False,
    )
    stdout.print(f"{time.perf_counter() - began:.0f} s. Report: {files[0]}", highlight=False)
