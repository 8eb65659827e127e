"""``scepsy trace export``: a trace as spans for tracing tools."""

from pathlib import Path
from typing import Annotated

import typer

from scepsy.cli.output import command, emit_json, stdout
from scepsy.errors import InputError


@command
def export(
    format_: Annotated[str, typer.Argument(metavar="FORMAT", help="otel (OpenTelemetry GenAI) or openinference.")],
    trace: Annotated[Path, typer.Argument(metavar="TRACE", help="Trace file.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="OTLP JSON to write, one export request per line.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Write a trace as OTLP spans: a root span per run, a child per call, links to what it waited for.

    Example: `scepsy trace export otel rag.jsonl -o rag.otlp.jsonl`
    """
    from scepsy.files.otlp import save_otlp
    from scepsy.files.trace import load_trace

    if format_ not in ("otel", "openinference"):
        raise InputError(f"format is {format_!r}: must be otel or openinference")
    read = load_trace(trace)
    save_otlp(output, read, "otel" if format_ == "otel" else "openinference")
    if as_json:
        emit_json({"spans": str(output), "format": format_, "runs": len(read.runs)})
    else:
        stdout.print(f"{output}: {len(read.runs)} runs", soft_wrap=True, highlight=False)


def register(app: typer.Typer) -> None:
    """Add the command to ``scepsy trace``."""
    app.command("export")(export)
