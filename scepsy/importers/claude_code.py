"""Claude Code session files (``~/.claude/projects/*/*.jsonl``, sub-agents in ``<session>/subagents/agent-*.jsonl``).

Each content block of a reply is a line of its own, with the message's id and usage repeated; usage grows while a reply is
streamed. So lines of one message id are one call, whose usage is that of its best line: one with a stop reason, else the
one with most output. ``input_tokens`` are without cached ones, which are counted apart and added here.

A line names the one before it (``parentUuid``). A call begins at its first line's parent (a user's message, a tool's
result) and waited for the last call before that. A user's message begins a new run (``split=turns``). A sub-agent
(``isSidechain``) begins after the call that made it, named by ``toolUseResult.agentId`` or else told by time; what follows
the tool's result waits for its last call. Resumed sessions begin with a copy of their history: a line's ``uuid`` counts
once.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from sys import intern
from typing import Any

from scepsy.importers.assemble import Seen
from scepsy.importers.base import Imported, Importer, choice
from scepsy.importers.fields import Absurd, count, estimated_tokens, get, label, moment_s
from scepsy.importers.observing import WORKFLOW, imported, mapping
from scepsy.importers.prompts import APPEND_ONLY, HISTORY_BLOCK_TOKENS, Histories
from scepsy.importers.record_reader import FileSample, json_records
from scepsy.importers.recorded.dependencies import GUESS
from scepsy.importers.source import Source
from scepsy.importers.tally import Tally
from scepsy.importers.tracelab import SPLIT

PARTIAL_TEXT_FACTOR = 2
"""A reply without a stop reason whose text has more than so many times the tokens counted for it was counted when it began.

Chosen: in recorded sessions without any stop reason, half of the replies have 0.3 to 0.7 times as many tokens by their text
(four bytes a token) as were counted, a quarter 13 to 4,000 times as many.
"""

SPAWNING_TOOLS = ("Task", "Agent")


@dataclass(slots=True)
class _Line:
    """One line of a session without its text."""

    parent: str
    at_s: float
    session: str
    agent: str
    """Sub-agent, empty for the main thread."""
    call: str = ""
    """Of an assistant's line: the message."""
    human: bool = False
    results: tuple[str, ...] = ()
    """Tool uses that the line answers."""
    result_of: str = ""
    """The sub-agent whose answer it is."""


@dataclass(slots=True)
class _Message:
    """One call, from all of its lines."""

    session: str
    agent: str
    llm: str
    first: str
    """uuid of its first line."""
    end_s: float
    given: int = 0
    made: int = 0
    cached: int = 0
    score: tuple[int, int, int] = (-1, -1, -1)
    stopped: bool = False
    text_tokens: int = 0
    """Estimate from what its lines hold."""
    tools: dict[str, float] = field(default_factory=dict)
    """Tool use → when it was asked for."""
    spawning: list[str] = field(default_factory=list)
    """Those tool uses that make a sub-agent."""


def _open(sources: Sequence[Source], options: Mapping[str, str], tally: Tally) -> Imported:
    by_turn = choice(options, "split", ("turns", "sessions")) == "turns"
    return imported(
        "Claude Code sessions", sources, _seen(sources, tally, by_turn), options, tally, default="coding-agent",
        notes=(APPEND_ONLY, "a call begins with its last input, so its time includes what the agent did before sending it"),
        block_tokens=HISTORY_BLOCK_TOKENS,
    )  # fmt: skip


def _seen(sources: Sequence[Source], tally: Tally, by_turn: bool) -> Iterator[Seen]:
    told = _Told(tally)
    for source in sources:
        for record in json_records(source, tally):
            try:
                told.read(mapping(record.value))
            except Absurd as error:
                tally.drop(str(error), source, record.line, kind="lines")
    yield from _Threads(told, tally, by_turn).seen()


