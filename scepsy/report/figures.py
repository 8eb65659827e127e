"""The pictures of a report; each takes values or a tidy table and returns a matplotlib figure."""

import math
from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from scepsy.cluster import Gpu
from scepsy.plans import Plan
from scepsy.report.style import looks, readable_log, styled

LIMIT_COLOUR = "#B3261E"


def latency_vs_rate(
    frame: pd.DataFrame, workflow: str, *, target_per_s: float | None = None, limits_s: Mapping[str, float] | None = None
) -> Figure:
    """Mean latency (log) against arrival rate, one series per planner: simulated solid with markers, predicted thin and dotted.

    ``frame`` has the columns of a comparison: planner, workflow, rate_per_s, seed, source, latency_mean_s, stable; with
    latency_p95_s and a single planner its 95th percentile is drawn too. Points where the simulated system was not stable are
    hollow: their latency is the length of the simulation. Each curve is named at its end, where there is room. ``target_per_s``
    and ``limits_s`` (by statistic) are drawn as lines.
    """
    mine = frame[frame["workflow"] == workflow]
    names = list(dict.fromkeys(mine["planner"]))
    ends: list[tuple[float, str, str]] = []
    seen: list[float] = [*(limits_s or {}).values()]
    with styled():
        figure, axes = plt.subplots(figsize=(7.4, 4.0), layout="constrained")
        for name, look in looks(names).items():
            one = mine[mine["planner"] == name]
            simulated = one[one["source"] == "simulated"]
            predicted = one[one["source"] == "predicted"].groupby("rate_per_s", as_index=False)["latency_mean_s"].mean()
            curves = [("latency_mean_s", look.dash, 1.6, look.marker, "mean, simulated" if len(names) == 1 else name)]
            if len(names) == 1 and "latency_p95_s" in simulated:
                curves.append(("latency_p95_s", (0, (4, 2)), 1.1, "v", "95th percentile, simulated"))
            for column, dash, width, marker, label in curves:
                line = simulated.groupby("rate_per_s", as_index=False).agg(value=(column, "mean"), stable=("stable", "all"))
                line = line[np.isfinite(line["value"])]
                axes.plot(line["rate_per_s"], line["value"], color=look.colour, linestyle=dash, linewidth=width, zorder=3)
                for stable, face in ((True, look.colour), (False, "white")):
                    part = line[line["stable"] == stable]
                    axes.plot(part["rate_per_s"], part["value"], linestyle="none", marker=marker, color=look.colour,
                              markerfacecolor=face, markersize=5.5, zorder=4)  # fmt: skip
                seen += line["value"].tolist()
                if len(line):
                    ends.append((float(line["value"].iloc[-1]), label, look.colour))
            finite = predicted[np.isfinite(predicted["latency_mean_s"])]
            dark = "#000000" if len(names) == 1 else look.colour
            axes.plot(finite["rate_per_s"], finite["latency_mean_s"], color=dark, linewidth=1.1, linestyle=":", zorder=5)
            seen += finite["latency_mean_s"].tolist()
            if len(finite) and len(names) == 1:
                ends.append((float(finite["latency_mean_s"].iloc[-1]), "mean, predicted", dark))
        readable_log(axes, seen)
        axes.set_xlim(left=0)
        if target_per_s is not None:
            axes.axvline(target_per_s, color="#888888", linewidth=0.9, linestyle="--")
            axes.annotate("target", (target_per_s, 1.0), xycoords=("data", "axes fraction"), textcoords="offset points",
                          xytext=(3, -9), fontsize=7.5, color="#888888")  # fmt: skip
        for statistic, limit_s in (limits_s or {}).items():
            axes.axhline(limit_s, color=LIMIT_COLOUR, linewidth=0.9, linestyle="--")
            ends.append((limit_s, f"limit of the {statistic}", LIMIT_COLOUR))
        axes.set_xlabel("arrival rate (runs/s)")
        axes.set_ylabel("end-to-end latency (s)")
        title = "filled: keeps up, hollow: does not, or not shown to"
        axes.set_title(f"{workflow}: {title}" + ("" if len(names) == 1 else ", dotted: predicted"), fontsize=9, loc="left")
        _name_ends(axes, ends)
    return figure


LABEL_GAP = 0.055
"""Least distance of two names beside the curves, as a part of the axis."""


def _name_ends(axes: Axes, ends: list[tuple[float, str, str]]) -> None:
    """Write each curve's name to the right of the plot, at the height where it ends; pushed apart where they would touch."""
    low, high = (math.log(limit) for limit in axes.get_ylim())
    placed = -1.0
    for value, label, colour in sorted(ends):
        wanted = (math.log(max(value, 1e-300)) - low) / (high - low)
        placed = max(min(max(wanted, 0.0), 1.0), placed + LABEL_GAP)
        axes.annotate(label, (1.0, placed), xycoords="axes fraction", textcoords="offset points", xytext=(6, -3), fontsize=8,
                      color=colour, annotation_clip=False)  # fmt: skip


