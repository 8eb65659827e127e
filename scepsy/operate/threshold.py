"""Thresholds from a stated rate of false alarms.

A mean over the last n runs is looked at after every run. Standardised, it passes ``h`` on one side by chance about
``h·φ(h)·ν(h·√(2/n)) / n`` times a run (Siegmund, Sequential Analysis, 1985, and Siegmund and Venkatraman, "Using the
generalized likelihood ratio statistic for sequential detection of a change-point", Ann. Stat. 23(1), 1995: the exceedance
of a moving average's boundary; ν corrects for looking at whole runs only, ``ν(x) ≈ exp(−0.583·x)``). Added over both sides,
all window lengths and all numbers that are watched, this bounds the rate of false alarms from above, since windows and numbers
are correlated. ``h`` follows from the rate that is allowed.

Single runs are skewed and heavy-tailed, so a mean over few of them passes ``h`` more often than a normal one. The
Cornish-Fisher expansion moves the threshold by what skewness and kurtosis of the reference ask for.
"""

from math import exp, fsum, pi, sqrt

WINDOWS = (16, 32, 64, 128, 256, 512)
"""Runs. Each is tested; the short ones see large changes soon, the long ones small changes at all."""
WEEK_S = 7 * 24 * 3600.0
LARGEST = 12.0


def crossings_per_run(h: float, windows: tuple[int, ...] = WINDOWS) -> float:
    """How often, per run, one number's standardised window means pass ±h by chance, at most.

    >>> crossings_per_run(4.0) > crossings_per_run(5.0) > 0
    True
    """
    density = exp(-h * h / 2) / sqrt(2 * pi)
    return fsum(2 * h * density * exp(-0.583 * h * sqrt(2 / n)) / n for n in windows)


def threshold(alarms_per_week: float, runs_per_s: float, numbers: int) -> float:
    """The h at which ``numbers`` watched numbers raise at most so many false alarms a week. At least 2, at most 12.

    >>> 4.0 < threshold(1.0, 1.0, 10) < 6.0
    True
    """
    allowed = alarms_per_week / max(1e-12, runs_per_s * WEEK_S * numbers)
    low, high = 2.0, LARGEST
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if crossings_per_run(middle) > allowed else (low, middle)
    return high


def adjusted(h: float, n: int, skew: float, kurtosis: float, *, above: bool) -> float:
    """The threshold of a mean over n runs with this skewness and excess kurtosis, on one side; never below ``h``.

    >>> adjusted(5.0, 16, 2.0, 6.0, above=True) > adjusted(5.0, 512, 2.0, 6.0, above=True) > 5.0
    True
    """
    s = skew if above else -skew
    # Beyond these the expansion in 1/√n says nothing; a longer window sees the change.
    s, k = max(min(s, 6.0), -6.0), max(min(kurtosis, 40.0), 0.0)
    moved = h + s / (6 * sqrt(n)) * (h * h - 1) + k / (24 * n) * (h**3 - 3 * h) - s * s / (36 * n) * (2 * h**3 - 5 * h)
    return max(h, moved)
