"""Figure 9: Scepsy without one of its means, on a roomy and on a tight cluster."""

import evaluated
import matplotlib.pyplot as plt
import style


def main() -> None:
    data, output = style.folders(__doc__ or "")
    points = style.read(data, "points")
    kept = evaluated.overall(evaluated.base(points))
    pairs = kept[kept["group"] == "ablation"].drop_duplicates(["workload", "gpus", "gpus_per_node"])
    panels = [(row.workload, row.gpus, row.gpus_per_node) for row in pairs.itertuples()]
    if not panels:
        style.skip("fig_09_ablation", f"{data}/points.parquet has no rows of ablations")
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    width = style.COLUMN_IN if columns == 1 else style.PAGE_IN
    figure, grid = plt.subplots(rows, columns, figsize=(width, 2.0 * rows + 0.5), layout="constrained", squeeze=False)
    drawn = kept[kept["group"].eq("ablation") | kept["system"].eq(evaluated.OURS)]
    for axes, (workload, gpus, node) in zip(grid.flat, panels, strict=False):
        mine = drawn[(drawn["workload"] == workload) & (drawn["gpus"] == gpus) & (drawn["gpus_per_node"] == node)]
        evaluated.limits(axes, mine)
        for system in reversed(evaluated.systems(mine)):
            one = mine[mine["system"] == system]
            evaluated.curve(axes, one, evaluated.look(system, points), front=system == evaluated.OURS)
        none = [evaluated.title(s, mine) for s in evaluated.systems(mine) if mine[mine["system"] == s]["mean_s"].isna().all()]
        if none:
            axes.text(0.98, 0.02, f"no plan: {', '.join(none)}", transform=axes.transAxes, ha="right", va="bottom", fontsize=5)
        axes.set_title(f"{workload.replace('+', ' + ')}, {gpus} GPUs in nodes of {min(gpus, node)}")
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for axes in grid[-1]:
        axes.set_xlabel("arrival rate (runs/s)")
    for row in grid:
        row[0].set_ylabel("mean latency (s)")
    handles = evaluated.legend_of(evaluated.systems(drawn), drawn, points) + evaluated.marks()
    figure.legend(handles=handles, loc="outside lower center", ncols=3 if columns == 1 else 5, columnspacing=1.0)
    evaluated.finish(figure, drawn, output, "fig_09_ablation")


if __name__ == "__main__":
    main()
