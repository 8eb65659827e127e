"""Span lists of inference-perf and Exgentic (JSON): chat spans with their messages, mostly without token counts or parents.

A call waited for those whose output stands as an assistant's message in its input (an exact match, as inference-perf itself
matches); a call without such a match for those that had ended last before it began. Both are inferred. Tokens are recorded,
else estimated from the text. Messages that two inputs begin with are shared prefixes.
"""

from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import msgspec

from scepsy.importers.assemble import Seen
from scepsy.importers.base import Imported, Importer
from scepsy.importers.fields import Absurd, count, embedded, estimated_tokens, get, label, moment_s
from scepsy.importers.observing import WORKFLOW, imported, mapping
from scepsy.importers.prompts import TEXT_BLOCK_TOKENS, Texts
from scepsy.importers.record_reader import FileSample, json_records
from scepsy.importers.recorded.dependencies import GUESS, JOIN, LONE
from scepsy.importers.source import Source
from scepsy.importers.spool import Spool
from scepsy.importers.tally import Tally
from scepsy.importers.threads import Observed, parents_by_time
from scepsy.importers.usage import RecordedUsage, settled

TEXT_MATCH_CONFIDENCE = 0.95
"""Confidence of a dependency that the text shows; chosen above ``LONE``, below a recorded one."""

INPUTS = ("gen_ai.input.messages", "gen_ai.prompt", "input.value")
OUTPUTS = ("gen_ai.output.text", "gen_ai.output.messages", "gen_ai.completion", "output.value")


class _Span(msgspec.Struct, array_like=True):
    """One call and the fingerprints of its texts."""

    seen: Seen
    output: bytes
    earlier: frozenset[bytes]
    """Fingerprints of the assistant's messages in its input."""
    waits: set[str] = msgspec.field(default_factory=set)


def _open(sources: Sequence[Source], options: Mapping[str, str], tally: Tally) -> Imported:
    return imported(
        "inference-perf spans", sources, _seen(sources, tally), options, tally, default="inference-perf",
        block_tokens=TEXT_BLOCK_TOKENS,
    )  # fmt: skip


def _seen(sources: Sequence[Source], tally: Tally) -> Iterator[Seen]:
    texts = Texts()
    for source in sources:
        with Spool(_Span) as spool:
            for record in json_records(source, tally, "spans"):
                try:
                    span = _span(mapping(record.value), texts, tally)
                except Absurd as error:
                    tally.drop(str(error), source, record.line)
                    continue
                if span is not None:
                    spool.add(span.seen.run, span)
            for spans in spool.groups():
                yield from _linked(spans, tally)


def _span(raw: Mapping[str, Any], texts: Texts, tally: Tally) -> _Span | None:
    attributes = raw.get("attributes")
    messages = embedded(get(attributes, *INPUTS))
    if messages is None and not label(raw.get("name")).startswith("chat"):
        return None
    run, id_ = label(raw.get("trace_id")), label(raw.get("span_id"))
    start_s, end_s = moment_s(raw.get("start_time"), "start_time"), moment_s(raw.get("end_time"), "end_time")
    if not run or not id_ or start_s is None:
        raise Absurd("trace_id, span_id or start_time is missing: must be given")
    output = embedded(get(attributes, *OUTPUTS))
    usage = settled(
        RecordedUsage(
            given=count(
                get(attributes, "gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens"), "gen_ai.usage.input_tokens"
            ),
            made=count(
                get(attributes, "gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens"), "gen_ai.usage.output_tokens"
            ),
        ),
        tally,
    )
    estimate = estimated_tokens(messages)
    status = get(raw, "status.code")
    seen = Seen(
        run=run, id=f"{run}:{id_}", start_s=start_s, end_s=end_s,
        llm=label(get(attributes, "gen_ai.response.model", "gen_ai.request.model")) or "unknown",
        input_tokens=usage.given, output_tokens=usage.made, text_input_tokens=estimate,
        text_output_tokens=estimated_tokens(output), failed=status in (2, "ERROR", "STATUS_CODE_ERROR"),
        session=label(get(attributes, "exgentic.session.id", "gen_ai.conversation.id")),
        prefix=texts.blocks(_parts(messages), usage.given or estimate),
    )  # fmt: skip
    listed = messages if isinstance(messages, list) else []
    earlier = frozenset(_print(message) for message in listed if get(message, "role") == "assistant")
    return _Span(seen, _print(output), earlier)


def _parts(messages: Any) -> Iterator[str]:
    for message in messages if isinstance(messages, list) else [messages]:
        yield message if isinstance(message, str) else msgspec.json.encode(message).decode()


def _print(value: Any) -> bytes:
    """Fingerprint of what an assistant said, however its message is written; empty where it said nothing."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    text = get(value, "content", "text") if isinstance(value, dict) else value
    parts = get(value, "parts") if isinstance(value, dict) and text is None else text
    if isinstance(parts, list):
        text = "".join(str(get(part, "content", "text") or "") for part in parts)
    return (
        blake2b(text.strip().encode("utf-8", "replace"), digest_size=12).digest()
        if isinstance(text, str) and text.strip()
        else b""
    )


def _linked(spans: list[_Span], tally: Tally) -> Iterator[Seen]:
    timed = [span for span in spans if not span.seen.failed and span.seen.end_s is not None]
    observed = [
        Observed(place, span.seen.llm, span.seen.start_s, span.seen.end_s or 0.0, input_tokens=1, output_tokens=1)
        for place, span in enumerate(timed)
    ]
    parents_by_time(observed)
    said: dict[bytes, list[_Span]] = {}
    for span in timed:
        if span.output:
            said.setdefault(span.output, []).append(span)
    for span, by_time in zip(timed, observed, strict=True):
        matched = {
            other.seen.id
            for print_ in span.earlier
            for other in said.get(print_, ())
            if (other.seen.end_s or 0.0) <= span.seen.start_s and other is not span
        }
        if matched:
            span.waits = matched
        else:
            span.waits = {timed[parent].seen.id for parent in by_time.parents}
            tally.infer(LONE if len(span.waits) == 1 else JOIN if len(span.waits) > 1 else GUESS, len(span.waits))
    known = {span.seen.id: span for span in timed}
    for span in sorted(timed, key=lambda span: span.seen.start_s):
        older = set().union(*(_ancestors(known, id_) for id_ in span.waits)) if span.waits else set()
        kept = tuple(sorted(span.waits - older, key=lambda id_: known[id_].seen.start_s))
        if any(known[id_].output in span.earlier for id_ in kept if known[id_].output):
            tally.infer(TEXT_MATCH_CONFIDENCE, len(kept))
        yield msgspec.structs.replace(span.seen, waits=kept)
    yield from (span.seen for span in spans if span.seen.failed or span.seen.end_s is None)


def _ancestors(known: Mapping[str, _Span], id_: str) -> set[str]:
    found: set[str] = set()
    pending = list(known[id_].waits)
    while pending:
        at = pending.pop()
        if at not in found:
            found.add(at)
            pending.extend(known[at].waits)
    return found


def _detect(sample: FileSample) -> str | None:
    for record in sample.records("spans"):
        named = get(record, "trace_id") and get(record, "span_id") and get(record, "start_time")
        if (
            named
            and isinstance(get(record, "attributes"), dict)
            and get(record, "attributes.gen_ai.input.messages") is not None
        ):
            return f"{sample.form}, a list of spans with gen_ai.input.messages"
    return None


INFERENCE_PERF = Importer(
    summary="span lists of inference-perf and Exgentic (JSON): dependencies by matching texts, tokens estimated from them",
    open=_open,
    detect=_detect,
    options=WORKFLOW,
)
