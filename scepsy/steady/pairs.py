"""Two systems under the same arrivals and the same runs: is one faster?

The difference is taken run by run, so what both have in common (a burst, a long run) drops out, and batch means over the
differences give its interval. Source: common random numbers, Law, Simulation Modeling and Analysis, 11.2.
"""

import numpy as np
import numpy.typing as npt

from scepsy.steady.interval import BATCHES, CONFIDENCE, Interval, mean_interval
from scepsy.steady.student import t_quantile, t_tail
from scepsy.value import Value

Floats = npt.NDArray[np.float64]


class Difference(Value, frozen=True, kw_only=True):
    """Mean of second − first, seconds, with its 95 % half-width."""

    value: float
    half_width: float
    significant: bool
    """Whether the interval leaves out 0."""
    relative: float
    """``value`` over the first's mean."""
    p_value: float = 1.0
    """How probable so large a difference is where there is none; 1 where the data cannot tell. Two-sided, by Student's t."""


def compared(first_s: Floats, second_s: Floats) -> Difference:
    """Compare the latencies of the same runs on two systems, in order of arrival, warm-up left out. Shapes (runs,), equal.

    Raises ``ValueError`` for different numbers of runs: then they are not the same ones.
    """
    if len(first_s) != len(second_s):
        raise ValueError(f"{len(first_s)} and {len(second_s)} runs: must be the same runs on both systems")
    gap = mean_interval(second_s - first_s)
    return Difference(
        value=gap.value,
        half_width=gap.half_width,
        significant=abs(gap.value) > gap.half_width,
        relative=gap.value / float(first_s.mean()) if len(first_s) else float("nan"),
        p_value=_p_value(gap),
    )


def _p_value(gap: Interval) -> float:
    """The interval read the other way round: its half-width is t(95 %) standard errors."""
    if not np.isfinite(gap.half_width):
        return 1.0
    if gap.half_width == 0.0:
        return 1.0 if gap.value == 0.0 else 0.0
    t = abs(gap.value) / gap.half_width * t_quantile((1 + CONFIDENCE) / 2, BATCHES - 1)
    return 2.0 * t_tail(t, BATCHES - 1)
