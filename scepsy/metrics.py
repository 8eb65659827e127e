"""What a records table says: counts, latencies, token timings, throughput, goodput, intervals. Pure functions.

Measuring rules: runs that arrive before ``warmup_s`` or after the window are left out of every latency, but
never out of the counts. A quantile or a mean is over completed runs only, so read it beside the counts.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from scepsy.records import COMPLETED, REJECTED, UNFINISHED, Records
from scepsy.steady.student import t_quantile

Array = npt.NDArray[np.float64]

_TOLD = [
    "status", "issued_s", "scheduled_s", "first_token_s", "end_s",
    "input_tokens", "output_tokens", "cached_tokens", "preemptions",
]  # fmt: skip


def summarise(
    records: Records,
    *,
    warmup_s: float = 0.0,
    window_s: float | None = None,
    slo_s: float | Mapping[str, float] | None = None,
    ttft_slo_s: float | None = None,
    tpot_slo_s: float | None = None,
    wall_s: float | None = None,
) -> dict[str, Any]:
    """The JSON document of ``scepsy simulate``.

    Latencies (s) are of runs arriving in ``[warmup_s, warmup_s + window_s)``; ``throughput_per_s`` is their completions per
    second from the window's start to the later of its end and their last completion (``window_s`` None: to the end of
    the simulation). Goodput counts the runs that meet ``slo_s`` (one limit, or one per workflow) and whose calls all
    meet the token limits.
    """
    runs, calls = records.runs, records.calls
    arrival, latency, done = _column(runs, "arrival_s"), _latency(runs), _is(runs, COMPLETED)
    end_s = float(records.meta.get("simulated_s", 0.0)) or _last(runs, calls)
    stop = np.inf if window_s is None else warmup_s + window_s
    chosen = (arrival >= warmup_s) & (arrival < stop)
    workflows = _numbered(runs["workflow"])
    document: dict[str, Any] = {
        "runs": counts(runs),
        "calls": counts(calls),
        "latency_s": describe(latency[chosen & done]),
        "throughput_per_s": _throughput(arrival, latency, chosen & done, warmup_s, stop, end_s),
        "simulated_s": end_s,
        "by_workflow": {
            name: {
                "runs": counts(runs.select(["status"]).filter(pa.array(workflows.of == number))),
                "latency_s": describe(latency[chosen & done & (workflows.of == number)]),
            }
            for number, name in enumerate(workflows.names)
        },
        "by_llm": by_llm(calls, warmup_s, stop),
        "instances": json.loads(records.meta.get("instances", "[]")),
    }
    if wall_s is not None:
        document["wall_s"] = wall_s
        document["calls_per_wall_s"] = calls.num_rows / wall_s if wall_s > 0 else None
    if slo_s is not None or ttft_slo_s is not None or tpot_slo_s is not None:
        good = chosen & done & _within(latency, workflows, slo_s) & _calls_within(runs, calls, ttft_slo_s, tpot_slo_s)
        document["goodput"] = {
            "runs": int(good.sum()),
            "share_of_issued": float(good.sum() / max(int(chosen.sum()), 1)),
            "per_s": _throughput(arrival, latency, good, warmup_s, stop, end_s),
        }
    return document


def counts(table: pa.Table) -> dict[str, int]:
    """How many rows were issued and what became of them; issued = completed + rejected + unfinished.

    Raises ``ValueError`` when a status is none of the three.
    """
    found = (
        dict(zip(*(column.to_pylist() for column in table["status"].value_counts().flatten()), strict=True))
        if len(table)
        else {}
    )
    unknown = sorted(set(found) - {COMPLETED, REJECTED, UNFINISHED})
    if unknown:
        raise ValueError(f"status is {unknown[0]!r}: must be completed, rejected or unfinished")
    return {"issued": len(table)} | {status: found.get(status, 0) for status in (COMPLETED, REJECTED, UNFINISHED)}


def describe(values: Array) -> dict[str, float | None]:
    """Mean and quantiles (linear between order statistics); None for nothing.

    >>> describe(np.array([1.0, 2.0, 3.0]))["p50"]
    2.0
    """
    if not len(values):
        return dict.fromkeys(("mean", "p50", "p95", "p99"))
    p50, p95, p99 = np.percentile(values, [50, 95, 99])
    return {"mean": float(values.mean()), "p50": float(p50), "p95": float(p95), "p99": float(p99)}


def call_times(calls: pa.Table) -> dict[str, Array]:
    """Per completed call, seconds: latency, queue, prefill (scheduled to first token), decode, ttft, tpot.

    ``tpot`` is NaN for calls of fewer than two output tokens.
    """
    done = calls.filter(pa.array(_is(calls, COMPLETED)))
    issued, scheduled, first, end = (_column(done, name) for name in ("issued_s", "scheduled_s", "first_token_s", "end_s"))
    later_tokens = _column(done, "output_tokens") - 1.0
    return {
        "latency": end - issued,
        "queue": scheduled - issued,
        "prefill": first - scheduled,
        "decode": end - first,
        "ttft": first - issued,
        "tpot": np.divide(end - first, later_tokens, out=np.full(len(end), np.nan), where=later_tokens > 0),
    }


def by_llm(calls: pa.Table, start_s: float = 0.0, stop_s: float = np.inf) -> dict[str, Any]:
    """Token timings, cache hits, preemptions and counts of each LLM's calls; times of those issued in [start_s, stop_s)."""
    llms = _numbered(calls["llm"])
    told = calls.select(_TOLD)  # filtering the names too would take most of the time
    found = {}
    for number, llm in enumerate(llms.names):
        mine = told.filter(pa.array(llms.of == number))
        issued = _column(mine, "issued_s")
        window = mine.filter(pa.array((issued >= start_s) & (issued < stop_s)))
        times = call_times(window)
        prompt = _column(window, "input_tokens").sum()
        found[llm] = {
            "calls": counts(mine),
            **{f"{name}_s": describe(values[~np.isnan(values)]) for name, values in times.items()},
            "cached_prompt_share": float(_column(window, "cached_tokens").sum() / prompt) if prompt else 0.0,
            "preemptions": int(_column(mine, "preemptions").sum()),
        }
    return found


