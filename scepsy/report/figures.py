"""The pictures of a report; each takes values or a tidy table and returns a matplotlib figure."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from scepsy.cluster import Gpu
from scepsy.plans import Plan
from scepsy.report.style import looks, styled


def latency_vs_rate(frame: pd.DataFrame, workflow: str) -> Figure:
    """Mean latency (log) against arrival rate, one series per planner: simulated solid with markers, predicted thin.

    ``frame`` has the columns of a comparison: planner, workflow, rate_per_s, seed, source, latency_mean_s, stable.
    Points where the simulated system was not stable are hollow.
    """
    mine = frame[frame["workflow"] == workflow]
    names = list(dict.fromkeys(mine["planner"]))
    with styled():
        figure, axes = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
        for name, look in looks(names).items():
            one = mine[mine["planner"] == name]
            simulated = (
                one[one["source"] == "simulated"]
                .groupby("rate_per_s", as_index=False)
                .agg(latency_mean_s=("latency_mean_s", "mean"), stable=("stable", "all"))
            )
            predicted = one[one["source"] == "predicted"].groupby("rate_per_s", as_index=False)["latency_mean_s"].mean()
            axes.plot(
                simulated["rate_per_s"],
                simulated["latency_mean_s"],
                color=look.colour,
                linestyle=look.dash,
                linewidth=1.6,
                label=name,
            )
            for stable, face in ((True, look.colour), (False, "white")):
                part = simulated[simulated["stable"] == stable]
                axes.plot(
                    part["rate_per_s"],
                    part["latency_mean_s"],
                    linestyle="none",
                    marker=look.marker,
                    color=look.colour,
                    markerfacecolor=face,
                    markersize=5.5,
                )
            finite = predicted[np.isfinite(predicted["latency_mean_s"])]
            axes.plot(finite["rate_per_s"], finite["latency_mean_s"], color=look.colour, linewidth=0.8, linestyle=":")
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_xlabel("arrival rate (runs/s)")
        axes.set_ylabel("mean end-to-end latency (s)")
        axes.set_title(f"{workflow}: simulated (markers; hollow: not stable), predicted (dotted)", fontsize=9, loc="left")
        axes.legend(fontsize=8)
    return figure


def gpu_map(plan: Plan) -> Figure:
    """Every GPU as a bar of 100 %, filled by the instances that sit on it; TP groups carry the same label on each GPU."""
    llms = [allocation.llm for allocation in plan.allocations]
    look = looks(llms)
    columns = max(node.gpus for node in plan.cluster.nodes)
    with styled():
        figure, axes = plt.subplots(figsize=(1.1 + 1.05 * columns, 0.7 + 1.25 * len(plan.cluster.nodes)), layout="constrained")
        axes.grid(False)
        filled: dict[Gpu, float] = {}
        for row, node in enumerate(plan.cluster.nodes):
            y = -1.3 * row
            axes.text(-0.1, y + 0.5, f"{node.name}\n{node.gpu_type}", ha="right", va="center", fontsize=8)
            for index in range(node.gpus):
                axes.add_patch(Rectangle((index, y), 0.9, 1.0, facecolor="#f4f4f4", edgecolor="#888888", linewidth=0.8))
                axes.text(index + 0.45, y - 0.12, f"GPU {index}", ha="center", va="center", fontsize=6, color="#555555")
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
                        fontsize=5.5,
                        bbox={"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.6},
                    )
        handles: list[Any] = [
            Rectangle((0, 0), 1, 1, facecolor=style.colour, alpha=0.75, hatch=style.hatch, edgecolor="black")
            for style in look.values()
        ]
        axes.legend(handles, llms, loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=min(4, len(llms)), fontsize=7)
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
            axes.legend(fontsize=6.5, loc="lower right")
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
        axes.legend(fontsize=8)
    return figure
