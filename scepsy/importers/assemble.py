"""From single observations, in any order, to runs: who contains whom, who waited for whom, what a call cost.

Importers give ``Seen`` values: every call, and every other span that may lie above a call. They are kept in a temporary
database (SQLite spills to disk by itself), so that memory does not grow with the input, and come back run by run.

Rules per run:

1. An observation given twice is kept once: the one that ended, else the last.
2. A call that contains another call wraps it: it is left out, and lends its token counts to the only call inside where that has
   none. Failed calls are left out; one that another call of its LLM follows under the same span was retried.
3. Recorded dependencies (``waits``) are taken as they are. A run without any (that is not ``complete``) gets them
   from nesting and time: a call waits for those siblings before it that ended last with nothing whole in between, and the
   first inside a span for what the span waited for.
"""

import heapq
import sqlite3
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import fsum

import msgspec

from scepsy.importers.fields import Absurd
from scepsy.importers.recorded.dependencies import GUESS, JOIN, LONE
from scepsy.importers.tally import Tally
from scepsy.workload import Call, CallKind, Run

CACHE_KIB = 32 << 10
"""Memory that the temporary database may keep."""

BATCH = 5000


class Seen(msgspec.Struct, array_like=True, kw_only=True):
    """One observation: a call to a model, or something around calls. No text, ever."""

    run: str
    id: str
    start_s: float
    """Seconds of one clock for all inputs (Unix time, or since the recording began)."""
    end_s: float | None = None
    """None: it never ended, or nobody knows when."""
    parent: str = ""
    """Id of the observation that contains it."""
    llm: str = ""
    """Empty: not a call."""
    kind: CallKind = "generate"
    input_tokens: int | None = None
    """All prompt tokens, cached ones included; None: not recorded."""
    output_tokens: int | None = None
    """All generated tokens, hidden reasoning included; None: not recorded."""
    text_input_tokens: int = 0
    """Estimate from the recorded text (``fields.estimated_tokens``), used when there is no count."""
    text_output_tokens: int = 0
    cached_tokens: int = 0
    failed: bool = False
    tool: bool = False
    """A tool's span: its time is summed up."""
    waits: tuple[str, ...] = ()
    """Ids of calls it waited for, where recorded."""
    workflow: str = ""
    session: str = ""
    prefix: tuple[int, ...] = ()
    name: str = ""
    """Of a root: what the run is called, where nothing else says so."""
    complete: bool = False
    """Whether the recording says that the run's ``waits`` are all there are, even where there are none."""


def assemble(seen: Iterable[Seen], tally: Tally, *, workflow: str = "", default: str = "default") -> Iterator[Run]:
    """Runs from observations, in order of begin. ``workflow`` names all runs; else a run's root, else ``default``, does."""
    database = sqlite3.connect("")  # a temporary file that SQLite makes only when its cache is full
    try:
        database.execute("PRAGMA journal_mode = OFF")
        database.execute("PRAGMA synchronous = OFF")
        database.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        database.execute("PRAGMA temp_store = FILE")
        database.execute("CREATE TABLE seen (run TEXT, start REAL, data BLOB)")
        encoder = msgspec.msgpack.Encoder()
        batch = []
        for item in seen:
            batch.append((item.run, item.start_s, encoder.encode(item)))
            if len(batch) == BATCH:
                database.executemany("INSERT INTO seen VALUES (?, ?, ?)", batch)
                batch.clear()
        database.executemany("INSERT INTO seen VALUES (?, ?, ?)", batch)
        batch.clear()
        origin_s: float | None = None
        for group in _groups(database):
            origin_s = min((item.start_s for item in group), default=0.0) if origin_s is None else origin_s
            run = _run(group, origin_s, tally, workflow, default)
            if run is not None:
                yield run
    finally:
        database.close()


def _groups(database: sqlite3.Connection) -> Iterator[list[Seen]]:
    """The observations of one run after the other, runs by their first begin."""
    rows = database.execute(
        "SELECT run, data FROM (SELECT run, data, rowid AS n, MIN(start) OVER same AS begin, MIN(rowid) OVER same AS first "
        "FROM seen WINDOW same AS (PARTITION BY run)) ORDER BY begin, first, n"
    )
    decoder = msgspec.msgpack.Decoder(Seen)
    current: str | None = None
    group: list[Seen] = []
    for run, data in rows:
        if run != current and group:
            yield group
            group = []
        current = run
        group.append(decoder.decode(data))
    if group:
        yield group


