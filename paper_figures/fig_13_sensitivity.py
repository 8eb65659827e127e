"""Figure 13: Scepsy's advantage as one assumption at a time is changed; the public claims as lines."""

import evaluated
import matplotlib.pyplot as plt
import numpy as np
import style

PANELS = (
    ("rate", "highest rates, Scepsy's over the other's\n(no bar: an end is not known)", style.PAPER_THROUGHPUT),
    ("latency", "mean latency, the other's over Scepsy's\n(the most)", style.PAPER_LATENCY),
)


def main() -> None:
    data, output = style.folders(__doc__ or "")
    frame = style.read(data, "sensitivity")
    if frame.empty:
        style.skip("fig_13_sensitivity", f"{data}/sensitivity.parquet is empty: no assumption was changed at this scale")
    frame = frame.assign(label=frame["workload"] + ": " + frame["value"], changed=frame["assumption"] != "as assumed")
    labels = list(dict.fromkeys(frame.sort_values(["workload", "changed", "assumption"], kind="stable")["label"]))[::-1]
    names = evaluated.systems(frame)
    figure, grid = plt.subplots(1, 2, figsize=(style.PAGE_IN, 0.24 * len(labels) + 1.3), layout="constrained", sharey=True)
    for axes, (prefix, label, claimed) in zip(grid, PANELS, strict=True):
        for number, system in enumerate(names):
            one = frame[(frame["system"] == system) & np.isfinite(frame[f"{prefix}_ratio"])]
            looks = evaluated.look(system, frame)
            y = [labels.index(text) + 0.5 * ((number + 0.5) / len(names) - 0.5) for text in one["label"]]
            centre = one[f"{prefix}_ratio"]
            errors = [
                (centre - one[f"{prefix}_low"]).clip(lower=0).fillna(0),
                (one[f"{prefix}_high"] - centre).clip(lower=0).fillna(0),
            ]
            for settled, face in ((True, looks["color"]), (False, "white")):
                at = (one["settled"] == settled).to_numpy()
                axes.errorbar(
                    centre[at], np.array(y)[at], xerr=[e[at] for e in errors], linestyle="none", marker=looks["marker"],
                    color=looks["color"], markerfacecolor=face, elinewidth=0.7, capsize=1.4,
                )  # fmt: skip
        axes.axvline(1.0, color="black", linewidth=0.6)
        axes.axvline(claimed, color="#555555", linewidth=0.8, linestyle=(0, (1, 2)))
        axes.text(
            claimed, 1.0, f"abstract: {claimed:g}x", transform=axes.get_xaxis_transform(), fontsize=5, ha="center", va="bottom"
        )
        axes.set_xscale("log")
        style.plain(axes, "x")
        axes.set_xlabel(label)
    grid[0].set_yticks(range(len(labels)), labels)
    handles = evaluated.legend_of(names, frame, frame) + evaluated.marks()[:2]
    figure.legend(handles=handles, loc="outside lower center", ncols=6)
    evaluated.finish(figure, frame, output, "fig_13_sensitivity")


if __name__ == "__main__":
    main()
