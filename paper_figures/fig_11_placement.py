"""Figure 11: placement rules: stranded share, groups that leave their NVLink domain, allocations that were placed at all."""

import matplotlib.pyplot as plt
import style

METHODS = ("exact", "hierarchical", "best-fit", "first-fit", "random")


def main() -> None:
    data, output = style.folders(__doc__ or "")
    frame = style.read(data, "placement")
    table = frame.groupby(["method", "fill"], as_index=False).agg(
        stranded=("stranded_pct", "mean"), broken=("broken_groups", "sum"), groups=("groups", "sum"), placed=("placed", "mean")
    )
    table["broken_pct"] = 100 * table["broken"] / table["groups"]
    table["placed_pct"] = 100 * table["placed"]
    table["fill_pct"] = 100 * table["fill"]
    panels = (
        ("stranded", "stranded share of touched GPUs (%)"),
        ("broken_pct", "groups across NVLink domains (%)"),
        ("placed_pct", "allocations placed (%)"),
    )
    figure, grid = plt.subplots(1, 3, figsize=(style.PAGE_IN, 2.2), layout="constrained")
    for axes, (column, label) in zip(grid, panels, strict=True):
        for method in METHODS:
            mine = table[table["method"] == method].dropna(subset=[column])
            axes.plot(mine["fill_pct"], mine[column], label=method, **style.look(method, METHODS))
        axes.set_xlabel("cluster asked for (%)")
        axes.set_ylabel(label)
        axes.set_ylim(bottom=-1, top=None if column == "stranded" else 104)
    grid[0].legend()
    style.note(figure, frame)
    style.save(figure, output, "fig_11_placement")


if __name__ == "__main__":
    main()
