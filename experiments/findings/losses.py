"""Where another system is better than Scepsy: from every table, by workflow and point, with intervals.

A *loss* is a point at which both systems are stable and the other's mean latency is more than 2 % lower, or a question on which
its highest stable rate is more than 2 % higher, and the 95 % interval of the ratio leaves out 1. The point need not be settled:
a mean that is known less well than asked for has a wide interval, and the interval decides. Where the ratio is past 2 % and the
interval holds 1, or a bracket of highest rates is open, the loss is *possible*: more seeds or longer runs may make it one.
Where the other is stable and Scepsy is shown not to be, that is a loss too, and a possible one where it is not decided.
"""

import math
from typing import Any

import pandas as pd

from experiments.findings.compare import KEYS, OURS, OWN_GROUPS, TIE, records
from scepsy.steady.verdict import STABLE, UNSTABLE

LOSS, POSSIBLE = "loss", "possible"
RUN_TIMES = {
    "muxserve": "its prompts take all SMs that decoding leaves, where Scepsy's shares are fixed (tested: docs/accuracy.md)"
}
"""What a system's run time does that no plan of Scepsy can. ``experiments.studies.evaluation.prompt_shares`` has tested it."""


def losses(compared: pd.DataFrame, highest: pd.DataFrame) -> pd.DataFrame:
    """Losses and possible losses against systems that are not Scepsy's own variants, the largest first.

    ``ratio`` below 1 says by how much the other is better: its latency over Scepsy's, or Scepsy's rate over its.
    """
    rows = []
    for row in records(compared):
        if row["group"] in OWN_GROUPS:
            continue
        if row["other_verdict"] == STABLE and row["ours_verdict"] != STABLE:
            rows.append(_behind(row))
        if not row["stable"]:
            continue
        rows += (
            _judged(row, "latency", row["low"], row["high"], row["load"], row["workflow"])
            if row["ratio"] == row["ratio"]
            else []
        )
    for row in records(highest):
        if row["system"] == OURS or row["group"] in OWN_GROUPS:
            continue
        rows += _judged(row, "highest rate", row["ratio_low"], row["ratio_high"], row["load"], "")
    columns = [
        *("verdict", "statistic", *KEYS, "workflow", "load", "system", "title", "option", "ratio", "low", "high", "settled"),
        *("ours_decided", "other_decided", "explanation"),
    ]
    if not rows:
        return pd.DataFrame(columns=columns)
    return pd.DataFrame(rows)[columns].sort_values(["verdict", "ratio"], kind="stable", ignore_index=True)


def _behind(row: dict[str, Any]) -> dict[str, Any]:
    """The other system keeps up, and Scepsy is not shown to."""
    certain = row["ours_verdict"] == UNSTABLE
    known = {name: row[name] for name in (*KEYS, "workflow", "load", "system", "title", "option", "settled")}
    return (
        known
        | {
            "verdict": LOSS if certain else POSSIBLE,
            "statistic": "keeps up",
            "ratio": math.nan,
            "low": math.nan,
            "high": math.nan,
        }
        | {"ours_decided": row["ours_decided"], "other_decided": row["other_decided"]}
        | {"explanation": explanation(row, certain, math.nan) if certain else "not decided whether Scepsy keeps up"}
    )


def _judged(row: dict[str, Any], statistic: str, low: float, high: float, load: float, workflow: str) -> list[dict[str, Any]]:
    if not row["ratio"] < 1 / (1 + TIE):
        return []
    certain = high < 1
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
            "explanation": explanation(row, certain, high),
        }
    ]


def explanation(row: dict[str, Any], certain: bool, high: float) -> str:
    """Why a loss is one, as far as it is known."""
    if not certain:
        return "the interval holds 1" if high == high else "one highest rate has a bound on one side only"
    if row.get("ours_carried"):
        return f"Scepsy runs a plan for a lower rate ({row['ours_carried'].partition(':')[0]})"
    if row.get("ours_decided") and row.get("ours_decided") == row.get("other_decided"):
        return "the same allocation, run in another order or placed differently"
    if row["system"] in RUN_TIMES:
        return RUN_TIMES[row["system"]]
    if row["arrivals"] != "poisson":
        return "another allocation: planners are told of Poisson arrivals, and these come in bursts (docs/accuracy.md)"
    return "another allocation or run time: not explained by the tables"
