"""Figure 10: search time against LLMs, GPUs and share unit, and how far each search is from the proved bound.

Compared on the instances that both searches solve; where only one was run, on those that it solves.
"""

import matplotlib.pyplot as plt
import style

AXES = (
    ("llms", "llms", "LLMs (16 GPUs)"),
    ("gpus", "gpus", "GPUs (5 LLMs)"),
    ("share unit", "share_unit_pct", "share unit (%)"),
)
METHODS = ("exact", "hierarchical")


def main() -> None:
    data, output = style.folders(__doc__ or "")
    frame = style.read(data, "search")
    failed = frame[~frame["feasible"].astype(bool)].groupby("method").size()
    tried = frame.groupby("method").size()
    keys = ["varies", "llms", "gpus", "share_unit_pct", "seed"]
    attempts = frame.groupby(keys)["feasible"].transform("all")
    frame = frame[attempts.astype(bool)].copy()
    bound = frame[frame["method"] == "exact"].set_index(keys)["bound_s"]
    frame["gap_pct"] = 100 * (frame["objective_s"].to_numpy() / bound.reindex(frame.set_index(keys).index).to_numpy() - 1)
    figure, grid = plt.subplots(2, 3, figsize=(style.PAGE_IN, 3.6), layout="constrained", sharex="col")
    for column, (varies, name, label) in enumerate(AXES):
        mine = frame[frame["varies"] == varies]
        for method in METHODS:
            one = (
                mine[mine["method"] == method]
                .groupby(name)
                .agg(time=("search_s", "median"), gap=("gap_pct", "mean"))
                .reset_index()
            )
            look = style.look(method, METHODS)
            grid[0][column].plot(one[name], one["time"], label=method, markersize=4, **look)
            grid[1][column].plot(one[name], one["gap"], label=method, markersize=4, **look)
        grid[0][column].set_yscale("log")
        if name == "gpus":
            grid[0][column].set_xscale("log", base=2)
            grid[0][column].xaxis.set_major_formatter(lambda x, _: f"{x:g}")
        grid[1][column].set_xlabel(label)
        grid[1][column].set_ylim(bottom=-0.05)
    grid[0][0].set_ylabel("search time (CPU s, median)")
    grid[1][0].set_ylabel("above the bound (%, mean)")
    grid[0][0].legend()
    lost = "; ".join(f"{method} finds no plan for {failed.get(method, 0)} of {tried[method]}" for method in METHODS)
    grid[0][1].set_title(f"instances that both solve ({lost})", fontsize=5.5, loc="center")
    style.note(figure, frame)
    style.save(figure, output, "fig_10_search")


if __name__ == "__main__":
    main()
