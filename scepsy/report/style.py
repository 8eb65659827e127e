"""How every picture looks: colour-blind safe (Okabe-Ito), told apart in black and white by marker and dash."""

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

_SHARED: Any = json.loads(resources.files("scepsy.data").joinpath("plot_style.json").read_text(encoding="utf-8"))
PALETTE: list[str] = _SHARED["palette"]
MARKERS: list[str] = _SHARED["markers"]
HATCHES: list[str] = _SHARED["hatches"]
DASHES: list[Any] = [dash if isinstance(dash, str) else (dash[0], tuple(dash[1])) for dash in _SHARED["dashes"]]
RC: Any = _SHARED["rc"]


@dataclass(frozen=True)
class Look:
    """How one series is drawn wherever it appears."""

    colour: str
    marker: str
    dash: object
    hatch: str


def looks(names: list[str]) -> dict[str, Look]:
    """A look for each name, the same for the same list."""
    return {
        name: Look(PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)], DASHES[i % len(DASHES)], HATCHES[i % len(HATCHES)])
        for i, name in enumerate(names)
    }


@contextmanager
def styled() -> Iterator[None]:
    """The house style while a figure is drawn; closes nothing, changes nothing outside."""
    with plt.rc_context(RC):
        yield


ROOM = 1.03
"""A tick so near to the lowest or highest value is no border: the value would lie on the axis."""


def log_ticks(values: Sequence[float]) -> list[float]:
    """Ticks 1, 2, 5 × 10^n that reach over the values on both sides; between few of them also 1.5, 3, 4, 7.

    >>> log_ticks([1.2, 1.9]), log_ticks([0.5, 30])
    ([1.0, 1.5, 2.0], [0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0])
    """
    good = [value for value in values if value > 0 and math.isfinite(value)]
    if not good:
        return [0.1, 1.0, 10.0]
    low, high = min(good) / ROOM, max(good) * ROOM
    exponents = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    for steps in ((1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0), tuple(n / 10 for n in range(10, 100, 2))):
        ticks = [float(f"{step * 10.0**n:.6g}") for n in exponents for step in steps]
        first = max((i for i, tick in enumerate(ticks) if tick <= low * (1 + 1e-9)), default=0)
        last = min((i for i, tick in enumerate(ticks) if tick >= high * (1 - 1e-9)), default=len(ticks) - 1)
        if last - first >= 2:
            break
    while last - first < 2:  # one value, or several that are nearly one
        first, last = max(0, first - 1), min(len(ticks) - 1, last + 1)
    kept = ticks[first : last + 1]
    every = math.ceil(len(kept) / 12)
    return kept if every == 1 else [*kept[:-1:every], kept[-1]]


def readable_log(axes: Axes, values: Sequence[float]) -> None:
    """Make the upright axis logarithmic, with at least three labelled ticks whatever the values span."""
    ticks = log_ticks(values)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_ylim(ticks[0], ticks[-1])
