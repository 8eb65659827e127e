"""OpenHands evaluation output (``output.jsonl``): one instance per line, with the agent's history and the LLM's metrics.

``metrics.token_usages`` has one entry per call that reported usage, ``metrics.response_latencies`` one per call. Both name the
response's id, and so does the event of the history that the response caused; that event's time is the call's end. Calls whose
response has no event (a condenser's, a refused one) are placed right after the call before them. Releases whose metrics hold no
tokens yet have them in the history's responses; their calls begin at the event before.
The agent works step by step: a call waits for the one before it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from typing import Any

from scepsy.importers.assemble import Seen
from scepsy.importers.base import Imported, Importer
from scepsy.importers.detect import Fields
from scepsy.importers.fields import Absurd, count, get, label, moment_s, seconds
from scepsy.importers.observing import WORKFLOW, imported, items, observations
from scepsy.importers.prompts import APPEND_ONLY, HISTORY_BLOCK_TOKENS, Histories
from scepsy.importers.source import Source
from scepsy.importers.tally import Tally

FIELDS = ("instance_id", "history", "metrics|metadata.llm_config|metadata.agent_class")


@dataclass(frozen=True)
class _Event:
    """One entry of the history: when, what caused it, and which response it belongs to."""

    id: str
    at_s: float
    cause: str
    response: str
    model: str
    """The model that the response itself names."""


def _open(sources: Sequence[Source], options: Mapping[str, str], tally: Tally) -> Imported:
    reader = _Reader(tally)
    return imported(
        "OpenHands output", sources, observations(sources, tally, reader.read), options, tally,
        default="openhands", notes=(APPEND_ONLY,), block_tokens=HISTORY_BLOCK_TOKENS,
    )  # fmt: skip


class _Reader:
    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._histories = Histories()
        self._met: dict[str, set[tuple[float, int]]] = {}
        self._unnamed = 0

    def read(self, record: Mapping[str, Any]) -> Iterator[Seen]:
        """The calls and tools of one instance, within a span for the whole of it."""
        usages = [
            entry for entry in items(get(record, "metrics.token_usages"), "metrics.token_usages") if isinstance(entry, dict)
        ]
        history = items(record.get("history"), "history")
        events = [event for entry in history for event in _events(entry)]
        usages = usages or list(_told_usages(history))
        if not usages:
            self._tally.drop("instances without token usage")
            return
        if not events:
            raise Absurd("history has no event with a time: must have some")
        latencies = self._latencies(record, usages)
        begin_s, end_s = min(event.at_s for event in events), max(event.at_s for event in events)
        key = self._key(record, begin_s, len(usages))
        if not key:
            return
        root = f"{key}:run"
        yield Seen(run=key, id=root, start_s=begin_s, end_s=end_s)
        yield from self._calls(key, root, usages, latencies, events, begin_s)
        for event in events:
            acted = next((other for other in events if event.cause and other.id == event.cause and other.response), None)
            if acted is not None:
                yield Seen(
                    run=key, id=f"{key}:tool-{event.id}", start_s=acted.at_s, end_s=max(event.at_s, acted.at_s), tool=True
                )

    def _key(self, record: Mapping[str, Any], begin_s: float, calls: int) -> str:
        """The run's id: an instance tried again is another run, one given twice is none."""
        self._unnamed += not label(record.get("instance_id"))
        name = label(record.get("instance_id")) or f"instance-{self._unnamed}"
        tries = self._met.setdefault(name, set())
        if (begin_s, calls) in tries:
            self._tally.duplicates += calls
            return ""
        tries.add((begin_s, calls))
        return name if len(tries) == 1 else f"{name}~{len(tries)}"

    def _latencies(self, record: Mapping[str, Any], usages: list[dict[str, Any]]) -> dict[int, float]:
        """Seconds of each call with usage, by its place; a call with a latency and no usage is counted apart."""
        entries = [
            one
            for one in items(get(record, "metrics.response_latencies"), "metrics.response_latencies")
            if isinstance(one, dict)
        ]
        by_id: dict[str, float] = {}
        for entry in entries:
            latency_s = seconds(entry.get("latency"), "metrics.response_latencies.latency")
            by_id.setdefault(label(entry.get("response_id")), 0.0 if latency_s is None else latency_s)
        named = [label(usage.get("response_id")) for usage in usages]
        if len(set(named)) == len(named) and "" not in named:
            unused = [id_ for id_ in by_id if id_ not in named]
            if unused:
                self._tally.dropped["calls with a latency and no token counts"] += len(unused)
                lost_s = fsum(by_id[id_] for id_ in unused)
                self._tally.facts["milliseconds in calls with a latency and no token counts"] += round(1000 * lost_s)
            return {place: by_id[id_] for place, id_ in enumerate(named) if id_ in by_id}
        if len(entries) == len(usages):
            found = [seconds(entry.get("latency"), "metrics.response_latencies.latency") for entry in entries]
            return {place: latency_s for place, latency_s in enumerate(found) if latency_s is not None}
        self._tally.counts["instances whose latencies could not be told apart, counted as 0 s"] += 1
        return {}

    def _calls(
        self,
        key: str,
        root: str,
        usages: list[dict[str, Any]],
        latencies: dict[int, float],
        events: list[_Event],
        begin_s: float,
    ) -> Iterator[Seen]:
        ends: dict[str, float] = {}
        for event in events:
            if event.response:
                ends.setdefault(event.response, event.at_s)
        models = _models(events, usages)
        before_s, before = begin_s, ""
        for place, usage in enumerate(usages):
            response = label(usage.get("response_id"))
            end_s = ends.get(response) if response else None
            if place not in latencies and end_s is not None:
                began_s = max((event.at_s for event in events if event.at_s < end_s), default=end_s)
                latencies[place] = end_s - max(began_s, before_s)
                self._tally.facts["calls without a latency, begun at the event before them"] += 1
            latency_s = latencies.get(place, 0.0)
            if end_s is None:
                end_s = before_s + latency_s
                self._tally.counts["calls that no event of the history shows, placed after the call before them"] += 1
            if place not in latencies:
                self._tally.counts["calls without a latency, counted as 0 s"] += 1
            given = count(usage.get("prompt_tokens"), "prompt_tokens")
            cached = count(usage.get("cache_read_tokens"), "cache_read_tokens") or 0
            id_ = f"{key}:{place}"
            model = label(usage.get("model"))
            yield Seen(
                run=key, id=id_, parent=root, start_s=max(end_s - latency_s, before_s), end_s=max(end_s, before_s),
                llm=models.get(model, model) or "unknown", input_tokens=given,
                output_tokens=count(usage.get("completion_tokens"), "completion_tokens"), cached_tokens=cached,
                prefix=self._histories.blocks(f"{key}:{model}", given or 0, cached), waits=(before,) if before else (),
            )  # fmt: skip
            before_s, before = max(end_s, before_s), id_


