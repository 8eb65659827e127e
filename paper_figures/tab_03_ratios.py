"""Table 3: Scepsy against each system: highest stable rate, and mean latency where both are stable; unrestricted apart."""

import pandas as pd
import style
import tables


def ratios(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per workload and system."""
    points = style.best_option(style.over_seeds(style.per_point(style.sweep(frame))))
    top = style.highest_stable(frame).set_index(["workload", "system"])["rate_per_s"]
    rows = []
    for workload in dict.fromkeys(points["workload"]):
        mine = points[points["workload"] == workload]
        ours = mine[mine["system"] == "scepsy"].set_index("load")
        for system in [s for s in style.SYSTEMS if s in set(mine["system"]) and s != "scepsy"]:
            other = mine[mine["system"] == system].set_index("load")
            both = ours.join(other.add_suffix("_other"), how="inner").dropna(subset=["latency_s", "latency_s_other"])
            ratio = both["latency_s_other"] / both["latency_s"]
            stable = ratio[both["stable"].astype(bool) & both["stable_other"].astype(bool)]
            rows.append(
                {
                    "workload": workload,
                    "system": style.TITLES[system],
                    "rate ratio": top.get((workload, "scepsy"), float("nan")) / top.get((workload, system), float("nan")),
                    "latency ratio, lowest": stable.min() if len(stable) else float("nan"),
                    "latency ratio, highest": stable.max() if len(stable) else float("nan"),
                    "at loads": ", ".join(f"{load:g}" for load in stable.index),
                    "unrestricted highest": ratio.max() if len(ratio) else float("nan"),
                }
            )
    return pd.DataFrame(rows)


def main() -> None:
    data, output = style.folders(__doc__ or "")
    frame = style.read(data, "headline")
    caption = (
        "Other system over Scepsy (latency) and Scepsy over the other (highest stable rate): above 1 Scepsy is better. "
        f"Latency ratios at loads where both are stable; unrestricted: at any load. The paper's abstract: up to "
        f"{style.PAPER_THROUGHPUT}x throughput, {style.PAPER_LATENCY:g}x lower latency."
    )
    tables.save(ratios(frame), output, "tab_03_ratios", caption)


if __name__ == "__main__":
    main()