@dataclass
class _Node:
    """An observation that is a call, or has calls inside. Times are the extent of those calls."""

    item: Seen
    start_s: float
    end_s: float
    children: list["_Node"] = field(default_factory=list)


def _run(group: Sequence[Seen], origin_s: float, tally: Tally, workflow: str, default: str) -> Run | None:
    items = _once(group, tally)
    tools = [item.end_s - item.start_s for item in items.values() if item.tool and item.end_s is not None]
    if tools:
        tally.tool_s = (tally.tool_s or 0.0) + fsum(max(0.0, spent) for spent in tools)
    calls = _leaves(items, tally)
    _count_retries([item for item in items.values() if item.llm], tally)
    calls = {id_: done for id_, item in calls.items() if (done := _counted(item, tally)) is not None}
    if not calls:
        return None
    parents, confidences = _parents(items, calls, tally)
    for confidence in confidences:
        tally.infer(confidence)
    first = min(calls.values(), key=lambda item: (item.start_s, item.id))
    last = max(calls.values(), key=_end)
    outer, outer_last = (_outermost(item, items) for item in (first, last))
    named = workflow or first.workflow or (outer.workflow or outer.name if outer is not None else "") or default
    arrival_s = first.start_s if outer is None else min(outer.start_s, first.start_s)
    tail_s = outer_last.end_s - _end(last) if outer_last is not None and outer_last.end_s is not None else 0.0
    session = next((item.session for item in (*calls.values(), outer) if item is not None and item.session), "")
    order = _parents_first(calls, parents, tally)
    _doubt_input(calls, parents, tally)
    try:
        return Run(
            id=first.run,
            workflow=named,
            calls=_calls(order, parents, calls, arrival_s),
            arrival_s=max(0.0, arrival_s - origin_s),
            tail_s=tail_s if tail_s > 1e-6 else 0.0,
            session=session,
        )
    except ValueError as error:
        for _ in order:
            tally.drop(str(error))
        return None


def _doubt_input(calls: Mapping[str, Seen], parents: Mapping[str, tuple[str, ...]], tally: Tally) -> None:
    """Say where a call's input cannot hold what the call before it said: then cached tokens are probably not in it."""
    for id_, item in calls.items():
        before = [calls[parent] for parent in parents[id_] if parent in calls]
        if any(one.llm == item.llm and (one.output_tokens or 0) > (item.input_tokens or 0) for one in before):
            tally.facts["calls with less input than the output they waited for (input without cached tokens?)"] += 1


def _outermost(item: Seen, items: Mapping[str, Seen]) -> Seen | None:
    """What contains an observation and is contained in nothing: its begin is the run's, its end the answer's."""
    return next(iter([*_above(item, items)][-1:]), None)


def _once(group: Sequence[Seen], tally: Tally) -> dict[str, Seen]:
    items: dict[str, Seen] = {}
    for item in group:
        other = items.get(item.id)
        if other is not None and item.llm and other.llm and other.start_s != item.start_s:
            tally.facts["calls of an id that another call has, told apart by their begin"] += 1
            item.id = f"{item.id}~{len(items)}"
            other = None
        if other is not None and item.llm:
            tally.duplicates += 1
        if other is None or other.end_s is None or (item.end_s is not None and item != other):
            items[item.id] = item
    return items


def _leaves(items: Mapping[str, Seen], tally: Tally) -> dict[str, Seen]:
    """The calls that contain no other call; a wrapper's counts go to the only call inside, where that has none."""
    inside: dict[str, list[str]] = {}
    for id_, item in items.items():
        if not item.llm:
            continue
        for above in _above(item, items):
            inside.setdefault(above.id, []).append(id_)
    leaves = {id_: item for id_, item in items.items() if item.llm and id_ not in inside}
    for id_, within in inside.items():
        wrapper = items[id_]
        if not wrapper.llm:
            continue
        tally.facts["calls that only wrap another call, left out"] += 1
        only = [leaf for leaf in within if leaf in leaves]
        if len(only) == 1 and leaves[only[0]].input_tokens is None and wrapper.input_tokens is not None:
            tally.facts["token counts taken from what wraps the call"] += 1
            leaves[only[0]] = msgspec.structs.replace(
                leaves[only[0]], input_tokens=wrapper.input_tokens, output_tokens=wrapper.output_tokens
            )
    return leaves


def _above(item: Seen, items: Mapping[str, Seen]) -> Iterator[Seen]:
    """What contains an observation, innermost first; a cycle ends it."""
    met = {item.id}
    while item.parent and item.parent not in met and item.parent in items:
        item = items[item.parent]
        met.add(item.id)
        yield item


