"""The measuring rule applied to a backend: replay a plan's load until its latencies are settled, or shown not to be.

The one place that turns records into ``scepsy.steady`` samples; every command and experiment measures through it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from typing import Any

import numpy as np
import pyarrow.compute as pc

from scepsy.api.offered import exactly, works_s
from scepsy.backend import Stream, Workload
from scepsy.records import COMPLETED, Records
from scepsy.steady.interval import Interval
from scepsy.steady.rule import Outcome, judge, until_settled
from scepsy.steady.verdict import PRECISION, STABLE, UNDECIDED, UNSTABLE, Measured, Sample, measured

Replay = Callable[[Workload], Records]

_TOLD = ["template", "arrival_s", "end_s", "status"]

FIRST_RUNS = 400
MOST_CALLS = 200_000
"""Calls of the last round unless the caller says otherwise: some ten seconds of the interpreted engine."""


@dataclass(frozen=True)
class Settled:
    """What the rule found, and the records of its last round."""

    records: Records
    workload: Workload
    by_workflow: Outcome

    @property
    def stable(self) -> bool:
        """Whether every workflow is shown to keep up."""
        return all(one.latency.stable for one in self.by_workflow.values())

    @property
    def settled(self) -> bool:
        """Whether every workflow's mean is settled."""
        return all(one.latency.settled for one in self.by_workflow.values())

    @property
    def unstable(self) -> bool:
        """Whether some workflow is shown not to keep up."""
        return any(one.verdict == UNSTABLE for one in self.by_workflow.values())

    @property
    def grows(self) -> bool:
        """Whether work was seen to stay behind in some workflow, be it overload or filling."""
        return any(one.grows for one in self.by_workflow.values())

    @property
    def why(self) -> str:
        """Why it is not settled, workflow by workflow."""
        several = len(self.by_workflow) > 1
        return "; ".join(
            f"{name}: {one.latency.why}" if several else one.latency.why
            for name, one in self.by_workflow.items()
            if one.latency.why
        )


def samples_of(records: Records, streams: Sequence[Stream]) -> dict[str, Sample]:
    """The runs of each workflow as the rule takes them."""
    work: dict[str, dict[str, float]] = {}
    for item in streams:
        ids = (run.id for run in item.trace.runs)
        work.setdefault(item.workflow, {}).update(zip(ids, works_s(item.trace).tolist(), strict=True))
    found = {}
    for name, of_run in work.items():
        runs = records.runs.select(_TOLD).filter(pc.equal(records.runs["workflow"], name))
        templates = runs["template"].combine_chunks().dictionary_encode()
        weights = np.array([of_run.get(template, 1.0) for template in templates.dictionary.to_pylist()], dtype=float)
        done = pc.equal(runs["status"], COMPLETED).to_numpy()
        end = np.where(done, runs["end_s"].to_numpy(zero_copy_only=False).astype(float), np.inf)
        arrival = runs["arrival_s"].to_numpy(zero_copy_only=False).astype(float)
        found[name] = Sample(arrival, end, weights[templates.indices.to_numpy(zero_copy_only=False)])
    return found


def calls_per_run(streams: Sequence[Stream]) -> float:
    """Mean calls of the runs of a mixture of streams."""
    parts = [
        (item.arrivals.rate_per_s or 1.0, sum(len(r.calls) for r in item.trace.runs) / len(item.trace.runs)) for item in streams
    ]
    return fsum(rate * calls for rate, calls in parts) / fsum(rate for rate, _ in parts)


def settle(
    replay: Replay,
    streams: Sequence[Stream],
    *,
    seed: int,
    precision: float = PRECISION,
    first_runs: int = FIRST_RUNS,
    most_calls: int = MOST_CALLS,
    runs: int | None = None,
) -> Settled:
    """Measure a load. ``runs``: exactly so many, settled or not; None: ``first_runs`` and ever more, until settled or
    ``most_calls`` calls.

    Offered work is exactly what the rates ask for (``scepsy.api.offered``).
    """
    last: dict[str, Any] = {}

    def once(count: int) -> Mapping[str, Sample]:
        last["workload"] = workload = exactly(streams, runs=count, seed=seed)
        last["records"] = records = replay(workload)
        return samples_of(records, streams)

    if runs is not None:
        outcome = judge(once(runs), precision=precision)
    else:
        most = max(first_runs, int(most_calls / calls_per_run(streams)))
        if any(item.arrivals.kind == "trace" for item in streams):
            most = min(most, sum(len(item.trace.runs) for item in streams))
        outcome = until_settled(once, first_runs=first_runs, most_runs=most, precision=precision)
    return Settled(records=last["records"], workload=last["workload"], by_workflow=outcome)


