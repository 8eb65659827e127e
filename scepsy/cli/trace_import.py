"""``scepsy trace import``: recordings of other tools, whatever they are, to a trace."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scepsy.cli.output import command, emit_json, progress_bar, show_table, stderr, stdout
from scepsy.cli.statistics import show_statistics, statistics_of
from scepsy.errors import InputError

if TYPE_CHECKING:
    from scepsy.importers.source import Source
    from scepsy.importers.tally import Summary, Tally
    from scepsy.progress import Progress
    from scepsy.workload import Run

LINE_EVERY_S = 10.0
"""Without a terminal, a long import says this often how far it is."""


@command
def import_(
    items: Annotated[
        list[str], typer.Argument(metavar="[FORMAT] FILE...", help="Files, folders, patterns or - to import into one trace.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="TRACE", help="Trace file to write (.jsonl or .jsonl.gz).")],
    format_: Annotated[str | None, typer.Option("--format", metavar="FORMAT", help="A format of `scepsy trace list`.")] = None,
    option: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="An option of the format, repeatable.")
    ] = None,
    llm: Annotated[
        list[str] | None,
        typer.Option(metavar="RECORDED=NAME", help="Another name for an LLM of the recording, repeatable."),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse when anything is dropped, estimated, repaired, given twice or unfinished.")
    ] = False,
    stats: Annotated[bool, typer.Option("--stats", help="Also show what `scepsy trace stats` shows.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")] = False,
) -> None:
    """Import recordings of another tool; the format is found out.

    What the recording leaves out is inferred or estimated, counted and said.

    Example: `scepsy trace import results.json --llm agent:gpt-4.1=llama-3.1-70b -o tau2.jsonl`
    """
    from msgspec.structs import replace

    from scepsy.files.trace import TraceWriter
    from scepsy.importers.detect import DetectedFormat, find_format
    from scepsy.importers.inputs import gather
    from scepsy.importers.registry import IMPORTERS, find_importer
    from scepsy.importers.tally import Summing, Tally

    names = assignments(llm, "--llm")
    named, files = _format_and_files(items, format_)
    options = assignments(option, "--set")
    importer = find_importer(named) if named else None
    if importer is not None:
        importer.check_options(options)
    before = Tally()
    sources = gather(files, before)
    found = DetectedFormat(named, "named") if named else find_format(sources, IMPORTERS)
    importer = importer or find_importer(found.format)
    imported = importer.stream(sources, options)
    tally = imported.tally
    tally.counts.update(before.counts)
    tally.facts.update(before.facts)
    summing = Summing(tally)
    with (
        _reading(f"importing {found.format}", sources),
        TraceWriter(output, None, imported.prefix_block_tokens) as writer,
    ):
        for run in imported.runs:
            run = _renamed(run, names)
            writer.write(run)
            summing.add(run)
        if strict and tally.faults():
            raise InputError(f"--strict: {'; '.join(tally.faults())} (leave out --strict to import what there is)")
        summary = summing.summary()
        notes = (*imported.source.notes, *tally.notes(), *_said(summary))
        writer.source = replace(imported.source, notes=notes)
    document = _document(output, found.format, found.reason, summary, tally)
    if as_json:
        emit_json(document | ({"statistics": statistics_of(output)[0]} if stats else {}))
        return
    _show(output, found.format, found.reason, summary, notes)
    if stats:
        stdout.print()
        show_statistics(*statistics_of(output))


def _format_and_files(items: Sequence[str], format_: str | None) -> tuple[str | None, list[str]]:
    """What is named as a format, and the files: a first word is a format where it is one's name, or no file."""
    from scepsy.importers.registry import IMPORTERS

    first = items[0]
    if format_ is None and first in IMPORTERS and len(items) > 1:
        return first, list(items[1:])
    looks_like_a_name = first != "-" and not Path(first).exists() and not any(mark in first for mark in "/\\*?[.")
    if format_ is None and looks_like_a_name:
        return first, list(items[1:])
    return format_, list(items)


def assignments(items: list[str] | None, option: str) -> dict[str, str]:
    """NAME=VALUE options as a mapping."""
    values = {}
    for item in items or []:
        name, equals, value = item.partition("=")
        if not (equals and name and value):
            raise InputError(f"{option} is {item!r}: must be NAME=VALUE")
        values[name] = value
    return values


