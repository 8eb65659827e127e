"""One instance under rising load, until it saturates.

The recorded calls of its LLM are drawn with replacement and sent open loop (Poisson), without shared prefixes, so that
every prompt token is computed. Each rate is kept as a run folder (``requests.jsonl`` and ``meta.json``, what ``scepsy profile
validate`` reads), and a sweep that is started again goes on after the last one.
"""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from executor.cpu_meter import NOTHING, Meter
from executor.replay import replay
from scepsy.backend import Stream, Workload
from scepsy.errors import BackendError
from scepsy.files.atomic import write_bytes
from scepsy.files.failure import fail, read_bytes
from scepsy.progress import Notify, no_notice
from scepsy.records import COMPLETED, Records
from scepsy.rng import stream
from scepsy.value import Value, require, require_finite
from scepsy.workload import Arrivals, Call, Run, Trace, TraceSource

Row = dict[str, float]


class Sweep(Value, frozen=True, kw_only=True):
    """How an instance is measured."""

    requests: int = 60
    """Calls per rate."""
    step: float = 1.8
    """Each rate is so many times the one before."""
    first_load: float = 0.5
    """The first rate, over the rate that one call at a time reaches."""
    slowdown: float = 4.0
    """Saturated when the mean latency is so many times that of one call at a time …"""
    kept_up: float = 0.85
    """… or fewer of the offered calls per second come back."""
    most_rates: int = 8
    rounds: int = 1
    """How often all rates are visited, one after another: a slow minute of the machine then falls on each of them."""
    held_out: float = 0.6
    """Load of the run that no fit sees: part of the highest rate that was kept up with."""
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.requests >= 10, "requests", self.requests, ">= 10")
        require(self.most_rates >= 1, "most_rates", self.most_rates, ">= 1")
        require(self.rounds >= 1, "rounds", self.rounds, ">= 1")
        require_finite("step", self.step, minimum=1.0, exclusive=True)
        for field in ("first_load", "slowdown", "kept_up", "held_out"):
            require_finite(field, getattr(self, field), exclusive=True)


class Point(Value, frozen=True, kw_only=True):
    """What one rate gave."""

    name: str
    rate_per_s: float
    completed_per_s: float
    mean_s: float
    p95_s: float
    completed: int
    saturated: bool


def as_workload(calls: Sequence[Call], rate_per_s: float | None, requests: int, seed: int) -> Workload:
    """Every call a run of its own; ``rate_per_s`` None: one at a time."""
    runs = tuple(
        Run(
            id=f"call-{number}",
            workflow="profile",
            calls=(
                Call(id="c", llm=call.llm, input_tokens=call.input_tokens, output_tokens=call.output_tokens, kind=call.kind),
            ),
        )
        for number, call in enumerate(calls)
    )
    trace = Trace(source=TraceSource(origin="calls of one LLM"), runs=runs)
    arrivals = Arrivals(rate_per_s=rate_per_s) if rate_per_s is not None else Arrivals(kind="closed", users=1)
    return Workload(streams=(Stream(trace=trace, arrivals=arrivals),), runs=requests, seed=seed)


def rows_of(records: Records, start_s: float) -> list[Row]:
    """Request rows on one clock; a client cannot see the engine's queue, so queued and scheduled are the time of sending."""
    rows = []
    for call in records.calls.to_pylist():
        if call["status"] == COMPLETED:
            sent_s = start_s + call["issued_s"]
            rows.append(
                {
                    "input_toks": call["input_tokens"],
                    "output_toks": max(1, call["output_tokens"]),
                    "arrival_time": sent_s,
                    "queued_ts": sent_s,
                    "scheduled_ts": sent_s,
                    "first_token_ts": start_s + call["first_token_s"],
                    "last_token_ts": start_s + call["end_s"],
                }
            )
    return sorted(rows, key=lambda row: row["arrival_time"])