class _Told:
    """All lines of all files, by uuid, and the messages they make up."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self.lines: dict[str, _Line] = {}
        self.messages: dict[str, _Message] = {}

    def read(self, record: Mapping[str, Any]) -> None:
        """Take in one line. Raises ``Absurd``."""
        kind, uuid = record.get("type"), label(record.get("uuid"))
        if not uuid:
            return  # a summary, a snapshot of files
        at_s = moment_s(record.get("timestamp"), "timestamp")
        if at_s is None:
            raise Absurd("timestamp is missing: must be given")
        if uuid in self.lines:
            self._tally.facts["lines given twice (a resumed session's history, or a file again), taken once"] += 1
            return
        parent = label(get(record, "parentUuid", "logicalParentUuid"))
        agent = ""
        if record.get("isSidechain") is True:  # old versions do not name sub-agents: the first line of one does here
            above = self.lines[parent].agent if parent in self.lines else ""
            agent = label(record.get("agentId")) or above or f"sidechain-{uuid}"
        line = _Line(intern(parent), at_s, intern(label(record.get("sessionId"))), intern(agent))
        if kind == "assistant":
            self._assistant(record, uuid, line)
        elif kind == "user":
            content = get(record, "message.content")
            blocks = [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []
            line.results = tuple(label(block.get("tool_use_id")) for block in blocks if block.get("type") == "tool_result")
            line.result_of = label(get(record, "toolUseResult.agentId"))
            made = record.get("isMeta") is True or record.get("isCompactSummary") is True
            line.human = not (line.agent or line.results or made)
        self.lines[intern(uuid)] = line

    def _assistant(self, record: Mapping[str, Any], uuid: str, line: _Line) -> None:
        message = mapping(record.get("message"))
        llm = label(message.get("model"))
        if llm == "<synthetic>" or record.get("isApiErrorMessage") is True:
            self._tally.facts["messages that the program made itself (errors), left out"] += 1
            return
        usage = used(message)  # may refuse the line: then no message may remember it
        key = f"{line.session}:{label(message.get('id')) or label(record.get('requestId')) or uuid}"
        line.call = intern(key)
        found = self.messages.get(line.call)
        if found is None:
            found = self.messages[line.call] = _Message(line.session, line.agent, llm or "unknown", uuid, line.at_s)
        found.end_s = max(found.end_s, line.at_s)
        content = message.get("content")
        blocks = content if isinstance(content, list) else [{"text": content}]
        size = sum(estimated_tokens(*(get(block, name) for name in ("text", "thinking", "input"))) for block in blocks)
        found.text_tokens = max(found.text_tokens, size) if len(blocks) > 1 else found.text_tokens + size
        for block in blocks:
            if get(block, "type") == "tool_use":
                found.tools[label(block.get("id"))] = line.at_s
                if block.get("name") in SPAWNING_TOOLS:
                    found.spawning.append(label(block.get("id")))
        if usage is None:
            return
        fresh, stored, cached, made = usage
        stopped = message.get("stop_reason") is not None
        score = int(fresh + stored + cached > 0), int(stopped), made
        if score >= found.score:
            found.given, found.cached, found.made = fresh + stored + cached, cached, made
            found.score, found.stopped = score, stopped


def used(message: Mapping[str, Any]) -> tuple[int, int, int, int] | None:
    """Tokens of a message: new, newly cached and cached input, and output; None where it does not say. Raises ``Absurd``."""
    usage = message.get("usage")
    if not isinstance(usage, dict):
        return None
    fresh, stored, cached, made = (
        count(usage.get(name), name) or 0
        for name in ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
    )
    return fresh, stored, cached, made


class _Threads:
    """Who waited for whom, and which run a call is part of."""

    def __init__(self, told: _Told, tally: Tally, by_turn: bool) -> None:
        self._lines, self._messages = told.lines, told.messages
        self._tally, self._by_turn = tally, by_turn
        self._humans: dict[str, str] = {}
        """uuid → the human's line at or above it."""
        self._turns: dict[str, dict[str, int]] = {}
        self._last_of: dict[tuple[str, str], str] = {}
        self._makers: dict[tuple[str, str], str] = {}
        self._unlinked: set[tuple[str, str]] = set()
        """Sub-agents whose maker is only told by time."""
        self._starts: dict[str, float] = {}

    def seen(self) -> Iterator[Seen]:
        """All calls in order of begin, and the tools between them."""
        order = sorted(self._messages, key=lambda call: (self._start(call), self._messages[call].end_s, call))
        for call in order:
            message = self._messages[call]
            if message.agent:
                key = (message.session, message.agent)
                other = self._last_of.get(key)
                if other is None or self._messages[other].end_s <= message.end_s:
                    self._last_of[key] = call
        self._link_agents(order)
        histories = Histories()
        answered = self._answers()
        for call in order:
            message = self._messages[call]
            if message.score[0] <= 0:
                self._tally.drop("calls without usage")
                continue
            partial = not message.stopped and message.text_tokens > PARTIAL_TEXT_FACTOR * message.made
            if not (message.stopped or partial):
                self._tally.facts["calls whose lines have no stop reason: their output may be counted in part"] += 1
            thread = f"{message.session}:{message.agent}:{message.llm}"
            run = self._run(call)
            waits, sure = self._waits(call)
            if sure is not None:
                self._tally.infer(sure)
            yield Seen(
                run=run, id=call, start_s=self._start(call), end_s=message.end_s, llm=message.llm,
                input_tokens=message.given,
                output_tokens=None if partial else message.made, text_output_tokens=message.text_tokens,
                cached_tokens=message.cached, waits=waits, session=message.session,
                prefix=histories.blocks(thread, message.given, message.cached),
            )  # fmt: skip
            for tool, begin_s in message.tools.items():
                if tool in answered:
                    yield Seen(run=run, id=f"{call}:{tool}", start_s=begin_s, end_s=max(begin_s, answered[tool]), tool=True)

    def _answers(self) -> dict[str, float]:
        return {result: line.at_s for line in self._lines.values() for result in line.results}

    def _start(self, call: str) -> float:
        if call not in self._starts:
            message = self._messages[call]
            parent = self._lines.get(self._lines[message.first].parent)
            began = self._lines[message.first].at_s if parent is None else parent.at_s
            self._starts[call] = min(began, message.end_s)
        return self._starts[call]

    def _before(self, call: str) -> tuple[str, list[_Line]]:
        """The last call above one in its thread, and the lines between."""
        between: list[_Line] = []
        uuid, met = self._lines[self._messages[call].first].parent, set()
        while uuid in self._lines and uuid not in met:
            met.add(uuid)
            line = self._lines[uuid]
            if line.call and line.call != call:
                return line.call, between
            between.append(line)
            if line.human and self._by_turn:
                return "", between
            uuid = line.parent
        return "", between

    def _waits(self, call: str) -> tuple[tuple[str, ...], float | None]:
        """Calls that one waited for, and the confidence where its first is only told by time."""
        message = self._messages[call]
        before, between = self._before(call)
        waits = [before] if before else []
        for line in between:
            last = self._last_of.get((message.session, line.result_of)) if line.result_of else None
            if last is not None and self._messages[last].end_s <= line.at_s:  # else it was left to run on its own
                waits.append(last)
        key = (message.session, message.agent)
        if message.agent and not before and key in self._makers:
            return (self._makers[key],), GUESS if key in self._unlinked else None
        return tuple(dict.fromkeys(waits)), None

    def _link_agents(self, order: Sequence[str]) -> None:
        """Find for each sub-agent the call that made it."""
        named: dict[tuple[str, str], str] = {}
        for uuid, line in self._lines.items():
            if line.result_of and line.results:
                named[line.session, line.result_of] = self._asked(uuid)
        for call in order:
            message = self._messages[call]
            key = (message.session, message.agent)
            if not message.agent or key in self._makers:
                continue
            maker = named.get(key) or ""
            if not maker:
                self._unlinked.add(key)
                ended = [
                    other
                    for other in order
                    if (found := self._messages[other]).spawning and found.session == message.session
                    and found.agent != message.agent and found.end_s <= self._start(call)
                ]  # fmt: skip
                maker = max(ended, key=lambda other: self._messages[other].end_s, default="")
            if maker:
                self._makers[key] = maker
                self._join(key, self._messages[maker])
            else:
                self._tally.counts["sub-agents without the call that made them, taken as runs of their own"] += 1
                self._makers[key] = ""
        self._makers = {key: maker for key, maker in self._makers.items() if maker}

    def _join(self, key: tuple[str, str], maker: _Message) -> None:
        """Say of the first answer to what made sub-agents, after the sub-agent's last call, that it is that sub-agent's."""
        if key not in self._unlinked:
            return
        end_s = self._messages[self._last_of[key]].end_s
        answers = [
            line
            for line in self._lines.values()
            if not line.result_of and line.at_s >= end_s and not set(maker.spawning).isdisjoint(line.results)
        ]
        if answers:
            min(answers, key=lambda line: line.at_s).result_of = key[1]

    def _asked(self, uuid: str) -> str:
        """The call whose tool use a line answers: the nearest above."""
        met: set[str] = set()
        while uuid in self._lines and uuid not in met:
            met.add(uuid)
            if self._lines[uuid].call:
                return self._lines[uuid].call
            uuid = self._lines[uuid].parent
        return ""

    def _run(self, call: str) -> str:
        """The run's id: the session, and with ``split=turns`` the turn of the main thread in which the call was made."""
        message = self._messages[call]
        met: set[str] = set()
        while message.agent and (message.session, message.agent) in self._makers and call not in met:
            met.add(call)
            call = self._makers[message.session, message.agent]
            message = self._messages[call]
        if message.agent:
            return f"{message.session}-{message.agent}"
        if not self._by_turn:
            return message.session
        turns = self._turns.setdefault(message.session, {})
        return f"{message.session}-{turns.setdefault(self._human(call), len(turns))}"

    def _human(self, call: str) -> str:
        path: list[str] = []
        uuid, met = self._lines[self._messages[call].first].parent, set()
        while uuid in self._lines and uuid not in met and uuid not in self._humans:
            met.add(uuid)
            path.append(uuid)
            if self._lines[uuid].human:
                self._humans[uuid] = uuid
                break
            uuid = self._lines[uuid].parent
        found = self._humans.get(uuid) or (path[-1] if path else "")  # without one, where the thread begins
        for step in path:
            self._humans[step] = found
        return found


def _detect(sample: FileSample) -> str | None:
    for record in sample.records():
        if get(record, "sessionId") and get(record, "uuid") and isinstance(get(record, "isSidechain"), bool):
            return f"{sample.form}, records have sessionId, uuid, isSidechain"
    return None


CLAUDE_CODE = Importer(
    summary="Claude Code session files (projects/*/*.jsonl), with sub-agents; user turns as runs",
    open=_open,
    detect=_detect,
    options={**SPLIT, **WORKFLOW},
)
