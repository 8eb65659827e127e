"""From rows of single seeds to comparisons: every system at its best option against Scepsy, paired by seed.

Both systems of a pair replayed the same runs at the same times (common random numbers), so the ratio is taken seed by seed and
Student's t on its logarithm gives the interval (Law, Simulation Modeling and Analysis, 10.2 and 11.2). With one seed the
batch-means intervals of both are combined as independent relative errors, which is too wide.
"""

import math
from collections.abc import Iterable, Sequence
from math import fsum
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.points.settled import INFEASIBLE
from scepsy.metrics import seeds_interval

Row = dict[str, Any]

OURS = "scepsy"
OWN_GROUPS = ("scepsy", "ablation", "oracle")
"""Groups that are no other system: Scepsy's variants, and what nobody could run."""
TIE = 0.02
"""Within 2 % is no difference."""
KEYS = ("workload", "gpus", "gpus_per_node", "gpu_type", "arrivals", "planned_on", "measured_on", "models")
"""What makes rows answers to one question."""
ONE_LOOK = "the upper end was called unstable by one look only, which may take filling for overload: not confirmed"
REFUTED = "a longer replay with other seeds is stable where this one was called unstable: the upper end is not known"
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


def paired_ratio(ours: Sequence[Row], other: Sequence[Row], column: str = "latency_mean_s") -> tuple[float, float, float]:
    """Other over ours: estimate and 95 % interval over the seeds that both have; NaN where there is none."""
    mine, its = ({row["seed"]: row for row in rows} for rows in (ours, other))
    pairs = [(mine[s], its[s]) for s in mine if s in its and mine[s][column] > 0 and its[s][column] > 0]
    if not pairs:
        return math.nan, math.nan, math.nan
    logs = np.array([math.log(theirs[column] / own[column]) for own, theirs in pairs])
    centre = math.exp(float(logs.mean()))
    if len(logs) >= 2:
        low, high = seeds_interval(logs)
        return centre, math.exp(low), math.exp(high)
    width = f"{column.removesuffix('_s')}_half_width_s"
    relative = math.hypot(*(row.get(width, math.nan) / row[column] for row in pairs[0]))
    return centre, centre * math.exp(-relative), centre * math.exp(relative)


