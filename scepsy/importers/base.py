"""What an importer is: files and options in, runs out, one at a time, with a count of everything inferred or left out."""

import csv
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import msgspec

from scepsy.errors import InputError
from scepsy.files.failure import decode_json, explain, fail, read_bytes, reading, shown
from scepsy.workload import Run, Trace, TraceSource

T = TypeVar("T")


@dataclass(frozen=True)
class Imported:
    """A trace that is being read. ``counts`` is complete once ``runs`` is exhausted."""

    source: TraceSource
    runs: Iterator[Run]
    prefix_block_tokens: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    """What was inferred, repaired or left out, in words, with how often."""


@dataclass(frozen=True)
class Importer:
    """One foreign format. Calling it gives the whole trace; ``open`` streams it."""

    summary: str
    open: Callable[[Sequence[Path], Mapping[str, str]], Imported]
    """Raises ``InputError`` naming file, record, field and remedy, at the latest while ``runs`` is read."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Option name → what it does."""

    def __call__(self, paths: Sequence[str | Path], options: Mapping[str, str] | None = None) -> Trace:
        """Import everything into memory; the counts become notes of the trace's source."""
        imported = self.stream(paths, options)
        runs = tuple(imported.runs)
        if not runs:
            raise InputError(f"{', '.join(map(str, paths))}: holds no run: must hold at least one")
        notes = (*imported.source.notes, *(f"{what}: {count}" for what, count in sorted(imported.counts.items())))
        source = msgspec.structs.replace(imported.source, notes=notes)
        try:
            return Trace(source=source, runs=runs, prefix_block_tokens=imported.prefix_block_tokens)
        except ValueError as error:
            raise InputError(f"{', '.join(map(str, paths))}: {error} (is a file given twice?)") from error

    def stream(self, paths: Sequence[str | Path], options: Mapping[str, str] | None = None) -> Imported:
        """Start importing. Raises ``InputError`` on an unknown option or no file."""
        for name in options or {}:
            if name not in self.options:
                known = ", ".join(self.options) or "none"
                raise InputError(f"option {name!r} is unknown: must be one of this format's ({known})")
        if not paths:
            raise InputError("no file is given: must be at least one")
        return self.open([Path(path) for path in paths], dict(options or {}))


def read_foreign(path: Path, kind: type[T]) -> T:
    """Decode a foreign JSON file into a Struct that names only what is needed (other fields are skipped unread)."""
    data = read_bytes(path)
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise fail(path, explain(error, decode_json(path, data), kind)[1]) from error
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        decode_json(path, data)  # raises with the reason
        raise fail(path, f"cannot be read: {error}") from error


def read_foreign_lines(path: Path, kind: type[T]) -> Iterator[tuple[int, T]]:
    """Decode a foreign JSON-lines file, yielding (line number, record); blank lines are skipped."""
    decoder = msgspec.json.Decoder(kind)
    with reading(path), path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.isspace():
                continue
            try:
                yield number, decoder.decode(line)
            except msgspec.ValidationError as error:
                raise fail(path, explain(error, decode_json(path, line, number), kind)[1], line=number) from error
            except (msgspec.DecodeError, ValueError, RecursionError) as error:
                decode_json(path, line, number)
                raise fail(path, f"cannot be read: {error}", line=number) from error


def read_foreign_csv(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, the named columns' texts) of a CSV file with a header."""
    with reading(path), path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(file)
        try:
            header = next(rows, None)
            if header is None:
                raise fail(path, f"is empty: must begin with the columns {', '.join(columns)}")
            missing = [name for name in columns if name not in header]
            if missing:
                raise fail(path, f"column {missing[0]} is missing: must have {', '.join(columns)}", line=1)
            places = [header.index(name) for name in columns]
            for row in rows:
                if not row:
                    continue
                if len(row) != len(header):
                    raise fail(path, f"has {len(row)} columns: must have {len(header)} (was it cut off?)", line=rows.line_num)
                yield rows.line_num, [row[place] for place in places]
        except csv.Error as error:
            raise fail(path, f"is not CSV ({error}): must be comma-separated text", line=rows.line_num) from error


@contextmanager
def checking(path: Path, record: str, line: int | None = None) -> Iterator[None]:
    """Turn the complaint of a value of ours, built from foreign data, into an ``InputError`` naming the record."""
    try:
        yield
    except ValueError as error:
        raise fail(path, f"{record}: {error}" if record else str(error), line=line) from error


def clock_s(path: Path, field: str, text: str, line: int | None = None) -> float:
    """Read an ISO 8601 time as seconds since 1970; naive times are taken as UTC (only differences are ever used)."""
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise fail(path, f"{field} is {shown(text)}: must be an ISO 8601 time", line=line) from error
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()


def whole(path: Path, field: str, text: str, line: int) -> int:
    """Read a whole number >= 0 from a CSV cell."""
    if not (text.strip().isascii() and text.strip().isdigit()):
        raise fail(path, f"{field} is {shown(text)}: must be a whole number >= 0", line=line)
    return int(text)


def positive_number(options: Mapping[str, str], name: str, default: float) -> float:
    """Read a numeric option > 0."""
    text = options.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 < value < float("inf"):
        raise InputError(f"option {name} is {shown(text)}: must be a number > 0")
    return value


def choice(options: Mapping[str, str], name: str, allowed: Sequence[str]) -> str:
    """Read an option that takes one of a few words; the first is the default."""
    value = options.get(name, allowed[0])
    if value not in allowed:
        raise InputError(f"option {name} is {shown(value)}: must be one of {', '.join(allowed)}")
    return value