def _count_retries(calls: Sequence[Seen], tally: Tally) -> None:
    last: dict[tuple[str, str], float] = {}
    for call in calls:
        alike = (call.llm, call.parent)
        last[alike] = max(last.get(alike, call.start_s), call.start_s)
    for failed in calls:
        if failed.failed:
            ended_s = failed.start_s if failed.end_s is None else failed.end_s
            begin_s = last[failed.llm, failed.parent]
            tally.retries += begin_s >= ended_s and begin_s > failed.start_s


def _counted(item: Seen, tally: Tally) -> Seen | None:
    """A call with token counts: recorded, else estimated from its text; None when it is dropped."""
    if item.failed:
        tally.drop("failed calls")
        return None
    if item.end_s is not None and item.end_s < item.start_s:
        tally.drop("calls that end before they begin")
        return None
    given, made = item.input_tokens, item.output_tokens
    pooling = item.kind != "generate"
    if item.end_s is None:
        tally.unfinished += 1
        if not made and not pooling:
            tally.drop("calls without an end or output")
            return None
    tally.cached_tokens += min(item.cached_tokens, given or 0)
    if given and (made or pooling):
        return item if not pooling or not made else msgspec.structs.replace(item, output_tokens=0)
    if not given and not item.text_input_tokens:
        tally.drop("calls without an input token count or text")
        return None
    rules = [] if given else ["input from its text, 4 bytes a token"]
    if not made and not pooling:
        text = "output from its text, 4 bytes a token" if item.text_output_tokens else "output unknown, counted as one token"
        if made == 0 and not item.text_output_tokens:
            tally.counts["calls without output tokens, counted as one token"] += 1
        else:
            rules.append(text)
    if rules:
        tally.estimate(" and ".join(rules))
    return msgspec.structs.replace(
        item, input_tokens=given or item.text_input_tokens, output_tokens=0 if pooling else made or item.text_output_tokens or 1
    )


def _end(item: Seen) -> float:
    return item.start_s if item.end_s is None else item.end_s


def _parents(
    items: Mapping[str, Seen], calls: Mapping[str, Seen], tally: Tally
) -> tuple[dict[str, tuple[str, ...]], list[float]]:
    """Whom each call waited for, and the confidence of each inferred dependency."""
    if any(item.waits for item in calls.values()) or any(item.complete for item in items.values()):
        return {id_: _resolved(item, items, calls, tally) for id_, item in calls.items()}, []
    nodes = _tree(items, calls)
    found: dict[str, tuple[str, ...]] = {}
    confidences: list[float] = []
    pending: list[tuple[list[_Node], tuple[str, ...], float]] = [(nodes, (), GUESS)]
    while pending:
        siblings, before, before_sure = pending.pop()
        order = _Finished(siblings)
        for node in siblings:
            waits, sure = order.before(node, calls)
            if not waits:
                waits, sure = before, before_sure
            if node.children:
                pending.append((node.children, waits, sure))
            else:
                found[node.item.id] = waits
                confidences += [sure] * len(waits)
    return found, confidences


def _resolved(item: Seen, items: Mapping[str, Seen], calls: Mapping[str, Seen], tally: Tally) -> tuple[str, ...]:
    """Recorded dependencies; one on a call that was left out goes on to what that call waited for."""
    found: dict[str, None] = {}
    pending, met = list(reversed(item.waits)), {item.id}
    while pending:
        id_ = pending.pop()
        if id_ in met:
            continue
        met.add(id_)
        if id_ in calls:
            found[id_] = None
        elif id_ in items:
            pending.extend(reversed(items[id_].waits))
        else:
            tally.counts["recorded dependencies on calls that are not there, left out"] += 1
    return tuple(found)


def _tree(items: Mapping[str, Seen], calls: Mapping[str, Seen]) -> list[_Node]:
    nodes: dict[str, _Node] = {}
    roots: list[_Node] = []
    for id_, call in calls.items():
        node = nodes[id_] = _Node(call, call.start_s, _end(call))
        for above in _above(call, items):
            outer = nodes.get(above.id)
            if outer is None:
                outer = nodes[above.id] = _Node(above, node.start_s, node.end_s, [node])
                node = outer
                continue
            outer.children.append(node)
            _extend(above, items, nodes, call)
            break
        else:
            roots.append(node)
    return roots


def _extend(above: Seen, items: Mapping[str, Seen], nodes: Mapping[str, _Node], call: Seen) -> None:
    for item in (above, *_above(above, items)):
        node = nodes[item.id]
        node.start_s, node.end_s = min(node.start_s, call.start_s), max(node.end_s, _end(call))


