"""Open runs and what they will turn out to be: ended ones stand for them.

Runs that end soon are known first. Where an LLM is behind, those that call it are open for long, so what has ended shows a
mixture with too little of them. An open run is therefore taken for one of the ended runs that lasted at least as long as it
has been open. This is Efron's redistribution to the right ("The two sample problem with censored data", Proc. 5th Berkeley
Symp., 1967), by which the Kaplan-Meier estimate arises, with a run's content in the place of its lifetime. It takes runs that
last equally long for alike.
"""

from bisect import bisect_left
from collections.abc import Sequence

from scepsy.operate.features import Seen

SLOWEST = 8
"""Where fewer ended runs lasted as long as one has been open, so many of the longest stand for it, a quarter of all at most."""

GOLDEN = (5**0.5 - 1) / 2
"""Multiples of it, modulo 1, are spread evenly at any time (Weyl's sequence)."""


def standing(seen: Sequence[Seen], until_s: float) -> list[Seen]:
    """The runs, each that was open at ``until_s`` replaced by an ended one; in order of arrival, empty where none has ended.

    Those that lasted long enough take turns, evenly spread however often, so the same runs give the same answer.

    >>> def run(at, end=None): return Seen(workflow="w", arrival_s=at, end_s=end)
    >>> [each.end_s - each.arrival_s for each in standing([run(0, 2), run(0, 9), run(5)], 10.0)]
    [2, 9, 9]
    """
    ended = sorted((each for each in seen if each.end_s is not None), key=lambda each: each.latency_s)
    if not ended:
        return []
    lasted = [each.latency_s for each in ended]
    least = max(1, min(SLOWEST, len(ended) // 4))
    turns: dict[int, int] = {}
    found = []
    for each in seen:
        if each.end_s is not None:
            found.append(each)
            continue
        first = bisect_left(lasted, until_s - each.arrival_s)
        first = min(first, len(ended) - least)
        turn = turns.get(first, 0)
        turns[first] = turn + 1
        found.append(ended[first + int((turn + 0.5) * GOLDEN % 1.0 * (len(ended) - first))])
    return found
