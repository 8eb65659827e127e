"""Figure 1: how different runs are: CDF of calls per run and of latency, by workflow."""

import matplotlib.pyplot as plt
import numpy as np
import style


def main() -> None:
    data, output = style.folders(__doc__ or "")
    frame = style.read(data, "calls")
    runs = frame.groupby(["workflow", "run"], as_index=False, sort=False).agg(
        calls=("calls", "sum"), latency_s=("latency_s", "first")
    )
    names = list(dict.fromkeys(runs["workflow"]))
    figure, (left, right) = plt.subplots(1, 2, figsize=(style.PAGE_IN, 2.2), layout="constrained", sharey=True)
    for axes, column, label in ((left, "calls", "LLM calls per run"), (right, "latency_s", "latency of a run (s)")):
        for name in names:
            values = np.sort(runs[runs["workflow"] == name][column].to_numpy())
            look = style.look(name, names)
            axes.step(
                values,
                (np.arange(len(values)) + 1) / len(values),
                where="post",
                color=look["color"],
                linestyle=look["linestyle"],
                label=name,
            )
        axes.set_xlabel(label)
        axes.set_xscale("log")
        style.plain(axes, "x")
    left.set_ylabel("fraction of runs")
    right.legend(loc="lower right")
    style.note(figure, frame)
    style.save(figure, output, "fig_01_calls")


if __name__ == "__main__":
    main()
