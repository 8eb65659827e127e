"""Recorded engine runs beside their replays: who came out when, how late the simulation is, and how many ran at once."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from scepsy.files.atomic import atomic_path
from scepsy.report.style import PALETTE, styled
from sim.recorded.validate import Replayed

Array = npt.NDArray[np.float64]

RECORDED, SIMULATED = PALETTE[6], PALETTE[1]
LEGEND: Any = {"fontsize": 7, "frameon": True, "framealpha": 0.8, "edgecolor": "none"}


def write_replays(replays: Sequence[Replayed], path: Path) -> None:
    """One row of panels per run into a PNG, PDF or SVG file, by its name. Raises ``InputError`` where it cannot be written."""
    with styled():
        figure, rows = plt.subplots(
            len(replays), 3, figsize=(11.5, 2.9 * len(replays)), layout="constrained", squeeze=False, width_ratios=(1, 1, 1.3)
        )
        for one, (shares, lags, counts) in zip(replays, rows, strict=True):
            _shares(shares, one)
            _lags(lags, one)
            _counts(counts, one)
        with atomic_path(path) as aside:
            figure.savefig(aside, format=path.suffix.removeprefix("."))
        plt.close(figure)


def _shares(axes: Axes, one: Replayed) -> None:
    """Distributions of latency and time to first token over the scored requests."""
    run, result, scored = one.run, one.result, slice(one.fitted, None)
    part = np.linspace(0.0, 1.0, len(run) - one.fitted)
    pairs = (
        ("latency", run.latency_s, result.last_token_s - run.arrival_s, "-"),
        ("first token", run.ttft_s, result.first_token_s - run.arrival_s, "--"),
    )
    for name, recorded, simulated, dash in pairs:
        axes.plot(np.sort(recorded[scored]), part, color=RECORDED, linestyle=dash, linewidth=1.6, label=f"{name}, recorded")
        axes.plot(np.sort(simulated[scored]), part, color=SIMULATED, linestyle=dash, linewidth=1.1, label="simulated")
    axes.set_xlabel("seconds after arrival")
    axes.set_ylabel("part of the scored requests")
    axes.set_title(run.name, fontsize=9, loc="left")
    axes.legend(**LEGEND)


def _lags(axes: Axes, one: Replayed) -> None:
    """How much later than recorded each request's first and last token came, in order of arrival."""
    run, result = one.run, one.result
    for name, lag, marker, colour in (
        ("first token", result.first_token_s - run.first_token_s, "o", PALETTE[0]),
        ("last token", result.last_token_s - run.last_token_s, "x", SIMULATED),
    ):
        axes.plot(np.arange(len(run)), lag, marker, markersize=2.5, color=colour, label=name)
    if one.fitted:
        axes.axvspan(0, one.fitted - 0.5, color="#eeeeee", zorder=0, label="fitted on")
    axes.axhline(0.0, color="#888888", linewidth=0.8)
    axes.set_xlabel("request, by arrival")
    axes.set_ylabel("simulated later by (s)")
    axes.legend(**LEGEND)


def _counts(axes: Axes, one: Replayed) -> None:
    """Requests before their first token and between first and last, over time."""
    run, result = one.run, one.result
    for name, colour, first, last, width in (
        ("recorded", RECORDED, run.first_token_s, run.last_token_s, 1.6),
        ("simulated", SIMULATED, result.first_token_s, result.last_token_s, 1.1),
    ):
        at = np.linspace(0.0, float(max(run.last_token_s.max(), result.last_token_s.max())), 600)
        axes.plot(at, _between(at, first, last), color=colour, linewidth=width, label=f"decoding, {name}")
        axes.plot(
            at, _between(at, run.arrival_s, first), color=colour, linewidth=width, linestyle="--", label=f"before, {name}"
        )
    axes.set_xlabel("seconds since the first arrival")
    axes.set_ylabel("requests")
    axes.legend(**LEGEND)


def _between(at: Array, begins: Array, ends: Array) -> npt.NDArray[np.intp]:
    """How many intervals hold each time."""
    found: npt.NDArray[np.intp] = np.searchsorted(np.sort(begins), at, side="right") - np.searchsorted(
        np.sort(ends), at, side="right"
    )
    return found
