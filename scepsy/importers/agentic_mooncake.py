"""Dynamo's agentic Mooncake rows (JSON lines): calls with lengths, prompt blocks and the calls they wait for; no service times.

Version 1: ``request_id``, ``wait_for`` (ids), ``timestamp`` (ms, of rows that wait for nothing), ``delay`` and
``tool_wait_ms`` (ms after the last of them ended), ``session_id`` (a trajectory). Version 2 begins with a header line
(``block_size``) and has ``dependencies`` with a ``trigger``, ``not_before_ms``, ``play_id`` and ``recorded_api_time_ms``. A
dependency on another call's *dispatch* is taken as one on what that call waited for, with both delays. A run is what hangs
together by dependencies. Blocks have ``block_tokens`` (header, ``--set block_tokens=…``, else 512 as in Mooncake).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from scepsy.importers.base import Imported, Importer, positive_number
from scepsy.importers.detect import Fields
from scepsy.importers.fields import Absurd, count, get, label, seconds
from scepsy.importers.observing import WORKFLOW, block_ids, items, mapping, names
from scepsy.importers.record_reader import json_records
from scepsy.importers.source import Source
from scepsy.importers.spool import Sets, Spool
from scepsy.importers.tally import Tally
from scepsy.workload import Call, Run, TraceSource

BLOCK_TOKENS = 512


class Row(msgspec.Struct, array_like=True):
    """One call: ids, lengths, and the milliseconds as seconds."""

    id: str
    session: str
    llm: str
    input_tokens: int
    output_tokens: int
    blocks: tuple[int, ...]
    at_s: float | None
    waits: list[tuple[str, float, bool]]
    """Id, seconds after its end (or dispatch), whether it is the dispatch that counts."""
    tool_s: float
    service_s: float | None
    line: int


@dataclass
class _Header:
    block_tokens: int
    told: bool = False


def _open(sources: Sequence[Source], options: Mapping[str, str], tally: Tally) -> Imported:
    header = _Header(round(positive_number(options, "block_tokens", BLOCK_TOKENS)), "block_tokens" in options)
    rows = _rows(sources, options.get("llm", "llm"), header, tally)
    first = next(rows, None)
    if not header.told:
        tally.warn(
            f"the rows do not say how many tokens a block has: taken as {header.block_tokens} (else: --set block_tokens=N)"
        )
    return Imported(
        source=TraceSource(
            origin=f"agentic Mooncake rows: {names(sources)}",
            notes=("service times are not recorded; a run is what hangs together by dependencies",),
        ),
        runs=_runs(first, rows, options.get("workflow", "agentic-mooncake"), header.block_tokens, tally),
        prefix_block_tokens=header.block_tokens,
    )


def _rows(sources: Sequence[Source], llm: str, header: _Header, tally: Tally) -> Iterator[Row]:
    for source in sources:
        for record in json_records(source, tally):
            try:
                row = mapping(record.value)
                if "schema" in row and "request_id" not in row:
                    size = count(row.get("block_size"), "block_size")
                    if size and header.told and size != header.block_tokens:
                        raise Absurd(f"block_size is {size}, elsewhere {header.block_tokens}: must be the same")
                    header.block_tokens, header.told = size or header.block_tokens, header.told or bool(size)
                    continue
                yield _row(row, llm, record.line or 0)
            except Absurd as error:
                tally.drop(str(error), source, record.line)


def _row(row: Mapping[str, Any], llm: str, line: int) -> Row:
    id_ = label(row.get("request_id"))
    given, made = count(row.get("input_length"), "input_length"), count(row.get("output_length"), "output_length")
    if not id_ or given is None or made is None:
        raise Absurd("request_id, input_length or output_length is missing: must be given")
    delay_s = seconds(get(row, "delay", "delay_ms"), "delay", unit_s=1e-3) or 0.0
    waits = [(label(other), delay_s, False) for other in items(row.get("wait_for"), "wait_for")]
    for other in items(row.get("dependencies"), "dependencies"):
        own_s = seconds(get(other, "delay_ms"), "dependencies.delay_ms", unit_s=1e-3) or 0.0
        waits.append((label(get(other, "request_id")), own_s, get(other, "trigger") == "dispatch"))
    play = label(row.get("play_id"))
    session = label(row.get("session_id"))
    return Row(
        id=id_,
        session=f"{play}:{session}" if play else session,
        llm=label(row.get("model")) or llm,
        input_tokens=given,
        output_tokens=made,
        blocks=block_ids(row.get("hash_ids"), "hash_ids"),
        at_s=seconds(get(row, "timestamp", "not_before_ms"), "timestamp", unit_s=1e-3),
        waits=waits,
        tool_s=seconds(row.get("tool_wait_ms"), "tool_wait_ms", unit_s=1e-3) or 0.0,
        service_s=seconds(row.get("recorded_api_time_ms"), "recorded_api_time_ms", unit_s=1e-3),
        line=line,
    )


def _runs(first: Row | None, rows: Iterator[Row], workflow: str, block_tokens: int, tally: Tally) -> Iterator[Run]:
    sets, ids = Sets(), set()
    with Spool(Row) as spool:
        for row in ([first] if first is not None else []), rows:
            for one in row:
                if one.id in ids:
                    tally.duplicates += 1
                    continue
                ids.add(one.id)
                spool.add(one.id, one)
                for other, _, _ in one.waits:
                    sets.join(other, one.id)
        for group in spool.groups(sets.of):
            try:
                yield _run(group, workflow, block_tokens, tally)
            except ValueError as error:
                for _ in group:
                    tally.drop(str(error))


def _run(group: list[Row], workflow: str, block_tokens: int, tally: Tally) -> Run:
    known = {row.id: row for row in group}
    order = _parents_first(group, known, tally)
    begins = [row.at_s for row in group if row.at_s is not None]
    arrival_s = min((row.at_s for row in group if row.at_s is not None and not row.waits), default=min(begins, default=0.0))
    calls = []
    for row in order:
        waits, gap_s = _resolved(row, known, tally)
        if not waits and row.at_s is not None:
            gap_s = max(0.0, row.at_s - arrival_s)
        if row.output_tokens == 0:
            tally.counts["calls without output tokens, counted as one token"] += 1
        if row.tool_s:
            tally.tool_s = (tally.tool_s or 0.0) + row.tool_s
        calls.append(
            Call(
                id=row.id, llm=row.llm, input_tokens=row.input_tokens, output_tokens=row.output_tokens or 1, parents=waits,
                gap_s=gap_s, prefix_hashes=row.blocks[: row.input_tokens // block_tokens],
            )
        )  # fmt: skip
    return Run(id=order[0].id, workflow=workflow, calls=tuple(calls), arrival_s=arrival_s, session=order[0].session)


def _resolved(row: Row, known: Mapping[str, Row], tally: Tally) -> tuple[tuple[str, ...], float]:
    """The calls whose end a call waits for, and how long after the last of them it begins."""
    found: dict[str, None] = {}
    longest_s = 0.0
    pending = [(other, delay_s, dispatch) for other, delay_s, dispatch in row.waits]
    met: set[str] = {row.id}
    while pending:
        other, delay_s, dispatch = pending.pop(0)
        if other not in known:
            tally.counts["dependencies on calls that the file does not have, left out"] += 1
        elif not dispatch:
            found[other] = None
            longest_s = max(longest_s, delay_s)
        elif other not in met:
            met.add(other)
            tally.facts["dependencies on the dispatch of a call, taken as on what that call waited for"] += 1
            longest_s = max(longest_s, delay_s + known[other].tool_s)
            pending.extend((above, own_s + delay_s, kind) for above, own_s, kind in known[other].waits)
    return tuple(found), longest_s + row.tool_s


def _parents_first(group: list[Row], known: Mapping[str, Row], tally: Tally) -> list[Row]:
    """In the file's order, but what a call waits for before it. Raises ``Absurd`` on a circle."""
    done: dict[str, Row] = {}
    open_: set[str] = set()
    for first in group:
        stack = [(first, False)]
        while stack:
            row, left = stack.pop()
            if row.id in done:
                continue
            if left:
                open_.discard(row.id)
                done[row.id] = row
                continue
            if row.id in open_:
                raise Absurd("wait_for forms a circle: must not")
            open_.add(row.id)
            stack.append((row, True))
            stack.extend((known[other], False) for other, _, _ in reversed(row.waits) if other in known and other not in done)
    return list(done.values())


AGENTIC_MOONCAKE = Importer(
    summary="Dynamo agentic Mooncake rows (JSON lines): calls with the calls they wait for, lengths, prompt blocks",
    open=_open,
    detect=Fields(("request_id", "input_length", "output_length", "wait_for|dependencies|branches|tool_wait_ms|prefix_reset")),
    options={
        **WORKFLOW,
        "llm": "name of the LLM where a row names none (default: llm)",
        "block_tokens": f"tokens per id in hash_ids (default: {BLOCK_TOKENS})",
    },
)