def mean_interval(values: Array, confidence: float = 0.95, batches: int = 20) -> tuple[float, float]:
    """Confidence interval of a steady-state mean from one long run, by batch means.

    Consecutive values are cut into ``batches`` equal batches (a rest at the start is left out); their means are nearly
    independent, so Student's t applies (Law, Simulation Modeling and Analysis, 9.5.3). Raises ``ValueError`` with fewer
    than 2 per batch.
    """
    size = len(values) // batches
    if size < 2:
        raise ValueError(f"{len(values)} values: must be at least {2 * batches} for {batches} batches")
    return seeds_interval(values[len(values) - size * batches :].reshape(batches, size).mean(axis=1), confidence)


def seeds_interval(means: Sequence[float] | Array, confidence: float = 0.95) -> tuple[float, float]:
    """Confidence interval of a mean from independent replications (one value per seed), Student's t.

    >>> low, high = seeds_interval([1.0, 2.0, 3.0])
    >>> round(low, 3), round(high, 3)
    (-0.484, 4.484)
    """
    data = np.asarray(means, dtype=float)
    if len(data) < 2:
        raise ValueError(f"{len(data)} seeds: must be at least 2 for an interval")
    half = t_quantile((1 + confidence) / 2, len(data) - 1) * float(data.std(ddof=1)) / float(np.sqrt(len(data)))
    return float(data.mean()) - half, float(data.mean()) + half


def _column(table: pa.Table, name: str) -> Array:
    values: Array = table[name].to_numpy(zero_copy_only=False).astype(float)
    return values


class _Numbered(NamedTuple):
    """A column of names by number."""

    names: list[str]
    """In order of appearance."""
    of: npt.NDArray[np.int32]
    """The number of each row's name."""


def _numbered(column: pa.ChunkedArray) -> _Numbered:
    coded = column.combine_chunks().dictionary_encode()
    return _Numbered(coded.dictionary.to_pylist(), coded.indices.to_numpy(zero_copy_only=False))


def _is(table: pa.Table, status: str) -> npt.NDArray[np.bool_]:
    return np.asarray(pc.equal(table["status"], status).to_numpy(), dtype=bool)


def _latency(runs: pa.Table) -> Array:
    return _column(runs, "end_s") - _column(runs, "arrival_s")


def _last(runs: pa.Table, calls: pa.Table) -> float:
    times = np.concatenate([_column(runs, "end_s"), _column(runs, "arrival_s"), _column(calls, "end_s")])
    return float(np.nanmax(times)) if len(times) and not np.all(np.isnan(times)) else 0.0


def _throughput(arrival: Array, latency: Array, chosen: npt.NDArray[np.bool_], start: float, stop: float, end: float) -> float:
    if not chosen.any():
        return 0.0
    last = float((arrival + latency)[chosen].max())
    span = max(stop, last) - start if np.isfinite(stop) else max(end, last) - start
    return float(chosen.sum() / span) if span > 0 else 0.0


def _within(latency: Array, workflows: _Numbered, slo_s: float | Mapping[str, float] | None) -> npt.NDArray[np.bool_]:
    if slo_s is None:
        return np.ones(len(latency), dtype=bool)
    if isinstance(slo_s, Mapping):
        limits = np.asarray([slo_s.get(name, np.inf) for name in workflows.names], dtype=float)[workflows.of]
    else:
        limits = np.full(len(latency), float(slo_s))
    return np.asarray(latency <= limits)


def _calls_within(runs: pa.Table, calls: pa.Table, ttft_s: float | None, tpot_s: float | None) -> npt.NDArray[np.bool_]:
    if ttft_s is None and tpot_s is None:
        return np.ones(len(runs), dtype=bool)
    done = calls.filter(pa.array(_is(calls, COMPLETED)))
    times = call_times(calls)
    late = np.zeros(len(done), dtype=bool)
    if ttft_s is not None:
        late |= times["ttft"] > ttft_s
    if tpot_s is not None:
        late |= np.nan_to_num(times["tpot"]) > tpot_s
    missed = set(done.filter(pa.array(late))["run"].to_pylist())
    return np.asarray([name not in missed for name in runs["run"].to_pylist()], dtype=bool)
