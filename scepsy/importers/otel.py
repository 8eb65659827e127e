"""OpenTelemetry GenAI spans (semantic conventions 1.37), vLLM's own spans included."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from scepsy.importers.base import Imported, Importer
from scepsy.importers.otlp import Reading, Span, import_spans, tokens
from scepsy.workload import CallKind

KINDS: Mapping[str, CallKind] = {
    "chat": "generate",
    "text_completion": "generate",
    "generate_content": "generate",
    "embeddings": "embed",
    "rerank": "rerank",
}
"""``gen_ai.operation.name`` → kind; rerank is not in the conventions, but is what rerankers' spans say."""


def read_call(span: Span) -> Reading | None:
    """A GenAI client span as a call; spans of agents and tools are none."""
    attributes = span.attributes
    operation = attributes.get("gen_ai.operation.name")
    own = span.name == "llm_request"  # vLLM's span: no operation name, and the spelling of before 1.27
    if operation not in KINDS and not own:
        return None
    model = attributes.get("gen_ai.request.model") or attributes.get("gen_ai.response.model")
    if not model:
        return None
    kind: CallKind = "generate" if own else KINDS[str(operation)]
    return Reading(
        llm=str(model),
        kind=kind,
        input_tokens=tokens(attributes, "gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens") or 0,
        output_tokens=tokens(attributes, "gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens") or 0,
        cached_tokens=tokens(attributes, "gen_ai.usage.cache_read.input_tokens", "gen_ai.usage.cached_tokens") or 0,
        session=str(attributes.get("gen_ai.conversation.id") or attributes.get("session.id") or ""),
    )


def _open(paths: Sequence[Path], options: Mapping[str, str]) -> Imported:
    return import_spans(paths, options, read_call, "gen_ai")


OPTIONS = {
    "run": "what is one run: trace (default, a trace id) or session (a conversation id)",
    "workflow": "workflow name of all runs; default: the root span's agent or name",
}

OTEL = Importer("OpenTelemetry GenAI spans as OTLP JSON", _open, OPTIONS)
