"""Request samples of the vLLM semantic router (JSON lines): arrival, lengths and the chosen model, one request a line."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scepsy.importers.base import Imported, Importer
from scepsy.importers.detect import Fields
from scepsy.importers.fields import Absurd, count, label, seconds
from scepsy.importers.observing import WORKFLOW, names, runs_of_records, single_call
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
    def make(row: Mapping[str, Any], id_: str, source: Source) -> Run:
        llm, arrival_s = label(row.get("selected_model")), seconds(row.get("timestamp"), "timestamp")
        if not llm or arrival_s is None:
            raise Absurd("selected_model or timestamp is missing: must be given")
        return single_call(
            tally, run=id_, workflow=workflow, llm=llm, arrival_s=arrival_s,
            input_tokens=count(row.get("prompt_tokens"), "prompt_tokens"),
            output_tokens=count(row.get("generated_tokens"), "generated_tokens"),
        )  # fmt: skip

    return runs_of_records(sources, tally, make)


SEMANTIC_ROUTER = Importer(
    summary="vLLM semantic-router request samples (JSON lines): arrivals, lengths and the chosen model",
    open=_open,
    detect=Fields(("timestamp", "prompt_tokens", "generated_tokens", "selected_model")),
    options=WORKFLOW,
)
