"""``report``: one page about a plan."""

from pathlib import Path
from typing import Annotated

import typer

from scepsy.cli.options import Jobs, Json, ManyRuns, PlanFile, Seed
from scepsy.cli.output import command, emit_json, progress_bar, stdout
from scepsy.cli.question import problem_of_plan, read_plan
from scepsy.errors import InputError


@command
def report(
    plan_file: PlanFile,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="HTML file; beside the plan when absent.")] = None,
    runs: ManyRuns = None,
    seed: Seed = 0,
    jobs: Jobs = 2,
    as_json: Json = False,
) -> None:
    """Write one self-contained page about a plan: GPU map, expectations, simulated latency against rate, share stability.

    Without --runs each rate is simulated until its mean latency is settled or shown not to keep up, at most 60,000 calls
    (200,000 at the target rates).

    Example: `scepsy report rag.plan.yaml -o rag.html`
    """
    from scepsy.api.plan_page import factors_of, sweep_plan, write_plan_page
    from scepsy.search.goals import at_factor

    if output is not None and output.suffix != ".html":
        raise InputError(f"--output is {output}: must end in .html")
    result, loads, profiles = read_plan(plan_file, None)
    target = output or plan_file.with_name(plan_file.name.removesuffix(".yaml").removesuffix(".plan") + ".html")
    problem = problem_of_plan(result, loads, profiles, jobs=jobs)
    with progress_bar("simulating", len(factors_of(result, problem))) as progress:
        frame = sweep_plan(result, loads, lambda factor: at_factor(problem, factor), runs=runs, seed=seed, progress=progress)
    files = write_plan_page(target, result, loads, frame, problem, seed=seed)
    if as_json:
        emit_json(
            {"report": str(files[0]), "pictures": [str(file) for file in files[1:]], "rows": frame.to_dict(orient="records")}
        )
    else:
        stdout.print(f"wrote {files[0]} and {len(files) - 1} pictures beside it", highlight=False)
