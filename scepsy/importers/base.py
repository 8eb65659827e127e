"""What an importer is: inputs and options in, runs out, one at a time, with a tally of everything inferred or left out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import TypeVar

import msgspec

from scepsy.errors import InputError
from scepsy.files.failure import fail, shown
from scepsy.importers.inputs import gather
from scepsy.importers.record_reader import FileSample
from scepsy.importers.source import Source
from scepsy.importers.tally import Tally
from scepsy.workload import Run, Trace, TraceSource

T = TypeVar("T")

Detect = Callable[[FileSample], str | None]
"""Why a sample is of a format, in a few words; None: it is not."""

WHOLE_FILE_BYTES = 512 << 20
"""Most bytes of a file that a format makes us read at once."""


@dataclass(frozen=True)
class Imported:
    """A trace that is being read. ``tally`` is complete once ``runs`` is exhausted."""

    source: TraceSource
    runs: Iterator[Run]
    prefix_block_tokens: int = 0
    tally: Tally = field(default_factory=Tally)


Open = Callable[[Sequence[Source], Mapping[str, str], Tally], Imported]
"""Raises ``InputError`` naming file, record, field and remedy, at the latest while ``runs`` is read."""


@dataclass(frozen=True)
class Importer:
    """One foreign format. Calling it gives the whole trace; ``stream`` reads it run by run."""

    summary: str
    """What is read, in one line, for lists."""
    open: Open
    options: Mapping[str, str] = field(default_factory=dict)
    """Option name → what it does."""
    detect: Detect = lambda sample: None
    """Whether an input is of this format; see ``importers.detect`` for ready-made ones."""

    def __call__(self, paths: Sequence[str | Path], options: Mapping[str, str] | None = None) -> Trace:
        """Import everything into memory; the tally becomes notes of the trace's source."""
        imported = self.stream(paths, options)
        runs = tuple(imported.runs)
        notes = (*imported.source.notes, *imported.tally.notes())
        source = msgspec.structs.replace(imported.source, notes=notes)
        return Trace(source=source, runs=runs, prefix_block_tokens=imported.prefix_block_tokens)

    def check_options(self, options: Mapping[str, str]) -> None:
        """Raise ``InputError`` on an option that this format does not have."""
        for name in options:
            if name not in self.options:
                known = ", ".join(self.options) or "none"
                raise InputError(f"option {name!r} is unknown: must be one of this format's ({known})")

    def stream(self, paths: Sequence[str | Path | Source], options: Mapping[str, str] | None = None) -> Imported:
        """Start importing. Raises ``InputError`` on an unknown option, no file, and at the end when there was no run."""
        self.check_options(options or {})
        tally = Tally()
        ready = [path for path in paths if isinstance(path, Source)]
        sources = ready or gather([path for path in paths if not isinstance(path, Source)], tally)
        imported = self.open(sources, dict(options or {}), tally)
        return replace(imported, runs=_each_once(imported.runs, sources, tally), tally=tally)


def _each_once(runs: Iterator[Run], sources: Sequence[Source], tally: Tally) -> Iterator[Run]:
    """Runs with unique ids: the same run again is left out and counted, another run of that id gets a number."""
    seen: dict[str, bytes] = {}
    for run in runs:
        print_ = blake2b(msgspec.json.encode(msgspec.structs.replace(run, arrival_s=None)), digest_size=8).digest()
        if run.id in seen:
            if seen[run.id] == print_:
                tally.duplicates += len(run.calls)
                continue
            number = next(n for n in range(2, len(seen) + 3) if f"{run.id}~{n}" not in seen)
            tally.facts["runs of an id that another run has, told apart by a number"] += 1
            run = msgspec.structs.replace(run, id=f"{run.id}~{number}")
        seen[run.id] = print_
        yield run
    if not seen:
        why = f" (first reason: {tally.first_drop})" if tally.first_drop else ""
        raise InputError(f"{', '.join(map(str, sources))}: holds no run: must hold at least one{why}")


def read_whole(source: Source) -> bytes:
    """All bytes of an input, for formats that cannot be streamed."""
    parts, size = [], 0
    with source.open() as stream:
        while part := stream.read(1 << 20):
            parts.append(part)
            size += len(part)
            if size > WHOLE_FILE_BYTES:
                raise fail(str(source), f"has more than {WHOLE_FILE_BYTES >> 20} MiB: must have less (split it up)")
    data = b"".join(parts)
    if not data.strip():
        raise fail(str(source), "is empty: must hold a document (was it cut off while being written?)")
    return data


def clock_s(source: Source, field: str, text: str, line: int | None = None) -> float:
    """Read an ISO 8601 time as seconds since 1970; naive times are taken as UTC (only differences are ever used)."""
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise fail(str(source), f"{field} is {shown(text)}: must be an ISO 8601 time", line=line) from error
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()


def whole(source: Source, field: str, text: str, line: int) -> int:
    """Read a whole number >= 0 from a CSV cell."""
    if not (text.strip().isascii() and text.strip().isdigit()):
        raise fail(str(source), f"{field} is {shown(text)}: must be a whole number >= 0", line=line)
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
