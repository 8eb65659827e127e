"""``scepsy trace export``: a trace in formats that other tools show or replay."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scepsy.cli.output import command, emit_json, progress_bar, stdout
from scepsy.errors import InputError

if TYPE_CHECKING:
    from scepsy.files.trace import TraceReader
    from scepsy.workload import Run


@command
def export(
    format_: Annotated[
        str,
        typer.Argument(
            metavar="FORMAT", help="otel, openinference, mooncake, agentic-mooncake (Dynamo), aiperf or inference-perf."
        ),
    ],
    trace: Annotated[Path, typer.Argument(metavar="TRACE", help="Trace file.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File or folder (inference-perf) to write.")],
    only: Annotated[
        str | None, typer.Option(metavar="LLM", help="Export only this LLM's calls; the rest becomes waiting time.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Write a trace in another tool's format; what that format cannot hold is said.

    Example: `scepsy trace export otel rag.jsonl -o rag.otlp.jsonl`
    """
    from scepsy.files.exports.base import Lost
    from scepsy.files.exports.registry import EXPORTERS
    from scepsy.files.trace import TraceReader

    if format_ not in EXPORTERS:
        raise InputError(f"format is {format_!r}: must be one of {', '.join(EXPORTERS)}")
    exporter, lost, counted = EXPORTERS[format_], Lost(), {"runs": 0}
    with progress_bar(f"exporting {format_}", trace.stat().st_size if trace.is_file() else None) as progress:
        reader = TraceReader(trace, progress)
        calls = exporter.save(output, _runs(reader, only, counted), reader, lost)
    said = lost.said()
    if as_json:
        emit_json(
            {
                "spans": str(output),
                "file": str(output),
                "format": format_,
                "runs": counted["runs"],
                "calls": calls,
                "lost": said,
            }
        )
        return
    stdout.print(f"{output}: {counted['runs']} runs, {calls} calls", soft_wrap=True, highlight=False)
    for line in said:
        stdout.print(f"  not held: {line}", soft_wrap=True, highlight=False, markup=False)
    stdout.print(
        f"  reads back with: scepsy trace {exporter.imports_as} {output}", soft_wrap=True, highlight=False, markup=False
    )


def _runs(reader: "TraceReader", only: str | None, counted: dict[str, int]) -> "Iterator[Run]":
    from scepsy.dag import project

    for run in reader:
        kept = run if only is None else project(run, only)
        if kept is not None:
            counted["runs"] += 1
            yield kept
    if only is not None and not counted["runs"]:
        raise InputError(f"--only is {only!r}: no run of {reader.path} calls it (see: scepsy trace stats {reader.path})")


def register(app: typer.Typer) -> None:
    """Add the command to ``scepsy trace``."""
    app.command("export")(export)
