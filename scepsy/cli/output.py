"""What every command shares: JSON or text on stdout, one-line errors, exit codes, progress on stderr."""

import csv
import json
import math
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Table

from scepsy.cli.outermost import command as command
from scepsy.progress import Progress

stdout = Console(width=None if sys.stdout.isatty() else 240)
stderr = Console(stderr=True)


def emit_json(document: Any) -> None:
    """Print one JSON document on stdout; infinities and NaN become null, since JSON has neither."""
    json.dump(_finite(document), sys.stdout, indent=2, allow_nan=False)
    sys.stdout.write("\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if hasattr(value, "item") and not isinstance(value, (str, bytes)):
        return _finite(value.item())
    return value


def emit_csv(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Print one table as CSV on stdout, numbers in full; what is not known is empty."""
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(columns)
    for row in rows:
        out.writerow(["" if _finite(cell) is None else cell for cell in row])


def show_table(title: str, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Print one table on stdout; numbers are right-aligned."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    body = [[cell if isinstance(cell, str) else _number(cell) for cell in row] for row in rows]
    for index, column in enumerate(columns):
        numeric = bool(body) and all(not row[index] or row[index][0] in "-+0123456789<>≥≤∞" for row in body)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in body:
        table.add_row(*row)
    stdout.print(table)


def _number(cell: object) -> str:
    if cell is None:
        return "–"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, float):
        if math.isnan(cell):
            return "–"
        return "∞" if math.isinf(cell) else f"{cell:.4g}"
    return str(cell)


@contextmanager
def progress_bar(description: str, total: int | None = None) -> Iterator[Progress]:
    """A progress bar with ETA on stderr while the block runs; yields a function that advances it. Silent without a terminal."""
    with RichProgress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=stderr,
        transient=True,
        disable=not stderr.is_terminal,
    ) as bar:
        task = bar.add_task(description, total=total)

        def advance(amount: int = 1, *, total: int | None = None, what: str | None = None) -> None:
            if what is not None and bar.tasks[0].description != what:
                bar.reset(task, description=what, total=total)
            elif total is not None:
                bar.update(task, total=total)
            bar.advance(task, amount)

        yield advance


def notify(line: str) -> None:
    """Print a line on stderr for the person who waits."""
    stderr.print(line, highlight=False, markup=False)
