"""One simulated point under the measuring rules: fixed warm-up, window and drain; stable or not, and why.

Rules (docs/experiments.md): open-loop arrivals, the same for every system; the first ``WARMUP_PART`` of the arrival span is
not measured. A point is stable when the mean latency of the window is at most ``STABLE_FACTOR`` times the unloaded one, and at
least ``COMPLETED_PART`` of the window's runs are done by the window's end plus that many unloaded latencies.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from scepsy.backend import Stream, Workload
from scepsy.metrics import describe, mean_interval
from scepsy.plans import Plan
from scepsy.profile.model import ProfileSet
from scepsy.records import COMPLETED, Records
from scepsy.workload import Arrivals
from sim.world.run import simulate

WARMUP_PART = 0.2
STABLE_FACTOR = 5.0
COMPLETED_PART = 0.95
UNLOADED_RUNS = 40

Replay = Callable[[Plan, Workload], Records]


def simulator(profiles: ProfileSet, **settings: Any) -> Replay:
    """The simulator as a ``Backend`` with its profiles bound."""

    def replay(plan: Plan, workload: Workload) -> Records:
        return simulate(plan, workload, profiles=profiles, **settings)

    return replay


def unloaded_s(plan: Plan, stream: Stream, replay: Replay, seed: int) -> float:
    """Mean latency (s) of runs that have the plan's instances to themselves: one user, no think time."""
    alone = Stream(trace=stream.trace, arrivals=Arrivals(kind="closed", users=1))
    records = replay(plan, Workload(streams=(alone,), seed=seed, runs=min(UNLOADED_RUNS, 2 * len(stream.trace.runs))))
    runs = records.runs.to_pandas()
    return float((runs["end_s"] - runs["arrival_s"]).mean())


def measure(
    plan: Plan, streams: Sequence[Stream], replay: Replay, *, runs: int, seed: int, unloaded: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Replay the streams together until all is done; one row per workflow.

    ``unloaded`` gives each workflow's unloaded mean latency (s) on this plan. Row: workflow, rate_per_s, seed, source, latency
    mean with its 95 % interval (batch means), p50, p95, p99, throughput_per_s, issued, completed, rejected, stable, why.
    """
    outcome = replay(plan, Workload(streams=tuple(streams), seed=seed, runs=runs))
    table = outcome.runs.to_pandas()
    source = outcome.meta.get("source", "simulated")
    span_s = float(table["arrival_s"].max())
    begin_s = WARMUP_PART * span_s
    rows = []
    for stream in streams:
        mine = table[table["workflow"] == stream.workflow]
        window = mine[mine["arrival_s"] >= begin_s]
        done = window[window["status"] == COMPLETED]
        latency = (done["end_s"] - done["arrival_s"]).to_numpy()
        alone = unloaded[stream.workflow]
        in_time = int((done["end_s"] <= span_s + STABLE_FACTOR * alone).sum())
        low, high = mean_interval(latency)
        stable, why = _verdict(latency, alone, in_time, len(window))
        seconds = max(span_s - begin_s, 1e-9)
        summary = describe(latency)
        rows.append(
            {
                "workflow": stream.workflow,
                "rate_per_s": stream.arrivals.rate_per_s,
                "seed": seed,
                "source": source,
                "latency_mean_s": summary["mean"],
                "latency_mean_low_s": low,
                "latency_mean_high_s": high,
                "latency_p50_s": summary["p50"],
                "latency_p95_s": summary["p95"],
                "latency_p99_s": summary["p99"],
                "throughput_per_s": float(
                    (table["end_s"].between(begin_s, span_s) & (table["workflow"] == stream.workflow)).sum()
                )
                / seconds,
                "unloaded_s": alone,
                "issued": len(mine),
                "completed": int((mine["status"] == COMPLETED).sum()),
                "rejected": int((mine["status"] == "rejected").sum()),
                "stable": stable,
                "why": why,
            }
        )
    return rows


def _verdict(latency: np.ndarray[Any, np.dtype[np.float64]], alone: float, in_time: int, issued: int) -> tuple[bool, str]:
    if issued == 0 or len(latency) == 0:
        return False, "no run of the window completed"
    if in_time < COMPLETED_PART * issued:
        return False, f"{in_time} of {issued} runs done in time"
    if latency.mean() > STABLE_FACTOR * alone:
        return False, f"mean latency {latency.mean() / alone:.1f}x unloaded"
    return True, ""


def at_rate(stream: Stream, rate_per_s: float) -> Stream:
    """The same stream at another rate."""
    return msgspec.structs.replace(stream, arrivals=stream.arrivals.at_rate(rate_per_s))
