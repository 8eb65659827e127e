"""Figure 9: Scepsy without one of its means, on a roomy and on a tight cluster."""

import matplotlib.pyplot as plt
import style

ORDER = ("scepsy", "no-fractions", "no-tp", "no-replicas", "default-scheduler", "no-topology")


def main() -> None:
    data, output = style.folders(__doc__ or "")
    frame = style.read(data, "ablation")
    points = style.over_seeds(style.per_point(style.sweep(frame)))
    panels = list(dict.fromkeys(zip(points["workload"], points["gpus"], strict=True)))
    figure, grid = plt.subplots(1, len(panels), figsize=(3.4 * len(panels), 3.5), layout="constrained", squeeze=False)
    for axes, (workload, gpus) in zip(grid[0], panels, strict=True):
        mine = points[(points["workload"] == workload) & (points["gpus"] == gpus)]
        for system in ORDER:
            one = mine[mine["system"] == system]
            if one["latency_s"].notna().any():
                style.curve(axes, one, system, style.TITLES[system], ORDER)
            else:
                axes.plot([], [], label=f"{style.TITLES[system]}: no plan", **style.look(system, ORDER))
        axes.set_yscale("log")
        style.plain(axes)
        axes.set_title(f"{workload.replace('+', ' + ')}, {gpus} GPUs")
        axes.set_xlabel("arrival rate (runs/s)")
        axes.legend(fontsize=6.5)
    grid[0][0].set_ylabel("mean latency (s)")
    style.note(figure, frame)
    style.save(figure, output, "fig_09_ablation")


if __name__ == "__main__":
    main()
