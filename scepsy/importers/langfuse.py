"""Langfuse observations: traces exported from its pages, lists of its API, rows of its blob storage export.

A generation that contains another one (a framework's around its client's) is a wrapper and is not counted. Langfuse keeps what
each instrumentation reports, so input counts come with and without cached tokens and output counts with and without reasoning;
``usage.settled`` tells them apart by the total. ``latency`` is in seconds or in milliseconds, by version: it is only used where
an end is missing, in the unit that observations with both times show.
"""

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from scepsy.importers.assemble import Seen, assemble
from scepsy.importers.base import Imported, Importer, choice
from scepsy.importers.detect import Fields
from scepsy.importers.fields import Absurd, count, embedded, estimated_tokens, get, label, model_name, moment_s, seconds
from scepsy.importers.record_reader import Record, json_records, take_sample
from scepsy.importers.source import Source
from scepsy.importers.tally import Tally
from scepsy.importers.usage import RecordedUsage, settled
from scepsy.workload import CallKind, TraceSource

LISTS = ("observations", "data")

KINDS: Mapping[str, CallKind] = {"GENERATION": "generate", "EMBEDDING": "embed"}
"""Observation types that are calls; an agent, a chain, a tool or a span is none."""

_CACHED = (
    "cache_read_input_tokens", "input_cached_tokens", "input_cache_read", "prompt_details.cache_read",
    "prompt_details.cached_tokens", "prompt_tokens_details.cached_tokens",
    "input_tokens_details.cached_tokens", "cached_content_token_count",
)  # fmt: skip
_MODELS = ("model", "providedModelName", "provided_model_name", "internalModelId", "model_id")
_STORED = ("cache_creation_input_tokens", "input_cache_creation")
_REASONING = (
    "output_reasoning", "output_reasoning_tokens", "completion_details.reasoning", "reasoning_tokens", "reasoning",
    "completion_tokens_details.reasoning_tokens", "output_tokens_details.reasoning_tokens", "thoughts_token_count",
)  # fmt: skip


def _open(sources: Sequence[Source], options: Mapping[str, str], tally: Tally) -> Imported:
    by_session = choice(options, "run", ("trace", "session")) == "session"
    return Imported(
        source=TraceSource(origin=f"Langfuse: {', '.join(source.label for source in sources)}"),
        runs=assemble(_seen(sources, by_session, tally), tally, workflow=options.get("workflow", ""), default="langfuse"),
    )


def _seen(sources: Sequence[Source], by_session: bool, tally: Tally) -> Iterator[Seen]:
    for source in sources:
        unit_s = _latency_unit_s(source)
        for record in json_records(source, tally, *LISTS):
            if isinstance(record.value, dict) and any(name in record.value for name in LISTS):
                continue  # a trace without observations
            try:
                yield _observation(record, unit_s, by_session, tally)
            except Absurd as error:
                tally.drop(str(error), source, record.line)


def _observation(record: Record, unit_s: float, by_session: bool, tally: Tally) -> Seen:
    raw = record.value
    if not isinstance(raw, dict):
        raise Absurd("an observation is no mapping: must be one")
    start_s = moment_s(get(raw, "startTime", "start_time"), "startTime")
    id_ = label(raw.get("id"))
    if start_s is None or not id_:
        raise Absurd("id or startTime is missing: every observation must have both")
    end_s = moment_s(get(raw, "endTime", "end_time"), "endTime")
    if end_s is None:
        lasted_s = seconds(raw.get("latency"), "latency", unit_s=unit_s)
        end_s = None if lasted_s is None else start_s + lasted_s
    outer = record.outer if isinstance(record.outer, dict) else {}
    session = label(get(raw, "sessionId", "session_id")) or label(get(outer, "trace.sessionId", "sessionId"))
    run = label(get(raw, "traceId", "trace_id")) or label(get(outer, "trace.id", "id")) or id_
    kind = KINDS.get(str(raw.get("type")).upper())
    seen = Seen(
        run=(session if by_session else "") or run,
        id=id_,
        parent=label(get(raw, "parentObservationId", "parent_observation_id")),
        start_s=start_s,
        end_s=end_s,
        tool=raw.get("type") == "TOOL",
        workflow=label(get(raw, "traceName", "trace_name"), 80) or label(get(outer, "trace.name", "name"), 80),
        session=session,
        name=label(raw.get("name"), 80),
    )
    return seen if kind is None else _call(seen, raw, kind, tally)


def _call(seen: Seen, raw: Mapping[str, Any], kind: CallKind, tally: Tally) -> Seen:
    seen.llm = (
        model_name(get(raw, "model", "providedModelName", "provided_model_name", "internalModelId", "model_id")) or "unknown"
    )
    if seen.llm == "unknown":
        tally.counts["calls that name no model, called unknown"] += 1
    usage = settled(_usage(raw), tally)
    seen.kind = kind
    seen.input_tokens, seen.output_tokens, seen.cached_tokens = usage.given, usage.made, usage.cached
    seen.text_input_tokens = estimated_tokens(embedded(raw.get("input"))) if not usage.given else 0
    seen.text_output_tokens = estimated_tokens(embedded(raw.get("output"))) if not usage.made else 0
    seen.failed = raw.get("level") == "ERROR"
    return seen


def _usage(raw: Mapping[str, Any]) -> RecordedUsage:
    details = embedded(get(raw, "usageDetails", "usage_details", "usage"))
    details = details if isinstance(details, dict) else {}

    def first(*places: str) -> int | None:
        return count(get(details, *places), places[0])

    given = first("input", "promptTokens", "prompt_tokens", "input_tokens")
    made = first("output", "completionTokens", "completion_tokens", "output_tokens")
    if given is None and made is None:  # older columns, where 0 stands for unknown
        given = count(get(raw, "inputUsage", "promptTokens", "input_usage", "prompt_tokens"), "inputUsage") or None
        made = count(get(raw, "outputUsage", "completionTokens", "output_usage", "completion_tokens"), "outputUsage") or None
    total = first("total", "totalTokens", "total_tokens")
    return RecordedUsage(
        given=given,
        made=made,
        total=total,
        cached=first(*_CACHED) or 0,
        stored=first(*_STORED) or 0,
        reasoning=first(*_REASONING) or 0,
        # Anthropic's own names mean tokens that input does not include, unless the total says otherwise.
        apart=total is None and "cache_read_input_tokens" in details,
    )


def _latency_unit_s(source: Source) -> float:
    """Seconds per unit of ``latency``, by what the first observations with both times show; seconds when none does."""
    ratios = []
    for raw in take_sample(source).records(*LISTS):
        try:
            start_s, end_s = (moment_s(get(raw, f"{which}Time", f"{which}_time"), which) for which in ("start", "end"))
            latency = seconds(get(raw, "latency"), "latency")
        except Absurd:
            continue
        if start_s is not None and end_s is not None and latency and end_s - start_s > 0.01:
            ratios.append(latency / (end_s - start_s))
    return 1e-3 if ratios and median(ratios) > 30 else 1.0


LANGFUSE = Importer(
    summary="Langfuse observations (JSON, JSON lines): exported traces, lists of its API, blob storage exports",
    open=_open,
    options={
        "run": "what is one run: trace (default) or session",
        "workflow": "workflow name of all runs; default: the trace's name",
    },
    detect=Fields(
        (
            "id",
            "type",
            "traceId|trace_id",
            "startTime|start_time",
            "usageDetails|usage_details|usage|inputUsage|parentObservationId|parent_observation_id|level",
        ),
        lacks=("run_type",),
        within=LISTS,
    ),
)
