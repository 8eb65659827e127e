"""OpenInference spans (Arize Phoenix and its instrumentations)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from scepsy.importers.base import Imported, Importer
from scepsy.importers.otel import OPTIONS
from scepsy.importers.otlp import Reading, Span, import_spans, tokens
from scepsy.workload import CallKind

KINDS: Mapping[str, CallKind] = {"LLM": "generate", "EMBEDDING": "embed", "RERANKER": "rerank"}
"""``openinference.span.kind`` → kind."""

_MODELS = ("llm.model_name", "embedding.model_name", "reranker.model_name")


def read_call(span: Span) -> Reading | None:
    """An LLM, EMBEDDING or RERANKER span as a call."""
    attributes = span.attributes
    kind = KINDS.get(str(attributes.get("openinference.span.kind", "")).upper())
    model = next((attributes[name] for name in _MODELS if attributes.get(name)), None)
    if kind is None or model is None:
        return None
    return Reading(
        llm=str(model),
        kind=kind,
        input_tokens=tokens(attributes, "llm.token_count.prompt", "llm.token_count.total") or 0,
        output_tokens=tokens(attributes, "llm.token_count.completion") or 0,
        cached_tokens=tokens(attributes, "llm.token_count.prompt_details.cache_read") or 0,
        session=str(attributes.get("session.id") or ""),
    )


def _open(paths: Sequence[Path], options: Mapping[str, str]) -> Imported:
    return import_spans(paths, options, read_call, "OpenInference")


OPENINFERENCE = Importer("OpenInference spans as OTLP JSON", _open, OPTIONS)
