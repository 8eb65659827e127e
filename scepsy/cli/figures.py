"""``figures``: every figure and table of the evaluation from its parquet."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from scepsy.cli.output import command, emit_json, progress_bar, stdout
from scepsy.errors import BackendError, InputError


@command
def figures(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for PDF and PNG files.")] = Path("figures"),
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder of parquet files; the committed quick result when absent.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option("--only", help="Only these, e.g. fig_05_main; repeat.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """Draw all figures and tables; the same data gives the same bytes.

    Example: `scepsy figures -o figures`
    """
    scripts = Path(__file__).parents[2] / "paper_figures"
    known = sorted(path.stem for pattern in ("fig_*.py", "tab_*.py") for path in scripts.glob(pattern))
    if not known:
        raise InputError(f"{scripts}: holds no figure scripts: run from a checkout of the repository")
    for name in only or ():
        if name not in known:
            raise InputError(f"--only is {name!r}: must be one of {', '.join(known)}")
    source = data or scripts / "data"
    if not source.is_dir():
        raise InputError(f"--data {source}: no such folder (run: scepsy experiment run -o {source})")
    chosen = list(only or known)
    output.mkdir(parents=True, exist_ok=True)
    with progress_bar("drawing", len(chosen)) as progress:
        for name in chosen:
            line = [sys.executable, str(scripts / f"{name}.py"), "--data", str(source), "--output", str(output)]
            result = subprocess.run(line, capture_output=True, text=True, check=False)
            if result.returncode != 0:
                last = (result.stderr.strip().splitlines() or ["no message"])[-1]
                raise BackendError(f"{name}: {last}")
            progress()
    files = sorted(str(path) for name in chosen for path in output.glob(f"{name}*"))
    if as_json:
        emit_json({"figures": chosen, "files": files})
    else:
        stdout.print(f"wrote {len(files)} files to {output}", highlight=False)
