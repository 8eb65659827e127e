"""How every picture looks: colour-blind safe (Okabe-Ito), told apart in black and white by marker and dash."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))
HATCHES = ("", "//", "..", "xx", "\\\\", "++", "oo", "--")

RC: Any = {
    "figure.dpi": 110,
    "savefig.dpi": 150,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "svg.hashsalt": "scepsy",
    "pdf.fonttype": 42,
}


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
