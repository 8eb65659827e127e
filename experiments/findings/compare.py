"""From rows of single seeds to comparisons: every system at its best option against Scepsy, paired by seed.

Both systems of a pair replayed the same runs at the same times (common random numbers), so the ratio is taken seed by seed and
Student's t on its logarithm gives the interval (Law, Simulation Modeling and Analysis, 10.2 and 11.2). With one seed the
batch-means intervals of both are combined as independent relative errors, which is too wide.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scepsy.metrics import seeds_interval

OURS = "scepsy"
OWN_GROUPS = ("scepsy", "ablation", "oracle")
"""Groups that are no other system: Scepsy's variants, and what nobody could run."""
TIE = 0.02
"""Within 2 % is no difference."""
KEYS = ("workload", "gpus", "gpus_per_node", "gpu_type", "arrivals", "planned_on", "measured_on", "models")
"""What makes rows answers to one question."""
ALL = "all requests"
"""The name under which several workflows are joined, each weighted by its rate."""
_VALUES = ("latency_mean_s", "latency_mean_half_width_s", "latency_p50_s", "latency_p95_s", "latency_p99_s")


def read_table(results: Path, name: str) -> pd.DataFrame | None:
    """One experiment's parquet; None when it has not been run."""
    path = results / f"{name}.parquet"
    return pd.read_parquet(path) if path.exists() else None


def keyed(frame: pd.DataFrame) -> pd.DataFrame:
    """The table with every key column; those that an older table lacks are empty."""
    found = frame.copy()
    for name in KEYS:
        if name not in found:
            found[name] = 0 if name.startswith("gpus") else ""
    return found


def per_seed(frame: pd.DataFrame, kind: str = "sweep") -> pd.DataFrame:
    """One row per question, system, option, load, workflow and seed; where a question has several workflows, also one of all
    requests.
    """
    found = keyed(frame[(frame["source"] == "simulated") & (frame["kind"] == kind)])
    several = found["workload"].str.contains("+", regex=False)
    mixed = found[several].copy()
    if mixed.empty:
        return found.reset_index(drop=True)
    for name in _VALUES:
        mixed[name] = mixed[name] * mixed["rate_per_s"]
    keys = [*KEYS, "system", "option", "load", "seed"]
    whole = {name: (name, lambda v: v.sum(skipna=False)) for name in _VALUES} | {
        "rate_per_s": ("rate_per_s", "sum"),
        "stable": ("stable", "all"),
    }
    kept = ("title", "group", "point_verdict", "point_settled", "point_why", "decided", "carried", "source")
    joined = mixed.groupby(keys, as_index=False, sort=False).agg(**whole, **{name: (name, "first") for name in kept})
    for name in _VALUES:
        joined[name] = joined[name] / joined["rate_per_s"]
    joined["workflow"], joined["kind"] = ALL, kind
    return pd.concat([found, joined], ignore_index=True)


def best_options(seeds: pd.DataFrame) -> pd.DataFrame:
    """Of each system's options the best at each question, load and workflow: stable before not, then the lowest mean."""
    keys = [*KEYS, "workflow", "system", "load"]
    scored = seeds.groupby([*keys, "option"], as_index=False, sort=False).agg(
        score=("latency_mean_s", "mean"), verdict=("point_verdict", "first")
    )
    scored["shaky"] = (scored["verdict"] != "stable").astype(int)
    best = scored.sort_values(["shaky", "score"], kind="stable", na_position="last").drop_duplicates(keys)
    return seeds.merge(best[[*keys, "option"]], on=[*keys, "option"], how="inner")


def paired_ratio(ours: pd.DataFrame, other: pd.DataFrame, column: str = "latency_mean_s") -> tuple[float, float, float]:
    """Other over ours: estimate and 95 % interval over the seeds that both have; NaN where there is none."""
    both = ours.merge(other, on="seed", suffixes=("", "_other"), how="inner")
    both = both[(both[column] > 0) & (both[f"{column}_other"] > 0)]
    if both.empty:
        return math.nan, math.nan, math.nan
    logs = np.log(both[f"{column}_other"].to_numpy(dtype=float) / both[column].to_numpy(dtype=float))
    if len(both) >= 2:
        low, high = seeds_interval(logs)
        return float(np.exp(logs.mean())), float(np.exp(low)), float(np.exp(high))
    width = f"{column.removesuffix('_s')}_half_width_s"
    if width not in both:
        return float(np.exp(logs[0])), math.nan, math.nan
    row = both.iloc[0]
    relative = math.hypot(row[width] / row[column], row[f"{width}_other"] / row[f"{column}_other"])
    centre = float(np.exp(logs[0]))
    return centre, centre * math.exp(-relative), centre * math.exp(relative)