def numbers(one: Measured) -> dict[str, Any]:
    """One workflow's entry of ``simulate --json``; infinite half-widths are null."""
    latency = one.latency

    def finite(value: float) -> float | None:
        return value if np.isfinite(value) else None

    return {
        "stable": latency.stable,
        "settled": latency.settled,
        "verdict": one.verdict,
        "why": latency.why,
        "offered_per_s": finite(one.offered_per_s),
        "throughput_per_s": finite(one.throughput_per_s),
        "latency_s": {
            "mean": finite(latency.value),
            "mean_half_width": finite(latency.half_width),
            "p50": finite(one.p50_s.value),
            "p95": finite(one.p95_s.value),
            "p95_half_width": finite(one.p95_s.half_width),
            "p99": finite(one.p99_s.value),
        },
    }


def measurements(found: Settled) -> dict[str, Any]:
    """The fields of ``simulate --json`` that the measuring rule gives, of all workflows together and of each."""
    streams = found.workload.streams
    parts = list(samples_of(found.records, streams).values())
    joined = Sample(*(np.concatenate([getattr(part, field) for part in parts]) for field in ("arrival_s", "end_s", "work")))
    return numbers(measured(joined)) | {
        "engine": found.records.meta.get("engine", "simpy"),
        "engine_why": found.records.meta.get("engine_why", ""),
        "stable": found.stable,
        "settled": found.settled,
        "verdict": UNSTABLE if found.unstable else STABLE if found.stable else UNDECIDED,
        "why": found.why,
        "workflows": {name: numbers(one) for name, one in found.by_workflow.items()},
    }


def checks_of(
    workflow: str, one: Measured, max_latency_s: float | None, max_p95_s: float | None, min_throughput_per_s: float | None
) -> list[dict[str, Any]]:
    """What ``validate`` checks of one workflow: that it keeps up, that all its runs complete, and its limits.

    A limit is kept when the whole interval is within it. Where the interval has no end yet, it is not.
    """
    mean = Interval(one.latency.value, one.latency.half_width)
    rows: list[tuple[str, float | None, float, float, bool, str]] = [
        ("keeps_up", one.offered_per_s, one.throughput_per_s, 0.0, one.latency.stable, one.latency.why),
        ("completed_runs", one.issued, one.completed, 0.0, one.completed == one.issued, ""),
    ]
    for name, limit, value in (("max_latency_s", max_latency_s, mean), ("max_p95_s", max_p95_s, one.p95_s)):
        if limit is not None:
            kept = value.high <= limit
            why = "" if kept or value.low > limit else f"{name}: the interval reaches beyond the limit {limit:g}"
            rows.append((name, limit, value.value, value.half_width, kept, why))
    if min_throughput_per_s is not None:
        # What keeps up completes what arrives; the completions that a window happens to hold scatter about that.
        done = one.offered_per_s if one.latency.stable else one.throughput_per_s
        rows.append(("min_throughput_per_s", min_throughput_per_s, done, 0.0, done >= min_throughput_per_s, ""))
    return [check_row(workflow, *row) for row in rows]


def check_row(
    workflow: str, name: str, limit: float | None, value: float, half_width: float, ok: bool, why: str
) -> dict[str, Any]:
    """One check as it is printed; what is not finite is None."""
    return {
        "workflow": workflow,
        "name": name,
        "limit": limit,
        "value": value if np.isfinite(value) else None,
        "half_width": half_width if np.isfinite(half_width) else None,
        "ok": bool(ok),
        "why": why,
    }
