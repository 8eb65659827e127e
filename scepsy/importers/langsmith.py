"""LangSmith runs: one JSON object per run (lines, a list, ``{"runs": […]}``), children nested or named by ``parent_run_id``.

Runs of type ``llm`` and ``embedding`` are calls. Their counts are the usage that the provider or LangChain left in the outputs,
else the run's own ``prompt_tokens``. Chains carry sums of what is inside them, which are not counted again.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scepsy.importers.assemble import Seen, assemble
from scepsy.importers.base import Imported, Importer, choice
from scepsy.importers.detect import Fields
from scepsy.importers.fields import Absurd, count, embedded, estimated_tokens, get, label, model_name, moment_s, walk
from scepsy.importers.record_reader import json_records
from scepsy.importers.source import Source
from scepsy.importers.tally import Tally
from scepsy.importers.usage import RecordedUsage, settled
from scepsy.workload import CallKind, TraceSource

LISTS = ("runs",)

KINDS: Mapping[str, CallKind] = {"llm": "generate", "embedding": "embed"}

_MODELS = (
    "extra.metadata.ls_model_name", "extra.invocation_params.model", "extra.invocation_params.model_name",
    "extra.metadata.model_name", "outputs.llm_output.model_name", "outputs.model", "inputs.model",
)  # fmt: skip
_THREADS = ("extra.metadata.session_id", "extra.metadata.thread_id", "extra.metadata.conversation_id", "thread_id")


def _open(sources: Sequence[Source], options: Mapping[str, str], tally: Tally) -> Imported:
    by_thread = choice(options, "run", ("trace", "session")) == "session"
    return Imported(
        source=TraceSource(origin=f"LangSmith: {', '.join(source.label for source in sources)}"),
        runs=assemble(_seen(sources, by_thread, tally), tally, workflow=options.get("workflow", ""), default="langsmith"),
    )


def _seen(sources: Sequence[Source], by_thread: bool, tally: Tally) -> Iterator[Seen]:
    for source in sources:
        for record in json_records(source, tally, *LISTS):
            if isinstance(record.value, dict) and isinstance(record.value.get("runs"), list):
                continue  # an empty list
            pending: list[tuple[Any, str, str]] = [(record.value, "", "")]
            while pending:
                raw, trace, parent = pending.pop()
                try:
                    seen = _run(raw, trace, parent, by_thread, tally)
                except Absurd as error:
                    tally.drop(str(error), source, record.line)
                    continue
                yield seen
                children = raw.get("child_runs")
                inner = label(raw.get("trace_id")) or trace or seen.run
                pending += [(child, inner, seen.id) for child in children] if isinstance(children, list) else []


def _run(raw: Any, trace: str, parent: str, by_thread: bool, tally: Tally) -> Seen:
    if not isinstance(raw, dict):
        raise Absurd("a run is no mapping: must be one")
    id_, start_s = label(raw.get("id")), moment_s(raw.get("start_time"), "start_time")
    if not id_ or start_s is None:
        raise Absurd("id or start_time is missing: every run must have both")
    dotted = label(raw.get("dotted_order")).partition(".")[0].rpartition("Z")[2]
    thread = label(get(raw, *_THREADS))
    kind = KINDS.get(str(raw.get("run_type")).lower())
    seen = Seen(
        run=(thread if by_thread else "") or label(raw.get("trace_id")) or trace or dotted or id_,
        id=id_,
        parent=label(raw.get("parent_run_id")) or parent,
        start_s=start_s,
        end_s=moment_s(raw.get("end_time"), "end_time"),
        tool=raw.get("run_type") == "tool",
        session=thread,
        name=label(raw.get("name"), 80),
    )
    if kind is None:
        return seen
    seen.kind = kind
    seen.llm = model_name(get(raw, *_MODELS)) or "unknown"
    if seen.llm == "unknown":
        tally.counts["calls that name no model, called unknown"] += 1
    usage = settled(_usage(raw), tally)
    seen.input_tokens, seen.output_tokens, seen.cached_tokens = usage.given, usage.made, usage.cached
    seen.text_input_tokens = estimated_tokens(embedded(raw.get("inputs"))) if not usage.given else 0
    seen.text_output_tokens = estimated_tokens(embedded(raw.get("outputs"))) if not usage.made else 0
    seen.failed = bool(raw.get("error")) or raw.get("status") == "error"
    return seen


def _usage(raw: Mapping[str, Any]) -> RecordedUsage:
    places = [raw.get("usage_metadata"), get(raw, "extra.metadata.usage_metadata"), get(raw, "outputs.usage_metadata")]
    places += walk(raw, "outputs.generations.message.kwargs.usage_metadata")
    places += [get(raw, "outputs.usage"), get(raw, "outputs.llm_output.token_usage", "outputs.llm_output.usage"), raw]
    for found in places:
        if isinstance(found, dict):
            usage = _counts(found)
            if usage.given:
                return usage
    return RecordedUsage()


def _counts(found: Mapping[str, Any]) -> RecordedUsage:
    def first(*names: str) -> int | None:
        return count(get(found, *names), names[0])

    return RecordedUsage(
        given=first("input_tokens", "prompt_tokens"),
        made=first("output_tokens", "completion_tokens"),
        total=first("total_tokens"),
        cached=first("input_token_details.cache_read", "prompt_tokens_details.cached_tokens", "cache_read_input_tokens") or 0,
        stored=first("input_token_details.cache_creation", "cache_creation_input_tokens") or 0,
        reasoning=first("output_token_details.reasoning", "completion_tokens_details.reasoning_tokens") or 0,
    )


LANGSMITH = Importer(
    summary="LangSmith run exports (JSON, JSON lines), children nested or named by parent_run_id",
    open=_open,
    options={
        "run": "what is one run: trace (default) or session (a thread)",
        "workflow": "workflow name of all runs; default: the root run's name",
    },
    detect=Fields(("id", "run_type", "start_time"), within=LISTS),
)
