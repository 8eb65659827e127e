"""Figures 6 and 7 have one shape: rows are clusters, columns workloads, series one system's options beside Scepsy."""

from pathlib import Path

import matplotlib.pyplot as plt
import style


def draw(data: Path, output: Path, experiment: str, system: str, name: str) -> None:
    """Draw one of them."""
    frame = style.read(data, experiment)
    points = style.over_seeds(style.per_point(style.sweep(frame)))
    sizes = sorted(set(points["gpus"]))
    workloads = list(dict.fromkeys(points["workload"]))
    options = list(dict.fromkeys(points[points["system"] == system]["option"]))
    every = ["scepsy", *sorted(options)]
    figure, grid = plt.subplots(
        len(sizes), len(workloads), figsize=(4.1 * len(workloads), 2.7 * len(sizes) + 0.5), layout="constrained", squeeze=False
    )
    for row, gpus in zip(grid, sizes, strict=True):
        for axes, workload in zip(row, workloads, strict=True):
            mine = points[(points["gpus"] == gpus) & (points["workload"] == workload)]
            style.curve(axes, mine[mine["system"] == "scepsy"], "scepsy", "Scepsy", every)
            for option in [o for o in every if o in set(mine["option"]) and o != "scepsy"]:
                one = mine[(mine["system"] == system) & (mine["option"] == option)]
                style.curve(axes, one, option, f"{style.TITLES[system]} {words(option)}", every)
            axes.set_yscale("log")
            style.plain(axes)
            axes.set_title(f"{workload.replace('+', ' + ')}, {gpus} GPUs")
            axes.set_xlabel("arrival rate (runs/s)")
            axes.set_ylabel("mean latency (s)")
            axes.legend(fontsize=6)
    style.note(figure, frame)
    style.save(figure, output, name)


def words(option: str) -> str:
    """An option as a reader wants it: ``prefill=3 decode=5 spread=True`` is ``3:5``."""
    parts = dict(item.split("=", 1) for item in option.split())
    if "prefill" in parts:
        return f"{parts['prefill']}:{parts['decode']}" + (", balanced" if parts.get("spread") == "True" else "")
    if "allocation" in parts:
        return parts["allocation"] + (", topology" if parts.get("topology") == "True" else "")
    return option
