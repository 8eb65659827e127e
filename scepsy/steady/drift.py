"""Does the system keep up? A test on the drift of the work in the system.

A run's work is in the system from its arrival to its end. Where the system keeps up, that amount wanders about a level.
Where it does not, it grows, on average, in proportion to time. The window is cut into ``BATCHES`` equal spans. Under
overload the changes over them are nearly independent with a mean above 0, so Student's t decides (``p``). Where the system
keeps up they add up to next to nothing, and neighbouring changes have opposite signs. A random walk held up at 0, which is
what a queue at exactly 100 % is, passes the level of ``p`` about twice as often as the level says: false alarms stay rare
at any load below.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import fsum, hypot

import numpy as np
import numpy.typing as npt

from scepsy.steady.student import t_quantile, t_tail

Floats = npt.NDArray[np.float64]

BATCHES = 20
ONE_SIDED = 0.95
FIRST_PART = 1 / 3
"""Of a window, what must show by itself the growth that the window shows."""
GOES_ON = 0.75
"""Least growth of the whole window over that of its first part, per work that arrives. Under overload the two are equal. A
system that only fills, with an exponential end, shows at most 0.67 once the first part lasts half its time constant.
"""
FALLS = 1.645
"""Growth falls if the rest shows less than the first part by more standard errors than that (one-sided 5 %)."""


@dataclass(frozen=True)
class Drift:
    """What of the offered work stayed behind in the system, over a window."""

    part: float
    """Growth of the work in the system over the work that arrived: 0 when all is done, 0.05 at 105 % load."""
    p: float
    """Probability of so much growth, or more, without a drift."""
    upper: float
    """Upper 95 % limit of ``part``."""
    error: float = 0.0
    """Standard error of ``part`` where changes are independent, as under overload."""

    def grows(self, probability: float) -> bool:
        """Whether growth is less probable than that where there is none."""
        return self.p < probability and self.part > 0


def work_in_system(arrival_s: Floats, end_s: Floats, work: Floats, at_s: Floats) -> Floats:
    """Work of the runs that have arrived by each of the times ``at_s`` and not ended. Shapes: (runs,) three times, (times,).

    Runs that never end have an infinite ``end_s``.
    """
    order, back = np.argsort(arrival_s, kind="stable"), np.argsort(end_s, kind="stable")
    came = np.concatenate(([0.0], np.cumsum(work[order])))[np.searchsorted(arrival_s[order], at_s, side="right")]
    went = np.concatenate(([0.0], np.cumsum(work[back])))[np.searchsorted(end_s[back], at_s, side="right")]
    return np.asarray(came - went)


@dataclass(frozen=True)
class Window:
    """Runs of one replay, and the window that is looked at: arrays of shape (runs,), seconds and work in any unit."""

    arrival_s: Floats
    end_s: Floats
    work: Floats
    begin_s: float
    stop_s: float

    def cut(self) -> tuple["Window", "Window"]:
        """The first part, and the rest."""
        middle_s = self.begin_s + FIRST_PART * (self.stop_s - self.begin_s)
        return replace(self, stop_s=middle_s), replace(self, begin_s=middle_s)

    @property
    def offered(self) -> float:
        """Work that arrives in the window."""
        return float(self.work[(self.arrival_s > self.begin_s) & (self.arrival_s <= self.stop_s)].sum())

    @property
    def changes(self) -> Floats:
        """What the work in the system grew by over each of ``BATCHES`` equal spans."""
        at_s = np.linspace(self.begin_s, self.stop_s, BATCHES + 1)
        return np.diff(work_in_system(self.arrival_s, self.end_s, self.work, at_s))


@dataclass(frozen=True)
class Growth:
    """The drift over a window, and whether growth lasts: overload goes on, filling ends."""

    whole: Drift
    first: Drift
    rest: Drift

    def lasts(self, probability: float) -> bool:
        """Whether the whole window grows, its first part does by itself, and the rest grows no less."""
        falls = self.first.part - self.rest.part > FALLS * hypot(self.first.error, self.rest.error)
        enough = self.whole.part >= GOES_ON * self.first.part
        return self.whole.grows(probability) and self.first.grows(probability) and enough and not falls

    def told(self, probability: float) -> str:
        """What stays behind of the work that arrives, and what follows from it."""
        part = f"{self.whole.part:.1%} of the work that arrives stays behind (p = {self.whole.p:.1g})"
        each = f"{self.first.part:.1%} in the first third, {self.rest.part:.1%} in the rest"
        if self.lasts(probability):
            return f"overload: {part}, {each}"
        if not self.first.grows(probability):
            return f"not settled: {part}: overload or slow filling, too short to tell apart"
        return f"not settled: {part}, {each}: the system may only be filling"


def growth(windows: Sequence[Window]) -> Growth:
    """Test the windows of independent replays of one load together, and their parts."""
    first, rest = zip(*(window.cut() for window in windows), strict=True)
    return Growth(pooled_drift(windows), pooled_drift(first), pooled_drift(rest))


def pooled_drift(windows: Sequence[Window]) -> Drift:
    """Test the windows of independent replays of one load together: their changes are one sample."""
    offered = fsum(window.offered for window in windows)
    if offered <= 0:
        return Drift(0.0, 1.0, float("inf"))
    each = [window.changes for window in windows]
    changes = np.concatenate(each)
    growth, spread = float(changes.sum()), float(changes.std(ddof=1))
    part = growth / offered
    if spread <= 1e-9 * offered / len(changes):  # the same change every time
        return Drift(part, 0.0 if part > 1e-6 else 1.0, part)
    t = growth / (spread * len(changes) ** 0.5)
    p = t_tail(t, len(changes) - 1)
    # The growth's own spread: neighbouring changes of a level that wanders about a mean cancel each other.
    error = fsum(_variance(part - changes.mean()) for part in each) ** 0.5
    upper = part + t_quantile(ONE_SIDED, len(changes) - 1) * error / offered
    return Drift(part, p, upper, spread * len(changes) ** 0.5 / offered)


def _variance(centred: Floats) -> float:
    """Of the growth over one window."""
    together = float((centred**2).sum() + 2 * (centred[1:] * centred[:-1]).sum())
    return max(together, float((centred**2).mean()))
