"""Request samples of the vLLM semantic router (JSON lines): arrival, lengths and the chosen model, one request a line."""

from collections.abc import Iterator, Mapping, Sequence

from scepsy.importers.base import Imported, Importer
from scepsy.importers.detect import Fields
from scepsy.importers.fields import Absurd, count, label, seconds
from scepsy.importers.observing import WORKFLOW, mapping, names, single_call
from scepsy.importers.record_reader import json_records
from scepsy.importers.source import Source
from scepsy.importers.tally import Tally
from scepsy.workload import Run, TraceSource


def _open(sources: Sequence[Source], options: Mapping[str, str], tally: Tally) -> Imported:
    return Imported(
        source=TraceSource(
            origin=f"semantic-router requests: {names(sources)}", notes=("one call per run; service times are not recorded",)
        ),
        runs=_runs(sources, options.get("workflow", "semantic-router"), tally),
    )


def _runs(sources: Sequence[Source], workflow: str, tally: Tally) -> Iterator[Run]:
    number = 0
    for source in sources:
        for record in json_records(source, tally):
            try:
                row = mapping(record.value)
                llm, arrival_s = label(row.get("selected_model")), seconds(row.get("timestamp"), "timestamp")
                if not llm or arrival_s is None:
                    raise Absurd("selected_model or timestamp is missing: must be given")
                run = single_call(
                    tally, run=f"r{number}", workflow=workflow, llm=llm, arrival_s=arrival_s,
                    input_tokens=count(row.get("prompt_tokens"), "prompt_tokens"),
                    output_tokens=count(row.get("generated_tokens"), "generated_tokens"),
                )  # fmt: skip
            except ValueError as error:
                tally.drop(str(error), source, record.line)
                continue
            yield run
            number += 1


SEMANTIC_ROUTER = Importer(
    summary="vLLM semantic-router request samples (JSON lines): arrivals, lengths and the chosen model",
    open=_open,
    detect=Fields(("timestamp", "prompt_tokens", "generated_tokens", "selected_model")),
    options=WORKFLOW,
)