def over_seeds(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean of the seeds' values and its 95 % interval; the ends are NaN with one seed."""
    data = np.asarray(values, dtype=float)
    if len(data) < 2:
        return float(data.mean()) if len(data) else math.nan, math.nan, math.nan
    low, high = seeds_interval(data)
    return float(data.mean()), low, high


def grouped(rows: Iterable[Row], names: Sequence[str]) -> dict[tuple[Any, ...], list[Row]]:
    """The rows by the values of some columns, in order of first appearance."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in names), []).append(row)
    return found


def points(frame: pd.DataFrame) -> pd.DataFrame:
    """Every swept point of every option over its seeds: means with 95 % intervals, quantiles, verdict, and whether it is its
    system's ``best`` at that load.
    """
    seeds = per_seed(frame)
    keys = (*KEYS, "workflow", "system", "load", "option")
    chosen = set(grouped(records(best_options(seeds)), keys))
    rows = []
    for key, mine in grouped(records(seeds), keys).items():
        first = mine[0]
        mean, low, high = over_seeds([row["latency_mean_s"] for row in mine])
        if len(mine) == 1:
            low, high = mean - first["latency_mean_half_width_s"], mean + first["latency_mean_half_width_s"]
        rows.append(
            dict(zip(keys, key, strict=True))
            | {name: first[name] for name in ("title", "group", "rate_per_s")}
            | {"mean_s": mean, "low_s": low, "high_s": high}
            | {f"p{n}_s": fsum(row[f"latency_p{n}_s"] for row in mine) / len(mine) for n in (50, 95, 99)}
            | {
                "verdict": first["point_verdict"],
                "settled": all(row["point_settled"] for row in mine),
                "why": _text(first, "point_why"),
                "seeds": len(mine),
                "best": key in chosen,
                "decided": _text(first, "decided"),
                "carried": _text(first, "carried"),
            }
        )
    return pd.DataFrame(rows)


def comparisons(frame: pd.DataFrame) -> pd.DataFrame:
    """Scepsy against every other system at every common rate of every question and workflow.

    ``ratio``: the other's mean latency over Scepsy's, above 1 Scepsy is faster; ``low`` and ``high`` its 95 % interval;
    ``p95_ratio`` the same of the 95th percentile. ``settled``: both points are.
    """
    names = (*KEYS, "workflow", "load")
    rows = []
    for key, here in grouped(records(best_options(per_seed(frame))), names).items():
        by_system = grouped(here, ("system",))
        ours = by_system.pop((OURS,), [])
        for (system,), other in by_system.items() if ours else ():
            ratio, low, high = paired_ratio(ours, other)
            both = [*ours, *other]
            rows.append(
                dict(zip(names, key, strict=True))
                | {
                    "rate_per_s": ours[0]["rate_per_s"],
                    "system": system,
                    "title": other[0]["title"],
                    "group": other[0]["group"],
                    "option": other[0]["option"],
                    "ours_s": fsum(row["latency_mean_s"] for row in ours) / len(ours),
                    "other_s": fsum(row["latency_mean_s"] for row in other) / len(other),
                    "ratio": ratio,
                    "low": low,
                    "high": high,
                    "p95_ratio": paired_ratio(ours, other, "latency_p95_s")[0],
                    "seeds": len({row["seed"] for row in ours} & {row["seed"] for row in other}),
                    "stable": all(row["point_verdict"] == "stable" for row in both),
                    "settled": all(row["point_settled"] for row in both),
                    "ours_verdict": ours[0]["point_verdict"],
                    "other_verdict": other[0]["point_verdict"],
                    "ours_decided": _text(ours[0], "decided"),
                    "other_decided": _text(other[0], "decided"),
                    "ours_carried": _text(ours[0], "carried"),
                }
            )
    return pd.DataFrame(rows)


def _text(row: Row, name: str) -> str:
    value = row.get(name, "")
    return value if isinstance(value, str) else ""


Checked = dict[tuple[object, ...], float]
"""By question, system, option and commit: the highest load that longer replays have shown stable though the rows call it
unstable."""


def checked_ends(table: pd.DataFrame | None) -> Checked:
    """What ``experiments.studies.evaluation.unstable_ends`` has refuted."""
    found: Checked = {}
    for row in records(table) if table is not None else []:
        if row["verdict"] == "stable":
            name = _name_of(row, row["of_commit"])
            found[name] = max(found.get(name, 0.0), row["load_unstable"])
    return found


def _name_of(row: Row, commit: object) -> tuple[object, ...]:
    return (*(row[name] for name in KEYS), row["system"], row["option"], commit)


def refuted(row: Row, checked: Checked) -> Row:
    """A bracket's row, where a longer replay is stable at its upper end: that is the highest load shown stable then."""
    load = checked.get(_name_of(row, row["commit"]), 0.0)
    if load < row["load_unstable"] or not math.isfinite(row["load_unstable"]):
        return row
    rate = row["rate_high_per_s"]
    open_end = {"load_stable": load, "load": load, "load_unstable": math.inf, "settled": False, "why": REFUTED}
    return row | open_end | {"rate_low_per_s": rate, "rate_per_s": rate, "rate_high_per_s": math.inf}


def maxima(frame: pd.DataFrame, checked: Checked | None = None) -> pd.DataFrame:
    """The highest stable rate of every system at its best option, its bracket, and Scepsy's over it.

    ``low`` is shown stable, ``high`` shown unstable, ``rate_per_s`` their middle; ``settled``: they are as close as asked for.
    What the swept points show counts too: they may be longer than what the bisection spent on a load.
    ``ratio_low`` and ``ratio_high`` are the ends that both brackets allow. A system that is stable at no load has an infinite
    ratio, and one that cannot run at all has none. Ends that are not known are NaN. ``checked``: see ``checked_ends``.
    """
    rows = []
    swept = grouped(records(keyed(frame[frame["kind"] == "sweep"])), (*KEYS, "system"))
    for key, here in grouped(records(keyed(frame[frame["kind"] == "maximum"])), KEYS).items():
        here = [narrowed(refuted(upper_end_of(row), checked or {}), swept.get((*key, row["system"]), [])) for row in here]
        chosen = {
            system: max(mine, key=lambda row: (row["rate_per_s"], row["rate_low_per_s"]))
            for (system,), mine in grouped(here, ("system",)).items()
        }
        ours = chosen.get(OURS)
        for system, best in chosen.items():
            ratio, ratio_low, ratio_high = _rate_ratio(ours, best)
            rows.append(
                dict(zip(KEYS, key, strict=True))
                | {"system": system, "low": best["rate_low_per_s"], "high": best["rate_high_per_s"]}
                | {name: best[name] for name in ("title", "group", "option", "rate_per_s", "load", "seeds", "settled", "why")}
                | {"unstable_from": best["load_unstable"], "ratio": ratio, "ratio_low": ratio_low, "ratio_high": ratio_high}
            )
    return pd.DataFrame(rows)


def narrowed(row: Row, swept: Sequence[Row]) -> Row:
    """A bracket's row with what the system's swept points show: the highest load at which it is stable with any option, and the
    lowest above at which this option is not. Brief replays beyond a known border show nothing new.
    """
    low = max([row["load_stable"], *(one["load"] for one in swept if one["point_verdict"] == "stable")])
    worse = (
        one["load"]
        for one in swept
        if one["point_verdict"] == "unstable" and one["option"] == row["option"] and _confirmed(one)
    )
    high = min([row["load_unstable"], *(load for load in worse if load > low)])
    if (low, high) == (row["load_stable"], row["load_unstable"]) or low >= high:
        return row
    load = math.sqrt(low * high) if low and math.isfinite(high) else low
    per_load = _rate_at_full_load(swept)
    rates = {"rate_low_per_s": per_load * low, "rate_high_per_s": per_load * high, "rate_per_s": per_load * load}
    return row | {"load_stable": low, "load_unstable": high, "load": load} | rates


def upper_end_of(row: Row) -> Row:
    """A bracket's row, without an upper end that only one look calls unstable: it may have seen the system fill.

    Rows that say ``confirmed`` were made by the rule that growth must last (``experiments.points.settled``). Of the others an
    end counts as known where nothing can run there.
    """
    if _confirmed(row) or not math.isfinite(row["load_unstable"]) or _text(row, "why").startswith(INFEASIBLE):
        return row
    low = row["load_stable"]
    open_end = {"load_unstable": math.inf, "rate_high_per_s": math.inf, "settled": False, "load": low}
    return row | open_end | {"rate_per_s": row["rate_low_per_s"], "why": ONE_LOOK}


def _confirmed(row: Row) -> bool:
    """Whether a row was made by the rule that growth must last; tables of before lack the column, or have NaN in it."""
    return bool(row.get("confirmed") == 1)


def _rate_at_full_load(swept: Sequence[Row]) -> float:
    """Runs/s of all workflows at load 1, from the rows of one option, load and seed. Rates are proportional to the load."""
    first = swept[0]
    same = [row for row in swept if all(row[name] == first[name] for name in ("option", "load", "seed"))]
    return fsum(row["rate_per_s"] for row in same) / float(first["load"])


def _rate_ratio(ours: Row | None, other: Row) -> tuple[float, float, float]:
    """Scepsy's rate over the other's, and the ends that the brackets allow."""
    if ours is None or not ours["rate_low_per_s"] > 0 or _text(other, "why").startswith(INFEASIBLE):
        return math.nan, math.nan, math.nan
    if not other["rate_low_per_s"] > 0:
        return math.inf, _over(ours["rate_low_per_s"], other["rate_high_per_s"]), math.nan
    low = _over(ours["rate_low_per_s"], other["rate_high_per_s"])
    high = _over(ours["rate_high_per_s"], other["rate_low_per_s"])
    return ours["rate_per_s"] / other["rate_per_s"], low, high


def _over(first: float, second: float) -> float:
    return first / second if math.isfinite(first) and math.isfinite(second) and second > 0 else math.nan


def largest(frame: pd.DataFrame, column: str) -> Row:
    """The row with the largest value; the first of equal ones. Raises ``IndexError`` for an empty table."""
    return records(frame.sort_values(column, ascending=False, kind="stable"))[0]


def records(frame: pd.DataFrame) -> list[Row]:
    """The rows as plain values."""
    rows: list[Row] = frame.to_dict("records")  # type: ignore[assignment]
    return rows
