"""kv-cache-tester sessions of coding agents, both kinds.

Flat sessions (request type ``s``) have overlapping calls and no parents: ``importers.threads`` infers them. Nested sessions
(type ``n``) say which calls a sub-agent made: the main thread is a chain, a sub-agent is a chain that the last finished main
call spawned, and the next main call after its completion waits for it.

A session is cut into user turns (``split=turns``): each turn is one run, since what lies between two turns is a human's time,
not the workflow's. Prompts' 64-token blocks are hashed; ids of ``local`` scope are made distinct between sessions.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from scepsy.files.failure import fail
from scepsy.importers.base import Imported, Importer, checking, choice, positive_number, read_foreign
from scepsy.importers.detect import Fields
from scepsy.importers.source import Source
from scepsy.importers.tally import Tally
from scepsy.importers.threads import Observed, infer_parents, parents_first, user_turns
from scepsy.workload import Call, Run, TraceSource

MAX_IDLE_S = 600.0
"""Assumed: after ten minutes with nothing in flight it is a human who continues, whatever the last call's stop reason."""


class _Request(msgspec.Struct):
    t: float
    type: str
    model: str = ""
    input: int = msgspec.field(name="in", default=0)
    out: int = 0
    hash_ids: list[int] = []
    stop: str = ""
    api_time: float | None = None
    duration_ms: float | None = None
    """Sub-agents only; their ``t`` is the completion, whatever the format's documentation says."""
    requests: list["_Request"] = []


class _Session(msgspec.Struct):
    id: str
    requests: list[_Request]
    block_size: int = 64
    hash_id_scope: Literal["global", "local"] = "global"


