"""Figure 5: mean latency against rate of every system at its best option, 16 GPUs."""

import evaluated
import matplotlib.pyplot as plt
import style

WORKLOADS = ("rag-rerank", "beam-search", "rag-rerank+beam-search")


ROWS = (("other systems", lambda group: group != "scepsy"), ("Scepsy's own planners", lambda group: group == "scepsy"))
"""Two rows of panels, Scepsy in both: too many lines for one."""


def main() -> None:
    data, output = style.folders(__doc__ or "")
    points, maxima = style.read(data, "points"), style.read(data, "maxima")
    kept = evaluated.overall(evaluated.base(points, gpus=16, gpus_per_node=8))
    kept = kept[kept["best"] & (kept["group"] != "ablation")]
    workloads = [name for name in WORKLOADS if name in set(kept["workload"])]
    if not workloads:
        style.skip("fig_05_main", f"{data}/points.parquet has no rows on 16 GPUs")
    wide = len(workloads) > 1
    figure, grid = plt.subplots(
        2, len(workloads), figsize=(style.PAGE_IN if wide else style.COLUMN_IN, 5.0), layout="constrained", squeeze=False,
        sharex="col", sharey="col",
    )  # fmt: skip
    for (label, belongs), line in zip(ROWS, grid, strict=True):
        for axes, workload in zip(line, workloads, strict=True):
            panel(axes, kept[kept["workload"] == workload], points, belongs)
            highest = evaluated.base(maxima, gpus=16, gpus_per_node=8, workload=workload)
            shown = highest[highest["group"].map(belongs) | (highest["system"] == evaluated.OURS)]
            evaluated.maxima_rug(axes, shown[shown["group"] != "ablation"], points)
            if label == ROWS[0][0]:
                axes.set_title(workload.replace("+", " + "), pad=11)
                axes.text(0.0, 1.03, claim(axes, highest), transform=axes.transAxes, fontsize=5, color="#555555", va="bottom")
        line[0].set_ylabel(f"{label}\nmean latency (s)")
    for axes in grid[-1]:
        axes.set_xlabel("arrival rate (runs/s)")
    handles = evaluated.legend_of(evaluated.systems(kept), kept, points) + evaluated.marks(rug=True)
    figure.legend(
        handles=handles, loc="outside lower center", ncols=5 if wide else 2, columnspacing=0.9, handlelength=2.2, fontsize=5.5
    )
    evaluated.finish(figure, kept, output, "fig_05_main")


def panel(axes, mine, everyone, belongs) -> None:  # type: ignore[no-untyped-def]
    """One workload's curves of the systems that belong to the row, Scepsy on top."""
    evaluated.limits(axes, mine)
    names = [name for name in evaluated.systems(mine) if name == evaluated.OURS or belongs(group_of(name, mine))]
    for number, system in reversed(list(enumerate(names))):
        looks, shift = evaluated.look(system, everyone), 0.06 * (number / len(names) - 0.5)
        evaluated.curve(axes, mine[mine["system"] == system], looks, front=system == evaluated.OURS, shift=shift)


def group_of(system, frame) -> str:  # type: ignore[no-untyped-def]
    return str(frame.loc[frame["system"] == system, "group"].iloc[0])


def claim(axes, highest) -> str:  # type: ignore[no-untyped-def]
    """The abstract's throughput in words, and a tick on the upper edge where the panel reaches there.

    It is that factor times the highest rate at which another system is shown stable.
    """
    others = highest[~highest["group"].isin(evaluated.OWN_GROUPS)]["low"]
    if not len(others) or not others.max() > 0:
        return "no other system is stable"
    at = others.max() * style.PAPER_THROUGHPUT
    if at <= axes.get_xlim()[1]:
        axes.plot([at], [1.0], marker="v", markersize=3, color="#555555", transform=axes.get_xaxis_transform(), clip_on=False)
    return f"{style.PAPER_THROUGHPUT}x (abstract) over the best other: {at:.3g}/s"


if __name__ == "__main__":
    main()
