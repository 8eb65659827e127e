"""OpenTelemetry GenAI spans (semantic conventions up to 1.37, OpenLLMetry's older names), vLLM's own spans included."""

from collections.abc import Mapping, Sequence

from scepsy.importers.base import Imported, Importer
from scepsy.importers.detect import Fields
from scepsy.importers.fields import get, label, model_name
from scepsy.importers.source import Source
from scepsy.importers.spans import OPTIONS, OTLP_LISTS, Reading, Span, import_spans, usage_of
from scepsy.importers.tally import Tally
from scepsy.workload import CallKind

KINDS: Mapping[str, CallKind] = {
    "chat": "generate",
    "text_completion": "generate",
    "generate_content": "generate",
    "completion": "generate",
    "embeddings": "embed",
    "embedding": "embed",
    "rerank": "rerank",
}
"""``gen_ai.operation.name`` (or OpenLLMetry's ``llm.request.type``) → kind; rerank is not in the conventions."""

_TEXTS = (
    ("gen_ai.input.messages", "gen_ai.prompt", "gen_ai.system_instructions", "gen_ai.input.text"),
    ("gen_ai.output.messages", "gen_ai.completion", "gen_ai.output.text"),
)


def read_call(span: Span) -> Reading | None:
    """A GenAI client span as a call; spans of agents and tools are none."""
    attributes = span.attributes
    operation = get(attributes, "gen_ai.operation.name", "llm.request.type")
    own = span.name == "llm_request"  # vLLM's span: no operation name, and the spelling of before 1.27
    llm = model_name(get(attributes, "gen_ai.request.model", "gen_ai.response.model"))
    if not llm or (operation not in KINDS and not own and not (operation is None and _counts_tokens(span))):
        return None
    kind = KINDS.get(operation, "generate") if isinstance(operation, str) else "generate"
    usage = usage_of(
        attributes,
        given=("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens", "llm.usage.prompt_tokens"),
        made=("gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens", "llm.usage.completion_tokens"),
        total=("gen_ai.usage.total_tokens", "llm.usage.total_tokens"),
        cached=("gen_ai.usage.cache_read.input_tokens", "gen_ai.usage.cache_read_input_tokens", "gen_ai.usage.cached_tokens"),
        stored=("gen_ai.usage.cache_creation.input_tokens", "gen_ai.usage.cache_creation_input_tokens"),
        reasoning=("gen_ai.usage.reasoning_tokens", "gen_ai.usage.output_tokens_details.reasoning_tokens"),
    )
    return Reading(
        llm=llm,
        kind=kind,
        usage=usage,
        session=label(get(attributes, "gen_ai.conversation.id", "session.id")),
        texts=_TEXTS,
    )


def _counts_tokens(span: Span) -> bool:
    return get(span.attributes, "gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens") is not None


def _open(sources: Sequence[Source], options: Mapping[str, str], tally: Tally) -> Imported:
    from scepsy.importers.openinference import read_call as read_openinference

    return import_spans(sources, options, tally, (read_call, read_openinference), "OpenTelemetry GenAI spans")


OTEL = Importer(
    "OpenTelemetry spans as OTLP JSON (export requests, the Collector's file exporter, protobuf JSON), GenAI conventions",
    _open,
    OPTIONS,
    detect=Fields(("resourceSpans|resource_spans|batches",)),
)

__all__ = ["KINDS", "OTEL", "OTLP_LISTS", "read_call"]
