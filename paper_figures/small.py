"""Figures 6 and 7 have one shape: rows are clusters, columns workloads, series one system's options beside Scepsy."""

from pathlib import Path

import evaluated
import matplotlib.pyplot as plt
import style

OPTIONS_MOST = 9


def draw(data: Path, output: Path, system: str, name: str) -> None:
    """Draw one of them. Where only some options were measured at a load, the others were slower or unstable when screened."""
    points = style.read(data, "points")
    kept = evaluated.overall(evaluated.base(points, gpus_per_node=8))
    kept = kept[kept["system"].isin([evaluated.OURS, system]) & kept["gpus"].isin([4, 8])]
    kept = kept[~kept["workload"].str.startswith("real:")]
    measured = kept[kept["system"] == system]
    pairs = {(row.gpus, row.workload) for row in measured.itertuples()}
    if not pairs:
        style.skip(name, f"{data}/points.parquet has no rows of {system} on 4 or 8 GPUs")
    sizes, workloads = sorted({gpus for gpus, _ in pairs}), list(dict.fromkeys(measured["workload"]))
    options = sorted(set(measured["option"]))
    figure, grid = plt.subplots(
        len(sizes), len(workloads), figsize=(style.PAGE_IN, 2.0 * len(sizes) + 0.6), layout="constrained", squeeze=False
    )
    for row, gpus in zip(grid, sizes, strict=True):
        for axes, workload in zip(row, workloads, strict=True):
            mine = kept[(kept["gpus"] == gpus) & (kept["workload"] == workload)]
            if mine.empty or (gpus, workload) not in pairs:
                axes.set_axis_off()
                continue
            evaluated.limits(axes, mine)
            for option in options:
                one = mine[(mine["system"] == system) & (mine["option"] == option)]
                evaluated.curve(axes, one, style.look(option, ["", *options]))
            ours = mine[(mine["system"] == evaluated.OURS)]
            evaluated.curve(axes, ours, evaluated.look(evaluated.OURS, points), front=True)
            axes.set_title(f"{workload.replace('+', ' + ')}, {gpus} GPUs")
    for axes in grid[-1]:
        axes.set_xlabel("arrival rate (runs/s)")
    for row in grid:
        row[0].set_ylabel("mean latency (s)")
    handles = evaluated.legend_of([evaluated.OURS], kept, points)
    handles += [
        plt.Line2D([], [], label=f"{evaluated.title(system, kept)} {words(option)}", **style.look(option, ["", *options]))
        for option in options
    ]
    figure.legend(handles=[*handles, *evaluated.marks()], loc="outside lower center", ncols=4, columnspacing=1.0)
    evaluated.finish(figure, kept, output, name)


def words(option: str) -> str:
    """An option as a reader wants it: ``prefill=3 decode=5 dispatch=balanced`` is ``3:5, balanced``."""
    parts = dict(item.split("=", 1) for item in option.split() if "=" in item)
    if "prefill" in parts:
        dispatch = parts.get("dispatch", "published")
        return f"{parts['prefill']}:{parts['decode']}" + (f", {dispatch}" if dispatch != "published" else "")
    if "allocation" in parts:
        return parts["allocation"] + (", topology" if parts.get("topology") == "True" else "")
    return option
