"""OpenAI-style request logs (JSON lines): one object per call, with the request, the response and its times.

    {"request": {"model": "m", "metadata": {"run_id": "r1"}},
     "response": {"usage": {"prompt_tokens": 9, "completion_tokens": 3}},
     "start_time": "2025-01-01T00:00:00Z", "end_time": "2025-01-01T00:00:01Z", "path": "/v1/chat/completions"}

Times are ISO 8601 or seconds since 1970; ``end_time`` may be replaced by ``duration_s`` or ``duration_ms``. A run is told by
``run_id``, ``workflow`` and ``session_id`` at the top level, in ``request.metadata``, or in ``headers`` as ``x-scepsy-run``,
``x-run-id`` and so on; without one, every call is its own run. ``parents`` lists the ``id`` of calls waited for; a run in
which no call has any gets them by time (``threads.parents_by_time``).
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from scepsy.files.failure import fail, shown
from scepsy.importers.base import Imported, Importer, checking, clock_s, read_foreign_lines
from scepsy.importers.detect import Fields
from scepsy.importers.source import Source
from scepsy.importers.tally import Tally
from scepsy.importers.threads import Observed, parents_by_time, parents_first
from scepsy.workload import Call, CallKind, Run, TraceSource

_POOLING: Mapping[str, CallKind] = {"embeddings": "embed", "rerank": "rerank", "score": "rerank"}

_HEADERS = {
    "run_id": ("x-scepsy-run", "x-run-id"),
    "workflow": ("x-scepsy-workflow", "x-workflow"),
    "session_id": ("x-scepsy-session", "x-session-id"),
}


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


class _Request(msgspec.Struct):
    model: str | None = None
    metadata: dict[str, object] | None = None


class _Response(msgspec.Struct):
    model: str | None = None
    usage: _Usage | None = None


class _Row(msgspec.Struct):
    start_time: str | float
    request: _Request = msgspec.field(default_factory=_Request)
    response: _Response | None = None
    end_time: str | float | None = None
    duration_s: float | None = None
    duration_ms: float | None = None
    id: str | None = None
    parents: list[str] | None = None
    path: str = ""
    run_id: str | None = None
    session_id: str | None = None
    workflow: str | None = None
    headers: dict[str, object] | None = None


@dataclass(frozen=True)
class _Entry:
    """One call as logged."""

    source: Source
    line: int
    id: str
    run: str | None
    workflow: str
    session: str
    llm: str
    kind: CallKind
    input_tokens: int
    output_tokens: int
    start_s: float
    end_s: float
    parents: tuple[str, ...]


def _open(sources: Sequence[Source], options: Mapping[str, str], tally: Tally) -> Imported:
    return Imported(
        source=TraceSource(
            origin=f"OpenAI-style log: {', '.join(source.label for source in sources)}",
            notes=("where a run's calls name no parents, a call waits for those that ended last before it began",),
        ),
        runs=_runs(sources, options.get("workflow", "openai-log"), tally.counts),
    )


def _runs(sources: Sequence[Source], workflow: str, counts: Counter[str]) -> Iterator[Run]:
    groups: dict[str, list[_Entry]] = {}
    for source in sources:
        for line, row in read_foreign_lines(source, _Row):
            entry = _entry(source, line, row, workflow, counts)
            if entry is not None:
                groups.setdefault(entry.run or f"{source.label}:{line}", []).append(entry)
    begin = min((entry.start_s for entries in groups.values() for entry in entries), default=0.0)
    for run, entries in sorted(groups.items(), key=lambda item: (min(entry.start_s for entry in item[1]), item[0])):
        yield _run(run, entries, begin, counts)


def _entry(source: Source, line: int, row: _Row, workflow: str, counts: Counter[str]) -> _Entry | None:
    usage = row.response.usage if row.response else None
    if usage is None:
        counts["calls without usage (failed or streamed without it), left out"] += 1
        return None
    llm = row.request.model or (row.response.model if row.response else None)
    if not llm:
        raise fail(str(source), "request.model is missing: must name the LLM", line=line)
    start = _time(source, "start_time", row.start_time, line)
    if row.end_time is not None:
        end = _time(source, "end_time", row.end_time, line)
    elif row.duration_s is not None or row.duration_ms is not None:
        end = start + (row.duration_s if row.duration_s is not None else (row.duration_ms or 0.0) / 1000.0)
    else:
        raise fail(str(source), "end_time is missing: must be given (or duration_s, or duration_ms)", line=line)
    if end < start:
        raise fail(str(source), f"end_time is {end - start:g} s after start_time: must be >= 0", line=line)
    kind: CallKind = next((kind for word, kind in _POOLING.items() if row.path.rstrip("/").endswith(word)), "generate")
    output = usage.completion_tokens if usage.completion_tokens is not None else usage.output_tokens or 0
    if kind == "generate" and output == 0:
        counts["calls without output tokens, counted as one token"] += 1
        output = 1
    return _Entry(
        source=source,
        line=line,
        id=row.id or f"line-{line}",
        run=_label(row, "run_id"),
        workflow=_label(row, "workflow") or workflow,
        session=_label(row, "session_id") or "",
        llm=llm,
        kind=kind,
        input_tokens=usage.prompt_tokens if usage.prompt_tokens is not None else usage.input_tokens or 0,
        output_tokens=output if kind == "generate" else 0,
        start_s=start,
        end_s=end,
        parents=tuple(row.parents or ()),
    )


def _label(row: _Row, name: str) -> str | None:
    headers = {key.lower(): value for key, value in (row.headers or {}).items()}
    for value in (
        getattr(row, name),
        (row.request.metadata or {}).get(name),
        *(headers.get(header) for header in _HEADERS[name]),
    ):
        if value not in (None, ""):
            return str(value)
    return None


def _time(source: Source, field: str, value: str | float, line: int) -> float:
    if isinstance(value, str):
        return clock_s(source, field, value, line)
    if not abs(value) < 1e12:
        raise fail(str(source), f"{field} is {shown(value)}: must be seconds since 1970", line=line)
    return float(value)


def _run(run: str, entries: list[_Entry], begin: float, counts: Counter[str]) -> Run:
    first = entries[0]
    places = {entry.id: number for number, entry in enumerate(entries)}
    for number, entry in enumerate(entries):
        if places[entry.id] != number:
            raise fail(str(entry.source), f"id is {shown(entry.id)}: must be unique within run {shown(run)}", line=entry.line)
        for parent in entry.parents:
            if parent not in places:
                raise fail(str(entry.source), f"parents: {shown(parent)} is no call of run {shown(run)}", line=entry.line)
    observed = [
        Observed(
            index=number,
            llm=entry.llm,
            start_s=entry.start_s,
            end_s=entry.end_s,
            input_tokens=entry.input_tokens,
            output_tokens=entry.output_tokens,
            parents=tuple(places[parent] for parent in entry.parents),
        )
        for number, entry in enumerate(entries)
    ]
    if len(entries) > 1 and not any(entry.parents for entry in entries):
        parents_by_time(observed)
        counts["runs whose calls name no parents, ordered by time"] += 1
    arrival = min(entry.start_s for entry in entries)
    ordered = parents_first(observed)
    if len(ordered) < len(observed):
        raise fail(str(first.source), f"parents of run {shown(run)} form a cycle: must not", line=first.line)
    calls = []
    for call in ordered:
        entry = entries[call.index]
        ready = max((entries[parent].end_s for parent in call.parents), default=arrival)
        with checking(entry.source, "", entry.line):
            calls.append(
                Call(
                    id=entry.id,
                    llm=entry.llm,
                    kind=entry.kind,
                    input_tokens=entry.input_tokens,
                    output_tokens=entry.output_tokens,
                    parents=tuple(entries[parent].id for parent in call.parents),
                    gap_s=max(0.0, entry.start_s - ready),
                    start_s=entry.start_s - arrival,
                    end_s=entry.end_s - arrival,
                )
            )
    with checking(first.source, f"run {shown(run)}", first.line):
        return Run(id=run, workflow=first.workflow, calls=tuple(calls), arrival_s=arrival - begin, session=first.session)


OPENAI_JSONL = Importer(
    summary="OpenAI-style request logs (JSON lines): request, response with usage, times, optional run ids",
    open=_open,
    detect=Fields(("start_time", "request|response", "response.usage|request.model"), lacks=("run_type",)),
    options={"workflow": "name of the workflow where a record names none (default: openai-log)"},
)
