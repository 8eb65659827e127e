"""Azure LLM inference traces (CSV): arrivals and lengths, one single-call run per row, nothing else known."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from scepsy.files.failure import fail
from scepsy.importers.base import Imported, Importer, checking, clock_s, read_foreign_csv, whole
from scepsy.workload import Call, Run, TraceSource

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


def _open(paths: Sequence[Path], options: Mapping[str, str]) -> Imported:
    counts: Counter[str] = Counter()
    return Imported(
        source=TraceSource(
            origin=f"Azure LLM inference trace: {', '.join(path.name for path in paths)}",
            licence="CC-BY-4.0",
            notes=("one call per run; service times are not recorded",),
        ),
        runs=_runs(paths, options.get("workflow", "azure"), options.get("llm", "llm"), counts),
        counts=counts,
    )


def _runs(paths: Sequence[Path], workflow: str, llm: str, counts: Counter[str]) -> Iterator[Run]:
    begin: float | None = None
    number = 0
    for path in paths:
        for line, (timestamp, context, generated) in read_foreign_csv(path, COLUMNS):
            moment = clock_s(path, "TIMESTAMP", timestamp, line)
            begin = moment if begin is None else begin
            if moment < begin:
                raise fail(path, f"TIMESTAMP is {timestamp}: must not be before the first row's (sort the rows)", line=line)
            output = whole(path, "GeneratedTokens", generated, line)
            if output == 0:
                counts["calls without output tokens, counted as one token"] += 1
            with checking(path, "", line):
                call = Call(
                    id="c0", llm=llm, input_tokens=whole(path, "ContextTokens", context, line), output_tokens=output or 1
                )
                yield Run(id=f"r{number}", workflow=workflow, calls=(call,), arrival_s=moment - begin)
            number += 1


AZURE = Importer(
    summary="Azure LLM inference trace (CSV): arrivals and lengths of single calls",
    open=_open,
    options={"workflow": "name of the workflow (default: azure)", "llm": "name of the LLM (default: llm)"},
)
