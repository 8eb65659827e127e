"""What is measured of one system in one scenario."""

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from math import ceil, fsum
from typing import Any

import numpy as np
import simpy

from experiments.checks.operate.systems import LIMIT_S, Bench, idle
from scepsy.cluster import Gpu
from scepsy.operate.reference import Floats
from scepsy.records import COMPLETED, Records
from scepsy.stats.use import busy_s
from sim.policies.adaptive import Log
from sim.world.control import PENDING, STOPPED, Control
from sim.world.run import simulate

BIN_S = 20.0
"""Of the time line."""
DURATIONS = 5
"""A system has so many durations of a run, and one cold start, to settle after a change."""

Spans = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Measured:
    """One system in one scenario: the row, and how it went over time."""

    row: dict[str, Any]
    timeline: list[dict[str, Any]]


def measure(bench: Bench, system: str, seed: int) -> Measured:
    """Simulate once."""
    log, seen = Log(), []

    def meter(control: Control) -> Generator[simpy.Event, Any, None]:
        seen.append(control)
        yield from idle(control)

    began = time.process_time()
    records = simulate(
        bench.start, bench.scenario.workload(seed), profiles=bench.profiles, policies=(*bench.policies(system, log), meter)
    )
    cpu_s = time.process_time() - began
    control, scenario = seen[0], bench.scenario
    runs, held = Runs.of(records, control.now_s), held_spans(control)
    names = {"scenario": scenario.name, "system": system, "seed": seed}
    return Measured(
        {
            **names,
            **runs.numbers(),
            "gpu_seconds": gpu_seconds(held, [(0.0, control.now_s)]),
            **_settled(bench, control, runs, held),
            "switches": len(log.switches),
            "rollbacks": len(log.rollbacks),
            "first_switch_s": log.switches[0][0] - scenario.changes_s[0] if log.switches and scenario.changes_s else None,
            "plannings": sum(report.answer is not None for report in log.reports),
            "cpu_s": cpu_s,
        },
        [names | each for each in timeline(runs, held, scenario.horizon_s)],
    )


def _settled(
    bench: Bench, control: Control, runs: "Runs", held: dict[Gpu, list[tuple[float, float]]]
) -> dict[str, float | None]:
    """The same numbers of the time when all changes have had their time; None where loads change all the time."""
    scenario = bench.scenario
    if scenario.recorded is not None:
        return {"settle_s": None, "settled_mean_s": None, "settled_within_limit_pct": None, "settled_gpus": None}
    cold_s = max(control.cold_start_s(llm) for llm in control.llms)
    settle_s = DURATIONS * bench.start.expected[0].latency_s + cold_s
    ends = [*scenario.changes_s[1:], scenario.horizon_s]
    spans = [(at + settle_s, end) for at, end in zip(scenario.changes_s, ends, strict=False) if at + settle_s < end]
    if not scenario.changes_s:
        spans = [(0.0, scenario.horizon_s)]
    numbers = runs.within(spans).numbers()
    return {
        "settle_s": settle_s,
        "settled_mean_s": numbers["mean_s"],
        "settled_within_limit_pct": numbers["within_limit_pct"],
        "settled_gpus": gpu_seconds(held, spans) / fsum(end - begin for begin, end in spans),
    }


@dataclass(frozen=True)
class Runs:
    """All issued runs. One that has not ended counts with its age at the end of the simulation, so latencies are at least
    so long."""

    arrival_s: Floats
    latency_s: Floats
    ended: np.ndarray[Any, np.dtype[np.bool_]]

    @classmethod
    def of(cls, records: Records, now_s: float) -> "Runs":
        """From a simulation's records that ended at ``now_s``."""
        arrival, end = (
            np.asarray(records.runs[name].to_numpy(zero_copy_only=False), dtype=float) for name in ("arrival_s", "end_s")
        )
        ended = np.array([status == COMPLETED for status in records.runs["status"].to_pylist()])
        return cls(arrival, np.where(ended, end, now_s) - arrival, ended)

    def within(self, spans: Spans) -> "Runs":
        """Those that arrived in one of the spans."""
        kept = np.zeros(len(self.arrival_s), dtype=bool)
        for begin, end in spans:
            kept |= (self.arrival_s >= begin) & (self.arrival_s < end)
        return Runs(self.arrival_s[kept], self.latency_s[kept], self.ended[kept])

    def numbers(self) -> dict[str, float]:
        """Mean and 95th percentile of latency, and the part of the runs within the limit."""
        return {
            "runs": len(self.arrival_s),
            "unfinished": int((~self.ended).sum()),
            "mean_s": float(self.latency_s.mean()),
            "p95_s": float(np.percentile(self.latency_s, 95)),
            "within_limit_pct": 100 * float((self.ended & (self.latency_s <= LIMIT_S)).mean()),
        }


def held_spans(control: Control) -> dict[Gpu, list[tuple[float, float]]]:
    """When each GPU was held by an instance."""
    held: dict[Gpu, list[tuple[float, float]]] = {}
    for member in control.members:
        on = next((at for at, state in member.history if state not in (PENDING, STOPPED)), None)
        off = next((at for at, state in member.history if state == STOPPED), control.now_s)
        if on is not None and off > on:
            for gpu in member.gpus:
                held.setdefault(gpu, []).append((on, off))
    return held


def gpu_seconds(held: dict[Gpu, list[tuple[float, float]]], spans: Spans) -> float:
    """Seconds in which a GPU was held by at least one instance, added over GPUs: what is paid for."""
    return fsum(
        busy_s([(max(on, begin), min(off, end)) for on, off in times if min(off, end) > max(on, begin)])
        for times in held.values()
        for begin, end in spans
    )


def timeline(runs: Runs, held: dict[Gpu, list[tuple[float, float]]], horizon_s: float) -> list[dict[str, Any]]:
    """By time of arrival."""
    found = []
    for number in range(ceil(horizon_s / BIN_S)):
        span = (number * BIN_S, min((number + 1) * BIN_S, horizon_s))
        mine = runs.within([span])
        numbers = mine.numbers() if len(mine.arrival_s) else {"runs": 0, "mean_s": None, "within_limit_pct": None}
        found.append(
            {
                "begin_s": span[0],
                "runs": numbers["runs"],
                "mean_s": numbers["mean_s"],
                "within_limit_pct": numbers["within_limit_pct"],
                "gpus": gpu_seconds(held, [span]) / (span[1] - span[0]),
            }
        )
    return found
