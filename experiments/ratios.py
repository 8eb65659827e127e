"""From an experiment's rows to comparisons: best options, latency ratios with intervals, highest stable rates."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scepsy.metrics import seeds_interval

OURS = "scepsy"
TIE_RATIO = 0.02
"""Within 2 % is no difference."""


def read_table(results: Path, name: str) -> pd.DataFrame | None:
    """One experiment's parquet; None when it has not been run."""
    path = results / f"{name}.parquet"
    return pd.read_parquet(path) if path.exists() else None


def points(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per point: workflows joined by requests; its interval is that of the slower estimate, added in the same
    weights.
    """
    found = frame[frame["source"] == "simulated"].copy()
    for column in ("latency_mean_s", "latency_mean_low_s", "latency_mean_high_s", "latency_p95_s"):
        found[column] = found[column] * found["rate_per_s"]
    keys = ["workload", "system", "option", "load", "seed"]
    kept = found.groupby(keys, as_index=False, sort=False).agg(
        rate_per_s=("rate_per_s", "sum"),
        mean=("latency_mean_s", lambda v: v.sum(skipna=False)),
        low=("latency_mean_low_s", lambda v: v.sum(skipna=False)),
        high=("latency_mean_high_s", lambda v: v.sum(skipna=False)),
        p95=("latency_p95_s", lambda v: v.sum(skipna=False)),
        stable=("stable", "all"),
        why=("why", "first"),
        carried=("carried", "first"),
        decided=("decided", "first"),
        kind=("kind", "first"),
    )
    for column in ("mean", "low", "high", "p95"):
        kept[column] = kept[column] / kept["rate_per_s"]
    return kept


def best_options(kept: pd.DataFrame) -> pd.DataFrame:
    """Of each system's options the best at each workload and load over its seeds: stable before unstable, then the lowest
    mean.
    """
    swept = kept[kept["kind"] == "sweep"]
    keys = ["workload", "system", "option", "load"]
    scored = swept.groupby(keys, as_index=False, sort=False).agg(score=("mean", "mean"), steady=("stable", "all"))
    scored["shaky"] = ~scored["steady"].astype(bool)
    chosen = scored.sort_values(["shaky", "score"], kind="stable", na_position="last").drop_duplicates(
        ["workload", "system", "load"]
    )
    return swept.merge(chosen[keys], on=keys, how="inner")


def ratio_interval(ours: pd.DataFrame, other: pd.DataFrame) -> tuple[float, float, float]:
    """Other's mean latency over ours: estimate and 95 % interval.

    With several seeds: Student's t on the log of the paired ratios (the arrivals are the same). With one: the two batch-means
    intervals combined as independent relative errors, which is too wide, since the arrivals are the same.
    """
    both = ours.merge(other, on="seed", suffixes=("", "_other")).dropna(subset=["mean", "mean_other"])
    if both.empty:
        return math.nan, math.nan, math.nan
    logs = np.log(both["mean_other"].to_numpy() / both["mean"].to_numpy())
    centre = float(np.exp(logs.mean()))
    if len(both) >= 2:
        low, high = seeds_interval(logs)
        return centre, float(np.exp(low)), float(np.exp(high))
    row = both.iloc[0]
    relative = math.hypot(
        (row["high"] - row["low"]) / 2 / row["mean"], (row["high_other"] - row["low_other"]) / 2 / row["mean_other"]
    )
    return centre, centre * math.exp(-relative), centre * math.exp(relative)


def comparisons(frame: pd.DataFrame) -> pd.DataFrame:
    """Scepsy against every other system at every load of every workload, each at its best option."""
    best = best_options(points(frame))
    rows = []
    for (workload, load), here in best.groupby(["workload", "load"], sort=False):
        ours = here[here["system"] == OURS]
        for system, other in here[here["system"] != OURS].groupby("system", sort=False):
            ratio, low, high = ratio_interval(ours, other)
            rows.append(
                {
                    "workload": workload,
                    "load": load,
                    "rate_per_s": float(ours["rate_per_s"].mean()),
                    "system": system,
                    "option": other["option"].iloc[0],
                    "ours_s": float(ours["mean"].mean()),
                    "other_s": float(other["mean"].mean()),
                    "ratio": ratio,
                    "low": low,
                    "high": high,
                    "both_stable": bool(ours["stable"].all() and other["stable"].all() and len(ours)),
                    "ours_decided": _first(ours["decided"]),
                    "other_decided": _first(other["decided"]),
                    "ours_carried": _first(ours["carried"]),
                }
            )
    return pd.DataFrame(rows)


def _first(values: Any) -> str:
    return str(values.iloc[0]) if len(values) and isinstance(values.iloc[0], str) else ""


def highest_rates(frame: pd.DataFrame) -> pd.DataFrame:
    """The highest stable rate by workload and system (best option, all seeds stable), and the lowest unstable one above it."""
    kept = points(frame)
    steady = kept.groupby(["workload", "system", "option", "load"], as_index=False, sort=False).agg(
        rate_per_s=("rate_per_s", "mean"), stable=("stable", "all")
    )
    rows = []
    for (workload, system), mine in steady.groupby(["workload", "system"], sort=False):
        good = mine[mine["stable"].astype(bool)]
        top = float(good["rate_per_s"].max()) if len(good) else 0.0
        bad = mine[~mine["stable"].astype(bool) & (mine["rate_per_s"] > top)]
        rows.append(
            {
                "workload": workload,
                "system": system,
                "highest_per_s": top,
                "below_per_s": float(bad["rate_per_s"].min()) if len(bad) else math.inf,
            }
        )
    return pd.DataFrame(rows)
