"""How precise a steady-state mean or quantile is, from one run: batch means with a correction for what correlation is left.

Source: Law, Simulation Modeling and Analysis, 9.5.3 (batch means, 20 to 30 batches); Tafazzoli, Steiger & Wilson, "N-Skart: a
nonsequential skewness- and autoregression-adjusted batch-means procedure", IEEE TAC 56(2), 2011 (the correction by the lag-1
correlation of the batch means). Neighbouring batches of a queue near saturation stay correlated; without the correction their
intervals are too short.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scepsy.steady.student import t_quantile

Floats = npt.NDArray[np.float64]

CONFIDENCE = 0.95
BATCHES = 20
LEAST_PER_BATCH = 5
MAX_CORRELATION = 0.8
"""Correlation of neighbouring batches beyond which they say nothing about precision: a trend, or far too short."""


@dataclass(frozen=True)
class Interval:
    """``value ± half_width``; ``half_width`` is infinite where the data cannot tell."""

    value: float
    half_width: float

    @property
    def low(self) -> float:
        """Lower end."""
        return self.value - self.half_width

    @property
    def high(self) -> float:
        """Upper end."""
        return self.value + self.half_width

    @property
    def relative(self) -> float:
        """Half-width over the value's size; 0 for a value known exactly."""
        if self.half_width == 0:
            return 0.0
        return self.half_width / abs(self.value) if self.value else float("inf")


def mean_interval(values: Floats, confidence: float = CONFIDENCE) -> Interval:
    """Interval of the long-run mean of a stationary series, values in order of time.

    The values are cut into ``BATCHES`` equal batches. A rest at the start is left out of the spread, not of the mean. The
    interval is Student's t on the batch means. Where neighbouring batch means correlate with r > 0, the standard error is
    multiplied by ``sqrt((1 + r) / (1 − r))``.
    """
    if not len(values):
        return Interval(float("nan"), float("inf"))
    mean, size = float(values.mean()), len(values) // BATCHES
    if size < LEAST_PER_BATCH:
        return Interval(mean, float("inf"))
    means = values[len(values) - size * BATCHES :].reshape(BATCHES, size).mean(axis=1)
    spread = float(means.std(ddof=1))
    if spread <= 1e-12 * abs(mean):
        return Interval(mean, 0.0)
    r = correlation(means)
    if r >= MAX_CORRELATION:
        return Interval(mean, float("inf"))
    t = t_quantile((1 + confidence) / 2, BATCHES - 1)
    return Interval(mean, t * spread / BATCHES**0.5 * ((1 + r) / (1 - r)) ** 0.5)


def correlation(means: Floats) -> float:
    """Lag-1 correlation of batch means, at least 0: the estimate, its bias of about −1/n removed, and half its standard error
    of ``1/sqrt(n)`` on top. Without that margin, stopping as soon as an interval is short picks those that came out too short.
    """
    centred = means - means.mean()
    r = float((centred[1:] * centred[:-1]).sum() / (centred**2).sum())
    return max(0.0, r + 1.0 / len(means) + 0.5 / float(np.sqrt(len(means))))


def quantile_interval(values: Floats, part: float, confidence: float = CONFIDENCE) -> Interval:
    """Interval of a long-run quantile: the part of values below it has an interval, read back on the sorted values.

    The half-width is that of the longer side.
    """
    if not len(values):
        return Interval(float("nan"), float("inf"))
    value = float(np.quantile(values, part))
    below = mean_interval((values <= value).astype(float), confidence)
    if not np.isfinite(below.half_width) or part + below.half_width >= 1.0:
        return Interval(value, float("inf"))
    low, high = np.quantile(values, [max(0.0, part - below.half_width), part + below.half_width]).tolist()
    return Interval(value, max(value - low, high - value))