def latencies_s(rows: Sequence[Row]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Seconds from sending to the last token."""
    return np.array([row["last_token_ts"] - row["arrival_time"] for row in rows])


def write_run(folder: Path, rows: Sequence[Row], meta: Mapping[str, Any]) -> None:
    """Write a run folder; ``meta.json`` comes last, and with it the folder is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / "requests.jsonl", b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
    write_bytes(folder / "meta.json", json.dumps(dict(meta), indent=1, sort_keys=True).encode() + b"\n")


def read_rows(folder: Path) -> list[Row] | None:
    """The rows of a complete run folder; None when it is not complete."""
    if not (folder / "meta.json").exists():
        return None
    path = folder / "requests.jsonl"
    rows = []
    for number, line in enumerate(read_bytes(path).splitlines(), start=1):
        try:
            if line:
                rows.append(msgspec.json.decode(line, type=dict[str, float]))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise fail(path, f"is no measured request ({error}): must be whole (remove its folder)", line=number) from error
    return rows


def sweep(
    url: str,
    calls: Sequence[Call],
    folder: Path,
    meta: Mapping[str, Any],
    context_limit: int,
    options: Sweep,
    notify: Notify = no_notice,
    *,
    meter: Meter | None = None,
) -> list[Point]:
    """Measure the instance at ``url``; returns a point per rate, the unloaded one first and the held-out one last.

    ``folder`` gets ``unloaded``, ``rate-1`` …, ``held-out`` and, at its top, all but the held-out run in one (for fits).
    Further rounds visit the same rates (``rate-1-round-2`` …); the points are those of the first.
    What ``meter`` says that the engine did is kept in each folder's meta, as ``work``.
    Raises ``BackendError`` when calls fail.
    """
    llm = calls[0].llm
    everything: list[Row] = []

    def measured(name: str, rate_per_s: float | None, requests: int) -> list[Row]:
        rows = read_rows(folder / name)
        if rows is None:
            seed = int(stream(options.seed, "profile", llm, name).integers(2**31))
            start_s = time.time()
            if meter is not None:
                meter.start()
            records = asyncio.run(replay(url, as_workload(calls, rate_per_s, requests, seed), {llm: context_limit}))
            rows = rows_of(records, start_s)
            if len(rows) < 0.9 * requests:
                raise BackendError(
                    f"profile of {llm}: {len(rows)} of {requests} calls completed at {rate_per_s or 0:.3g}/s: "
                    f"{records.meta['most_frequent_error']}"
                )
            work = sum(meter.read().values(), NOTHING) if meter is not None else NOTHING
            write_run(folder / name, rows, {**meta, "rate_per_s": rate_per_s, "work": asdict(work)})
        notify(f"{llm} {name}: {len(rows)} calls, mean {latencies_s(rows).mean():.3f} s")
        return rows

    # The first calls of an engine pay for its caches and lazy set-up: they are sent and forgotten.
    if read_rows(folder / "unloaded") is None:
        asyncio.run(replay(url, as_workload(calls, None, 5, options.seed), {llm: context_limit}))
    alone = measured("unloaded", None, max(10, options.requests // 4))
    everything += alone
    unloaded_s = float(latencies_s(alone).mean())
    points = [_point("unloaded", 1.0 / unloaded_s, alone, saturated=False)]
    rate, best = options.first_load / unloaded_s, options.first_load / unloaded_s
    for number in range(1, options.most_rates + 1):
        rows = measured(f"rate-{number}", rate, options.requests)
        everything += rows
        point = _point(f"rate-{number}", rate, rows, saturated=False)
        # Against the arrivals that were drawn: of a few dozen, they are easily a fifth off the rate.
        offered_per_s = (len(rows) - 1) / (rows[-1]["arrival_time"] - rows[0]["arrival_time"])
        kept_up = point.completed_per_s >= options.kept_up * offered_per_s
        saturated = point.mean_s > options.slowdown * unloaded_s or not kept_up
        points.append(msgspec.structs.replace(point, saturated=saturated))
        if saturated:
            break
        best, rate = rate, rate * options.step
    for again in range(2, options.rounds + 1):
        for point in points:
            alone_again = point.name == "unloaded"
            name = f"{point.name}-round-{again}"
            everything += measured(
                name, None if alone_again else point.rate_per_s, len(alone) if alone_again else options.requests
            )
    held = measured("held-out", options.held_out * best, options.requests)
    points.append(_point("held-out", options.held_out * best, held, saturated=False))
    write_run(folder, sorted(everything, key=lambda row: row["arrival_time"]), meta)
    return points


def _point(name: str, rate_per_s: float, rows: Sequence[Row], *, saturated: bool) -> Point:
    latency = latencies_s(rows)
    # Between first arrival and last end; the last arrivals' own time is not offered load, so it is taken off once.
    span_s = max(row["last_token_ts"] for row in rows) - rows[0]["arrival_time"] - float(np.median(latency))
    return Point(
        name=name,
        rate_per_s=rate_per_s,
        completed_per_s=len(rows) / span_s if span_s > 0 else rate_per_s,
        mean_s=float(latency.mean()),
        p95_s=float(np.percentile(latency, 95)),
        completed=len(rows),
        saturated=saturated,
    )
