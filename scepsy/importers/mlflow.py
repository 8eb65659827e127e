"""MLflow traces: ``trace.to_json()`` of MLflow 2 and 3, one per line or in a list, and exports of ``search_traces``.

Attributes are JSON inside strings. Spans of type LLM, CHAT_MODEL, EMBEDDING and RERANKER are calls. Token counts are in
``mlflow.chat.tokenUsage``, else in the provider's answer. The model is in ``mlflow.llm.model``, else in the request.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from scepsy.importers.base import Imported, Importer
from scepsy.importers.detect import Fields
from scepsy.importers.fields import count, embedded, get, label
from scepsy.importers.openinference import read_call as read_openinference
from scepsy.importers.otel import read_call as read_genai
from scepsy.importers.source import Source
from scepsy.importers.spans import OPTIONS, Reading, Span, import_spans
from scepsy.importers.tally import Tally
from scepsy.importers.usage import RecordedUsage
from scepsy.workload import CallKind

LISTS = ("data.spans", "spans")

KINDS: Mapping[str, CallKind] = {"LLM": "generate", "CHAT_MODEL": "generate", "EMBEDDING": "embed", "RERANKER": "rerank"}
"""``mlflow.spanType`` → kind."""


def read_call(span: Span) -> Reading | None:
    """An MLflow span as a call. Raises ``Absurd``."""
    attributes = span.attributes
    kind = KINDS.get(str(_decoded(attributes, "mlflow.spanType")).upper())
    if kind is None:
        return None
    given, made = _decoded(attributes, "mlflow.spanInputs"), _decoded(attributes, "mlflow.spanOutputs")
    llm = (
        label(_decoded(attributes, "mlflow.llm.model")) or label(get(given, "model", "model_name")) or label(get(made, "model"))
    )
    return Reading(
        llm=llm or "unknown",
        kind=kind,
        usage=_usage(_decoded(attributes, "mlflow.chat.tokenUsage"), made),
        session=label(_decoded(attributes, "session.id")),
        texts=(("mlflow.spanInputs",), ("mlflow.spanOutputs",)),
    )


def _decoded(attributes: Mapping[str, Any], name: str) -> Any:
    return embedded(get(attributes, name))


def _usage(said: Any, answer: Any) -> RecordedUsage:
    found = said if isinstance(said, dict) else get(answer, "usage", "usage_metadata")

    def first(*names: str) -> int | None:
        return count(get(found, *names), names[0])

    return RecordedUsage(
        given=first("input_tokens", "prompt_tokens"),
        made=first("output_tokens", "completion_tokens"),
        total=first("total_tokens"),
        cached=first("cache_read_input_tokens", "prompt_tokens_details.cached_tokens") or 0,
        stored=first("cache_creation_input_tokens") or 0,
        reasoning=first("completion_tokens_details.reasoning_tokens", "output_tokens_details.reasoning_tokens") or 0,
    )


def _open(sources: Sequence[Source], options: Mapping[str, str], tally: Tally) -> Imported:
    return import_spans(sources, options, tally, (read_call, read_genai, read_openinference), "MLflow traces", LISTS)


MLFLOW = Importer(
    summary="MLflow traces of MLflow 2 and 3 (JSON, JSON lines)",
    open=_open,
    options=OPTIONS,
    detect=Fields(("attributes.mlflow.traceRequestId|attributes.mlflow.spanType|attributes.mlflow.spanInputs",), within=LISTS),
)
