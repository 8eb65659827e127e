"""The table of docs/operate-results.md from the rows.

python -m experiments.checks.operate.markdown            # prints it
"""

from math import isnan
from pathlib import Path

import pandas as pd

from experiments.checks.operate.systems import RULES

RESULTS = Path(__file__).parents[2] / "results"
COLUMNS = {
    "mean_s": "mean (s)",
    "p95_s": "p95 (s)",
    "within_limit_pct": "in limit (%)",
    "gpu_seconds": "GPU-seconds",
    "settled_mean_s": "settled mean (s)",
    "settled_within_limit_pct": "settled in limit (%)",
    "settled_gpus": "settled GPUs",
    "switches": "switches",
    "rollbacks": "rolled back",
}
LATENCIES = ("mean_s", "p95_s", "settled_mean_s")


def table(rows: pd.DataFrame) -> str:
    """Markdown, one line for each row. With ``>`` where runs had not ended when the simulation did.

    >>> one = {name: 1.0 for name in COLUMNS}
    >>> print(table(pd.DataFrame([{"scenario": "a", "system": "static", "unfinished": 2} | one])).splitlines()[-1])
    | a | static | > 1 | > 1 | 1 | 1 | > 1 | 1 | 1 | 1 | 1 |
    """
    lines = [" | ".join(["| load", "system", *COLUMNS.values()]) + " |", "|---" * (2 + len(COLUMNS)) + "|"]
    place = {name: number for number, name in enumerate(RULES)}
    order = {name: number for number, name in enumerate(dict.fromkeys(rows["scenario"]))}
    found = sorted(rows.to_dict("records"), key=lambda row: (order[row["scenario"]], place[row["system"]]))
    for row in found:
        least = "> " if row["unfinished"] else ""
        cells = [(least if name in LATENCIES else "") + number(row[name]) for name in COLUMNS]
        lines.append(" | ".join([f"| {row['scenario']}", row["system"], *cells]) + " |")
    return "\n".join(lines)


def number(value: float) -> str:
    """Three digits and no exponent; a dash where there is none.

    >>> number(7.766), number(2121.3), number(99.96), number(float("nan"))
    ('7.77', '2121', '100', '–')
    """
    if isnan(value):
        return "–"
    return f"{value:.0f}" if value >= 99.95 else f"{value:.3g}"


def detection(rows: pd.DataFrame) -> str:
    """Markdown of the detection table: one line for each change, the median delay in runs for each workflow."""
    workflows = list(dict.fromkeys(rows["workflow"]))
    changes = [name for name in dict.fromkeys(rows["change"]) if name != "none"]
    cell = {(row["workflow"], row["change"]): row for row in rows.to_dict("records")}
    lines = [" | ".join(["| change", *workflows]) + " |", "|---" * (1 + len(workflows)) + "|"]
    alarms = [f"{number(cell[name, 'none']['alarms_per_week'])} in {number(cell[name, 'none']['weeks'])}" for name in workflows]
    lines.append(" | ".join(["| none: false alarms a week, weeks", *alarms]) + " |")
    for change in changes:
        row = [cell.get((name, change)) for name in workflows]
        told = [f"{number(one['delay_median_runs'])} ({one['found']:.0f} of {one['seeds']:.0f})" if one else "–" for one in row]
        lines.append(" | ".join([f"| {change}", *told]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(pd.read_csv(RESULTS / "operate.csv")))
    print()
    print(detection(pd.read_csv(RESULTS / "drift_detection.csv")))
