"""One simulated or measured point under the measuring rule (``scepsy.steady``): value ± half-width, stable or not, settled or
not.

Open-loop arrivals, the same for every system, that offer exactly what was asked for. The warm-up is found from the data. A
point is stable when the work in the system does not drift and completions equal arrivals.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from scepsy.api.settle import settle
from scepsy.backend import Stream, Workload
from scepsy.plans import Plan
from scepsy.profile.model import ProfileSet
from scepsy.records import REJECTED, Records
from scepsy.steady.verdict import PRECISION
from scepsy.workload import Arrivals
from sim.world.run import simulate

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
    plan: Plan,
    streams: Sequence[Stream],
    replay: Replay,
    *,
    runs: int,
    seed: int,
    unloaded: Mapping[str, float] | None = None,
    precision: float = PRECISION,
    most_calls: int | None = None,
) -> list[dict[str, Any]]:
    """Replay the streams together until all is done; one row per workflow.

    ``runs`` runs exactly; with ``most_calls`` so many at first, and ever more until settled or that many calls. ``unloaded``
    gives each workflow's unloaded mean latency (s) on this plan, to be kept beside. Row: workflow, rate_per_s, seed, source,
    latency mean with its 95 % interval, p50, p95, p99, offered_per_s, throughput_per_s, issued, completed, rejected,
    stable, settled, verdict, why. Ends of an interval that is not known are NaN.
    """
    found = settle(
        lambda workload: replay(plan, workload),
        streams,
        seed=seed,
        precision=precision,
        first_runs=runs,
        runs=runs if most_calls is None else None,
        most_calls=most_calls or 0,
    )
    table = found.records.runs.to_pandas()
    rows = []
    for stream in streams:
        one = found.by_workflow[stream.workflow]
        width = one.latency.half_width if np.isfinite(one.latency.half_width) else np.nan
        mine = table[table["workflow"] == stream.workflow]
        rows.append(
            {
                "workflow": stream.workflow,
                "rate_per_s": stream.arrivals.rate_per_s,
                "seed": seed,
                "source": found.records.meta.get("source", "simulated"),
                "latency_mean_s": one.latency.value,
                "latency_mean_low_s": one.latency.value - width,
                "latency_mean_high_s": one.latency.value + width,
                "latency_p50_s": one.p50_s.value,
                "latency_p95_s": one.p95_s.value,
                "latency_p99_s": one.p99_s.value,
                "offered_per_s": one.offered_per_s,
                "throughput_per_s": one.throughput_per_s,
                "unloaded_s": np.nan if unloaded is None else unloaded[stream.workflow],
                "issued": one.issued,
                "completed": one.completed,
                "rejected": int((mine["status"] == REJECTED).sum()),
                "stable": one.latency.stable,
                "settled": one.latency.settled,
                "verdict": one.verdict,
                "why": one.latency.why,
            }
        )
    return rows


def at_rate(stream: Stream, rate_per_s: float) -> Stream:
    """The same stream at another rate."""
    return msgspec.structs.replace(stream, arrivals=stream.arrivals.at_rate(rate_per_s))
