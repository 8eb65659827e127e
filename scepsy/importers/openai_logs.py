"""OpenAI-style request logs (JSON lines): one object per call, with the request, the response and its times.

    {"request": {"model": "m", "metadata": {"run_id": "r1"}},
     "response": {"usage": {"prompt_tokens": 9, "completion_tokens": 3}},
     "start_time": "2025-01-01T00:00:00Z", "end_time": "2025-01-01T00:00:01Z", "path": "/v1/chat/completions"}

Times are ISO 8601 or numbers since 1970; ``end_time`` may be replaced by ``duration_s`` or ``duration_ms``. A run is told by
``run_id``, ``workflow`` and ``session_id`` at the top level, in ``request.metadata``, or in ``headers`` as ``x-scepsy-run``,
``x-run-id`` and so on; without one, every call is its own run. ``parents`` lists the ``id`` of calls waited for; a run in
which no call has any gets them by time.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scepsy.importers.assemble import Seen, assemble
from scepsy.importers.base import Imported, Importer
from scepsy.importers.detect import Fields
from scepsy.importers.fields import Absurd, count, estimated_tokens, get, label, moment_s, seconds
from scepsy.importers.record_reader import json_records
from scepsy.importers.source import Source
from scepsy.importers.tally import Tally
from scepsy.importers.usage import RecordedUsage, settled
from scepsy.workload import CallKind, TraceSource

_POOLING: Mapping[str, CallKind] = {"embeddings": "embed", "rerank": "rerank", "score": "rerank"}

_INPUTS = ("request.messages", "request.prompt", "request.input")
_CACHED = ("prompt_tokens_details.cached_tokens", "input_tokens_details.cached_tokens", "cache_read_input_tokens")

_HEADERS = {
    "run_id": ("x-scepsy-run", "x-run-id"),
    "workflow": ("x-scepsy-workflow", "x-workflow"),
    "session_id": ("x-scepsy-session", "x-session-id"),
}


def _open(sources: Sequence[Source], options: Mapping[str, str], tally: Tally) -> Imported:
    return Imported(
        source=TraceSource(origin=f"OpenAI-style log: {', '.join(source.label for source in sources)}"),
        runs=assemble(_seen(sources, tally), tally, default=options.get("workflow", "openai-log")),
    )


def _seen(sources: Sequence[Source], tally: Tally) -> Iterator[Seen]:
    for source in sources:
        for number, record in enumerate(json_records(source, tally), start=1):
            try:
                yield _call(record.value, f"{source.label}:{record.line or number}", tally)
            except Absurd as error:
                tally.drop(str(error), source, record.line)


def _call(raw: Any, place: str, tally: Tally) -> Seen:
    if not isinstance(raw, dict):
        raise Absurd("a record is no mapping: must be one")
    start_s = moment_s(raw.get("start_time"), "start_time")
    llm = label(get(raw, "request.model", "response.model"))
    if start_s is None or not llm:
        raise Absurd("start_time or request.model is missing: must be given")
    run = _named(raw, "run_id") or place
    kind: CallKind = next(
        (kind for word, kind in _POOLING.items() if label(raw.get("path")).rstrip("/").endswith(word)), "generate"
    )
    usage = settled(_usage(raw), tally)
    parents = raw.get("parents")
    return Seen(
        run=run,
        id=label(raw.get("id")) or place,
        start_s=start_s,
        end_s=_end_s(raw, start_s),
        llm=llm,
        kind=kind,
        input_tokens=usage.given,
        output_tokens=usage.made,
        text_input_tokens=0 if usage.given else estimated_tokens(get(raw, *_INPUTS)),
        text_output_tokens=0 if usage.made else estimated_tokens(get(raw, "response.choices", "response.output")),
        cached_tokens=usage.cached,
        failed=not isinstance(raw.get("response"), dict),
        waits=tuple(filter(None, map(label, parents))) if isinstance(parents, list) else (),
        workflow=_named(raw, "workflow"),
        session=_named(raw, "session_id"),
    )


def _end_s(raw: Mapping[str, Any], start_s: float) -> float | None:
    end_s = moment_s(raw.get("end_time"), "end_time")
    if end_s is not None:
        return end_s
    lasted_s = seconds(raw.get("duration_s"), "duration_s")
    if lasted_s is None:
        lasted_s = seconds(raw.get("duration_ms"), "duration_ms", unit_s=1e-3)
    return None if lasted_s is None else start_s + lasted_s


def _usage(raw: Mapping[str, Any]) -> RecordedUsage:
    def first(*names: str) -> int | None:
        return count(get(raw, *(f"response.usage.{name}" for name in names)), names[0])

    return RecordedUsage(
        given=first("prompt_tokens", "input_tokens"),
        made=first("completion_tokens", "output_tokens"),
        cached=first(*_CACHED) or 0,
        stored=first("cache_creation_input_tokens") or 0,
    )


def _named(raw: Mapping[str, Any], name: str) -> str:
    found = raw.get("headers")
    headers = {key.lower(): value for key, value in found.items()} if isinstance(found, dict) else {}
    values = (raw.get(name), get(raw, f"request.metadata.{name}"), *(headers.get(header) for header in _HEADERS[name]))
    return next((text for text in map(label, values) if text), "")


OPENAI_JSONL = Importer(
    summary="OpenAI-style request logs (JSON lines): request, response with usage, times, optional run ids",
    open=_open,
    detect=Fields(("start_time", "request|response", "response.usage|request.model"), lacks=("run_type",)),
    options={"workflow": "name of the workflow where a record names none (default: openai-log)"},
)
