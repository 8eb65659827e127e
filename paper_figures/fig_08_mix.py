"""Figure 8: two workflows on one cluster: planned together, or each on its own part, at every border between them."""

import matplotlib.pyplot as plt
import style


def main() -> None:
    data, output = style.folders(__doc__ or "")
    frame = style.read(data, "mix")
    table = frame.groupby(["mix", "border", "way", "workflow"], as_index=False, sort=False).agg(
        latency_s=("latency_mean_s", "mean"), stable=("stable", "all")
    )
    workflows = list(dict.fromkeys(table["workflow"]))
    mixes = sorted(set(table["mix"]))
    figure, grid = plt.subplots(1, len(mixes), figsize=(style.PAGE_IN, 2.4), layout="constrained", squeeze=False, sharey=True)
    for axes, mix in zip(grid[0], mixes, strict=True):
        mine = table[table["mix"] == mix]
        for workflow in workflows:
            look = style.look(workflow, workflows)
            split = (
                mine[(mine["workflow"] == workflow) & (mine["way"] == "split")]
                .dropna(subset=["latency_s"])
                .sort_values("border")
            )
            axes.plot(
                split["border"],
                split["latency_s"],
                color=look["color"],
                linestyle=look["linestyle"],
                linewidth=1.1,
                label=f"{workflow}, split",
            )
            for stable, face in ((True, look["color"]), (False, "white")):
                part = split[split["stable"] == stable]
                axes.plot(
                    part["border"],
                    part["latency_s"],
                    linestyle="none",
                    marker=look["marker"],
                    color=look["color"],
                    markerfacecolor=face,
                    markersize=5,
                )
            joint = mine[(mine["workflow"] == workflow) & (mine["way"] == "joint")]["latency_s"]
            if len(joint):
                axes.axhline(
                    float(joint.iloc[0]), color=look["color"], linestyle=(0, (1, 1)), linewidth=1.6, label=f"{workflow}, joint"
                )
        axes.set_title(f"{mix:.0%} {workflows[0]}")
        axes.set_xlabel(f"GPUs of {workflows[0]} when split")
        axes.set_yscale("log")
        style.plain(axes)
    grid[0][0].set_ylabel("mean latency (s)")
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    style.note(figure, frame)
    style.save(figure, output, "fig_08_mix")


if __name__ == "__main__":
    main()
