"""Which unknown would have to be otherwise for a claim to hold: Scepsy's advantage as one assumption at a time is changed."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from experiments.findings.compare import KEYS, OURS, OWN_GROUPS, grouped, records

BASE = "as assumed"


def assumption(row: Mapping[str, Any]) -> tuple[str, str] | None:
    """(What is changed, to what) of a question, None where two things are changed at once."""
    changed = []
    if row["gpu_type"] != "A100-80G":
        changed.append(("GPU type", row["gpu_type"]))
    if row["arrivals"] != "poisson":
        kind, _, cv = row["arrivals"].partition(":")
        changed.append(("arrivals", f"Gamma, CV {cv}" if kind == "gamma" else "Azure's times"))
    if row["planned_on"]:
        changed.append(("answers", variant_in_words(row["planned_on"])))
    if row["models"]:
        changed.append(("models", row["models"].replace("=", " → ")))
    if len(changed) > 1:
        return None
    return changed[0] if changed else (BASE, "A100, Poisson")


def variant_in_words(variant: str) -> str:
    """A variant of the traces.

    >>> variant_in_words("drift:0.5"), variant_in_words("")
    ('answers 0.5x as long', '')
    """
    kind, _, factor = variant.partition(":")
    return f"answers {factor}x as long" if kind == "drift" else variant


def sensitivity(compared: pd.DataFrame, highest: pd.DataFrame, gpus: int = 8) -> pd.DataFrame:
    """Rows (assumption, value, workload, system): ratio of highest stable rates, and the largest latency ratio where both are
    stable, with intervals; systems that are not Scepsy's own variants, on one cluster size. Where the same systems were asked
    under no changed assumption, nothing is said.
    """
    rows = []
    stable = grouped((row for row in records(compared) if row["stable"] and row["ratio"] > 0), (*KEYS, "system"))
    for row in records(highest):
        changed = assumption(row)
        if changed is None or row["gpus"] != gpus or row["gpus_per_node"] != 8:
            continue
        if row["system"] == OURS or row["group"] in OWN_GROUPS or row["workload"].startswith("real:"):
            continue
        both = stable.get(tuple(row[name] for name in (*KEYS, "system")), [])
        most = max(both, key=lambda one: one["ratio"]) if both else None
        rows.append(
            {
                "assumption": changed[0],
                "value": changed[1],
                "workload": row["workload"],
                "gpus": gpus,
                "system": row["system"],
                "title": row["title"],
                "rate_ratio": row["ratio"],
                "rate_low": row["ratio_low"],
                "rate_high": row["ratio_high"],
                "settled": row["settled"],
                "latency_ratio": math.nan if most is None else most["ratio"],
                "latency_low": math.nan if most is None else most["low"],
                "latency_high": math.nan if most is None else most["high"],
            }
        )
    columns = ["assumption", "value", "workload", "gpus", "system", "title", "rate_ratio", "rate_low", "rate_high", "settled",
               "latency_ratio", "latency_low", "latency_high"]  # fmt: skip
    found = pd.DataFrame(rows, columns=columns)
    # A workload without any changed assumption has nothing to be sensitive to.
    asked = set(found[found["assumption"] != BASE]["workload"])
    return found[found["workload"].isin(asked)].reset_index(drop=True)
