"""Traces as OTLP JSON spans: OpenTelemetry GenAI or OpenInference attributes, one line per run, lengths only."""

from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import msgspec

from scepsy.dag import timed
from scepsy.files.atomic import atomic_path
from scepsy.files.exports.base import Lost
from scepsy.files.trace import TraceReader
from scepsy.workload import Call, Run, Trace

Convention = Literal["otel", "openinference"]

_OPERATIONS = {"generate": "chat", "embed": "embeddings", "rerank": "rerank"}
_KINDS = {"generate": "LLM", "embed": "EMBEDDING", "rerank": "RERANKER"}
_MODELS = {"generate": "llm.model_name", "embed": "embedding.model_name", "rerank": "reranker.model_name"}

CLIENT = 3
"""SPAN_KIND_CLIENT"""

INTERNAL = 1

COMPLETE = "scepsy.links"
"""Attribute of a root span: ``complete`` says that the links between its calls are all that there are."""


def save_otlp(path: str | Path, trace: Trace, convention: Convention = "otel", *, epoch_s: float = 0.0) -> None:
    """Write a trace as spans, atomically: a root span per run, a child per call, links to the calls it waited for.

    Times count from ``epoch_s`` (Unix seconds); runs without a recorded clock get nominal times. Prefix hashes have no place
    in either convention and are left out.
    """
    _save(Path(path), trace.runs, convention, epoch_s)


def save_genai(path: Path, runs: Iterable[Run], reader: TraceReader, lost: Lost) -> int:
    """An exporter: GenAI conventions."""
    return _export(path, runs, reader, lost, "otel")


def save_openinference(path: Path, runs: Iterable[Run], reader: TraceReader, lost: Lost) -> int:
    """An exporter: OpenInference."""
    return _export(path, runs, reader, lost, "openinference")


def _export(path: Path, runs: Iterable[Run], reader: TraceReader, lost: Lost, convention: Convention) -> int:
    def counted() -> Iterator[Run]:
        for run in runs:
            if any(call.prefix_hashes for call in run.calls):
                lost.counts["runs written without their prompts' prefix blocks"] += 1
            yield run

    return _save(path, counted(), convention, 0.0)


def _save(path: Path, runs: Iterable[Run], convention: Convention, epoch_s: float) -> int:
    calls = 0
    with atomic_path(path) as aside, aside.open("wb") as file:
        for run in runs:
            file.write(msgspec.json.encode(run_spans(timed(run), convention, epoch_s)) + b"\n")
            calls += len(run.calls)
    return calls


def run_spans(run: Run, convention: Convention, epoch_s: float) -> dict[str, Any]:
    """One export request for one run with times."""
    trace_id = blake2b(run.id.encode(), digest_size=16).hexdigest()
    root_id = _span_id(run, "")
    begin_s = epoch_s + (run.arrival_s or 0.0)
    ends = [call.end_s for call in run.calls if call.end_s is not None]
    root = _span(trace_id, root_id, run.workflow, begin_s, begin_s + max(ends) + run.tail_s, kind=INTERNAL)
    root["attributes"] = _attributes(
        ({"openinference.span.kind": "CHAIN"} if convention == "openinference" else {"gen_ai.operation.name": "invoke_agent"})
        | {COMPLETE: "complete"}
    )
    spans = [root]
    for call in run.calls:
        assert call.start_s is not None
        assert call.end_s is not None
        span = _span(
            trace_id, _span_id(run, call.id), f"{_OPERATIONS[call.kind]} {call.llm}", begin_s + call.start_s,
            begin_s + call.end_s, kind=CLIENT,
        )  # fmt: skip
        span["parentSpanId"] = root_id
        span["attributes"] = _attributes(call_attributes(call, run, convention))
        span["links"] = [{"traceId": trace_id, "spanId": _span_id(run, parent)} for parent in call.parents]
        spans.append(span)
    scope = {"scope": {"name": "scepsy"}, "spans": spans}
    resource = {"attributes": _attributes({"service.name": "scepsy"})}
    return {"resourceSpans": [{"resource": resource, "scopeSpans": [scope]}]}


def call_attributes(call: Call, run: Run, convention: Convention) -> dict[str, str | int]:
    """What a convention says of a call."""
    found: dict[str, str | int]
    if convention == "openinference":
        found = {
            "openinference.span.kind": _KINDS[call.kind],
            _MODELS[call.kind]: call.llm,
            "llm.token_count.prompt": call.input_tokens,
        }
        if call.kind == "generate":
            found["llm.token_count.completion"] = call.output_tokens
        return found | ({"session.id": run.session} if run.session else {})
    found = {
        "gen_ai.operation.name": _OPERATIONS[call.kind],
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": call.llm,
        "gen_ai.usage.input_tokens": call.input_tokens,
    }
    if call.kind == "generate":
        found["gen_ai.usage.output_tokens"] = call.output_tokens
    return found | ({"gen_ai.conversation.id": run.session} if run.session else {})


def _span(trace_id: str, span_id: str, name: str, start_s: float, end_s: float, *, kind: int) -> dict[str, Any]:
    return {
        "traceId": trace_id,
        "spanId": span_id,
        "name": name,
        "kind": kind,
        "startTimeUnixNano": str(round(start_s * 1e9)),
        "endTimeUnixNano": str(round(end_s * 1e9)),
    }


def _span_id(run: Run, call: str) -> str:
    return blake2b(f"{run.id}\x1f{call}".encode(), digest_size=8).hexdigest()


def _attributes(values: Mapping[str, str | int]) -> list[dict[str, Any]]:
    return [
        {"key": name, "value": {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value}}
        for name, value in values.items()
    ]
