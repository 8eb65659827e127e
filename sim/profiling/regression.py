"""What a replay's calls say: latency as a line in tokens, what siblings add to each other, and how precise both are.

A few thousand calls settle the regression and its mean over *all* traced runs. The plain mean of as many calls of runs as
unequal as a beam search's would not be settled: which runs were drawn would decide it.
"""

from dataclasses import dataclass
from math import sqrt

import numpy as np

from scepsy.predictors.aggregate import Floats, Integers
from scepsy.steady.interval import BATCHES, LEAST_PER_BATCH, MAX_CORRELATION
from sim.profiling.calls import Calls

_NANOSECONDS = 1e9
_RUN_BITS = 40


@dataclass(frozen=True)
class Latency:
    """Call latency of one workflow as ``base + input·i + output·o``, what that leaves, and how siblings stretch a group."""

    base_s: float
    s_per_input_token: float
    s_per_output_token: float
    residual_s: float
    group_factor: float
    """Measured over predicted seconds of whole sibling groups: what queueing behind each other adds to the regression."""
    residual_shared: float
    """Part of the residual's variance that is common to a run's calls."""
    error_s: float
    """Standard error of the mean latency, token counts being given."""
    group_error: float
    """Standard error of the mean seconds of a group, over that mean."""

    def durations_s(self, input_tokens: Floats, output_tokens: Floats) -> Floats:
        """Predicted latency of calls."""
        return self.base_s + self.s_per_input_token * input_tokens + self.s_per_output_token * output_tokens


def fit_latency(calls: Calls, *, alone: bool = False) -> Latency:
    """Non-negative least squares of latency on (1, input tokens, output tokens), and the group factor.

    ``alone``: no call has siblings, so that each is a group.
    """
    calls = calls.where(np.argsort(calls.issued_s, kind="stable"))
    x = np.stack([np.ones(len(calls)), calls.input_tokens, calls.output_tokens])
    scale = np.maximum(x.max(axis=1), 1.0)
    y = calls.latency_s
    base, per_input, per_output = (_least_squares((x.T / scale), y) / scale).tolist()
    predicted = base + per_input * calls.input_tokens + per_output * calls.output_tokens
    left, run, factor, seconds = y - predicted, calls.run, 1.0, float(y.mean())
    # Calls come one by one: how far they lie apart is the load.
    apart = np.diff(calls.issued_s, prepend=calls.issued_s[0])
    error_s = standard_error(left, apart)
    if not alone:
        # Siblings are issued at one instant: a group lasts until the last of them ends.
        instant = np.rint((calls.issued_s - calls.issued_s[0]) * _NANOSECONDS).astype(np.int64)
        key = (calls.run << _RUN_BITS) | (instant & ((1 << _RUN_BITS) - 1))
        order = np.argsort(key, kind="stable")
        begins = np.flatnonzero(np.concatenate(([True], np.diff(key[order]) != 0)))
        measured, expected = np.maximum.reduceat(y[order], begins), np.maximum.reduceat(predicted[order], begins)
        factor, seconds = float(measured.sum() / expected.sum()), float(measured.mean())
        at = order[begins]
        in_time = np.argsort(at)
        left, run = (measured - factor * expected)[in_time], calls.run[at][in_time]
        apart = np.diff(calls.issued_s[at][in_time], prepend=calls.issued_s[0])
    # What varies between runs is judged on whole groups: siblings always share their luck.
    return Latency(
        base_s=base,
        s_per_input_token=per_input,
        s_per_output_token=per_output,
        residual_s=float(np.std(left)),
        group_factor=factor,
        residual_shared=shared_part(left, run),
        error_s=error_s,
        group_error=(error_s if alone else standard_error(left, apart)) / seconds,
    )


def _least_squares(x: Floats, y: Floats) -> Floats:
    """Non-negative. The triangular factor states the same least squares in as many rows as there are columns."""
    from scipy.optimize import nnls  # slow to import, and only fits need it

    orthogonal, triangular = np.linalg.qr(x)
    return np.asarray(nnls(triangular, orthogonal.T @ y)[0])


def standard_error(values: Floats, offered: Floats | None = None) -> float:
    """Standard error of the mean of a stationary series in order of time, by batch means (``scepsy.steady.interval``).

    ``offered``: what the load was at each value, its mean being known. How batches follow their load then says nothing about
    the mean's error, and is taken out by regression (a control variate: Law, Simulation Modeling and Analysis, 11.4).
    Infinite below two values; fewer than make up the batches are taken as independent.
    """
    size = len(values) // BATCHES
    if size < LEAST_PER_BATCH:
        return float(values.std(ddof=1)) / sqrt(len(values)) if len(values) > 1 else float("inf")
    means = _batches(values, size)
    means = means - means.mean()
    free = BATCHES - 1
    if offered is not None:
        load = _batches(offered, size)
        load = load - load.mean()
        square = float((load**2).sum())
        if square > 0:
            means, free = means - load * float((load * means).sum()) / square, free - 1
    squares = float((means**2).sum())
    if squares <= 0.0:
        return 0.0
    r = float((means[1:] * means[:-1]).sum()) / squares + 1.0 / BATCHES
    r = min(max(r, 0.0), MAX_CORRELATION)
    return sqrt(squares / free / BATCHES * (1 + r) / (1 - r))


def _batches(values: Floats, size: int) -> Floats:
    return np.asarray(values[len(values) - size * BATCHES :].reshape(BATCHES, size).mean(axis=1))


def shared_part(values: Floats, run: Integers) -> float:
    """Intraclass correlation by runs (one-way analysis of variance, Donner 1986): 0 when runs have one value each."""
    number, size = run - run.min(), len(values)
    counts = np.bincount(number)
    seen = counts > 0
    number, counts = (np.cumsum(seen) - 1)[number], counts[seen]
    runs = len(counts)
    if size <= runs or runs < 2:
        return 0.0
    means = np.bincount(number, weights=values) / counts
    within = float(((values - means[number]) ** 2).sum()) / (size - runs)
    between = float((counts * (means - values.mean()) ** 2).sum()) / (runs - 1)
    typical = (size - float((counts**2).sum()) / size) / (runs - 1)
    total = between + (typical - 1) * within
    return min(max((between - within) / total, 0.0), 1.0) if total > 0 else 0.0
