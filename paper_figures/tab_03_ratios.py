"""Table 3: Scepsy against each system: highest stable rates, and mean latency where both are stable, with 95 % intervals."""

import evaluated
import pandas as pd
import style
import tables


def interval(value: float, low: float, high: float, settled: bool) -> str:
    """``1.23 [1.20, 1.26]``; an asterisk where it is not settled."""
    if pd.isna(value):
        return "–"
    ends = "" if pd.isna(low) or pd.isna(high) else f" [{low:.3g}, {high:.3g}]"
    return f"{value:.3g}{ends}" + ("" if settled else " *")


def ratios(points: pd.DataFrame, compared: pd.DataFrame, maxima: pd.DataFrame) -> pd.DataFrame:
    """One row per workload, cluster and system."""
    compared = evaluated.overall(evaluated.base(compared, gpus_per_node=8))
    rows = []
    for row in evaluated.base(maxima, gpus_per_node=8).to_dict("records"):
        if row["system"] == evaluated.OURS or row["group"] == "ablation":
            continue
        same = (
            (compared["workload"] == row["workload"])
            & (compared["gpus"] == row["gpus"])
            & (compared["system"] == row["system"])
        )
        both = compared[same & compared["stable"] & compared["ratio"].notna()].sort_values("ratio")
        least, most = (both.iloc[end].to_dict() if len(both) else None for end in (0, -1))
        never = "never stable" if row["ratio"] == float("inf") else None
        rows.append(
            {
                "workload": row["workload"],
                "GPUs": row["gpus"],
                "system": evaluated.title(row["system"], maxima),
                "rate ratio": never or interval(row["ratio"], row["ratio_low"], row["ratio_high"], row["settled"]),
                "latency ratio, least": _at(least),
                "latency ratio, most": _at(most),
                "rates where both are stable": len(both),
            }
        )
    return pd.DataFrame(rows)


def _at(row: dict | None) -> str:  # type: ignore[type-arg]
    if row is None:
        return "–"
    return f"{interval(row['ratio'], row['low'], row['high'], row['settled'])} at {row['rate_per_s']:.3g}/s"


def main() -> None:
    data, output = style.folders(__doc__ or "")
    names = ("points", "comparisons", "maxima")
    points, compared, maxima = (style.read(data, name) for name in names)
    caption = (
        "Scepsy's highest stable rate over the other's, and the other's mean latency over Scepsy's: above 1 Scepsy is better. "
        "Latency at common rates at which both are stable; 95 % intervals paired by seed; * not settled within the budget. "
        f"The paper's abstract: up to {style.PAPER_THROUGHPUT}x throughput, {style.PAPER_LATENCY:g}x lower latency."
    )
    tables.save(ratios(points, compared, maxima), output, "tab_03_ratios", caption)


if __name__ == "__main__":
    main()