@dataclass
class _Reading:
    """The calls of one session as they are found, in document order."""

    source: Source
    counts: Counter[str]
    first_hash: int
    calls: list[Observed] = field(default_factory=list)

    def add(self, request: _Request, where: str, begin_s: float, parents: tuple[int, ...]) -> int:
        if request.input <= 0 or request.out <= 0:
            self.counts["calls without input or output tokens, counted as one token"] += 1
        if request.api_time is None:
            self.counts["calls without api_time, counted as 0 s"] += 1
        for name, value in (("in", request.input), ("out", request.out), ("api_time", request.api_time or 0.0)):
            if not 0 <= value < float("inf"):
                raise fail(str(self.source), f"{where}.{name} is {value}: must be >= 0")
        # More ids than whole blocks of `in` occur on tiny calls: no prefix is longer than its prompt.
        blocks = request.hash_ids[: request.input // 64]
        start = begin_s + request.t
        self.calls.append(
            Observed(
                index=len(self.calls),
                llm=request.model or "unknown",
                start_s=start,
                end_s=start + (request.api_time or 0.0),
                input_tokens=max(request.input, 1),
                output_tokens=max(request.out, 1),
                stop=request.stop,
                parents=parents,
                hashes=tuple(request.hash_ids),
                prefix=tuple(block + self.first_hash for block in blocks),
            )
        )
        return len(self.calls) - 1


def _open(sources: Sequence[Source], options: Mapping[str, str], tally: Tally) -> Imported:
    split = choice(options, "split", ("turns", "sessions"))
    max_idle_s = positive_number(options, "max_idle_s", MAX_IDLE_S)
    counts = tally.counts
    notes = ["times of flat sessions have a resolution of 0.1 s, of nested ones 1 s"]
    if split == "turns":
        notes.append(f"a run is a user turn; it also ends when nothing is in flight for {max_idle_s:g} s (assumed)")
    return Imported(
        source=TraceSource(origin=f"kv-cache-tester: {len(sources)} sessions", licence="Apache-2.0", notes=tuple(notes)),
        runs=_runs(sources, options.get("workflow", "coding-agent"), split, max_idle_s, counts),
        prefix_block_tokens=64,
    )


def _runs(sources: Sequence[Source], workflow: str, split: str, max_idle_s: float, counts: Counter[str]) -> Iterator[Run]:
    local_ids = 0
    for source in sources:
        session = read_foreign(source, _Session)
        if session.block_size != 64:
            raise fail(str(source), f"block_size is {session.block_size}: must be 64, as in all other sessions")
        local = session.hash_id_scope == "local"
        reading = _Reading(source, counts, local_ids if local else 0)
        if any(request.type in ("n", "subagent") for request in session.requests):
            _read_nested(reading, session.requests, "requests", 0.0, None)
        else:
            for number, request in enumerate(session.requests):
                reading.add(request, f"requests[{number}]", 0.0, ())
            infer_parents(reading.calls, counts)
        if local:
            local_ids += 1 + max((block for call in reading.calls for block in call.hashes), default=0)
        if not reading.calls:
            counts["sessions without any call, left out"] += 1
            continue
        turns = user_turns(reading.calls, max_idle_s) if split == "turns" else [reading.calls]
        for number, turn in enumerate(turns):
            yield _run(source, session.id, f"{session.id}-{number}" if split == "turns" else session.id, workflow, turn)


def _read_nested(reading: _Reading, requests: list[_Request], where: str, begin_s: float, spawned_by: int | None) -> int | None:
    """Read one thread and its sub-agents; returns its last call (the spawning one when it made none)."""
    before = spawned_by
    joins: list[tuple[float, int]] = []
    """Completion time and last call of the sub-agents that no call of this thread has waited for yet."""
    for number, request in enumerate(requests):
        place = f"{where}[{number}]"
        if request.type == "subagent":
            end_s = begin_s + request.t
            spawn_s = end_s - _duration_s(request)
            own = [call for call in reading.calls if before is not None and call.index <= before]
            parent = _last_ended(own, spawn_s) if own else before
            last = _read_nested(reading, request.requests, f"{place}.requests", spawn_s, parent)
            if last is not None and last != parent:
                joins.append((end_s, last))
            continue
        start_s = begin_s + request.t
        joined = [last for end_s, last in joins if end_s <= start_s]
        joins = [(end_s, last) for end_s, last in joins if end_s > start_s]
        parents = tuple(sorted({*([] if before is None else [before]), *joined}))
        before = reading.add(request, place, begin_s, parents)
    return before


def _duration_s(request: _Request) -> float:
    if request.duration_ms is not None:
        return request.duration_ms / 1000.0
    return max((inner.t + (inner.api_time or 0.0) for inner in request.requests), default=0.0)


def _last_ended(calls: list[Observed], at_s: float) -> int:
    ended = [call for call in calls if call.end_s <= at_s]
    return max(ended or calls[:1], key=lambda call: (call.end_s, call.index)).index


def _run(source: Source, session: str, run_id: str, workflow: str, calls: list[Observed]) -> Run:
    arrival = min(call.start_s for call in calls)
    known = {call.index: call for call in calls}
    built = []
    for call in parents_first(calls):
        parents = [known[parent] for parent in call.parents if parent in known]
        ready = max((parent.end_s for parent in parents), default=arrival)
        with checking(source, f"call {call.index}"):
            built.append(
                Call(
                    id=f"c{call.index}",
                    llm=call.llm,
                    input_tokens=call.input_tokens,
                    output_tokens=call.output_tokens,
                    parents=tuple(f"c{parent.index}" for parent in parents),
                    gap_s=max(0.0, call.start_s - ready),
                    start_s=call.start_s - arrival,
                    end_s=call.end_s - arrival,
                    prefix_hashes=call.prefix,
                )
            )
    with checking(source, run_id):
        return Run(id=run_id, workflow=workflow, calls=tuple(built), session=session)


KV_CACHE_TESTER = Importer(
    summary="kv-cache-tester sessions of coding agents (JSON), flat or with nested sub-agents",
    open=_open,
    detect=Fields(("requests", "block_size", "hash_id_scope|models")),
    options={
        "split": "turns (default): one run per user turn; sessions: one run per file",
        "max_idle_s": f"seconds without a call in flight that end a turn in any case (default: {MAX_IDLE_S:g}, assumed)",
        "workflow": "name of the workflow (default: coding-agent)",
    },
)
