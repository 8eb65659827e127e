"""What every command shares: JSON or text on stdout, one-line errors, exit codes, progress on stderr."""

import csv
import json
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Table

from scepsy.cli.outermost import command as command
from scepsy.cli.outermost import printing_csv, tables_so_far
from scepsy.progress import Progress

PIPE_WIDTH = 240
"""Columns where the output is no terminal and COLUMNS does not say."""
SAY_EVERY_S = 10.0
"""Seconds between two lines of progress where there is no terminal for a bar."""
GAP = 3
"""Columns between two columns of a table."""


class Out(Console):
    """The console of results. While tables are printed as CSV, what is said in words goes to stderr."""

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print; see ``rich.console.Console.print``."""
        if printing_csv():
            stderr.print(*args, **kwargs)
        else:
            super().print(*args, **kwargs)


stdout = Out(width=None if sys.stdout.isatty() or os.environ.get("COLUMNS") else PIPE_WIDTH)
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
    """Print one table on stdout; numbers are right-aligned.

    Headings wrap where that makes it fit. A table too wide for the terminal even then is printed row by row, one line for
    each cell. With ``--csv`` it is printed as CSV; a second table follows after an empty line and a line ``# title``.
    """
    names, cells = list(columns), [list(row) for row in rows]
    if printing_csv():
        if tables_so_far():
            sys.stdout.write(f"\n# {title}\n")
        emit_csv([name or "name" for name in names], cells)
        return
    body = [[cell if isinstance(cell, str) else _number(cell) for cell in row] for row in cells]
    numeric = [bool(body) and all(not row[n] or row[n][0] in "-+0123456789<>≥≤∞–" for row in body) for n in range(len(names))]
    if least_width(names, body) > stdout.width:
        _show_rows(title, names, body)
        return
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name, right, width in zip(names, numeric, _widths(names, body), strict=True):
        table.add_column(name, justify="right" if right else "left", overflow="fold", width=width)
    for row in body:
        table.add_row(*row)
    stdout.print(table)


def least_width(names: Sequence[str], body: Sequence[Sequence[str]]) -> int:
    """Columns that a table needs when its headings wrap between words, and texts of several words do.

    >>> least_width(["mean latency s", "x"], [["1.5", "a b"], ["12.25", "c"]])
    15
    """
    return sum(_needed(names, body)) + _around(len(names))


def _around(columns: int) -> int:
    """Characters of a line that are between its columns and at its ends."""
    return GAP * (columns - 1) + 2


def _widths(names: Sequence[str], body: Sequence[Sequence[str]]) -> list[int]:
    """The width of each column: as wide as its longest cell, and where the line has no room for that, a bit less of those that
    can wrap. (Left to itself, rich takes it from the widest column even where that cannot wrap, and cuts the last one.)"""
    needed = _needed(names, body)
    widths = [max([len(name), *(len(row[n]) for row in body)]) for n, name in enumerate(names)]
    while sum(widths) + _around(len(names)) > stdout.width:
        slack = [width - least for width, least in zip(widths, needed, strict=True)]
        if max(slack) <= 0:
            break
        widths[max(range(len(widths)), key=lambda n: (slack[n] > 0, widths[n]))] -= 1
    return widths


def _needed(names: Sequence[str], body: Sequence[Sequence[str]]) -> list[int]:
    """The least width of each column: no number, name or interval is cut in two."""
    return [
        max([_longest_word(name), *(_longest_word(row[n]) if len(row[n]) > WRAPPED else len(row[n]) for row in body)])
        for n, name in enumerate(names)
    ]


WRAPPED = 24
"""Cells longer than this may wrap between words."""


def _longest_word(text: str) -> int:
    return max((len(word) for word in text.split()), default=0)


def _show_rows(title: str, names: Sequence[str], body: Sequence[Sequence[str]]) -> None:
    """A table for a narrow terminal: a line for each cell, a rule between rows."""
    width = max(len(name) for name in names)
    stdout.print(title, style="italic", highlight=False, markup=False)
    for row in body:
        stdout.print("─" * min(stdout.width, 20), highlight=False)
        for name, cell in zip(names, row, strict=True):
            if cell:
                stdout.print(f"{name:<{width}}  {cell}", highlight=False, markup=False)
    stdout.print()


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
    """A progress bar with ETA on stderr while the block runs; yields a function that advances it.

    Without a terminal it says every ``SAY_EVERY_S`` seconds, in one line, how far it is.
    """
    if not stderr.is_terminal:
        yield _lines(description, total)
        return
    with RichProgress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=stderr,
        transient=True,
    ) as bar:
        task = bar.add_task(description, total=total)

        def advance(amount: int = 1, *, total: int | None = None, what: str | None = None) -> None:
            if what is not None and bar.tasks[0].description != what:
                bar.reset(task, description=what, total=total)
            elif total is not None:
                bar.update(task, total=total)
            bar.advance(task, amount)

        yield advance


def _lines(description: str, total: int | None) -> Progress:
    """Progress for a log: a line now and then."""
    done, most, name = 0, total, description
    began = said = time.monotonic()

    def advance(amount: int = 1, *, total: int | None = None, what: str | None = None) -> None:
        nonlocal done, most, name, said
        if what is not None and what != name:
            done, name, most = 0, what, total
        elif total is not None:
            most = total
        done += amount
        now = time.monotonic()
        if now - said >= SAY_EVERY_S and done != most:
            said = now
            notify(f"{name}: {done}" + (f" of {most}" if most else "") + f", {now - began:.0f} s")

    return advance


def notify(line: str) -> None:
    """Print a line on stderr for the person who waits."""
    stderr.print(line, highlight=False, markup=False)
