"""How long to go on: replay more runs until every workflow's mean is as precise as asked for, or one cannot keep up.

A replay cannot be continued, so each round replays all runs anew: at least twice as many as before, or as many as the last
interval says are needed. A budget of runs ends it, and what is not settled by then says so.
"""

from collections.abc import Callable, Mapping
from math import isfinite

from scepsy.steady.verdict import PRECISION, UNSTABLE, Measured, Sample, measured

GROWTH = 2.0
LARGEST_GROWTH = 6.0
MARGIN = 1.1
"""More runs than the last interval asks for: it is an estimate itself."""

Outcome = dict[str, Measured]


def judge(samples: Mapping[str, Sample], *, precision: float = PRECISION) -> Outcome:
    """Judge the runs of one replay, by workflow. The window ends with the last arrival of the shortest workflow's runs."""
    stop = min((float(s.arrival_s.max()) for s in samples.values() if len(s.arrival_s)), default=0.0)
    return {name: measured(sample, precision=precision, stop_s=stop) for name, sample in samples.items()}


def decided(outcome: Outcome) -> bool:
    """Whether more runs could change nothing that matters: all settled, or one that cannot keep up."""
    return all(one.latency.settled for one in outcome.values()) or any(one.verdict == UNSTABLE for one in outcome.values())


def more_runs(outcome: Outcome, runs: int, precision: float) -> int:
    """Runs of the next round."""
    widest = max(one.latency.half_width / max(one.latency.value, 1e-300) for one in outcome.values())
    wanted = MARGIN * (widest / precision) ** 2 if isfinite(widest) else GROWTH
    return int(runs * min(max(wanted, GROWTH), LARGEST_GROWTH))


def until_settled(
    replay: Callable[[int], Mapping[str, Sample]], *, first_runs: int, most_runs: int, precision: float = PRECISION
) -> Outcome:
    """Replay ``first_runs`` runs, then ever more, at most ``most_runs``.

    ``replay`` takes a number of runs (of all workflows together) and returns the sample of each workflow. Raises
    ``ValueError`` for a budget below 1 or a precision that is not positive.
    """
    if most_runs < 1 or not precision > 0:
        raise ValueError(f"most_runs is {most_runs}, precision {precision}: must be >= 1 and > 0")
    runs = min(first_runs, most_runs)
    while True:
        outcome = judge(replay(runs), precision=precision)
        if decided(outcome) or runs >= most_runs:
            return outcome
        wanted = more_runs(outcome, runs, precision)
        runs = most_runs if wanted > 0.7 * most_runs else wanted
