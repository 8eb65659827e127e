"""Mooncake traces (JSON lines): arrivals, lengths and prefix blocks of 512 tokens, one single-call run per line."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scepsy.importers.base import Imported, Importer
from scepsy.importers.detect import Fields
from scepsy.importers.fields import Absurd, count, seconds
from scepsy.importers.records import json_records
from scepsy.importers.source import Source
from scepsy.importers.tally import Tally
from scepsy.workload import Call, Run, TraceSource

BLOCK_TOKENS = 512


def _open(sources: Sequence[Source], options: Mapping[str, str], tally: Tally) -> Imported:
    return Imported(
        source=TraceSource(
            origin=f"Mooncake trace: {', '.join(source.label for source in sources)}",
            notes=("one call per run; service times are not recorded",),
        ),
        runs=_runs(sources, options.get("workflow", "mooncake"), options.get("llm", "llm"), tally),
        prefix_block_tokens=BLOCK_TOKENS,
    )


def _runs(sources: Sequence[Source], workflow: str, llm: str, tally: Tally) -> Iterator[Run]:
    number = 0
    for source in sources:
        for record in json_records(source, tally):
            try:
                call, arrival_s = _call(record.value, llm)
                run = Run(id=f"r{number}", workflow=workflow, calls=(call,), arrival_s=arrival_s)
            except ValueError as error:
                tally.drop(str(error), source, record.line)
                continue
            if record.value["output_length"] == 0:
                tally.counts["calls without output tokens, counted as one token"] += 1
            yield run
            number += 1


def _call(row: Any, llm: str) -> tuple[Call, float]:
    if not isinstance(row, dict):
        raise Absurd("a record is no mapping: must be one")
    given, made = count(row.get("input_length"), "input_length"), count(row.get("output_length"), "output_length")
    arrival_s = seconds(row.get("timestamp"), "timestamp", unit_s=1e-3)
    if given is None or made is None or arrival_s is None:
        raise Absurd("timestamp, input_length or output_length is missing: must be given")
    blocks = row.get("hash_ids") or []
    if not isinstance(blocks, list) or not all(isinstance(block, int) for block in blocks):
        raise Absurd("hash_ids is no list of whole numbers: must be one")
    hashes = tuple(blocks[: given // BLOCK_TOKENS])
    return Call(id="c0", llm=llm, input_tokens=given, output_tokens=made or 1, prefix_hashes=hashes), arrival_s


MOONCAKE = Importer(
    summary="Mooncake trace (JSON lines): arrivals, lengths and prefix blocks of single calls",
    open=_open,
    detect=Fields(
        ("timestamp", "input_length", "output_length", "hash_ids"), lacks=("chat_id", "session_id", "request_id", "wait_for")
    ),
    options={"workflow": "name of the workflow (default: mooncake)", "llm": "name of the LLM (default: llm)"},
)
