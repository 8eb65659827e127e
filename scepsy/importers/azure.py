"""Azure LLM inference traces (CSV): arrivals and lengths, one single-call run per row, nothing else known."""

from collections.abc import Iterator, Mapping, Sequence

from scepsy.errors import InputError
from scepsy.importers.base import Imported, Importer, clock_s, whole
from scepsy.importers.detect import Columns
from scepsy.importers.fields import Absurd
from scepsy.importers.record_reader import csv_rows
from scepsy.importers.source import Source
from scepsy.importers.tally import Tally
from scepsy.workload import Call, Run, TraceSource

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


def _open(sources: Sequence[Source], options: Mapping[str, str], tally: Tally) -> Imported:
    return Imported(
        source=TraceSource(
            origin=f"Azure LLM inference trace: {', '.join(source.label for source in sources)}",
            licence="CC-BY-4.0",
            notes=("one call per run; service times are not recorded",),
        ),
        runs=_runs(sources, options.get("workflow", "azure"), options.get("llm", "llm"), tally),
    )


def _runs(sources: Sequence[Source], workflow: str, llm: str, tally: Tally) -> Iterator[Run]:
    begin: float | None = None
    number = 0
    for source in sources:
        for line, (timestamp, context, generated) in csv_rows(source, tally, COLUMNS):
            try:
                moment = clock_s(source, "TIMESTAMP", timestamp, line)
                begin = moment if begin is None else begin
                if moment < begin:
                    raise Absurd("TIMESTAMP is before the first row's: must not be (sort the rows)")
                output = whole(source, "GeneratedTokens", generated, line)
                given = whole(source, "ContextTokens", context, line)
                call = Call(id="c0", llm=llm, input_tokens=given, output_tokens=output or 1)
                run = Run(id=f"r{number}", workflow=workflow, calls=(call,), arrival_s=moment - begin)
            except (Absurd, ValueError, InputError) as error:
                tally.drop(str(error).removeprefix(f"{source}: line {line}: "), source, line)
                continue
            if output == 0:
                tally.counts["calls without output tokens, counted as one token"] += 1
            yield run
            number += 1


AZURE = Importer(
    summary="Azure LLM inference trace (CSV): arrivals and lengths of single calls",
    open=_open,
    detect=Columns(COLUMNS),
    options={"workflow": "name of the workflow (default: azure)", "llm": "name of the LLM (default: llm)"},
)