def _events(entry: Any) -> Iterator[_Event]:
    """The events in an entry of the history; old files pair an action with its observation."""
    if isinstance(entry, list):
        for one in entry:
            yield from _events(one)
        return
    if not isinstance(entry, dict) or (at_s := moment_s(entry.get("timestamp"), "history.timestamp")) is None:
        return
    told = get(entry, "llm_metrics.token_usages")
    last = told[-1] if isinstance(told, list) and told else None
    response = get(entry, "tool_call_metadata.model_response.id", "llm_response_id") or get(last, "response_id")
    yield _Event(
        id=label(entry.get("id")),
        at_s=at_s,
        cause=label(entry.get("cause")),
        response=label(response),
        model=label(get(entry, "tool_call_metadata.model_response.model")),
    )


def _told_usages(history: Any) -> Iterator[dict[str, Any]]:
    """The tokens that the history's responses tell, one per response."""
    met: set[str] = set()
    for entry in history:
        if isinstance(entry, list):
            yield from _told_usages(entry)
            continue
        response = get(entry, "tool_call_metadata.model_response")
        usage, id_ = get(response, "usage"), label(get(response, "id"))
        if isinstance(usage, dict) and id_ and id_ not in met:
            met.add(id_)
            cached = get(usage, "prompt_tokens_details.cached_tokens")
            yield usage | {"model": get(response, "model"), "response_id": id_, "cache_read_tokens": cached}


def _models(events: Sequence[_Event], usages: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Configured model name → the name its responses gave, where all of them gave the same one (a proxy's name says little)."""
    asked = {label(usage.get("response_id")): label(usage.get("model")) for usage in usages}
    told: dict[str, set[str]] = {}
    for event in events:
        if event.model and event.response in asked:
            told.setdefault(asked[event.response], set()).add(event.model)
    return {model: next(iter(answers)) for model, answers in told.items() if len(answers) == 1}


OPENHANDS = Importer(
    summary="OpenHands evaluation output (output.jsonl): one run per instance, calls from its metrics and history",
    open=_open,
    detect=Fields(FIELDS),
    options=WORKFLOW,
)
