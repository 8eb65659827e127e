"""BurstGPT traces (CSV).

Arrivals in seconds, lengths and the model of single requests; failed ones have no output and are left out.

Later releases add ``Session ID`` and ``Elapsed time`` (seconds the reply took). ``Log Type`` tells conversations from API
calls.
"""

from collections.abc import Iterator, Mapping, Sequence

from scepsy.importers.base import Imported, Importer
from scepsy.importers.detect import Columns
from scepsy.importers.fields import Absurd, count, label, seconds
from scepsy.importers.observing import WORKFLOW, names, single_call
from scepsy.importers.record_reader import csv_rows
from scepsy.importers.source import Source
from scepsy.importers.tally import Tally
from scepsy.workload import Run, TraceSource

COLUMNS = ("Timestamp", "Model", "Request tokens", "Response tokens", "Log Type")


def _open(sources: Sequence[Source], options: Mapping[str, str], tally: Tally) -> Imported:
    return Imported(
        source=TraceSource(
            origin=f"BurstGPT trace: {names(sources)}",
            licence="CC-BY-4.0",
            notes=("one call per run; service times are not used",),
        ),
        runs=_runs(sources, options.get("workflow", ""), tally),
    )


def _runs(sources: Sequence[Source], workflow: str, tally: Tally) -> Iterator[Run]:
    number = 0
    for source in sources:
        for line, (timestamp, model, given, made, kind) in csv_rows(source, tally, COLUMNS):
            try:
                arrival_s = seconds(timestamp, "Timestamp")
                if arrival_s is None or not label(model):
                    raise Absurd("Timestamp or Model is missing: must be given")
                if not count(made, "Response tokens"):
                    tally.drop("failed requests (no response tokens)")
                    continue
                word = "api" if "api" in kind.lower() else "conversation"
                run = single_call(
                    tally, run=f"r{number}", workflow=workflow or f"burstgpt-{word}", llm=label(model), arrival_s=arrival_s,
                    input_tokens=count(given, "Request tokens"), output_tokens=count(made, "Response tokens"),
                )  # fmt: skip
            except ValueError as error:
                tally.drop(str(error), source, line)
                continue
            yield run
            number += 1


BURSTGPT = Importer(
    summary="BurstGPT trace (CSV): arrivals, lengths and model of single calls",
    open=_open,
    detect=Columns(COLUMNS),
    options={**WORKFLOW, "workflow": "name of the workflow (default: burstgpt-conversation and burstgpt-api)"},
)
