"""Live loads for the controller's tests: runs drawn from a trace, arriving by a Poisson process, ended after a while."""

from collections.abc import Sequence

import numpy as np

import scepsy
from scepsy.operate.controller import Facts
from scepsy.operate.features import Seen, features_of
from scepsy.rng import stream
from scepsy.workload import Run

LATENCY_S = 5.0


def runs_of(workflow: str = "rag-rerank", count: int = 100, seed: int = 1) -> tuple[Run, ...]:
    return scepsy.generate_trace(workflow, runs=count, seed=seed).runs


def arrivals(rate_per_s: float, begin_s: float, end_s: float, seed: int) -> np.ndarray:
    rng = stream(seed, "test-arrivals", repr(rate_per_s))
    count = int(rate_per_s * (end_s - begin_s) * 1.5 + 50)
    times = begin_s + np.cumsum(rng.exponential(1 / rate_per_s, count))
    return times[times < end_s]


def load(runs: Sequence[Run], rate_per_s: float, begin_s: float, end_s: float, seed: int = 0) -> list[Seen]:
    """Ended runs of one workflow, each some seconds after its arrival."""
    rng = stream(seed, "test-runs")
    values = [features_of(run) for run in runs]
    found = []
    for at in arrivals(rate_per_s, begin_s, end_s, seed).tolist():
        which = int(rng.integers(len(runs)))
        lasts = LATENCY_S * float(rng.lognormal(0, 0.3))
        found.append(Seen(workflow=runs[0].workflow, arrival_s=at, end_s=at + lasts, values=values[which], run=runs[which]))
    return found


def facts_at(now_s: float, seen: Sequence[Seen], keep: int = 2048) -> Facts:
    """What is known at ``now_s`` of runs that will have been seen."""
    known: dict[str, list[Seen]] = {}
    for each in seen:
        if each.arrival_s > now_s:
            continue
        is_open = each.end_s is None or each.end_s > now_s
        known.setdefault(each.workflow, []).append(Seen(workflow=each.workflow, arrival_s=each.arrival_s) if is_open else each)
    return Facts(now_s=now_s, seen={name: tuple(mine[-keep:]) for name, mine in known.items()})
