"""Figure 5: mean latency against rate, every system at its best option, 16 GPUs; RAG, beam search, both."""

import matplotlib.pyplot as plt
import style


def main() -> None:
    data, output = style.folders(__doc__ or "")
    frame = style.read(data, "headline")
    points = style.best_option(style.over_seeds(style.per_point(style.sweep(frame))))
    top = style.highest_stable(frame)
    workloads = list(dict.fromkeys(points["workload"]))
    figure, grid = plt.subplots(1, len(workloads), figsize=(3.6 * len(workloads), 3.9), layout="constrained", squeeze=False)
    for axes, workload in zip(grid[0], workloads, strict=True):
        mine = points[points["workload"] == workload]
        for system in [s for s in style.SYSTEMS if s in set(mine["system"])]:
            style.curve(axes, mine[mine["system"] == system], system, style.TITLES[system])
        claims(axes, mine, top[top["workload"] == workload])
        axes.set_yscale("log")
        axes.set_xscale("log")
        style.plain(axes)
        style.plain(axes, "x")
        axes.set_title(workload.replace("+", " + "))
        axes.set_xlabel("arrival rate (runs/s)")
    grid[0][0].set_ylabel("mean end-to-end latency (s)")
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6)
    style.note(figure, frame)
    style.save(figure, output, "fig_05_main")


def claims(axes, mine, top) -> None:  # type: ignore[no-untyped-def]
    """The paper's claims, as lines: 2.4 times the best other system's rate, 27 times Scepsy's lowest latency."""
    others = top[~top["system"].str.startswith("scepsy")]["rate_per_s"]
    ours = mine[mine["system"] == "scepsy"]["latency_s"].min()
    if len(others):
        axes.axvline(others.max() * style.PAPER_THROUGHPUT, color="#444444", linewidth=0.9, linestyle=(0, (1, 2)))
        axes.text(
            others.max() * style.PAPER_THROUGHPUT,
            0.02,
            "paper: 2.4x\nthe best other ",
            transform=axes.get_xaxis_transform(),
            ha="right",
            va="bottom",
            fontsize=6.5,
            color="#444444",
        )
    axes.axhline(ours * style.PAPER_LATENCY, color="#444444", linewidth=0.9, linestyle=(0, (1, 2)))
    axes.text(
        0.01,
        ours * style.PAPER_LATENCY * 1.03,
        "paper: 27x Scepsy's",
        transform=axes.get_yaxis_transform(),
        ha="left",
        va="bottom",
        fontsize=6.5,
        color="#444444",
    )


if __name__ == "__main__":
    main()
