"""Codex session files (``~/.codex/sessions/…/rollout-*.jsonl``).

A line is ``{"timestamp", "type", "payload"}``. After each call there is a ``token_count`` event with the tokens of the call
(``last_token_usage``: cached ones are part of the input, reasoning is part of the output) and of the session so far
(``total_token_usage``). The event is written again when only rate limits change, so it is a call only when the total moved
(without totals: when the model gave something out). A call begins with the last input before its first output.

A user's message begins a new run (``split=turns``). A forked session begins with a copy of another's history: what both files
hold is taken once.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scepsy.importers.assemble import Seen
from scepsy.importers.base import Imported, Importer, choice
from scepsy.importers.fields import Absurd, count, get, label, moment_s
from scepsy.importers.observing import WORKFLOW, imported, mapping
from scepsy.importers.prompts import APPEND_ONLY, HISTORY_BLOCK_TOKENS, Histories
from scepsy.importers.record_reader import FileSample, json_records
from scepsy.importers.source import Source
from scepsy.importers.tally import Tally
from scepsy.importers.tracelab import SPLIT

OUTPUT_ITEMS = (
    "reasoning",
    "function_call",
    "custom_tool_call",
    "local_shell_call",
    "web_search_call",
    "image_generation_call",
)
INPUT_ITEMS = ("function_call_output", "custom_tool_call_output", "local_shell_call_output", "tool_search_output")

Counts = tuple[int, int, int]
"""Input (with cached), cached, output (with reasoning) tokens."""


def _open(sources: Sequence[Source], options: Mapping[str, str], tally: Tally) -> Imported:
    by_turn = choice(options, "split", ("turns", "sessions")) == "turns"
    return imported(
        "Codex sessions", sources, _seen(sources, tally, by_turn), options, tally, default="coding-agent",
        notes=(APPEND_ONLY, "a call begins with its last input, so its time includes what the agent did before sending it"),
        block_tokens=HISTORY_BLOCK_TOKENS,
    )  # fmt: skip


def _seen(sources: Sequence[Source], tally: Tally, by_turn: bool) -> Iterator[Seen]:
    met: set[tuple[str, Counts, Counts]] = set()
    histories = Histories()
    for number, source in enumerate(sources):
        session = _Session(f"session-{number}", tally, by_turn, met, histories)
        for record in json_records(source, tally):
            try:
                yield from session.read(mapping(record.value))
            except Absurd as error:
                tally.drop(str(error), source, record.line, kind="lines")
        if not session.calls:
            tally.drop("session files without a token_count event")


@dataclass
class _Session:
    """One session file, line by line."""

    name: str
    tally: Tally
    by_turn: bool
    met: set[tuple[str, Counts, Counts]]
    histories: Histories
    llm: str = ""
    named: bool = False
    origin: str = ""
    """The session that this one was forked from, else itself."""
    copying: bool = False
    """Whether the last call was a copy: what its tools did is one, too."""
    calls: int = 0
    turn: int = 0
    turn_calls: int = 0
    last: str = ""
    total: Counts = (0, 0, 0)
    input_s: float | None = None
    """The last input that no call has begun with yet."""
    later_s: float | None = None
    """The last input since the call gave something out: the next call's."""
    ended_s: float | None = None
    """When the call before ended, as far as it is known."""
    begin_s: float | None = None
    output_s: float | None = None
    tools: dict[str, float] = field(default_factory=dict)

    def read(self, record: Mapping[str, Any]) -> Iterator[Seen]:
        """What a line tells: mostly nothing, at the end of a call the call, at a tool's result the tool."""
        at_s = moment_s(record.get("timestamp"), "timestamp")
        kind, payload = record.get("type"), record.get("payload")
        what = get(payload, "type")
        if kind == "session_meta" and not self.named:
            self.named = True
            self.name = label(get(payload, "id")) or self.name
            self.origin = label(get(payload, "forked_from_id")) or self.name
        elif kind == "turn_context":
            self.llm = label(get(payload, "model")) or self.llm
        elif at_s is None:
            return
        elif kind == "event_msg" and what == "user_message":
            self._begin_turn(at_s)
        elif kind == "event_msg" and what == "token_count":
            yield from self._call(payload, at_s)
        elif kind == "response_item":
            yield from self._item(payload, str(what), at_s)

    def _input(self, at_s: float) -> None:
        if self.begin_s is None:
            self.input_s = at_s
        else:
            self.later_s = at_s

    def _begin_turn(self, at_s: float) -> None:
        self._input(at_s)
        if self.by_turn and self.turn_calls:
            self.turn, self.turn_calls, self.last = self.turn + 1, 0, ""
            self.tools.clear()

    def _item(self, payload: Any, what: str, at_s: float) -> Iterator[Seen]:
        call = label(get(payload, "call_id", "id"))
        if what in INPUT_ITEMS or (what == "message" and get(payload, "role") != "assistant"):
            self._input(at_s)
            if call in self.tools:
                start_s = self.tools.pop(call)
                if self.copying:
                    return
                yield Seen(run=self._run(), id=f"{self.name}:tool-{call}", start_s=start_s, end_s=max(start_s, at_s), tool=True)
        elif what in OUTPUT_ITEMS or what == "message":
            if self.begin_s is None and self.input_s is None and self.ended_s is not None:
                self.ended_s = at_s  # some versions write what a call gave out after its token count
            else:
                self.begin_s = self.begin_s or (at_s if self.input_s is None else self.input_s)
                self.output_s = at_s
            if what.endswith("_call"):
                self.tools[call] = at_s

    def _run(self) -> str:
        return f"{self.name}-{self.turn}" if self.by_turn else self.name

    def _call(self, payload: Any, at_s: float) -> Iterator[Seen]:
        info = get(payload, "info")
        if not isinstance(info, dict):
            return  # rate limits only
        last, total = _counts(info.get("last_token_usage")), _counts(info.get("total_token_usage"))
        if total is not None and total == self.total:
            return
        if total is None and self.output_s is None:
            return
        if last is None and total is not None:
            less = any(now < before for now, before in zip(total, self.total, strict=True))
            last = total if less else (total[0] - self.total[0], total[1] - self.total[1], total[2] - self.total[2])
        self.total = total or self.total
        begin_s, end_s = self.begin_s, self.output_s
        if begin_s is None or end_s is None:
            before_s = self.ended_s if self.input_s is None else self.input_s
            begin_s, end_s = (at_s if before_s is None else before_s), at_s
        self.input_s, self.ended_s = self.later_s, end_s
        self.begin_s = self.output_s = self.later_s = None
        if last is None or (total is not None and self._copied(last, total)):
            return
        self.calls += 1
        self.turn_calls += 1
        given, cached, made = last
        id_ = f"{self.name}:{self.calls}"
        yield Seen(
            run=self._run(), id=id_, start_s=min(begin_s, end_s), end_s=end_s,
            llm=self.llm or label(info.get("model")) or "unknown",
            input_tokens=given, output_tokens=made, cached_tokens=cached, waits=(self.last,) if self.last else (),
            session=self.name, prefix=self.histories.blocks(self.name, given, cached),
        )  # fmt: skip
        self.last = id_

    def _copied(self, last: Counts, total: Counts) -> bool:
        """Whether this is the copy of a call that another file of the same origin has."""
        key = (self.origin or self.name, last, total)
        if key in self.met:
            self.tally.duplicates += 1
            self.copying = True
            return True
        self.met.add(key)
        self.copying = False
        return False


def _counts(usage: Any) -> Counts | None:
    if not isinstance(usage, dict):
        return None
    found = tuple(count(usage.get(name), name) or 0 for name in ("input_tokens", "cached_input_tokens", "output_tokens"))
    return found[0], found[1], found[2]


def _detect(sample: FileSample) -> str | None:
    for record in sample.records():
        kind = get(record, "type")
        if (
            get(record, "timestamp")
            and kind in ("session_meta", "turn_context", "event_msg", "response_item")
            and "payload" in record
        ):
            return f"{sample.form}, records of type {kind} with a payload"
    return None


CODEX = Importer(
    summary="Codex session files (rollout-*.jsonl): calls from token_count events, user turns as runs",
    open=_open,
    detect=_detect,
    options={**SPLIT, **WORKFLOW},
)
