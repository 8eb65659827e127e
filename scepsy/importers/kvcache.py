"""kv-cache-tester sessions of coding agents, one per JSON file or per line (AgentX, Weka), flat or with sub-agents.

Flat sessions (request type ``s``) have overlapping calls and no parents: ``importers.threads`` infers them. Nested sessions
(type ``n``) say which calls a sub-agent made: the main thread is a chain, a sub-agent is a chain that the last finished main
call spawned, and the next main call after its completion waits for it. A sub-agent's ``t`` is its completion and its calls
count from its begin, whatever the documentation says; where its first call comes at or after ``t``, both are as documented.

A session is cut into user turns (``split=turns``): each turn is one run, since what lies between two turns is a human's time,
not the workflow's. Prompts are hashed in blocks of ``block_size`` tokens; ids of ``local`` scope are kept apart by session.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from scepsy.importers.base import Imported, Importer, choice, positive_number
from scepsy.importers.detect import Fields
from scepsy.importers.fields import Absurd, count, get, label, seconds
from scepsy.importers.observing import block_ids, items, mapping
from scepsy.importers.prompts import resized
from scepsy.importers.record_reader import Record, json_records
from scepsy.importers.recorded.dependencies import GUESS
from scepsy.importers.source import Source
from scepsy.importers.tally import Tally
from scepsy.importers.threads import BY_PREFIX, BY_TOOL, Observed, infer_parents, parents_first, user_turns
from scepsy.workload import Call, Run, TraceSource

SHARED_PREFIX_CONFIDENCE = 0.99
"""Confidence of a parent told by a shared prompt prefix: 99.2 % agree with an independent reading of 2,038 calls."""

MOST_NESTED = 20
"""Sub-agents of sub-agents that are read."""

MAX_IDLE_S = 600.0
"""Assumed: after ten minutes with nothing in flight it is a human who continues, whatever the last call's stop reason."""

BLOCK_TOKENS = 64
"""Where a session does not say."""


@dataclass
class _Blocks:
    """Block ids of all sessions: of one size, those of local scope renumbered."""

    tokens: int
    joined: dict[tuple[int, ...], int] = field(default_factory=dict)
    fresh: int = 0

    def of(self, ids: tuple[int, ...], own_tokens: int, local: dict[int, int] | None, counts: Counter[str]) -> tuple[int, ...]:
        """Ids as they go into the trace; ``local`` numbers those of one session."""
        if local is not None:
            for block in ids:
                if block not in local:
                    self.fresh += 1
                    local[block] = self.fresh
            ids = tuple(local[block] for block in ids)
        fitting = resized(ids, own_tokens, self.tokens, self.joined)
        if fitting is None:
            counts[f"prompts hashed in blocks that do not fit {self.tokens} tokens, taken as sharing nothing"] += 1
        return fitting or ()


