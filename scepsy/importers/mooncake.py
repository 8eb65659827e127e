"""Mooncake traces (JSON lines): arrivals, lengths and prefix blocks of 512 tokens, one single-call run per line."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from scepsy.importers.base import Imported, Importer, checking, read_foreign_lines
from scepsy.workload import Call, Run, TraceSource

BLOCK_TOKENS = 512


class _Row(msgspec.Struct):
    timestamp: float
    """Milliseconds since the trace began."""
    input_length: int
    output_length: int
    hash_ids: list[int] = []


def _open(paths: Sequence[Path], options: Mapping[str, str]) -> Imported:
    counts: Counter[str] = Counter()
    return Imported(
        source=TraceSource(
            origin=f"Mooncake trace: {', '.join(path.name for path in paths)}",
            notes=("one call per run; service times are not recorded",),
        ),
        runs=_runs(paths, options.get("workflow", "mooncake"), options.get("llm", "llm"), counts),
        prefix_block_tokens=BLOCK_TOKENS,
        counts=counts,
    )


def _runs(paths: Sequence[Path], workflow: str, llm: str, counts: Counter[str]) -> Iterator[Run]:
    number = 0
    for path in paths:
        for line, row in read_foreign_lines(path, _Row):
            if row.output_length == 0:
                counts["calls without output tokens, counted as one token"] += 1
            with checking(path, "", line):
                call = Call(
                    id="c0",
                    llm=llm,
                    input_tokens=row.input_length,
                    output_tokens=row.output_length or 1,
                    prefix_hashes=tuple(row.hash_ids[: row.input_length // BLOCK_TOKENS]),
                )
                yield Run(id=f"r{number}", workflow=workflow, calls=(call,), arrival_s=row.timestamp / 1000.0)
            number += 1


MOONCAKE = Importer(
    summary="Mooncake trace (JSON lines): arrivals, lengths and prefix blocks of single calls",
    open=_open,
    options={"workflow": "name of the workflow (default: mooncake)", "llm": "name of the LLM (default: llm)"},
)
