"""Spans in OTLP's JSON form (``resourceSpans``), and what OpenTelemetry GenAI and OpenInference spans have in common.

Files hold one export request, or one per line as the Collector's file exporter writes them. A span that is linked to
others waited for them (``files.otlp`` writes such links); without links, times tell as for a gateway's recording.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from scepsy.errors import InputError
from scepsy.files.failure import decode_json, fail, read_bytes
from scepsy.importers.base import Imported
from scepsy.importers.recorded.record import CallRecord, Source
from scepsy.importers.recorded.trace import to_trace
from scepsy.workload import CallKind, Run

NANOSECONDS = 1e-9


@dataclass(frozen=True)
class Span:
    """One span with its attributes as plain values."""

    trace: str
    id: str
    parent: str
    name: str
    start_s: float
    end_s: float
    attributes: Mapping[str, Any]
    links: tuple[str, ...]
    """Ids of linked spans of the same trace."""
    failed: bool


@dataclass(frozen=True)
class Reading:
    """What a convention finds in a span."""

    llm: str
    kind: CallKind
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    session: str


Reader = Callable[[Span], Reading | None]
"""None: not a call to a model."""


def read_spans(path: Path) -> list[Span]:
    """All spans of a file. Raises ``InputError`` naming file, line and field."""
    data = read_bytes(path)
    try:
        documents: list[tuple[int | None, Any]] = [(None, msgspec.json.decode(data))]
    except msgspec.DecodeError:
        lines = enumerate(data.split(b"\n"), start=1)
        documents = [(number, decode_json(path, line, number)) for number, line in lines if line.strip()]
    spans = []
    for number, document in documents:
        for request in document if isinstance(document, list) else [document]:
            if not isinstance(request, dict) or "resourceSpans" not in request:
                raise fail(path, "resourceSpans is missing: must be an OTLP export request in JSON", line=number)
            spans += [_span(path, number, raw) for raw in _raw_spans(request)]
    return spans


def _raw_spans(request: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for resource in request["resourceSpans"]:
        for scope in resource.get("scopeSpans", ()):
            yield from scope.get("spans", ())


def _span(path: Path, line: int | None, raw: Mapping[str, Any]) -> Span:
    try:
        return Span(
            trace=str(raw["traceId"]),
            id=str(raw["spanId"]),
            parent=str(raw.get("parentSpanId") or ""),
            name=str(raw.get("name", "")),
            start_s=int(raw["startTimeUnixNano"]) * NANOSECONDS,
            end_s=int(raw["endTimeUnixNano"]) * NANOSECONDS,
            attributes={item["key"]: _plain(item.get("value")) for item in raw.get("attributes", ())},
            links=tuple(str(link["spanId"]) for link in raw.get("links", ()) if link.get("traceId") == raw["traceId"]),
            failed=str((raw.get("status") or {}).get("code", "")) in ("2", "STATUS_CODE_ERROR"),
        )
    except KeyError as error:
        raise fail(path, f"{error.args[0]} is missing: every span must have it", line=line) from error
    except (TypeError, ValueError, AttributeError) as error:
        raise fail(path, f"a span cannot be read: {error}", line=line) from error


def _plain(value: Any) -> Any:
    """An OTLP AnyValue as a plain one; 64-bit integers are strings there."""
    if not isinstance(value, dict):
        return None
    for name, found in value.items():
        if name == "intValue":
            return int(found)
        if name in ("stringValue", "boolValue", "doubleValue"):
            return found
        if name == "arrayValue":
            return [_plain(item) for item in found.get("values", ())]
    return None


def tokens(attributes: Mapping[str, Any], *names: str) -> int | None:
    """The first of these attributes that is a count."""
    for name in names:
        value = attributes.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0:
            return int(value)
    return None


def import_spans(paths: Sequence[Path], options: Mapping[str, str], read: Reader, convention: str) -> Imported:
    """Turn spans into runs: one per trace id, or with ``run=session`` one per session."""
    by = options.get("run", "trace")
    if by not in ("trace", "session"):
        raise InputError(f"option run is {by!r}: must be trace or session")
    counts: Counter[str] = Counter()
    spans = [span for path in paths for span in read_spans(path)]
    records = list(_records(spans, read, by, options.get("workflow", ""), counts))
    if not records:
        named = ", ".join(map(str, paths))
        raise InputError(f"{named}: no {convention} call with token counts: must hold some (is it another convention?)")
    trace = to_trace(records, ", ".join(path.name for path in paths))
    notes = tuple(note for note in trace.source.notes if not note.startswith("runs attributed"))
    source = msgspec.structs.replace(trace.source, notes=notes)
    return Imported(source=source, runs=iter(_with_tails(trace.runs, spans, records)), counts=counts)


def _records(spans: Sequence[Span], read: Reader, by: str, workflow: str, counts: Counter[str]) -> Iterator[CallRecord]:
    readings = {(span.trace, span.id): reading for span in spans if (reading := read(span)) is not None}
    parents = {(span.trace, span.id): (span.trace, span.parent) for span in spans}
    wrappers = _ancestors(readings, parents)
    roots = {span.trace: span for span in reversed(spans) if not span.parent and (span.trace, span.id) not in readings}
    linked = {span.trace for span in spans if span.links and (span.trace, span.id) in readings}
    for span in spans:
        reading = readings.get((span.trace, span.id))
        if reading is None:
            continue
        if (span.trace, span.id) in wrappers:
            counts["spans that only wrap another call's span, left out"] += 1
            continue
        if reading.input_tokens < 1:
            counts["calls without an input token count, left out"] += 1
            continue
        root = roots.get(span.trace)
        named = root.attributes.get("gen_ai.agent.name") or root.name if root is not None else ""
        yield CallRecord(
            id=f"{span.trace}:{span.id}",
            session="otlp",
            run=(reading.session if by == "session" else "") or span.trace,
            rung="traceparent",
            workflow=workflow or str(named or "default"),
            llm=reading.llm,
            endpoint="",
            kind=reading.kind,
            start_s=span.start_s,
            end_s=max(span.start_s, span.end_s),
            outcome="failed" if span.failed else "completed",
            input_tokens=reading.input_tokens,
            output_tokens=reading.output_tokens,
            cached_tokens=reading.cached_tokens,
            sources=tuple(Source(call=f"{span.trace}:{link}", contained_pct=100, by="message") for link in span.links),
            # Where links are written down they are all there is: nothing is to be added by time.
            can_be_source=span.trace in linked,
        )


def _ancestors(calls: Iterable[tuple[str, str]], parents: Mapping[tuple[str, str], tuple[str, str]]) -> set[tuple[str, str]]:
    """Every span above a call: instrumentations of a framework and of its client describe the same call twice."""
    above: set[tuple[str, str]] = set()
    for call in calls:
        at = parents.get(call)
        while at is not None and at not in above and at in parents:
            above.add(at)
            at = parents[at]
    return above


def _with_tails(runs: Iterable[Run], spans: Sequence[Span], records: Sequence[CallRecord]) -> Iterator[Run]:
    """Runs whose root span outlasts its last call keep the rest as tail."""
    ends = {span.trace: span for span in reversed(spans) if not span.parent}
    last: dict[str, float] = {}
    for record in records:
        last[record.run] = max(last.get(record.run, 0.0), record.end_s)
    for run in runs:
        root = ends.get(run.id)
        tail = root.end_s - last[run.id] if root is not None and run.id in last else 0.0
        yield msgspec.structs.replace(run, tail_s=tail) if tail > 1e-6 else run
