"""How good is detection? False alarms a week on a load that stays, and the delay until a change is found.

    python -m experiments.checks.drift_detection            # → experiments/results/drift_detection.csv

Runs are drawn from generated workflows and arrive by a Poisson process. The controller's own ``look`` is called, at its default
settings but every ``--look`` seconds. Runs end when they arrive, so that the delay is that of the test alone. After a false
alarm it goes on as in operation: what was found becomes the reference. Rows that are in the output already are kept. To make
one again, take it out.
"""

import argparse
import time
from bisect import bisect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.code_version import stamped
from experiments.points.variants import drift
from scepsy.generate import generate
from scepsy.operate.controller import KEPT_RUNS, Facts, begin, look, remember
from scepsy.operate.decision import Decision
from scepsy.operate.features import Seen, features_of
from scepsy.operate.reference import planned_for
from scepsy.operate.settings import Settings
from scepsy.operate.threshold import WEEK_S
from scepsy.rng import stream
from scepsy.workload import Run, Trace

WORKFLOWS = ("rag-rerank", "reflection", "beam-search", "text-to-sql")
RATE_PER_S = 0.2
QUIET_S = 3600.0
"""Of the planned load, before a change."""
LIMIT_S = 4 * 3600.0
"""Changes that are not found by then are not found."""
DEFAULT_OUT = Path(__file__).parents[1] / "results" / "drift_detection.csv"


def drawn(runs: Sequence[Run], rate_per_s: float, begin_s: float, end_s: float, *names: str | int) -> list[Seen]:
    """Runs of a trace, arriving from ``begin_s`` to ``end_s``."""
    rng = stream(0, "drift-detection", *names)
    count = int(rate_per_s * (end_s - begin_s) * 1.2 + 200)
    times = begin_s + np.cumsum(rng.exponential(1 / rate_per_s, count))
    times = times[times < end_s]
    values = [features_of(run) for run in runs]
    return [
        Seen(workflow=runs[0].workflow, arrival_s=at, end_s=at, values=values[which], run=runs[which])
        for at, which in zip(times.tolist(), rng.integers(len(runs), size=len(times)).tolist(), strict=True)
    ]


def alarms(
    runs: Sequence[Run], seen: Sequence[Seen], rate_per_s: float, settings: Settings, stop_s: float
) -> Iterator[tuple[float, str]]:
    """(time, number) of every alarm when the controller looks at this load."""
    name = runs[0].workflow
    memory = begin([planned_for(name, runs, rate_per_s)], 0.0)
    times = [each.arrival_s for each in seen]
    keep = Decision(act="keep", reason="only detection is looked at")
    now = 0.0
    while now + settings.look_s <= stop_s:
        now += settings.look_s
        known = bisect(times, now)
        facts = Facts(now_s=now, seen={name: tuple(seen[max(0, known - KEPT_RUNS) : known])})
        memory, finding = look(memory, facts, settings)
        if finding is not None:
            memory = remember(memory, facts, settings, finding, keep)
            if finding.kind == "drift":
                yield now, finding.drifts[0].number


def changes(trace: Trace) -> Iterator[tuple[str, float, tuple[Run, ...]]]:
    """(kind and size, factor on the rate, runs) of each change."""
    for factor in (0.5, 0.8, 1.25, 1.5, 2.0):
        yield f"rate x{factor:g}", factor, trace.runs
    for factor in (0.5, 0.8, 1.25, 1.5, 3.0):
        yield f"answers x{factor:g}", 1.0, drift(trace, factor).runs


def rows(
    names: Sequence[str], weeks: float, seeds: int, settings: Settings, known: set[tuple[str, str]]
) -> Iterator[dict[str, Any]]:
    """What is not known yet, row by row."""
    for name in names:
        trace = generate(name, runs=200, seed=1)
        runs = trace.runs
        if (name, "none") not in known:
            yield quiet_row(name, runs, weeks, settings)
        for change, factor, other in changes(trace):
            if (name, change) not in known:
                yield change_row(name, change, runs, other, factor, seeds, settings)


def quiet_row(name: str, runs: tuple[Run, ...], weeks: float, settings: Settings) -> dict[str, Any]:
    """False alarms."""
    began = time.process_time()
    quiet = drawn(runs, RATE_PER_S, 0.0, weeks * WEEK_S, name, "stays")
    found = list(alarms(runs, quiet, RATE_PER_S, settings, weeks * WEEK_S))
    return {
        "workflow": name,
        "change": "none",
        "weeks": weeks,
        "alarms_per_week": len(found) / weeks,
        "cpu_s": time.process_time() - began,
    }


def change_row(
    name: str,
    change: str,
    runs: tuple[Run, ...],
    other: tuple[Run, ...],
    factor: float,
    seeds: int,
    settings: Settings,
) -> dict[str, Any]:
    """Delays until a change is found."""
    delays, early = [], 0
    for seed in range(seeds):
        before = drawn(runs, RATE_PER_S, 0.0, QUIET_S, name, change, seed, "before")
        after = drawn(other, factor * RATE_PER_S, QUIET_S, QUIET_S + LIMIT_S, name, change, seed, "after")
        first = next(alarms(runs, [*before, *after], RATE_PER_S, settings, QUIET_S + LIMIT_S), None)
        early += first is not None and first[0] <= QUIET_S
        delays.append(first[0] - QUIET_S if first is not None and first[0] > QUIET_S else float("inf"))
    seen = [delay for delay in delays if np.isfinite(delay)]
    return {
        "workflow": name,
        "change": change,
        "seeds": seeds,
        "found": len(seen),
        "early": early,
        "delay_median_s": float(np.median(seen)) if seen else None,
        "delay_longest_s": max(seen, default=None),
        "delay_median_runs": float(np.median(seen)) * factor * RATE_PER_S if seen else None,
    }


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workflow", action="append", choices=WORKFLOWS)
    parser.add_argument("--weeks", type=float, default=1.0, help="simulated weeks of a load that stays")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--look", type=float, default=60.0, help="seconds between looks (the default of operate is 10)")
    parser.add_argument("-o", "--output", type=Path, default=DEFAULT_OUT)
    given = parser.parse_args()
    made = pd.read_csv(given.output, dtype={"commit": str}) if given.output.exists() else None
    known = set() if made is None else set(made[["workflow", "change"]].itertuples(index=False, name=None))
    for row in rows(given.workflow or WORKFLOWS, given.weeks, given.seeds, Settings(look_s=given.look), known):
        print({key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()}, flush=True)
        made = pd.concat([*([] if made is None else [made]), stamped(pd.DataFrame([row]))], ignore_index=True)
        made.to_csv(given.output, index=False, float_format="%.6g")


if __name__ == "__main__":
    main()
