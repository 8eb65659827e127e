"""Which call waited for which? From hashes where they tell, from time where they cannot; redundant edges removed.

Rules, per run (times are the gateway's own, so they share one clock):

1. **Content.** a → b if a's output was found in b's input (``CallRecord.sources``). Confidence: the part of it found.
2. **Time.** The *latest finishers* of b are the calls a that ended before b began with no whole call in between (none that
   began after a's end and ended before b's begin). A call without content evidence follows all of them. One with content
   evidence follows its sources, and every call since the last of these whose output no hash could have shown (scores,
   embeddings, one-word answers); of very many, the latest ``MAX_UNHASHED_PARENTS``. Programs wait for such calls too, and a
   replay that did not would send b too early.
3. **Transitive reduction**: an edge that a longer path implies goes.

The time rule cannot tell a join from a coincidence, which its confidence says: ``LONE`` when b has one latest finisher and
nothing else was in flight, ``JOIN`` for several finishers of one LLM (a fan-out's join), ``GUESS`` otherwise (assumed values).

Calls are gone through once, in order of time, so that the cost grows with the number of calls and edges.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

from scepsy.importers.recorded.record import CallRecord
from scepsy.value import Value

LONE, JOIN, GUESS = 0.9, 0.7, 0.5

MAX_UNHASHED_PARENTS = 256
"""Calls whose output no hash could have shown, per child: more than any known program waits for at once."""


class Edge(Value, frozen=True, kw_only=True):
    """``child`` waited for ``parent``."""

    parent: str
    child: str
    by: Literal["text", "message", "tool", "time"]
    confidence: float


def infer_edges(calls: Sequence[CallRecord]) -> tuple[Edge, ...]:
    """The edges of one run, transitively reduced, by child's then parent's start. Calls may come in any order."""
    ordered = sorted(calls, key=lambda call: (call.start_s, call.end_s, call.id))
    past, kept = _Past(ordered), _Graph(ordered)
    for child in ordered:
        past.advance(child)
        kept.add(child, _parents(child, past))
    place = {call.id: index for index, call in enumerate(ordered)}
    edges = (edge for call in ordered for edge in sorted(kept.into[call.id], key=lambda edge: place[edge.parent]))
    return tuple(edges)


class _Past:
    """The calls that had ended when a child began, as children come in order of time."""

    def __init__(self, ordered: Sequence[CallRecord]) -> None:
        self._coming = sorted(ordered, key=lambda call: (call.end_s, call.start_s, call.id))
        self._begun = 0
        self.ended: list[CallRecord] = []
        """In order of their ends."""
        self.by_id: dict[str, CallRecord] = {}
        self.silent: list[CallRecord] = []
        """Of these: whose output no hash could have shown."""
        self.last_begin_s = 0.0
        """The latest begin among them."""
        self._next = 0

    def advance(self, child: CallRecord) -> None:
        """On to the moment at which ``child`` began."""
        self._begun += 1
        while self._next < len(self._coming) and self._coming[self._next].end_s <= child.start_s:
            call = self._coming[self._next]
            if call is child:  # a call of no length
                break
            self._next += 1
            self.ended.append(call)
            self.by_id[call.id] = call
            self.last_begin_s = max(self.last_begin_s, call.start_s)
            if not call.can_be_source:
                self.silent.append(call)

    @property
    def in_flight(self) -> bool:
        """Whether other calls had begun and not ended."""
        return self._begun - 1 > len(self.ended)

    def latest_finishers(self) -> list[CallRecord]:
        """Of the ended calls: those with no whole call between their end and now."""
        found = []
        for call in reversed(self.ended):
            if call.end_s < self.last_begin_s:
                break
            if call.end_s > self.last_begin_s or call.start_s == self.last_begin_s:
                found.append(call)
        return found

    def silent_since(self, time_s: float) -> Iterator[CallRecord]:
        """The latest ``MAX_UNHASHED_PARENTS`` ended calls that began at ``time_s`` or later and left no findable output."""
        count = 0
        for call in reversed(self.silent):
            if call.end_s < time_s or count == MAX_UNHASHED_PARENTS:
                break
            if call.start_s >= time_s:
                count += 1
                yield call


def _parents(child: CallRecord, past: _Past) -> list[Edge]:
    found = {
        source.call: Edge(parent=source.call, child=child.id, by=source.by, confidence=source.contained_pct / 100)
        for source in child.sources
        if source.call in past.by_id
    }
    if found:
        said_s = max(past.by_id[parent].end_s for parent in found)
        latest = [call for call in past.silent_since(said_s) if call.id not in found]
    else:
        latest = past.latest_finishers()
    confidence = _confidence(latest, past)
    return [
        *found.values(),
        *(Edge(parent=call.id, child=child.id, by="time", confidence=confidence) for call in latest),
    ]


def latest_finishers(child: CallRecord, over: Sequence[CallRecord]) -> list[CallRecord]:
    """Of the calls that ended before ``child`` began: those with no whole call between their end and that begin."""
    past = _Past(over)
    past.advance(child)
    found = {call.id for call in past.latest_finishers()}
    return [call for call in over if call.id in found]


def _confidence(latest: Sequence[CallRecord], past: _Past) -> float:
    if len(latest) > 1:
        return JOIN if len({call.llm for call in latest}) == 1 else GUESS
    return GUESS if past.in_flight else LONE


class _Graph:
    """The reduced graph so far. A new call's parents all come before it, so nothing that was kept ever goes."""

    def __init__(self, ordered: Sequence[CallRecord]) -> None:
        self._calls = {call.id: call for call in ordered}
        self._place = {call.id: place for place, call in enumerate(ordered)}
        self.into: dict[str, list[Edge]] = {}

    def add(self, child: CallRecord, edges: Sequence[Edge]) -> None:
        """Keep the edges that no other one's parent implies."""
        parents = [self._calls[edge.parent] for edge in edges]
        if len(edges) < 2 or max(call.start_s for call in parents) < min(call.end_s for call in parents):
            # All were in flight at one moment (as latest finishers are), so none of them comes before another.
            self.into[child.id] = list(edges)
            return
        newest_first = sorted(edges, key=lambda edge: self._place[edge.parent], reverse=True)
        left = {edge.parent for edge in newest_first}
        kept = []
        covered: set[str] = set()
        for edge in newest_first:
            left.discard(edge.parent)
            if edge.parent not in covered:
                kept.append(edge)
                self._cover(edge.parent, left, covered)
        self.into[child.id] = kept

    def _cover(self, parent: str, left: set[str], covered: set[str]) -> None:
        """Add to ``covered`` what comes before ``parent``, as far back as any of ``left`` can be."""
        waiting = left - covered
        if not waiting:
            return
        oldest_s = min(self._calls[call].end_s for call in waiting)
        stack, seen = [parent], {parent}
        while stack and waiting:
            for edge in self.into[stack.pop()]:
                before = edge.parent
                if before in seen:
                    continue
                seen.add(before)
                covered.add(before)
                waiting.discard(before)
                if self._calls[before].start_s >= oldest_s:
                    stack.append(before)
