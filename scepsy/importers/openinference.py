"""OpenInference spans (Arize Phoenix and its instrumentations)."""

from collections.abc import Mapping, Sequence

from scepsy.importers.base import Imported, Importer
from scepsy.importers.detect import Fields
from scepsy.importers.fields import get, label, model_name, walk
from scepsy.importers.otel import read_call as read_genai
from scepsy.importers.record_reader import FileSample
from scepsy.importers.source import Source
from scepsy.importers.spans import OPTIONS, OTLP_LISTS, SPAN_LISTS, Reading, Span, import_spans, usage_of
from scepsy.importers.tally import Tally
from scepsy.workload import CallKind

KINDS: Mapping[str, CallKind] = {"LLM": "generate", "EMBEDDING": "embed", "RERANKER": "rerank"}
"""``openinference.span.kind`` → kind."""

_MODELS = ("llm.model_name", "embedding.model_name", "reranker.model_name")
_TEXTS = (("llm.input_messages", "llm.prompts", "input.value"), ("llm.output_messages", "output.value"))


def read_call(span: Span) -> Reading | None:
    """An LLM, EMBEDDING or RERANKER span as a call."""
    attributes = span.attributes
    said = get(attributes, "openinference.span.kind")
    kind = KINDS.get(said.upper()) if isinstance(said, str) else None
    llm = model_name(get(attributes, *_MODELS))
    if kind is None or not llm:
        return None
    usage = usage_of(
        attributes,
        given=("llm.token_count.prompt", *(() if kind == "generate" else ("llm.token_count.total",))),
        made=("llm.token_count.completion",),
        total=("llm.token_count.total",),
        cached=("llm.token_count.prompt_details.cache_read",),
        stored=("llm.token_count.prompt_details.cache_write",),
        reasoning=("llm.token_count.completion_details.reasoning",),
    )
    return Reading(llm=llm, kind=kind, usage=usage, session=label(get(attributes, "session.id")), texts=_TEXTS)


def _open(sources: Sequence[Source], options: Mapping[str, str], tally: Tally) -> Imported:
    return import_spans(sources, options, tally, (read_call, read_genai), "OpenInference spans")


def _open_list(sources: Sequence[Source], options: Mapping[str, str], tally: Tally) -> Imported:
    return import_spans(sources, options, tally, (read_call, read_genai), "spans", SPAN_LISTS)


def _detect(sample: FileSample) -> str | None:
    for span in sample.records(*OTLP_LISTS):
        if any(
            isinstance(key, str) and key.startswith(("openinference.", "llm.token_count."))
            for key in walk(span, "attributes.key")
        ):
            return f"{sample.form}, OTLP spans with openinference attributes"
    return None


OPENINFERENCE = Importer("OpenInference spans as OTLP JSON", _open, OPTIONS, detect=_detect)

PHOENIX = Importer(
    "span lists in JSON (Phoenix exports and API, console exporters), OpenInference or GenAI attributes",
    _open_list,
    OPTIONS,
    detect=Fields(("context.trace_id", "context.span_id", "start_time"), within=SPAN_LISTS),
)
