"""Who waited for whom, where a recording does not say: threads of a session, and its user turns."""

import heapq
from bisect import bisect_left, bisect_right
from collections import Counter
from dataclasses import dataclass
from itertools import accumulate, takewhile

CLOCK_TOLERANCE_S = 0.15
"""A start that is rounded to 0.1 s may lie this much before the end it waited for."""

LAST_CALLS = 5
"""Chosen: with five, recorded sessions cut into turns whose latency and shares are those published for the data set; with
all calls of a turn the main thread's older, longer context would hide that it was compacted."""

BY_PREFIX = "parents inferred: same thread (shared prompt prefix)"
BY_TOOL = "parents inferred: spawned by the last finished tool call"


@dataclass
class Observed:
    """One call as recorded; ``parents`` are indices within the session."""

    index: int
    llm: str
    start_s: float
    end_s: float
    input_tokens: int
    output_tokens: int
    stop: str = ""
    parents: tuple[int, ...] = ()
    hashes: tuple[int, ...] = ()
    """Block ids as recorded: for comparing prompts."""
    prefix: tuple[int, ...] = ()
    """Block ids made distinct between sessions."""


def shared_blocks(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """Length of the common prefix.

    >>> shared_blocks((1, 2, 3), (1, 2, 9, 3))
    2
    """
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def infer_parents(calls: list[Observed], counts: Counter[str]) -> None:
    """Give every call the one it most likely waited for, in place. ``calls`` are in order of start.

    A call continues a thread when the thread's last call is of the same model, had ended, was not longer and shares a
    prompt prefix with it; of several, the one that shares most, then the longest. Else it was spawned by the last
    finished call that stopped to use a tool. Else it is a root.
    """
    tips: list[Observed] = []
    for number, call in enumerate(calls):
        by = call.start_s + CLOCK_TOLERANCE_S
        best: tuple[int, int, int] | None = None
        for place, tip in enumerate(tips):
            if tip.llm == call.llm and tip.end_s <= by and tip.input_tokens <= call.input_tokens:
                shared = shared_blocks(tip.hashes, call.hashes)
                if shared and (best is None or (shared, tip.input_tokens, place) > best):
                    best = (shared, tip.input_tokens, place)
        if best is not None:
            call.parents = (tips.pop(best[2]).index,)
            counts[BY_PREFIX] += 1
        else:
            ended = [other for other in calls[:number] if other.stop == "tool_use" and other.end_s <= by]
            if ended:
                call.parents = (max(ended, key=lambda other: (other.end_s, other.index)).index,)
                counts[BY_TOOL] += 1
            else:
                counts["calls without a parent"] += 1
        tips.append(call)


def parents_by_time(calls: list[Observed]) -> None:
    """Give every call the ones that ended last before it began, in place.

    Of the calls that had ended, those that no other ended call came after: if a then b then c ran one after the other, c
    waited for b only; if a and b overlapped, c waited for both. It sees an order wherever there was one, so it may
    tie calls together that only happened to follow one another.
    """
    by_end = sorted(calls, key=lambda other: (other.end_s, other.start_s))
    ends = [other.end_s for other in by_end]
    latest = list(accumulate((other.start_s for other in by_end), max))
    for call in calls:
        count = bisect_right(ends, call.start_s)
        if call.end_s <= call.start_s:  # a call without duration is no call before itself
            ended = [other for other in by_end[:count] if other.index != call.index]
            latest_start = max((other.start_s for other in ended), default=0.0)
        else:
            latest_start = latest[count - 1] if count else 0.0
            ended = by_end[bisect_left(ends, latest_start, 0, count) : count]
        call.parents = tuple(
            sorted(other.index for other in ended if other.end_s > latest_start or other.start_s == latest_start)
        )


def user_turns(calls: list[Observed], max_idle_s: float) -> list[list[Observed]]:
    """Cut a session where a human took over.

    That is where nothing is in flight and, of the turn's last five calls to end, the one with the longest context (the
    main thread, not a side call) stopped with ``end_turn``; or where nothing was in flight for ``max_idle_s``.
    """
    turns: list[list[Observed]] = []
    turn: list[Observed] = []
    reach = 0.0
    for call in sorted(calls, key=lambda call: (call.start_s, call.index)):
        if turn and reach <= call.start_s:
            last = sorted(turn, key=lambda c: (c.end_s, c.index))[-LAST_CALLS:]
            longest = max(last, key=lambda c: (c.input_tokens, c.start_s, c.index))
            if longest.stop == "end_turn" or call.start_s - reach > max_idle_s:
                turns.append(turn)
                turn = []
        turn.append(call)
        reach = max(reach, call.end_s)
    return [*turns, turn] if turn else turns


def parents_first(calls: list[Observed]) -> list[Observed]:
    """The calls by start time, parents before children even where the clock's resolution says otherwise."""
    known = {call.index: call for call in calls}
    waiting = {call.index: sum(parent in known for parent in call.parents) for call in calls}
    children: dict[int, list[int]] = {}
    for call in calls:
        for parent in call.parents:
            children.setdefault(parent, []).append(call.index)
    ready = [(call.start_s, call.index) for call in calls if waiting[call.index] == 0]
    heapq.heapify(ready)
    order = []
    while ready:
        _, index = heapq.heappop(ready)
        order.append(known[index])
        for child in children.get(index, ()):
            waiting[child] -= 1
            if waiting[child] == 0:
                heapq.heappush(ready, (known[child].start_s, child))
    return order
