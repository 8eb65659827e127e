"""Statistics of the last runs of one workflow, with 95 % intervals: what the log and the live page show as evidence."""

from collections.abc import Sequence
from math import sqrt

import numpy as np

from scepsy.operate.features import BUSY_S, CALL_S, CALLS, INPUT, OUTPUT, TOOL_S, Seen, llms_of
from scepsy.operate.reference import Floats
from scepsy.steady.student import chi2_quantile, t_quantile
from scepsy.value import Value

CONFIDENCE = 0.95


class Estimate(Value, frozen=True, kw_only=True):
    """``value`` with its 95 % interval; None where the data cannot tell."""

    value: float
    low: float | None = None
    high: float | None = None


class LlmWindow(Value, frozen=True, kw_only=True):
    """One LLM's part of the runs, per run."""

    llm: str
    calls: Estimate
    """n_m"""
    input_tokens: Estimate
    output_tokens: Estimate
    parallelism: Estimate
    """p_m, of nominal seconds."""
    share: Estimate
    """Of the runs' nominal LLM seconds."""


class Window(Value, frozen=True, kw_only=True):
    """One workflow over some time."""

    workflow: str
    begin_s: float
    end_s: float
    arrivals: int
    ended: int
    rate_per_s: Estimate
    latency_s: Estimate | None
    """Mean from arrival to end of the ended runs; the interval is from batches, since runs that overlap are alike."""
    tool_s: Estimate | None
    llms: tuple[LlmWindow, ...]


def rate_of(arrivals: int, elapsed_s: float, dispersion: float = 1.0, confidence: float = CONFIDENCE) -> Estimate:
    """Rate from a count over a time: the exact Poisson interval (Garwood, 1936), widened by the dispersion of the counts.

    >>> found = rate_of(100, 50.0)
    >>> round(found.low, 2), found.value, round(found.high, 2)
    (1.63, 2.0, 2.43)
    """
    tail, count = (1 - confidence) / 2, arrivals / dispersion
    low = chi2_quantile(tail, 2 * count) / 2 if count > 0 else 0.0
    high = chi2_quantile(1 - tail, 2 * count + 2) / 2
    return Estimate(value=arrivals / elapsed_s, low=low * dispersion / elapsed_s, high=high * dispersion / elapsed_s)


def dispersion_of(times: Sequence[float]) -> float:
    """Variance over mean of the number of arrivals, from gaps in batches of 8; at least 1 (Poisson), 1 where they are few."""
    gaps = np.diff(np.asarray(times, dtype=float))
    batches = len(gaps) // 8
    if batches < 8:
        return 1.0
    means = gaps[: batches * 8].reshape(batches, 8).mean(axis=1)
    mean = float(means.mean())
    return max(1.0, 8 * float(means.var(ddof=1)) / mean**2) if mean > 0 else 1.0


def window_of(workflow: str, times: Sequence[float], seen: Sequence[Seen], begin_s: float, end_s: float) -> Window:
    """Statistics of what arrived in [begin_s, end_s]; ``seen`` are ended runs in order of arrival."""
    arrived = [at for at in times if begin_s <= at <= end_s]
    ended = [each for each in seen if begin_s <= each.arrival_s <= end_s and each.values]
    values = [each.values for each in ended]
    latency = np.array([each.latency_s for each in ended], dtype=float)
    return Window(
        workflow=workflow,
        begin_s=begin_s,
        end_s=end_s,
        arrivals=len(arrived),
        ended=len(ended),
        rate_per_s=rate_of(len(arrived), max(end_s - begin_s, 1e-9), dispersion_of(arrived)),
        latency_s=batch_estimate(latency) if len(ended) else None,
        tool_s=_mean(_column(values, TOOL_S)) if len(ended) else None,
        llms=tuple(_llm(values, llm) for llm in llms_of(values)),
    )


def _llm(values: Sequence[dict[str, float]], llm: str) -> LlmWindow:
    call_s = _column(values, f"{CALL_S}:{llm}")
    every = np.array([_total(each) for each in values], dtype=float)
    return LlmWindow(
        llm=llm,
        calls=_mean(_column(values, f"{CALLS}:{llm}")),
        input_tokens=_mean(_column(values, f"{INPUT}:{llm}")),
        output_tokens=_mean(_column(values, f"{OUTPUT}:{llm}")),
        parallelism=_ratio(call_s, _column(values, f"{BUSY_S}:{llm}")),
        share=_ratio(call_s, every),
    )


def _total(values: dict[str, float]) -> float:
    total = 0.0
    for key, value in values.items():
        if key.startswith(f"{CALL_S}:"):
            total += value
    return total


def batch_estimate(values: Floats, confidence: float = CONFIDENCE) -> Estimate:
    """Mean with an interval from up to 20 batch means of at least 5 values."""
    mean, batches = float(values.mean()), min(20, len(values) // 5)
    if batches < 3:
        return Estimate(value=mean)
    size = len(values) // batches
    means = values[len(values) - size * batches :].reshape(batches, size).mean(axis=1)
    half = t_quantile((1 + confidence) / 2, batches - 1) * float(means.std(ddof=1)) / sqrt(batches)
    return Estimate(value=mean, low=mean - half, high=mean + half)


def _mean(values: Floats) -> Estimate:
    return _around(float(values.mean()), values - values.mean(), 1.0)


def _ratio(above: Floats, below: Floats) -> Estimate:
    """Ratio of means; the interval by the delta method."""
    base = float(below.mean())
    if base <= 0:
        return Estimate(value=0.0)
    value = float(above.mean()) / base
    return _around(value, above - value * below, base)


def _around(value: float, residuals: Floats, base: float) -> Estimate:
    n = len(residuals)
    if n < 2:
        return Estimate(value=value)
    error = float(residuals.std(ddof=1)) / sqrt(n) / base
    half = t_quantile((1 + CONFIDENCE) / 2, n - 1) * error
    return Estimate(value=value, low=value - half, high=value + half)


def _column(values: Sequence[dict[str, float]], key: str) -> Floats:
    return np.array([each.get(key, 0.0) for each in values], dtype=float)
