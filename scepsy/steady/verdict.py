"""What a measurement is worth: value ± half-width, settled or not, stable or not, and why.

One workflow's runs, in order of arrival: the warm-up is found (``warmup``), the drift tested (``drift``), the mean given
with its interval (``interval``). Decided are three things apart: *stable*, *unstable*, or neither when the data cannot tell
yet. Growth over the window is not enough for *unstable*, since a system that fills slowly grows too. Its first third must show
growth by itself, and the rest no less of it for the work that arrives. A measurement is settled when it is stable and its
interval is as short as was asked for. Nothing else is a steady state.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scepsy.steady.drift import Window, growth
from scepsy.steady.interval import Interval, mean_interval, quantile_interval
from scepsy.steady.warmup import warmup_length
from scepsy.value import Value

Floats = npt.NDArray[np.float64]

PRECISION = 0.03
"""Half-width over the mean that is asked for unless said otherwise."""
DRIFT_PROBABILITY = 0.005
"""Growth less probable than this is a drift. Some six looks at growing data then make few false alarms."""
FEWEST_RUNS = 100
WINDOW_PER_LONG_RUN = 3.0
"""The window must last this many times as long as a long run does in the nearly empty system. While the system fills for the
first time, work stays behind in it however well it keeps up, and long runs fill it longest."""
UNLOADED_RUNS = 50
"""Runs that tell how long one lasts in the nearly empty system."""
LONG_RUN_QUANTILE = 0.95
"""Quantile of their latencies that counts as a long run: where runs are unequal, the median says nothing of filling."""
NO_WARMUP_PART = 0.25
"""Of the span, left out where no end of the warm-up is found."""

STABLE, UNSTABLE, UNDECIDED = "stable", "unstable", "undecided"


class Steady(Value, frozen=True, kw_only=True):
    """A measured mean. ``half_width`` is infinite where the data cannot tell."""

    value: float
    half_width: float
    settled: bool
    """The steady state, and as precise as was asked for."""
    stable: bool
    """Shown to keep up with what arrives. False where that is refuted, and where it is not decided: see ``why``."""
    why: str = ""
    """Why it is not stable, or not settled; empty when it is both."""


@dataclass(frozen=True)
class Sample:
    """Runs of one workflow."""

    arrival_s: Floats
    end_s: Floats
    """Infinite where the run did not complete (rejected, or the replay ended first)."""
    work: Floats
    """Of each run, in any unit: what it asks of the system (``scepsy.dag.nominal_s``)."""

    def sorted(self) -> "Sample":
        """In order of arrival."""
        order = np.argsort(self.arrival_s, kind="stable")
        return Sample(self.arrival_s[order], self.end_s[order], self.work[order])


@dataclass(frozen=True)
class Measured:
    """One workflow, measured."""

    latency: Steady
    """Mean end-to-end latency, seconds."""
    verdict: str
    """stable, unstable or undecided."""
    p50_s: Interval
    p95_s: Interval
    p99_s: Interval
    offered_per_s: float
    throughput_per_s: float
    """Runs that arrived, and that completed, per second of the window."""
    issued: int
    completed: int
    """Of all runs."""
    begin_s: float
    stop_s: float
    """The window."""
    grows: bool = False
    """Whether work stays behind over the window, be it from overload or because the system still fills."""

    def quantile(self, percent: float) -> Interval:
        """50, 95 or 99. Raises ``KeyError`` for another."""
        return {50.0: self.p50_s, 95.0: self.p95_s, 99.0: self.p99_s}[percent]


def measured(sample: Sample, *, precision: float = PRECISION, stop_s: float | None = None) -> Measured:
    """Judge one workflow's runs. ``stop_s``: the last arrival of the whole load; None: of these runs."""
    runs = sample.sorted()
    issued, done = len(runs.arrival_s), np.isfinite(runs.end_s)
    stop = float(runs.arrival_s[-1]) if stop_s is None and issued else (stop_s or 0.0)
    latency = runs.end_s - runs.arrival_s
    if issued < FEWEST_RUNS or int(done.sum()) < FEWEST_RUNS // 2:
        return _unknown(latency[done], issued, stop, f"{int(done.sum())} of {issued} runs completed: too few to tell")
    longest = float(np.quantile(latency[done][:UNLOADED_RUNS], LONG_RUN_QUANTILE))
    start = warmup_length(latency[done])
    found = start is not None
    begin = max(longest, float(runs.arrival_s[done][start]) if start is not None else NO_WARMUP_PART * stop)
    if stop - begin < WINDOW_PER_LONG_RUN * longest:
        why = f"runs arrive for {stop:.4g} s, a long run lasts {longest:.4g} s in the empty system: too short to tell"
        return _unknown(latency[done], issued, stop, why)
    grown = growth([Window(runs.arrival_s, runs.end_s, runs.work, begin, stop)])
    seen = grown.whole
    window = (runs.arrival_s >= begin) & (runs.arrival_s <= stop)
    chosen = latency[window & done & (runs.arrival_s <= _cool(runs, latency, done & window, begin, stop))]
    mean = mean_interval(chosen)
    if grown.lasts(DRIFT_PROBABILITY):
        verdict, why = UNSTABLE, grown.told(DRIFT_PROBABILITY)
    elif seen.upper <= precision:
        verdict, why = STABLE, ""
    elif seen.grows(DRIFT_PROBABILITY):
        verdict, why = UNDECIDED, grown.told(DRIFT_PROBABILITY)
    else:
        verdict = UNDECIDED
        why = f"not settled: up to {seen.upper:.1%} of the work that arrives may stay behind (limit {precision:.1%})"
    settled = verdict == STABLE and found and mean.relative <= precision
    if verdict == STABLE and not settled:
        why = "not settled: " + (f"mean known to ±{mean.relative:.1%}, asked ±{precision:.1%}" if found else "warm-up not over")
    span = stop - begin
    return Measured(
        latency=Steady(value=mean.value, half_width=mean.half_width, settled=settled, stable=verdict == STABLE, why=why),
        verdict=verdict,
        p50_s=quantile_interval(chosen, 0.50),
        p95_s=quantile_interval(chosen, 0.95),
        p99_s=quantile_interval(chosen, 0.99),
        offered_per_s=float(window.sum()) / span,
        throughput_per_s=float(((runs.end_s >= begin) & (runs.end_s <= stop)).sum()) / span,
        issued=issued,
        completed=int(done.sum()),
        begin_s=begin,
        stop_s=stop,
        grows=seen.grows(DRIFT_PROBABILITY),
    )


def _cool(runs: Sample, latency: Floats, inside: npt.NDArray[np.bool_], begin: float, stop: float) -> float:
    """The last arrival whose run still has a full system around it: one long latency before the end, of a quarter at most."""
    if not inside.any():
        return stop
    return stop - min(float(np.quantile(latency[inside], 0.95)), (stop - begin) / 4)


def _unknown(latency: Floats, issued: int, stop: float, why: str) -> Measured:
    """What is known of runs that tell nothing of a steady state."""
    value = float(latency.mean()) if len(latency) else float("nan")
    endless = float("inf")
    p50, p95, p99 = np.percentile(latency, [50, 95, 99]).tolist() if len(latency) else (float("nan"),) * 3
    return Measured(
        latency=Steady(value=value, half_width=endless, settled=False, stable=False, why=f"not settled: {why}"),
        verdict=UNDECIDED,
        p50_s=Interval(p50, endless),
        p95_s=Interval(p95, endless),
        p99_s=Interval(p99, endless),
        offered_per_s=issued / stop if stop > 0 else float("nan"),
        throughput_per_s=float("nan"),
        issued=issued,
        completed=len(latency),
        begin_s=0.0,
        stop_s=stop,
    )