def _renamed(run: "Run", names: dict[str, str]) -> "Run":
    from msgspec.structs import replace

    if not names:
        return run
    return replace(run, calls=tuple(replace(call, llm=names.get(call.llm, call.llm)) for call in run.calls))


@contextmanager
def _reading(title: str, sources: Sequence["Source"]) -> Iterator[None]:
    """Progress in bytes of the inputs: a bar on a terminal, else a line now and then."""
    size = sum(source.bytes for source in sources)
    if stderr.is_terminal:
        with progress_bar(title, size) as progress:
            _follow(sources, progress)
            yield
        return
    begin_s = said_s = time.monotonic()
    done = 0

    def progress_by_lines(amount: int = 1, *, total: int | None = None, what: str | None = None) -> None:
        nonlocal done, said_s
        done += amount
        now_s = time.monotonic()
        if now_s - said_s >= LINE_EVERY_S:
            said_s = now_s
            percent = 100 * done // max(size, 1)
            print(
                f"{title}: {done / 1e6:.0f} of {size / 1e6:.0f} MB read ({percent} %), {now_s - begin_s:.0f} s", file=sys.stderr
            )

    _follow(sources, progress_by_lines)
    yield


def _follow(sources: Sequence["Source"], progress: "Progress") -> None:
    for source in sources:
        source.progress = progress


def _document(output: Path, format_: str, reason: str, summary: "Summary", tally: "Tally") -> dict[str, Any]:
    import msgspec

    return {
        "trace": str(output),
        "format": format_,
        "reason": reason,
        **msgspec.structs.asdict(summary),
        "llms": {name: msgspec.structs.asdict(one) for name, one in summary.llms.items()},
        "counts": dict(sorted(tally.counts.items())),
        "warnings": [*tally.notes(), *_said(summary)],
    }


def _said(summary: "Summary") -> list[str]:
    """What a reader of the numbers must know: guesses among the dependencies, coarse clocks."""
    said = []
    if summary.dependencies_inferred:
        said.append(
            f"dependencies inferred: {summary.dependencies_inferred} (mean confidence {summary.inferred_confidence:.2f}), "
            f"recorded: {summary.dependencies_given}"
        )
    if summary.clock_resolution_s is not None and summary.clock_resolution_s >= 0.1:
        said.append(f"times have a resolution of {summary.clock_resolution_s:g} s")
    return said


def _show(output: Path, format_: str, reason: str, summary: "Summary", notes: Sequence[str]) -> None:
    stdout.print(f"{output}: {summary.runs} runs, {summary.calls} calls", soft_wrap=True, highlight=False)
    stdout.print(f"format: {format_} ({reason})", soft_wrap=True, highlight=False, markup=False)
    rows = [(name, one.calls, one.input_tokens, one.output_tokens) for name, one in summary.llms.items()]
    if len(rows) > 1:
        rows.append(("all", summary.calls, summary.input_tokens, summary.output_tokens))
    show_table("", ("LLM", "calls", "input tokens", "output tokens"), rows)
    facts = {
        "time span": None if summary.span_s is None else f"{summary.span_s:.3f} s",
        "clock resolution": None if summary.clock_resolution_s is None else f"{summary.clock_resolution_s:g} s",
        "calls with estimated tokens": f"{summary.estimated_calls} ({summary.estimated_pct:.1f} %)",
        "calls dropped": f"{summary.dropped_calls} ({summary.dropped_pct:.1f} %)",
        "calls unfinished, retried, given twice": f"{summary.unfinished_calls}, {summary.retries}, {summary.duplicate_calls}",
        "calls that overlap another of their run": str(summary.overlapping_calls),
        "input tokens read from a cache": str(summary.cached_input_tokens),
        "time in tools": None if summary.tool_s is None else f"{summary.tool_s:.3f} s",
        "time between calls": f"{summary.between_calls_s:.3f} s",
        "dependencies recorded, inferred": f"{summary.dependencies_given}, {summary.dependencies_inferred}"
        + ("" if summary.inferred_confidence is None else f" (mean confidence {summary.inferred_confidence:.2f})"),
    }
    for name, value in facts.items():
        stdout.print(f"  {name}: {'unknown' if value is None else value}", soft_wrap=True, highlight=False)
    for note in notes:
        stdout.print(f"  {note}", soft_wrap=True, highlight=False, markup=False)


def register(app: typer.Typer) -> None:
    """Add the command to ``scepsy trace``."""
    app.command("import")(import_)
