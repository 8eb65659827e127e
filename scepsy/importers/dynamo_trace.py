"""Dynamo's traces of agents (JSON lines).

``dynamo.agent.trace.v1`` and ``dynamo.request.trace.v1``, bare or in ``{"timestamp", "event"}``.

``request_end`` events are calls, received at ``request_received_ms`` and ended ``total_time_ms`` later. ``input_tokens``
include ``cached_tokens``, and ``replay`` has the prompt's block hashes. ``tool_end`` and ``tool_error`` events are tools.
Threads are told apart by program, trajectory or (in request traces) session ids, which name their parents. What hangs
together is a run. Within a thread and between threads a call is taken to wait for those that ended last before it
(inferred). Requests without any ``agent_context`` are runs of their own.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from scepsy.importers.assemble import Seen
from scepsy.importers.base import Imported, Importer
from scepsy.importers.fields import Absurd, count, get, label, moment_s, seconds
from scepsy.importers.observing import block_ids, imported, mapping
from scepsy.importers.record_reader import FileSample, json_records
from scepsy.importers.source import Source
from scepsy.importers.spool import Sets, Spool
from scepsy.importers.tally import Tally

SCHEMAS = ("dynamo.agent.trace.v1", "dynamo.request.trace.v1")


@dataclass
class _Blocks:
    """Tokens per block of the first request that has any; prompts hashed otherwise share nothing."""

    tokens: int = 0


def _open(sources: Sequence[Source], options: Mapping[str, str], tally: Tally) -> Imported:
    blocks = _Blocks()
    spool: Spool[Seen] = Spool(Seen)
    sets = Sets()
    for source in sources:
        for record in json_records(source, tally):
            try:
                event = get(record.value, "event") if isinstance(get(record.value, "event"), dict) else record.value
                _take(mapping(event), spool, sets, blocks, tally)
            except Absurd as error:
                tally.drop(str(error), source, record.line)
    return imported(
        "Dynamo trace", sources, _seen(spool, sets), options, tally, default="dynamo",
        block_tokens=blocks.tokens,
    )  # fmt: skip


def _seen(spool: Spool[Seen], sets: Sets) -> Iterator[Seen]:
    with spool:
        for group in spool.groups(sets.of):
            above = {item.parent: item.name for item in group if item.parent}
            root = next((thread for thread in above if above[thread] not in above), "")
            run = next((item.session for item in group if item.session), "") or root or group[0].id
            begin_s = min(item.start_s for item in group)
            for thread, outer in above.items():
                yield Seen(run=run, id=thread, parent=outer if outer in above else "", start_s=begin_s, end_s=begin_s)
            for item in group:
                session = item.session or root
                yield msgspec.structs.replace(item, run=run, name="", session=session)


def _take(event: Mapping[str, Any], spool: Spool[Seen], sets: Sets, blocks: _Blocks, tally: Tally) -> None:
    if event.get("schema") not in SCHEMAS:
        raise Absurd(f"schema is none of {', '.join(SCHEMAS)}: must be one")
    kind = event.get("event_type")
    context = get(event, "agent_context")
    run = label(get(context, "workflow_id")) or (label(get(context, "session_id")) if get(context, "trajectory_id") else "")
    own = label(get(context, "program_id", "trajectory_id", "session_id"))
    above = label(get(context, "parent_program_id", "parent_trajectory_id", "parent_session_id"))
    prefix = f"{run}/" if run else ""
    thread, above = (f"{prefix}{own}" if own else ""), (f"{prefix}{above}" if above else "")
    item = (
        _request(event, blocks, tally)
        if kind == "request_end"
        else _tool(event)
        if kind in ("tool_end", "tool_error")
        else None
    )
    if item is None:
        return
    key = thread or item.id
    if run:
        sets.join(run, key)
    if above:
        sets.join(above, key)
    workflow = label(get(context, "workflow_type_id", "session_type_id"))
    item = msgspec.structs.replace(item, id=f"{key}:{item.id}", parent=thread, name=above, workflow=workflow, session=run)
    spool.add(key, item)


def _request(event: Mapping[str, Any], blocks: _Blocks, tally: Tally) -> Seen:
    request = mapping(event.get("request"))
    id_ = label(get(request, "request_id", "x_request_id"))
    if not id_:
        raise Absurd("request.request_id is missing: must be given")
    ended_s = moment_s(event.get("event_time_unix_ms"), "event_time_unix_ms")
    begun_s = moment_s(request.get("request_received_ms"), "request.request_received_ms")
    spent_s = seconds(request.get("total_time_ms"), "request.total_time_ms", unit_s=1e-3)
    if begun_s is None and ended_s is not None and spent_s is not None:
        begun_s = ended_s - spent_s
    elif begun_s is not None and spent_s is not None:
        ended_s = begun_s + spent_s
    if begun_s is None:
        if ended_s is None:
            raise Absurd("request_received_ms and event_time_unix_ms are missing: one must be given")
        begun_s = ended_s
        tally.counts["calls without a begin or duration, counted as 0 s"] += 1
    given = count(get(request, "input_tokens", "replay.input_length"), "request.input_tokens")
    return Seen(
        run="", id=id_, start_s=begun_s, end_s=ended_s, llm=label(request.get("model")) or "llm", input_tokens=given,
        output_tokens=count(request.get("output_tokens"), "request.output_tokens"),
        cached_tokens=count(request.get("cached_tokens"), "request.cached_tokens") or 0,
        prefix=_prefix(request, blocks, tally)[: (given or 0) // blocks.tokens if blocks.tokens else 0],
    )  # fmt: skip


def _prefix(request: Mapping[str, Any], blocks: _Blocks, tally: Tally) -> tuple[int, ...]:
    own = count(get(request, "replay.trace_block_size"), "replay.trace_block_size")
    ids = block_ids(get(request, "replay.input_sequence_hashes"), "replay.input_sequence_hashes")
    if not own or not ids:
        return ()
    blocks.tokens = blocks.tokens or own
    if own != blocks.tokens:
        tally.counts[f"prompts hashed in blocks of another size than {blocks.tokens} tokens, taken as sharing nothing"] += 1
        return ()
    return ids


def _tool(event: Mapping[str, Any]) -> Seen:
    tool = mapping(event.get("tool"))
    ended_s = moment_s(get(tool, "ended_at_unix_ms") or event.get("event_time_unix_ms"), "tool.ended_at_unix_ms")
    spent_s = seconds(tool.get("duration_ms"), "tool.duration_ms", unit_s=1e-3)
    begun_s = moment_s(tool.get("started_at_unix_ms"), "tool.started_at_unix_ms")
    if ended_s is None:
        raise Absurd("tool.ended_at_unix_ms and event_time_unix_ms are missing: one must be given")
    if begun_s is None:
        begun_s = ended_s - (spent_s or 0.0)
    return Seen(run="", id=f"tool-{label(tool.get('tool_call_id'))}", start_s=begun_s, end_s=max(begun_s, ended_s), tool=True)


def _detect(sample: FileSample) -> str | None:
    for record in sample.records():
        schema = get(record, "schema", "event.schema")
        if schema in SCHEMAS:
            return f"{sample.form}, records of schema {schema}"
    return None


DYNAMO_TRACE = Importer(
    summary="Dynamo agent and request traces (JSON lines): calls, tools, threads, prompt blocks",
    open=_open,
    detect=_detect,
    options={"workflow": "name of the workflow (default: the trace's workflow or session type)"},
)