def gpu_map(plan: Plan) -> Figure:
    """Every GPU as a bar of 100 %, filled by the instances that sit on it; TP groups carry the same label on each GPU."""
    llms = [allocation.llm for allocation in plan.allocations]
    look = looks(llms)
    columns = max(node.gpus for node in plan.cluster.nodes)
    with styled():
        figure, axes = plt.subplots(figsize=(1.1 + 1.05 * columns, 0.7 + 1.35 * len(plan.cluster.nodes)), layout="constrained")
        axes.grid(False)
        filled: dict[Gpu, float] = {}
        for row, node in enumerate(plan.cluster.nodes):
            y = -1.3 * row
            axes.text(-0.1, y + 0.5, f"{node.name}\n{node.gpu_type}", ha="right", va="center", fontsize=8)
            for index in range(node.gpus):
                axes.add_patch(Rectangle((index, y), 0.9, 1.0, facecolor="#f4f4f4", edgecolor="#888888", linewidth=0.8))
                axes.text(index + 0.45, y - 0.12, f"GPU {index}", ha="center", va="center", fontsize=7.5, color="#555555")
            for domain in node.domains:
                if len(node.domains) > 1:
                    axes.plot([min(domain), max(domain) + 0.9], [y + 1.08] * 2, color="black", linewidth=1.2)
        rows = {node.name: -1.3 * row for row, node in enumerate(plan.cluster.nodes)}
        for instance in plan.instances:
            for gpu in instance.gpus:
                bottom, height = filled.get(gpu, 0.0), instance.share_pct / 100
                filled[gpu] = bottom + height
                style = look[instance.llm]
                axes.add_patch(
                    Rectangle(
                        (gpu.index, rows[gpu.node] + bottom),
                        0.9,
                        height,
                        facecolor=style.colour,
                        alpha=0.75,
                        edgecolor="black",
                        linewidth=0.6,
                        hatch=style.hatch,
                    )
                )
                text = f"#{instance.index} {instance.share_pct}%" + (
                    f" TP{len(instance.gpus)}" if len(instance.gpus) > 1 else ""
                )
                if height >= 0.1:
                    axes.text(
                        gpu.index + 0.45,
                        rows[gpu.node] + bottom + height / 2,
                        text,
                        ha="center",
                        va="center",
                        fontsize=7,
                        bbox={"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.6},
                    )
        handles: list[Any] = [
            Rectangle((0, 0), 1, 1, facecolor=style.colour, alpha=0.75, hatch=style.hatch, edgecolor="black")
            for style in look.values()
        ]
        axes.legend(handles, llms, loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=min(4, len(llms)), fontsize=8)
        axes.set_xlim(-0.9, columns)
        axes.set_ylim(-1.3 * (len(plan.cluster.nodes) - 1) - 0.35, 1.2)
        axes.axis("off")
    return figure


def share_stability(shares: pd.DataFrame) -> Figure:
    """CDFs of an LLM's share of a run's LLM time beside the CDF of the run's latency over its mean.

    ``shares``: one row per (run, llm) with columns workflow, run, llm, share; and latency_s repeated per run.
    """
    workflows = list(dict.fromkeys(shares["workflow"]))
    with styled():
        figure, grid = plt.subplots(1, len(workflows), figsize=(3.6 * len(workflows), 3.0), layout="constrained", squeeze=False)
        for axes, workflow in zip(grid[0], workflows, strict=True):
            mine = shares[shares["workflow"] == workflow]
            latency = np.sort(mine.drop_duplicates("run")["latency_s"].to_numpy())
            steps = (np.arange(len(latency)) + 1) / len(latency)
            axes.plot(latency / latency.mean(), steps, color="#666666", linestyle=":", linewidth=1.4, label="latency / mean")
            llms = list(dict.fromkeys(mine["llm"]))
            for llm, look in looks(llms).items():
                values = np.sort(mine[mine["llm"] == llm]["share"].to_numpy())
                axes.plot(
                    values / values.mean() if values.mean() else values,
                    (np.arange(len(values)) + 1) / len(values),
                    color=look.colour,
                    linestyle=look.dash,
                    label=f"share of {llm} / mean",
                )
            axes.set_xlim(0, 3)
            axes.set_title(workflow, fontsize=9, loc="left")
            axes.set_xlabel("value over its mean")
            axes.set_ylabel("fraction of runs")
            axes.legend(fontsize=7.5, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    return figure


def heat_map(table: pd.DataFrame, *, value: str, title: str) -> Figure:
    """One row per instance or GPU, time across, ``value`` as colour. Columns: name, time_s, and ``value`` (0 to 1)."""
    grid = table.pivot_table(index="name", columns="time_s", values=value, aggfunc="mean", sort=False)
    with styled():
        figure, axes = plt.subplots(figsize=(7.2, 0.8 + 0.22 * len(grid)), layout="constrained")
        axes.grid(False)
        times = grid.columns.to_numpy(dtype=float)
        right = times[-1] + (times[1] - times[0] if len(times) > 1 else 1.0)
        image = axes.imshow(
            grid.to_numpy(),
            aspect="auto",
            cmap="cividis",
            vmin=0,
            interpolation="nearest",
            extent=(times[0], right, len(grid), 0),
        )
        axes.set_yticks(np.arange(len(grid)) + 0.5, [str(name) for name in grid.index], fontsize=6.5)
        axes.set_xlabel("time (s)")
        axes.set_title(title, fontsize=9, loc="left")
        figure.colorbar(image, ax=axes, pad=0.01)
    return figure


def prediction_error(frame: pd.DataFrame) -> Figure:
    """Predicted over simulated mean latency against load, one marker per (planner, workflow, rate); the ±15 % band shaded.

    Columns: planner, workflow, load (offered over predicted maximum rate), ratio.
    """
    with styled():
        figure, axes = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
        axes.axhspan(0.85, 1.15, color="#e8f0e8")
        axes.axhline(1.0, color="black", linewidth=0.8)
        names = list(dict.fromkeys(frame["workflow"]))
        for name, look in looks(names).items():
            mine = frame[frame["workflow"] == name]
            axes.plot(
                mine["load"], mine["ratio"], linestyle="none", marker=look.marker, color=look.colour, label=name, markersize=5
            )
        axes.set_xlabel("load: rate over the plan's predicted maximum")
        axes.set_ylabel("predicted / simulated mean latency")
        axes.set_title("How far the prediction is off (band: ±15 %)", fontsize=9, loc="left")
        if names:
            axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure
