"""Has the load changed? Means over the last 16 to 512 runs against the reference, for every number that is watched.

A window-limited generalised likelihood ratio test (Lai, "Sequential changepoint detection in quality control and dynamical
systems", J. R. Stat. Soc. B 57(4), 1995) for the mean, on a grid of window lengths. The reference's own uncertainty is part of
the standard error, so a plan made from a short trace does not raise alarms about what that trace happened to be.

Arrivals: looking back from now, the time to the n-th arrival is Gamma distributed; Wilson and Hilferty's cube root makes it
normal. Time without arrivals counts, so a load that stops is seen.
"""

from collections.abc import Sequence
from math import sqrt

import numpy as np

from scepsy.operate.features import CALLS, Seen, llms_of
from scepsy.operate.reference import Floats, Moments, Reference, columns
from scepsy.operate.threshold import WINDOWS, adjusted, threshold
from scepsy.value import Value

RATE = "rate"
LONGEST = WINDOWS[-1]


class Drift(Value, frozen=True, kw_only=True):
    """One number that is no longer what the plan was made for."""

    workflow: str
    number: str
    """``rate``, ``tool_s``, or ``calls:llm``, ``input_tokens:llm``, ``output_tokens:llm``, ``parallelism:llm``."""
    expected: float
    observed: float
    """Per run; a rate in runs per second. Parallelism: nominal call seconds beyond what is expected."""
    z: float
    """Standard errors between them."""
    threshold: float
    runs: int
    """Of the window in which it shows most."""

    @property
    def strength(self) -> float:
        """How far beyond its threshold: above 1."""
        return abs(self.z) / self.threshold


def rate_z(elapsed_s: float, arrivals: int, reference: Reference) -> float:
    """How unusual it is that the last ``arrivals`` arrivals took so long; positive: they came faster than expected.

    >>> from scepsy.operate.reference import Reference
    >>> one = Reference(workflow="w", rate_per_s=1.0, runs=1, moments={}, parallelism={})
    >>> rate_z(50.0, 100, one) > 5 > 1 > abs(rate_z(100.0, 100, one))
    True
    """
    shape = arrivals / reference.dispersion
    scaled = reference.rate_per_s * elapsed_s / reference.dispersion / shape
    z = 3 * sqrt(shape) * (1 - 1 / (9 * shape) - float(np.cbrt(scaled)))
    known = 1.0 if reference.arrivals == 0 else sqrt(1 + arrivals / reference.arrivals)
    return z / known


def arrival_drift(times: Sequence[float], since_s: float, now_s: float, reference: Reference, h: float) -> Drift | None:
    """Test the arrivals after ``since_s``, in order; the strongest departure, or None."""
    worst: Drift | None = None
    for n in _lengths(len(times)):
        elapsed = now_s - times[-n]
        if elapsed > 0:
            worst = _stronger(worst, _rate_drift(reference, elapsed, n, h))
    if len(times) < WINDOWS[0]:  # too few have come to fill a window: is that itself unusual?
        found = _rate_drift(reference, now_s - since_s, len(times) + 1, h)
        if found is not None and found.z < 0:
            worst = _stronger(worst, found)
    return worst


def _rate_drift(reference: Reference, elapsed_s: float, n: int, h: float) -> Drift | None:
    z = rate_z(elapsed_s, n, reference)
    if abs(z) <= h:
        return None
    return Drift(
        workflow=reference.workflow,
        number=RATE,
        expected=reference.rate_per_s,
        observed=n / elapsed_s,
        z=z,
        threshold=h,
        runs=n,
    )


def content_drifts(seen: Sequence[Seen], reference: Reference, h: float, *, every: bool = False) -> tuple[Drift, ...]:
    """Test what ended runs, in order of arrival, say of calls, tokens, parallelism and tool time; strongest first.

    ``every``: all numbers with the strongest departure of each, those below their thresholds too.
    """
    if len(seen) < WINDOWS[0]:
        return ()
    values = [each.values for each in seen[-LONGEST:]]
    llms = tuple(dict.fromkeys((*reference.llms, *llms_of(values))))
    names, table = columns(values, llms, reference.parallelism)
    found = []
    for place, name in enumerate(names):
        moments = reference.moments.get(name)
        if moments is None:
            if not name.startswith(f"{CALLS}:"):
                continue  # an LLM that was never called: its calls say so
            moments = Moments(mean=0.0, std=1 / sqrt(reference.runs))
        drift = _content_drift(reference, name, moments, table[:, place], h, every=every)
        if drift is not None:
            found.append(drift)
    return tuple(sorted(found, key=lambda each: -each.strength))


def _content_drift(reference: Reference, name: str, moments: Moments, column: Floats, h: float, *, every: bool) -> Drift | None:
    sums = np.cumsum(column[::-1])
    worst: Drift | None = None
    for n in _lengths(len(column)):
        mean = float(sums[n - 1]) / n
        z = (mean - moments.mean) / (moments.std * sqrt(1 / n + 1 / reference.runs))
        limit = adjusted(h, n, moments.skew, moments.kurtosis, above=z > 0)
        if every or abs(z) > limit:
            drift = Drift(
                workflow=reference.workflow,
                number=name,
                expected=moments.mean,
                observed=mean,
                z=z,
                threshold=limit,
                runs=n,
            )
            worst = _stronger(worst, drift)
    return worst


def numbers_watched(reference: Reference) -> int:
    """How many numbers are tested for this workflow: its rate, and what ``columns`` gives."""
    return 2 + 4 * len(reference.llms)


def limit_of(reference: Reference, alarms_per_week: float, workflows: int) -> float:
    """The threshold h for this workflow's numbers, the allowance shared by all workflows."""
    return threshold(alarms_per_week / workflows, reference.rate_per_s, numbers_watched(reference))


def drifted_since(times: Sequence[float], seen: Sequence[Seen], drift: Drift, now_s: float, reference: Reference) -> float:
    """When the change most likely happened: the arrival from which on the departure is the largest.

    ``times`` are all arrivals, ``seen`` the ended runs, both in order.
    """
    if drift.number == RATE:
        if len(times) < WINDOWS[0]:
            return times[0] if times else now_s
        lengths = range(WINDOWS[0], min(len(times), LONGEST) + 1)
        return times[-max(lengths, key=lambda n: drift.z * rate_z(max(now_s - times[-n], 1e-9), n, reference))]
    values = [each.values for each in seen[-LONGEST:]]
    llms = tuple(dict.fromkeys((*reference.llms, *llms_of(values))))
    names, table = columns(values, llms, reference.parallelism)
    moments = reference.moments.get(drift.number, Moments(mean=0.0, std=1.0))
    sums = np.cumsum(table[::-1, names.index(drift.number)] - moments.mean)
    n = np.arange(1, len(sums) + 1)
    gain = np.sign(drift.z) * sums / np.sqrt(n + n**2 / reference.runs)
    best = int(np.argmax(gain[WINDOWS[0] - 1 :])) + WINDOWS[0]
    return seen[-best].arrival_s


def _lengths(available: int) -> list[int]:
    return [n for n in WINDOWS if n <= available]


def _stronger(one: Drift | None, other: Drift | None) -> Drift | None:
    if one is None or other is None:
        return one or other
    return max(one, other, key=lambda each: each.strength)
