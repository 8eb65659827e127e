"""``experiment list | run | report``: the evaluation, from configs to tidy tables to one page."""

from math import fsum
from pathlib import Path
from typing import Annotated

import typer

from scepsy.cli.options import Csv, Json
from scepsy.cli.output import command, emit_json, progress_bar, show_table, stderr, stdout
from scepsy.errors import InputError

app = typer.Typer(name="experiment", help="Run the evaluation: every system, every figure's data.", no_args_is_help=True)

Output = Annotated[Path, typer.Option("--output", "-o", help="Folder of the parquet files.")]


@app.command("list")
@command
def list_experiments(as_csv: Csv = False, as_json: Json = False) -> None:
    """List the experiments and the systems they compare.

    Example: `scepsy experiment list`
    """
    from experiments.catalogue import EXPERIMENTS
    from experiments.runner import FULL, QUICK
    from experiments.systems.registry import SYSTEMS

    rows = [[e.name, e.title, e.figure, len(e.tasks(QUICK)), len(e.tasks(FULL))] for e in EXPERIMENTS.values()]
    systems = [[s.name, s.title, s.group, s.assumes, s.favours] for s in SYSTEMS.values()]
    if as_json:
        emit_json(
            {
                "experiments": [
                    dict(zip(("name", "title", "figure", "quick_tasks", "full_tasks"), r, strict=True)) for r in rows
                ],
                "systems": [dict(zip(("name", "title", "group", "assumes", "favours"), r, strict=True)) for r in systems],
            }
        )
        return
    show_table("Experiments", ["name", "what", "figure", "tasks, quick", "tasks, full"], rows)
    show_table("Systems", ["name", "title", "group", "assumed of it", "favours"], systems)


@app.command("run")
@command
def run(
    names: Annotated[list[str] | None, typer.Argument(help="Experiments, or all of them when none is named.")] = None,
    output: Output = Path("results"),
    quick: Annotated[bool, typer.Option("--quick/--full", help="Minutes on two cores, or hours.")] = True,
    scale_name: Annotated[
        str | None, typer.Option("--scale", help="smoke, quick, full or long, instead of --quick or --full.")
    ] = None,
    backend: Annotated[str, typer.Option(help="joblib (processes here), dask or ray.")] = "joblib",
    jobs: Annotated[int, typer.Option("--jobs", "-j", help="Processes to use.")] = 2,
    estimate_only: Annotated[bool, typer.Option("--estimate", help="Only say how long it would take.")] = False,
    as_csv: Csv = False,
    as_json: Json = False,
) -> None:
    """Run experiments; one parquet each. Interrupted runs go on where they stopped; the time is estimated before it starts.

    Example: `scepsy experiment run evaluation search --quick -o results`
    """
    from experiments.catalogue import EXPERIMENTS, find_experiment
    from experiments.findings.derive import write_derived
    from experiments.runner import SCALES, calls_per_s, estimate_s, run_experiment, save_table
    from scepsy.files.cache import cache_dir

    if backend not in ("joblib", "dask", "ray"):
        raise InputError(f"--backend is {backend!r}: must be joblib, dask or ray")
    if jobs < 1:
        raise InputError(f"--jobs is {jobs}: must be >= 1")
    chosen = [find_experiment(name) for name in names or EXPERIMENTS]
    if scale_name is not None and scale_name not in SCALES:
        raise InputError(f"--scale is {scale_name!r}: must be one of {', '.join(SCALES)}")
    scale, folder = SCALES[scale_name or ("quick" if quick else "full")], cache_dir()
    with stderr.status("measuring this machine's speed, profiling what is new"):
        speed = calls_per_s()
        guesses = {e.name: estimate_s(e, scale, folder=folder, jobs=jobs, speed_per_s=speed) for e in chosen}
    whole = fsum(guesses.values())
    stderr.print(
        f"{scale.name}: about {duration(whole)} on {jobs} processes ({speed:,.0f} simulated calls/s each), without cached rows",
        highlight=False,
    )
    written: dict[str, str] = {}
    if not estimate_only:
        for experiment in chosen:
            with progress_bar(experiment.name) as progress:
                table = run_experiment(experiment, scale, folder=folder, jobs=jobs, backend=backend, progress=progress)  # type: ignore[arg-type]
            path = output / f"{experiment.name}.parquet"
            save_table(path, table)
            written[experiment.name] = str(path)
            stderr.print(f"wrote {path}: {len(table)} rows", highlight=False)
        if (output / "evaluation.parquet").exists():
            written |= {path.stem: str(path) for path in write_derived(output)}
    if as_json:
        emit_json({"scale": scale.name, "estimate_s": whole, "calls_per_s": speed, "estimates_s": guesses, "written": written})
    elif estimate_only:
        show_table("Estimated time", ["experiment", "minutes"], [[name, guess / 60] for name, guess in guesses.items()])


def duration(seconds: float) -> str:
    """Seconds in words.

    >>> duration(42.0), duration(90.0), duration(8000.0)
    ('42 s', '1.5 min', '2.2 h')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


@app.command("report")
@command
def report(
    results: Annotated[Path, typer.Option("--results", "-r", help="Folder of the parquet files.")] = Path("paper_figures/data"),
    output: Annotated[Path, typer.Option("--output", "-o", help="HTML file to write.")] = Path("evaluation.html"),
    as_json: Json = False,
) -> None:
    """Write one self-contained page: outcome with intervals, claims, losses, what is settled, assumptions.

    Example: `scepsy experiment report -r paper_figures/data -o evaluation.html`
    """
    from experiments.report import headline_ratios, write_report

    files = write_report(results, output)
    if as_json:
        emit_json({"page": str(output), "files": [str(f) for f in files], "ratios": headline_ratios(results)})
    else:
        stdout.print(f"wrote {output}", highlight=False)
