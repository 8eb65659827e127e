"""What the figures of the evaluation share: its tables, print sizes, curves with intervals, and marks for what is not settled.

Filled: settled. Hollow: not settled within the budget. A cross on the upper edge: unstable from that rate on; no latency is
drawn there, since it would be the length of the experiment. Error bars: 95 % over seeds. A system looks the same in every
figure; one that ``style`` does not know comes after those it knows.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import style
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

OURS = "scepsy"
OWN_GROUPS = ("scepsy", "ablation", "oracle")
BASE = {"gpu_type": "A100-80G", "arrivals": "poisson", "planned_on": "", "measured_on": "", "models": ""}


def base(frame: pd.DataFrame, **where: object) -> pd.DataFrame:
    """Rows at the default assumptions, and as ``where`` says."""
    for name, value in (BASE | where).items():
        frame = frame[frame[name] == value]
    return frame


def overall(points: pd.DataFrame) -> pd.DataFrame:
    """The rows of all requests together: of a workload of several workflows their joint rows, else the workflow's own."""
    several = points["workload"].str.contains("+", regex=False)
    return points[~several | (points["workflow"] == "all requests")]


def systems(frame: pd.DataFrame, everyone: pd.DataFrame | None = None) -> list[str]:
    """Names in drawing order: those that ``style`` knows, then the others by name. ``everyone``: whose order counts."""
    present = set(frame["system"])
    known = set((frame if everyone is None else everyone)["system"])
    order = [*style.SYSTEMS, *sorted(known - set(style.SYSTEMS))]
    return [name for name in order if name in present]


def look(system: str, everyone: pd.DataFrame) -> dict[str, Any]:
    """Colour, marker and dash of a system, whichever are drawn beside it."""
    more = sorted(set(everyone["system"]) - set(style.SYSTEMS))
    return style.look(system, [*style.SYSTEMS, *more])


def title(system: str, frame: pd.DataFrame) -> str:
    """A system's name as readers know it."""
    found = frame.loc[frame["system"] == system, "title"]
    return style.TITLES.get(system) or (str(found.iloc[0]) if len(found) else system)


def curve(axes: Any, points: pd.DataFrame, looks: dict[str, Any], *, front: bool = False, shift: float = 0.0) -> None:
    """Mean latency against rate with intervals; the lowest rate at which it is unstable as a cross on the upper
    edge, moved by ``shift`` of the rate so that crosses of several systems stay apart.
    """
    points = points.dropna(subset=["mean_s"]).sort_values("rate_per_s")
    order = 10 if front else 3
    steady = points[points["verdict"] != "unstable"]
    colour, marker = looks["color"], looks["marker"]
    axes.plot(
        steady["rate_per_s"], steady["mean_s"], color=colour, linestyle=looks["linestyle"], zorder=order,
        linewidth=1.6 if front else 0.8,
    )  # fmt: skip
    for settled, face in ((True, colour), (False, "white")):
        part = steady[steady["settled"] == settled]
        if part.empty:
            continue
        below = (part["mean_s"] - part["low_s"]).clip(lower=0).fillna(0)
        above = (part["high_s"] - part["mean_s"]).clip(lower=0).fillna(0)
        axes.errorbar(
            part["rate_per_s"], part["mean_s"], yerr=[below, above], linestyle="none", marker=marker, color=colour,
            markerfacecolor=face, markeredgewidth=0.7, elinewidth=0.7, capsize=1.4, capthick=0.6, zorder=order + 1,
        )  # fmt: skip
    bad = points[points["verdict"] == "unstable"]["rate_per_s"]
    if len(bad):
        axes.plot(
            [bad.min() * (1 + shift)], [1.0], linestyle="none", marker="x", color=colour, markersize=3.4, markeredgewidth=0.9,
            zorder=order + 1, transform=axes.get_xaxis_transform(), clip_on=False,
        )  # fmt: skip


def limits(axes: Any, points: pd.DataFrame) -> None:
    """Logarithmic axes about what is not unstable."""
    shown = points[(points["verdict"] != "unstable") & points["mean_s"].notna()]
    shown = shown if len(shown) else points[points["mean_s"].notna()]
    low, high = float(shown["mean_s"].min()), float(shown["mean_s"].max())
    rates = points["rate_per_s"]
    axes.set(xscale="log", yscale="log")
    axes.set_ylim(low / 1.25, high * 1.5)
    axes.set_xlim(float(rates.min()) / 1.15, float(rates.max()) * 1.15)
    style.plain(axes)
    style.plain(axes, "x")


def maxima_rug(axes: Any, maxima: pd.DataFrame, everyone: pd.DataFrame) -> None:
    """The highest rate at which each system was shown stable, as its marker on the lower edge, or at the left end of it."""
    left = axes.get_xlim()[0]
    for system in systems(maxima):
        row = maxima[maxima["system"] == system].iloc[0]
        looks = look(system, everyone)
        if row["low"] > 0:
            axes.plot(
                [max(row["low"], left)], [0.0], marker=looks["marker"], color=looks["color"],
                transform=axes.get_xaxis_transform(),
                markerfacecolor=looks["color"] if row["settled"] else "white", markersize=4.2 if system == OURS else 3.4,
                clip_on=False, zorder=20 if system == OURS else 15, markeredgewidth=0.7, linestyle="none",
            )  # fmt: skip


def marks(*, rug: bool = False) -> list[Line2D]:
    """Legend entries that say what the marks mean."""
    grey = "#444444"
    more = (
        [Line2D([], [], linestyle="none", marker="_", color=grey, label="on the axis: highest rate shown stable")]
        if rug
        else []
    )
    return [
        *more,
        Line2D([], [], linestyle="none", marker="o", color=grey, label="settled"),
        Line2D([], [], linestyle="none", marker="o", color=grey, markerfacecolor="white", label="not settled"),
        Line2D([], [], linestyle="none", marker="x", color=grey, label="called unstable from here on"),
    ]


def legend_of(names: Sequence[str], frame: pd.DataFrame, everyone: pd.DataFrame) -> list[Line2D]:
    """Legend entries of systems."""
    return [Line2D([], [], label=title(name, frame), **look(name, everyone)) for name in names]


def finish(figure: Figure, frame: pd.DataFrame, output: Path, name: str) -> None:
    """The line that says what the picture rests on, then PDF and PNG."""
    row = frame.iloc[0]
    seeds = f", {int(frame['seeds'].max())} seeds" if "seeds" in frame else ""
    text = f"{row['scale']} scale{seeds}; version {row['version']}, commit {row['commit'] or 'unknown'}"
    style.small_print(figure, text)
    style.save(figure, output, name)