def over_seeds(values: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    """Mean of the seeds' values and its 95 % interval; the ends are NaN with one seed."""
    data = np.asarray(values, dtype=float)
    if len(data) < 2:
        return float(data.mean()) if len(data) else math.nan, math.nan, math.nan
    low, high = seeds_interval(data)
    return float(data.mean()), low, high


def comparisons(frame: pd.DataFrame) -> pd.DataFrame:
    """Scepsy against every other system at every common rate of every question and workflow.

    ``ratio``: the other's mean latency over Scepsy's, above 1 Scepsy is faster; ``low`` and ``high`` its 95 % interval;
    ``p95_ratio`` the same of the 95th percentile. ``settled``: both points are.
    """
    best = best_options(per_seed(frame))
    rows = []
    for key, here in best.groupby([*KEYS, "workflow", "load"], sort=False):
        ours = here[here["system"] == OURS]
        if ours.empty:
            continue
        for system, other in here[here["system"] != OURS].groupby("system", sort=False):
            ratio, low, high = paired_ratio(ours, other)
            rows.append(
                dict(zip([*KEYS, "workflow", "load"], key, strict=True))
                | {
                    "rate_per_s": float(ours["rate_per_s"].iloc[0]),
                    "system": system,
                    "title": other["title"].iloc[0],
                    "group": other["group"].iloc[0],
                    "option": other["option"].iloc[0],
                    "ours_s": float(ours["latency_mean_s"].mean()),
                    "other_s": float(other["latency_mean_s"].mean()),
                    "ratio": ratio,
                    "low": low,
                    "high": high,
                    "p95_ratio": paired_ratio(ours, other, "latency_p95_s")[0],
                    "seeds": len(set(ours["seed"]) & set(other["seed"])),
                    "stable": bool((ours["point_verdict"] == "stable").all() and (other["point_verdict"] == "stable").all()),
                    "settled": bool(ours["point_settled"].all() and other["point_settled"].all()),
                    "ours_verdict": ours["point_verdict"].iloc[0],
                    "other_verdict": other["point_verdict"].iloc[0],
                    "ours_decided": _text(ours, "decided"),
                    "other_decided": _text(other, "decided"),
                    "ours_carried": _text(ours, "carried"),
                }
            )
    return pd.DataFrame(rows)


def _text(rows: pd.DataFrame, name: str) -> str:
    value = rows[name].iloc[0] if name in rows else ""
    return value if isinstance(value, str) else ""


def maxima(frame: pd.DataFrame) -> pd.DataFrame:
    """The highest stable rate of every system at its best option, with its interval over seeds, and Scepsy's over it.

    ``settled``: every seed's border is. ``ratio`` is infinite where a system is stable at no load in some seed.
    """
    found = keyed(frame[frame["kind"] == "maximum"])
    rows = []
    for key, here in found.groupby(list(KEYS), sort=False):
        chosen = {}
        for system, mine in here.groupby("system", sort=False):
            rates = mine.groupby("option", sort=False)["rate_per_s"].mean()
            chosen[system] = mine[mine["option"] == rates.idxmax()]
        ours = chosen.get(OURS)
        for system, mine in chosen.items():
            value, low, high = over_seeds(mine["rate_per_s"].to_numpy())
            ratio, ratio_low, ratio_high = _rate_ratio(ours, mine)
            rows.append(
                dict(zip(KEYS, key, strict=True))
                | {
                    "system": system,
                    "title": mine["title"].iloc[0],
                    "group": mine["group"].iloc[0],
                    "option": mine["option"].iloc[0],
                    "rate_per_s": value,
                    "low": low,
                    "high": high,
                    "load": float(mine["load"].mean()),
                    "unstable_from": float(mine["load_unstable"].min()),
                    "seeds": len(mine),
                    "settled": bool(mine["settled"].all()),
                    "why": next((text for text in mine["why"] if text), ""),
                    "ratio": ratio,
                    "ratio_low": ratio_low,
                    "ratio_high": ratio_high,
                }
            )
    return pd.DataFrame(rows)


def _rate_ratio(ours: pd.DataFrame | None, other: pd.DataFrame) -> tuple[float, float, float]:
    """Scepsy's rate over the other's."""
    if ours is None or not (ours["rate_per_s"] > 0).all():
        return math.nan, math.nan, math.nan
    if not (other["rate_per_s"] > 0).all():
        return math.inf, math.nan, math.nan
    return paired_ratio(other, ours, "rate_per_s")


def largest(frame: pd.DataFrame, column: str) -> dict[str, Any]:
    """The row with the largest value; the first of equal ones. Raises ``IndexError`` for an empty table."""
    return records(frame.sort_values(column, ascending=False, kind="stable"))[0]


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as plain values."""
    rows: list[dict[str, Any]] = frame.to_dict("records")  # type: ignore[assignment]
    return rows
