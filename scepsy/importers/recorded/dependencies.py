"""Which call waited for which? From hashes where they tell, from time where they cannot; redundant edges removed.

Rules, per run (times are the gateway's own, so they share one clock):

1. **Content.** a → b if a's output was found in b's input (``CallRecord.sources``). Confidence: the part of it found.
2. **Time.** The *latest finishers* of b are the calls a that ended before b began with no whole call in between (none that
   began after a's end and ended before b's begin). A call without content evidence follows all of them. One with content
   evidence follows, besides its sources, every call since the last of these whose output no hash could have shown (scores,
   embeddings, one-word answers): programs wait for them too, and a replay that did not would send b too early.
3. **Transitive reduction**: an edge that a longer path implies goes.

The time rule cannot tell a join from a coincidence, which its confidence says: ``LONE`` when b has one latest finisher and
nothing else was in flight, ``JOIN`` for several finishers of one LLM (a fan-out's join), ``GUESS`` otherwise (assumed values).
"""

from collections.abc import Sequence
from typing import Literal

import networkx as nx

from scepsy.importers.recorded.record import CallRecord
from scepsy.value import Value

LONE, JOIN, GUESS = 0.9, 0.7, 0.5


class Edge(Value, frozen=True, kw_only=True):
    """``child`` waited for ``parent``."""

    parent: str
    child: str
    by: Literal["text", "message", "tool", "time"]
    confidence: float


def infer_edges(calls: Sequence[CallRecord]) -> tuple[Edge, ...]:
    """The edges of one run, transitively reduced, by child's then parent's start. Calls may come in any order."""
    ordered = sorted(calls, key=lambda call: (call.start_s, call.end_s, call.id))
    edges: dict[tuple[str, str], Edge] = {}
    for position, child in enumerate(ordered):
        for edge in _parents(child, ordered[:position]):
            edges[edge.parent, edge.child] = edge
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from(call.id for call in ordered)
    graph.add_edges_from(edges)
    kept = nx.transitive_reduction(graph)
    place = {call.id: index for index, call in enumerate(ordered)}
    pairs = sorted(kept.edges, key=lambda pair: (place[pair[1]], place[pair[0]]))
    return tuple(edges[pair] for pair in pairs)


def _parents(child: CallRecord, earlier: Sequence[CallRecord]) -> list[Edge]:
    over = {call.id: call for call in earlier if call.end_s <= child.start_s}
    found = [
        Edge(parent=source.call, child=child.id, by=source.by, confidence=source.contained_pct / 100)
        for source in child.sources
        if source.call in over
    ]
    if found:
        said_s = max(over[edge.parent].end_s for edge in found)
        named = {edge.parent for edge in found}
        latest = [c for c in over.values() if not c.can_be_source and c.start_s >= said_s and c.id not in named]
    else:
        latest = latest_finishers(child, list(over.values()))
    confidence = _confidence(child, latest, earlier)
    return found + [Edge(parent=call.id, child=child.id, by="time", confidence=confidence) for call in latest]


def latest_finishers(child: CallRecord, over: Sequence[CallRecord]) -> list[CallRecord]:
    """Of the calls that ended before ``child`` began: those with no whole call between their end and that begin."""
    last_begin_s = max((call.start_s for call in over), default=0.0)
    return [call for call in over if call.end_s > last_begin_s or call.start_s == last_begin_s]


def _confidence(child: CallRecord, latest: Sequence[CallRecord], earlier: Sequence[CallRecord]) -> float:
    if len(latest) > 1:
        return JOIN if len({call.llm for call in latest}) == 1 else GUESS
    in_flight = any(call.end_s > child.start_s for call in earlier)
    return GUESS if in_flight else LONE