@dataclass
class _Reading:
    """The calls of one session as they are found, in document order."""

    counts: Counter[str]
    blocks: _Blocks
    own_tokens: int
    local: dict[int, int] | None
    calls: list[Observed] = field(default_factory=list)

    def add(self, request: Mapping[str, Any], begin_s: float, parents: tuple[int, ...]) -> int:
        """Take in one call. Raises ``Absurd``."""
        given, made = count(request.get("in"), "in") or 0, count(request.get("out"), "out") or 0
        spent_s = seconds(request.get("api_time"), "api_time")
        if given <= 0 or made <= 0:
            self.counts["calls without input or output tokens, counted as one token"] += 1
        if spent_s is None:
            self.counts["calls without api_time, counted as 0 s"] += 1
        ids = block_ids(request.get("hash_ids"), "hash_ids")
        # More ids than whole blocks of `in` occur on tiny calls: no prefix is longer than its prompt.
        whole = self.blocks.of(ids[: given // self.own_tokens], self.own_tokens, self.local, self.counts)
        start_s = begin_s + _at(request)
        stop = request.get("stop")
        self.calls.append(
            Observed(
                index=len(self.calls),
                llm=label(request.get("model")) or "unknown",
                start_s=start_s,
                end_s=start_s + (spent_s or 0.0),
                input_tokens=max(given, 1),
                output_tokens=max(made, 1),
                stop=stop if isinstance(stop, str) else "",
                parents=parents,
                hashes=ids,
                prefix=whole[: given // self.blocks.tokens],
            )
        )
        return len(self.calls) - 1


def _at(request: Mapping[str, Any]) -> float:
    found = seconds(request.get("t"), "t")
    if found is None:
        raise Absurd("t is missing: must be given")
    return found


def _open(sources: Sequence[Source], options: Mapping[str, str], tally: Tally) -> Imported:
    split = choice(options, "split", ("turns", "sessions"))
    max_idle_s = positive_number(options, "max_idle_s", MAX_IDLE_S)
    notes = (f"a run is a user turn; it also ends when nothing is in flight for {max_idle_s:g} s (assumed)",)
    records = ((source, record) for source in sources for record in json_records(source, tally))
    first = next(records, None)
    blocks = _Blocks(_block_tokens(first[1].value) if first is not None else BLOCK_TOKENS)
    everything = chain([first] if first is not None else [], records)
    return Imported(
        source=TraceSource(
            origin=f"kv-cache-tester: {len(sources)} files", licence="Apache-2.0", notes=notes if split == "turns" else ()
        ),
        runs=_runs(everything, options.get("workflow", "coding-agent"), split, max_idle_s, blocks, tally),
        prefix_block_tokens=blocks.tokens,
    )


def _block_tokens(session: Any) -> int:
    found = get(session, "block_size")
    return found if isinstance(found, int) and 0 < found < 2**20 else BLOCK_TOKENS


def _runs(
    records: Iterator[tuple[Source, Record]], workflow: str, split: str, max_idle_s: float, blocks: _Blocks, tally: Tally
) -> Iterator[Run]:
    for source, record in records:
        try:
            session = mapping(record.value)
            name = label(session.get("id")) or source.label
            calls = _calls(session, blocks, tally)
            if not calls:
                tally.counts["sessions without any call, left out"] += 1
                continue
            turns = user_turns(calls, max_idle_s) if split == "turns" else [calls]
            made = [_run(name, f"{name}-{n}" if split == "turns" else name, workflow, turn) for n, turn in enumerate(turns)]
        except ValueError as error:
            tally.drop(str(error), source, record.line)
            continue
        yield from made


def _calls(session: Mapping[str, Any], blocks: _Blocks, tally: Tally) -> list[Observed]:
    """The calls of one session, with their parents."""
    scope = session.get("hash_id_scope", "global")
    if scope not in ("global", "local"):
        raise Absurd("hash_id_scope is neither: must be one of global, local")
    own = count(session.get("block_size"), "block_size")
    if own == 0:
        raise Absurd("block_size is 0: must be >= 1")
    reading = _Reading(tally.counts, blocks, own or BLOCK_TOKENS, {} if scope == "local" else None)
    requests = items(session.get("requests"), "requests")
    if any(get(request, "type") in ("n", "subagent") for request in requests):
        _read_nested(reading, requests, "requests", 0.0, None)
    else:
        for number, request in enumerate(requests):
            with _placed(f"requests[{number}]"):
                reading.add(mapping(request), 0.0, ())
        reading.calls.sort(key=lambda call: (call.start_s, call.index))
        found: Counter[str] = Counter()
        infer_parents(reading.calls, found)
        tally.infer(SHARED_PREFIX_CONFIDENCE, found[BY_PREFIX])
        tally.infer(GUESS, found[BY_TOOL])
        tally.facts.update(found)
    return reading.calls


@contextmanager
def _placed(where: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise Absurd(f"{where}.{error}") from None


def _read_nested(
    reading: _Reading, requests: list[Any], where: str, begin_s: float, spawned_by: int | None, depth: int = 0
) -> int | None:
    """Read one thread and its sub-agents; returns its last call (the spawning one when it made none)."""
    if depth > MOST_NESTED:
        raise Absurd(f"sub-agents are nested more than {MOST_NESTED} deep: must be less")
    before = spawned_by
    joins: list[tuple[float, int]] = []
    """Completion time and last call of the sub-agents that no call of this thread has waited for yet."""
    for number, request in enumerate(requests):
        place = f"{where}[{number}]"
        with _placed(place):
            request = mapping(request)
            at_s = _at(request)
        if request.get("type") == "subagent":
            with _placed(place):
                inner = items(request.get("requests"), "requests")
                spawn_s, end_s, base_s = _times(request, inner, begin_s)
            own = [call for call in reading.calls if before is not None and call.index <= before]
            parent = _last_ended(own, spawn_s) if own else before
            last = _read_nested(reading, inner, f"{place}.requests", base_s, parent, depth + 1)
            if last is not None and last != parent:
                joins.append((end_s, last))
            continue
        start_s = begin_s + at_s
        joined = [last for end_s, last in joins if end_s <= start_s]
        joins = [(end_s, last) for end_s, last in joins if end_s > start_s]
        parents = tuple(sorted({*([] if before is None else [before]), *joined}))
        with _placed(place):
            before = reading.add(request, begin_s, parents)
    return before


def _times(subagent: Mapping[str, Any], inner: list[Any], begin_s: float) -> tuple[float, float, float]:
    """When a sub-agent was spawned and ended, and what its calls' times count from."""
    at_s, spent_s = _at(subagent), seconds(subagent.get("duration_ms"), "duration_ms", unit_s=1e-3)
    ends = [_at(mapping(one)) + (seconds(one.get("api_time"), "api_time") or 0.0) for one in inner]
    if ends and _at(inner[0]) >= at_s > 0:
        return begin_s + at_s, begin_s + (at_s + spent_s if spent_s is not None else max(ends)), begin_s
    spawn_s = begin_s + at_s - (spent_s if spent_s is not None else max(ends, default=0.0))
    return spawn_s, begin_s + at_s, spawn_s


def _last_ended(calls: list[Observed], at_s: float) -> int:
    ended = [call for call in calls if call.end_s <= at_s]
    return max(ended or calls[:1], key=lambda call: (call.end_s, call.index)).index


def _run(session: str, run_id: str, workflow: str, calls: list[Observed]) -> Run:
    arrival = min(call.start_s for call in calls)
    known = {call.index: call for call in calls}
    built = []
    for call in parents_first(calls):
        parents = [known[parent] for parent in call.parents if parent in known]
        ready = max((parent.end_s for parent in parents), default=arrival)
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
    return Run(id=run_id, workflow=workflow, calls=tuple(built), session=session)


KV_CACHE_TESTER = Importer(
    summary="kv-cache-tester, AgentX and Weka sessions of coding agents (JSON, JSON lines), flat or with sub-agents",
    open=_open,
    detect=Fields(("requests.t", "requests.in|requests.requests.in", "block_size|hash_id_scope|models")),
    options={
        "split": "turns (default): one run per user turn; sessions: one run per session",
        "max_idle_s": f"seconds without a call in flight that end a turn in any case (default: {MAX_IDLE_S:g}, assumed)",
        "workflow": "name of the workflow (default: coding-agent)",
    },
)