class _Finished:
    """Siblings by the time they ended: which of them came last before a moment."""

    def __init__(self, siblings: list[_Node]) -> None:
        self._by_end = sorted(siblings, key=lambda node: (node.end_s, node.start_s, node.item.id))
        self._ends = [node.end_s for node in self._by_end]
        self._starts = sorted(node.start_s for node in siblings)
        self._last_begin: list[float] = []
        for node in self._by_end:
            self._last_begin.append(max(node.start_s, self._last_begin[-1] if self._last_begin else node.start_s))

    def before(self, node: _Node, calls: Mapping[str, Seen]) -> tuple[tuple[str, ...], float]:
        """The last calls of those siblings that ended before a node began with none whole in between; and how sure that is."""
        # A node without duration must not come before itself: for it, others must have ended strictly before.
        count = (bisect_right if node.end_s > node.start_s else bisect_left)(self._ends, node.start_s)
        if not count:
            return (), GUESS
        begin = self._last_begin[count - 1]
        at = bisect_right(self._ends, begin, 0, count)
        latest = self._by_end[at:count] or [other for other in self._by_end[:count] if other.start_s == begin]
        ids = tuple(dict.fromkeys(id_ for other in latest for id_ in _last_calls(other)))
        if len(ids) > 1:
            return ids, JOIN if len({calls[id_].llm for id_ in ids}) == 1 else GUESS
        in_flight = bisect_left(self._starts, node.start_s) - count
        return ids, LONE if in_flight <= 0 else GUESS


def _last_calls(node: _Node) -> list[str]:
    """The calls inside that nothing inside came after."""
    found, pending = [], [node]
    while pending:
        at = pending.pop()
        if not at.children:
            found.append(at.item.id)
            continue
        last_begin = max(child.start_s for child in at.children)
        pending += [child for child in at.children if child.end_s > last_begin or child.start_s == last_begin]
    return found


def _calls(
    order: Sequence[Seen], parents: Mapping[str, tuple[str, ...]], calls: Mapping[str, Seen], arrival_s: float
) -> tuple[Call, ...]:
    names = {item.id: f"c{index}" for index, item in enumerate(order)}
    return tuple(_call(item, names, [calls[id_] for id_ in parents[item.id] if id_ in names], arrival_s) for item in order)


def _call(item: Seen, names: Mapping[str, str], parents: Sequence[Seen], arrival_s: float) -> Call:
    ready_s = max((_end(parent) for parent in parents), default=arrival_s)
    timed = item.end_s is not None
    if item.input_tokens is None:
        raise Absurd("input_tokens is missing: must be given")
    return Call(
        id=names[item.id],
        llm=item.llm,
        kind=item.kind,
        input_tokens=item.input_tokens,
        output_tokens=item.output_tokens or 0,
        parents=tuple(sorted((names[parent.id] for parent in parents), key=lambda name: int(name[1:]))),
        gap_s=max(0.0, item.start_s - ready_s),
        start_s=item.start_s - arrival_s if timed else None,
        end_s=_end(item) - arrival_s if timed else None,
        prefix_hashes=item.prefix,
    )


def _parents_first(calls: Mapping[str, Seen], parents: dict[str, tuple[str, ...]], tally: Tally) -> list[Seen]:
    """The calls by begin, parents before children; dependencies that form a circle are cut and counted."""
    waiting = {id_: sum(parent in calls for parent in parents[id_]) for id_ in calls}
    children: dict[str, list[str]] = {}
    for id_ in calls:
        for parent in parents[id_]:
            children.setdefault(parent, []).append(id_)
    ready = [(item.start_s, _end(item), id_) for id_, item in calls.items() if not waiting[id_]]
    heapq.heapify(ready)
    order: list[Seen] = []
    done: set[str] = set()
    while len(order) < len(calls):
        if not ready:  # a circle: its earliest call waits for nobody in it
            left = min((item for id_, item in calls.items() if id_ not in done), key=lambda item: (item.start_s, item.id))
            tally.counts["recorded dependencies that form a circle, cut"] += 1
            parents[left.id] = tuple(id_ for id_ in parents[left.id] if id_ in done)
            ready.append((left.start_s, _end(left), left.id))
        *_, id_ = heapq.heappop(ready)
        if id_ in done:
            continue
        done.add(id_)
        order.append(calls[id_])
        for child in children.get(id_, ()):
            waiting[child] -= 1
            if waiting[child] == 0 and child not in done:
                heapq.heappush(ready, (calls[child].start_s, _end(calls[child]), child))
    return order
