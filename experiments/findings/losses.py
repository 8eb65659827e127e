"""Where another system is better than Scepsy: from every table, by workflow and point, with intervals.

A *loss* is a settled point at which the other system's mean latency is more than 2 % lower, or its highest stable rate more
than 2 % higher, and the 95 % interval of the ratio leaves out 1. A point at which the ratio is past 2 % and the interval
holds 1, or which is not settled, is *possible*: more seeds or longer runs may make it one.
"""

from typing import Any

import pandas as pd

from experiments.findings.compare import KEYS, OURS, OWN_GROUPS, TIE, records

LOSS, POSSIBLE = "loss", "possible"


def losses(compared: pd.DataFrame, highest: pd.DataFrame) -> pd.DataFrame:
    """Losses and possible losses against systems that are not Scepsy's own variants, the largest first.

    ``ratio`` below 1 says by how much the other is better: its latency over Scepsy's, or Scepsy's rate over its.
    """
    rows = []
    for row in records(compared):
        if row["group"] in OWN_GROUPS or not row["stable"]:
            continue
        rows += (
            _judged(row, "latency", row["low"], row["high"], row["load"], row["workflow"])
            if row["ratio"] == row["ratio"]
            else []
        )
    settled = {tuple(row[k] for k in KEYS): row["settled"] for row in records(highest) if row["system"] == OURS}
    for row in records(highest):
        if row["system"] == OURS or row["group"] in OWN_GROUPS:
            continue
        row["settled"] = row["settled"] and settled.get(tuple(row[name] for name in KEYS), False)
        rows += _judged(row, "highest rate", row["ratio_low"], row["ratio_high"], row["load"], "")
    columns = [
        *("verdict", "statistic", *KEYS, "workflow", "load", "system", "title", "option", "ratio", "low", "high", "settled"),
        *("ours_decided", "other_decided", "explanation"),
    ]
    if not rows:
        return pd.DataFrame(columns=columns)
    return pd.DataFrame(rows)[columns].sort_values(["verdict", "ratio"], kind="stable", ignore_index=True)


def _judged(row: dict[str, Any], statistic: str, low: float, high: float, load: float, workflow: str) -> list[dict[str, Any]]:
    if not row["ratio"] < 1 / (1 + TIE):
        return []
    certain = bool(row["settled"]) and high < 1
    found = {name: row[name] for name in (*KEYS, "system", "title", "option", "ratio", "settled")}
    return [
        found
        | {
            "verdict": LOSS if certain else POSSIBLE,
            "statistic": statistic,
            "workflow": workflow,
            "load": load,
            "low": low,
            "high": high,
            "ours_decided": row.get("ours_decided", ""),
            "other_decided": row.get("other_decided", ""),
            "explanation": explanation(row, certain),
        }
    ]


def explanation(row: dict[str, Any], certain: bool) -> str:
    """What the table itself can say of a loss. Reading plans and timelines says more."""
    if not certain:
        return "not settled, or the interval holds 1"
    if row.get("ours_carried"):
        return f"Scepsy runs a plan for a lower rate ({row['ours_carried'].partition(':')[0]})"
    if row.get("ours_decided") and row.get("ours_decided") == row.get("other_decided"):
        return "the same allocation, run in another order or placed differently"
    return "another allocation or run time: not explained by the tables"
