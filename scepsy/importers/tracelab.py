"""TraceLab rounds (JSON lines): calls of Claude Code and Codex, sanitised: one round is one call, with its events and tools.

A call begins with the last input (a user's message, tool results) before it and ends with the last thing it gave out. It
waited for the calls whose tools' results it was given, which the rows name. A user's message begins a new run
(``split=turns``). ``prefix_tokens`` are input tokens that the provider read from its cache.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scepsy.importers.assemble import Seen
from scepsy.importers.base import Imported, Importer, choice
from scepsy.importers.detect import Fields
from scepsy.importers.fields import Absurd, count, get, label, moment_s
from scepsy.importers.observing import WORKFLOW, imported, items, observations
from scepsy.importers.prompts import APPEND_ONLY, HISTORY_BLOCK_TOKENS, Histories
from scepsy.importers.source import Source
from scepsy.importers.tally import Tally

INPUTS = ("user_message", "tool_result")
SPLIT = {"split": "turns (default): one run per user turn; sessions: one run per session"}


@dataclass
class _Session:
    """What is known of a session so far."""

    turn: int = -1
    last: str = ""
    index: int = -1
    makers: dict[str, str] = field(default_factory=dict)
    """Tool call id → the call that made it, of this turn."""


def _open(sources: Sequence[Source], options: Mapping[str, str], tally: Tally) -> Imported:
    reader = _Reader(tally, choice(options, "split", ("turns", "sessions")) == "turns")
    return imported(
        "TraceLab rounds", sources, observations(sources, tally, reader.read), options, tally, default="coding-agent",
        notes=(APPEND_ONLY, "a call begins with its last input, so its time includes what the agent did before sending it"),
        block_tokens=HISTORY_BLOCK_TOKENS, licence="CC-BY-4.0",
    )  # fmt: skip


class _Reader:
    def __init__(self, tally: Tally, by_turn: bool) -> None:
        self._tally, self._by_turn = tally, by_turn
        self._histories = Histories()
        self._sessions: dict[str, _Session] = {}

    def read(self, record: Mapping[str, Any]) -> Iterator[Seen]:
        """The call of one round, and its tools."""
        name, llm = label(record.get("session_id")), label(record.get("model"))
        if not name or not llm:
            raise Absurd("session_id or model is missing: must be given")
        owner = label(record.get("project"))
        session = self._sessions.setdefault(f"{owner}:{name}", _Session())
        index = count(record.get("round_index"), "round_index")
        if index is not None and index < session.index:
            self._tally.counts["rounds that come before an earlier round of their session"] += 1
        session.index = session.index if index is None else index
        events = [(label(event.get("event_type")), moment_s(event.get("timestamp"), "timing_events.timestamp"), event)
                  for event in items(record.get("timing_events"), "timing_events") if isinstance(event, dict)]  # fmt: skip
        start_s, end_s = _times([(kind, at_s) for kind, at_s, _ in events if at_s is not None])
        if session.turn < 0 or (self._by_turn and any(kind == "user_message" for kind, _, _ in events)):
            session.turn, session.last, session.makers = session.turn + 1, "", {}
        run = f"{name}-{session.turn}" if self._by_turn else name
        id_ = f"{name}:{label(record.get('round_id'))}:{index}"
        given = count(record.get("input_tokens_total"), "input_tokens_total")
        cached = count(record.get("prefix_tokens"), "prefix_tokens") or 0
        made = count(record.get("output_tokens"), "output_tokens")
        results = [label(event.get("tool_call_id")) for kind, _, event in events if kind == "tool_result"]
        waits = tuple(dict.fromkeys(session.makers[result] for result in results if result in session.makers))
        yield Seen(
            run=run, id=id_, start_s=start_s, end_s=end_s, llm=llm, input_tokens=given, output_tokens=made,
            cached_tokens=cached,
            waits=waits or ((session.last,) if session.last else ()), session=name,
            prefix=self._histories.blocks(f"{name}:{llm}", given or 0, cached),
        )  # fmt: skip
        session.last = id_
        yield from self._tools(record, run, id_, session)

    def _tools(self, record: Mapping[str, Any], run: str, call: str, session: _Session) -> Iterator[Seen]:
        for number, tool in enumerate(items(record.get("tools"), "tools")):
            made = label(get(tool, "tool_call_id"))
            if made:
                session.makers[made] = call
            begin_s = moment_s(get(tool, "emitted_at"), "tools.emitted_at")
            end_s = moment_s(get(tool, "result_at"), "tools.result_at")
            if begin_s is not None and end_s is not None:
                yield Seen(run=run, id=f"{call}:tool-{number}", start_s=begin_s, end_s=max(begin_s, end_s), tool=True)


def _times(events: Sequence[tuple[str, float]]) -> tuple[float, float | None]:
    """When a call began and ended, by its events. Raises ``Absurd`` when there are none."""
    if not events:
        raise Absurd("timing_events is empty: must have some")
    given = [at_s for kind, at_s in events if kind in INPUTS]
    made = [at_s for kind, at_s in events if kind not in INPUTS]
    if not made:
        return max(given), None
    before = [at_s for at_s in given if at_s <= max(made)]
    return (max(before) if before else min(made)), max(made)


TRACELAB = Importer(
    summary="TraceLab rounds (JSON lines): calls of Claude Code and Codex with their events and tools",
    open=_open,
    detect=Fields(("session_id", "round_id", "input_tokens_total", "timing_events")),
    options={**SPLIT, **WORKFLOW},
)
