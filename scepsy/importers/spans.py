"""Spans of tracing tools in any of their JSON forms, and what the conventions for calls to models have in common.

Read are OTLP in JSON (export requests, one or one per line; the Collector's file exporter; protobuf's own JSON with snake_case
names; Tempo's ``batches``) and plain span lists (Phoenix, the console exporters of the OpenTelemetry SDKs).
A span that is linked to others waited for them (``files.otlp`` writes such links).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from scepsy.errors import InputError
from scepsy.files.otlp import COMPLETE
from scepsy.importers.assemble import Seen, assemble
from scepsy.importers.base import Imported
from scepsy.importers.fields import DEEPEST, LATEST_S, Absurd, count, embedded, estimated_tokens, get, label, moment_s, seconds
from scepsy.importers.record_reader import json_records
from scepsy.importers.source import Source
from scepsy.importers.tally import Tally
from scepsy.importers.usage import RecordedUsage, settled
from scepsy.workload import CallKind, TraceSource

OTLP_LISTS = (
    "resourceSpans.scopeSpans.spans",
    "resource_spans.scope_spans.spans",
    "resourceSpans.instrumentationLibrarySpans.spans",
    "batches.scopeSpans.spans",
)
"""Where OTLP documents hold spans."""

SPAN_LISTS = ("spans", "data")
"""Where other documents do."""

OPTIONS = {
    "run": "what is one run: trace (default, a trace id) or session (a conversation id)",
    "workflow": "workflow name of all runs; default: the root span's agent or name",
}


@dataclass(frozen=True)
class Span:
    """One span with its attributes as plain values."""

    trace: str
    id: str
    parent: str
    name: str
    start_s: float
    end_s: float | None
    attributes: Mapping[str, Any]
    links: tuple[str, ...]
    """Ids of linked spans of the same trace."""
    failed: bool


@dataclass(frozen=True)
class Reading:
    """What a convention finds in a span that is a call."""

    llm: str
    kind: CallKind
    usage: RecordedUsage
    session: str = ""
    texts: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    """Attributes that hold the input's and the output's text."""


Reader = Callable[[Span], Reading | None]
"""None: not a call to a model. Raises ``Absurd``."""


def read_span(raw: Any) -> Span:
    """A span in one of the JSON forms. Raises ``Absurd``."""
    if not isinstance(raw, dict):
        raise Absurd("a span is no mapping: must be one")
    trace = label(get(raw, "traceId", "trace_id", "context.trace_id", "context.traceId"))
    id_ = label(get(raw, "spanId", "span_id", "context.span_id", "context.spanId"))
    if not trace or not id_:
        raise Absurd("spanId or traceId is missing: every span must have both")
    start_s, end_s = _clock_s(raw, "start"), _clock_s(raw, "end")
    if start_s is None:
        raise Absurd("startTimeUnixNano is missing: every span must have a start time")
    if end_s == 0.0 < start_s:  # what exporters write for a span that has not ended
        end_s = None
    status = get(raw, "status.code", "status.status_code", "status_code", "statusCode")
    links = raw.get("links")
    return Span(
        trace=trace,
        id=id_,
        parent=label(get(raw, "parentSpanId", "parent_span_id", "parent_id", "parentId")),
        name=label(raw.get("name"), 80),
        start_s=start_s,
        end_s=end_s,
        attributes=_attributes(raw),
        links=tuple(_linked(link, trace) for link in links if _linked(link, trace)) if isinstance(links, list) else (),
        failed=isinstance(status, (str, int)) and str(status).rpartition(".")[2] in ("2", "STATUS_CODE_ERROR", "ERROR"),
    )


def _clock_s(raw: Mapping[str, Any], which: str) -> float | None:
    nanoseconds = get(raw, f"{which}TimeUnixNano", f"{which}_time_unix_nano")
    if nanoseconds is not None:
        return seconds(nanoseconds, f"{which}TimeUnixNano", unit_s=1e-9, most_s=LATEST_S)
    return moment_s(get(raw, f"{which}_time", f"{which}Time"), f"{which}_time")


def _linked(link: Any, trace: str) -> str:
    same = label(get(link, "traceId", "trace_id", "context.trace_id")) == trace
    return label(get(link, "spanId", "span_id", "context.span_id")) if same else ""


def _attributes(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    found = raw.get("attributes")
    if isinstance(found, list):
        pairs = ((item.get("key"), item.get("value")) for item in found if isinstance(item, dict))
        return {key: _plain(value) for key, value in pairs if isinstance(key, str)}
    if isinstance(found, dict):
        return found
    start = "attributes."
    return {key.removeprefix(start): value for key, value in raw.items() if key.startswith(start)}


def _plain(value: Any, depth: int = 0) -> Any:
    """An OTLP AnyValue as a plain one; 64-bit integers are strings there."""
    if not isinstance(value, dict) or depth > DEEPEST:
        return None
    for name, found in value.items():
        if name in ("intValue", "int_value", "stringValue", "string_value", "boolValue", "doubleValue", "double_value"):
            return found
        if name in ("arrayValue", "array_value") and isinstance(found, dict) and isinstance(found.get("values"), list):
            return [_plain(item, depth + 1) for item in found["values"]]
    return None


def usage_of(attributes: Mapping[str, Any], **names: tuple[str, ...]) -> RecordedUsage:
    """Counts from attributes; ``names`` gives, per field of ``RecordedUsage``, where it may stand. Raises ``Absurd``."""
    found = {field: count(get(attributes, *places), places[0]) for field, places in names.items()}
    return msgspec.convert({field: value for field, value in found.items() if value is not None}, RecordedUsage)


def import_spans(
    sources: Sequence[Source],
    options: Mapping[str, str],
    tally: Tally,
    readers: Sequence[Reader],
    what: str,
    lists: tuple[str, ...] = OTLP_LISTS,
) -> Imported:
    """Turn spans into runs: one per trace id, or with ``run=session`` one per session.

    The first reader that knows a span reads it.
    """
    by = options.get("run", "trace")
    if by not in ("trace", "session"):
        raise InputError(f"option run is {by!r}: must be trace or session")
    seen = _seen(sources, tally, readers, by == "session", lists)
    return Imported(
        source=TraceSource(origin=f"{what}: {', '.join(source.label for source in sources)}"),
        runs=assemble(seen, tally, workflow=options.get("workflow", "")),
    )


def _seen(
    sources: Sequence[Source], tally: Tally, readers: Sequence[Reader], by_session: bool, lists: tuple[str, ...]
) -> Iterator[Seen]:
    for source in sources:
        for record in json_records(source, tally, *lists):
            if isinstance(record.value, dict) and any(place.partition(".")[0] in record.value for place in lists):
                continue  # an export request without spans
            try:
                span = read_span(record.value)
                reading = next((found for read in readers if (found := read(span)) is not None), None)
            except Absurd as error:
                tally.drop(str(error), source, record.line)
                continue
            yield _observed(span, reading, by_session, tally)


_KINDS = ("traceloop.span.kind", "mlflow.spanType")


def _observed(span: Span, reading: Reading | None, by_session: bool, tally: Tally) -> Seen:
    attributes = span.attributes
    named = label(get(attributes, "gen_ai.agent.name")) or span.name
    if reading is None:
        kind = embedded(get(attributes, "openinference.span.kind", "gen_ai.operation.name", *_KINDS))
        return Seen(
            run=span.trace, id=f"{span.trace}:{span.id}", parent=_inside(span), start_s=span.start_s, end_s=span.end_s,
            name=named, complete=attributes.get(COMPLETE) == "complete",
            tool=kind in ("TOOL", "execute_tool", "tool"), waits=_links(span), session=_session(attributes),
        )  # fmt: skip
    usage = settled(reading.usage, tally)
    estimate = usage.given is None or (usage.made is None and reading.kind == "generate")
    texts = [estimated_tokens(*_texts(attributes, names)) if estimate else 0 for names in reading.texts]
    return Seen(
        run=(reading.session if by_session else "") or span.trace, id=f"{span.trace}:{span.id}", parent=_inside(span),
        start_s=span.start_s, end_s=span.end_s, llm=reading.llm, kind=reading.kind, input_tokens=usage.given,
        output_tokens=usage.made, text_input_tokens=texts[0], text_output_tokens=texts[1], cached_tokens=usage.cached,
        failed=span.failed, waits=_links(span), session=reading.session,
        name=named,
    )  # fmt: skip


def _inside(span: Span) -> str:
    return f"{span.trace}:{span.parent}" if span.parent else ""


def _links(span: Span) -> tuple[str, ...]:
    return tuple(f"{span.trace}:{link}" for link in span.links)


def _session(attributes: Mapping[str, Any]) -> str:
    return label(get(attributes, "gen_ai.conversation.id", "session.id"))


def _texts(attributes: Mapping[str, Any], names: tuple[str, ...]) -> list[Any]:
    """The first of these attributes, or of what begins with their names (``llm.input_messages.0.…``), that has text."""
    for name in names:
        found = [value for key, value in attributes.items() if key == name or key.startswith(f"{name}.")]
        found = [embedded(value) for value in found]
        nested = found or [get(attributes, name)]
        if estimated_tokens(*nested):
            return nested
    return []
