"""LiteLLM standard logging payloads, one per line or in a list (alone, or as ``standard_logging_object``).

``trace_id`` is the run; without one every call is a run of its own. What the proxy answered from its own cache reached no
engine and is left out. ``prompt_tokens`` include cached ones.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scepsy.importers.assemble import Seen, assemble
from scepsy.importers.base import Imported, Importer, choice
from scepsy.importers.detect import Fields
from scepsy.importers.fields import Absurd, count, embedded, estimated_tokens, get, label, model_name, moment_s
from scepsy.importers.record_reader import json_records
from scepsy.importers.source import Source
from scepsy.importers.tally import Tally
from scepsy.importers.usage import RecordedUsage, settled
from scepsy.workload import CallKind, TraceSource

_HELD = "standard_logging_object"
_POOLING: Mapping[str, CallKind] = {"embedding": "embed", "aembedding": "embed", "rerank": "rerank", "arerank": "rerank"}
_OTHERS = ("image", "transcription", "speech", "moderation", "video", "ocr", "file", "batch")
"""Parts of ``call_type`` that are no call to a language model."""


def _open(sources: Sequence[Source], options: Mapping[str, str], tally: Tally) -> Imported:
    name = choice(options, "name", ("model", "group"))
    by = choice(options, "run", ("trace", "session"))
    return Imported(
        source=TraceSource(origin=f"LiteLLM: {', '.join(source.label for source in sources)}"),
        runs=assemble(_seen(sources, name, by, tally), tally, workflow=options.get("workflow", ""), default="litellm"),
    )


def _seen(sources: Sequence[Source], name: str, by: str, tally: Tally) -> Iterator[Seen]:
    for source in sources:
        for record in json_records(source, tally, "data"):
            try:
                seen = _call(record.value, name, by, tally)
            except Absurd as error:
                tally.drop(str(error), source, record.line)
                continue
            if seen is not None:
                yield seen


def _call(raw: Any, name: str, by: str, tally: Tally) -> Seen | None:
    raw = embedded(get(raw, _HELD)) or raw
    if not isinstance(raw, dict):
        raise Absurd("a payload is no mapping: must be one")
    type_ = label(raw.get("call_type")).lower()
    if any(word in type_ for word in _OTHERS):
        tally.drop("calls to models that are no language models")
        return None
    if raw.get("cache_hit") is True or str(raw.get("cache_hit")).lower() == "true":
        tally.drop("calls that the proxy answered from its own cache")
        return None
    id_, start_s = label(get(raw, "id", "request_id")), moment_s(raw.get("startTime"), "startTime")
    if not id_ or start_s is None:
        raise Absurd("id or startTime is missing: every payload must have both")
    session = label(get(raw, "session_id", "metadata.session_id", "metadata.requester_metadata.session_id"))
    usage = settled(_usage(raw), tally)
    kind = _POOLING.get(type_, "generate")
    return Seen(
        run=(session if by == "session" else "") or label(raw.get("trace_id")) or id_,
        id=id_,
        start_s=start_s,
        end_s=moment_s(raw.get("endTime"), "endTime"),
        llm=model_name(get(raw, "model_group", "model") if name == "group" else get(raw, "model", "model_group")) or "unknown",
        kind=kind,
        input_tokens=usage.given,
        output_tokens=usage.made,
        text_input_tokens=0 if usage.given else estimated_tokens(embedded(raw.get("messages"))),
        text_output_tokens=0 if usage.made else estimated_tokens(embedded(raw.get("response"))),
        cached_tokens=usage.cached,
        failed=str(raw.get("status")).lower() in ("failure", "error"),
        session=session,
    )


def _usage(raw: Mapping[str, Any]) -> RecordedUsage:
    details = get(raw, "metadata.usage_object", "response.usage")
    details = details if isinstance(details, dict) else {}

    def first(*names: str) -> int | None:
        return count(get(details, *names), names[0])

    return RecordedUsage(
        # LiteLLM writes 0 where a provider said nothing.
        given=count(raw.get("prompt_tokens"), "prompt_tokens") or first("prompt_tokens") or None,
        made=count(raw.get("completion_tokens"), "completion_tokens") or first("completion_tokens"),
        total=count(raw.get("total_tokens"), "total_tokens"),
        cached=first("prompt_tokens_details.cached_tokens", "cache_read_input_tokens") or 0,
        stored=first("prompt_tokens_details.cache_creation_tokens", "cache_creation_input_tokens") or 0,
        reasoning=first("completion_tokens_details.reasoning_tokens") or 0,
    )


def _at(name: str) -> str:
    return f"{name}|{_HELD}.{name}"


LITELLM = Importer(
    summary="LiteLLM standard logging payloads (JSON, JSON lines)",
    open=_open,
    options={
        "name": "what an LLM is called by: model (default, the deployed one) or group (model_group, what clients ask for)",
        "run": "what is one run: trace (default, trace_id) or session",
        "workflow": "workflow name of all runs (default: litellm)",
    },
    detect=Fields(
        (_at("startTime"), _at("endTime"), _at("prompt_tokens"), f"{_at('call_type')}|{_at('model_group')}"), within=("data",)
    ),
)
