"""``figures``: every figure and table of the evaluation from its parquet."""

from pathlib import Path
from typing import Annotated

import typer

from scepsy.cli.output import command, emit_json, notify, progress_bar, stdout
from scepsy.errors import InputError
from scepsy.report.scripts import SCRIPTS, chosen_scripts, draw, known_scripts


@command
def figures(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for PDF and PNG files.")] = Path("figures"),
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder of parquet files; the committed result when absent.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option("--only", help="Only these, e.g. fig_05; repeat.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """Draw all figures and tables; the same data gives the same bytes. One without its table is skipped with a line.

    Example: `scepsy figures -o figures`
    """
    known = known_scripts()
    chosen = chosen_scripts(only) if only else known
    source = data or SCRIPTS / "data"
    if not source.is_dir():
        raise InputError(f"--data {source}: no such folder (run: scepsy experiment run -o {source})")
    drawn = []
    with progress_bar("drawing", len(chosen)) as progress:
        for one in draw(chosen, source, output):
            drawn.append(one)
            progress()
    skipped = [one for one in drawn if one.skipped]
    for one in skipped:
        notify(f"{one.name}: skipped: {one.skipped}")
    files = [str(path) for one in drawn for path in one.files]
    if as_json:
        emit_json(
            {
                "figures": [one.name for one in drawn if not one.skipped],
                "files": files,
                "skipped": [{"figure": one.name, "why": one.skipped} for one in skipped],
            }
        )
    else:
        stdout.print(f"wrote {len(files)} files to {output}", highlight=False)
