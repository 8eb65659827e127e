"""What every figure shares: reading one parquet, the palette, and files that are the same bytes every time.

Colours are Okabe and Ito's, told apart in black and white by marker, dash and hatch. Nothing of the project is imported: the
figures need the parquet files and the style that pages share (``scepsy/data/plot_style.json``), nothing else.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

_SHARED = json.loads((Path(__file__).parents[1] / "scepsy" / "data" / "plot_style.json").read_text(encoding="utf-8"))
PALETTE, MARKERS, HATCHES = _SHARED["palette"], _SHARED["markers"], _SHARED["hatches"]
DASHES = [dash if isinstance(dash, str) else (dash[0], tuple(dash[1])) for dash in _SHARED["dashes"]]

SYSTEMS = (
    "scepsy",
    "aegaeon",
    "ayo",
    "muxserve",
    "hpa",
    "oracle-user",
    "equal",
    "proportional",
    "independent",
    "scepsy-paper",
    "scepsy-exact",
    "scepsy-predicted",
    "scepsy-plas",
    "exhaustive",
    "no-fractions",
    "no-tp",
    "no-replicas",
    "no-topology",
    "scepsy-hierarchical",
    "scepsy-paper-whole",
    "independent-by-rate",
    "independent-shares",
    "muxserve-whole",
    "default-scheduler",
)
TITLES = {
    "scepsy": "Scepsy",
    "scepsy-exact": "Scepsy, aggregate only",
    "scepsy-paper": "Scepsy, paper's",
    "scepsy-predicted": "Scepsy, predicted",
    "scepsy-plas": "Scepsy + PLAS",
    "aegaeon": "Aegaeon",
    "ayo": "Ayo",
    "muxserve": "MuxServe",
    "hpa": "Kubernetes HPA",
    "oracle-user": "oracle user",
    "equal": "equal GPUs",
    "proportional": "by parameters",
    "independent": "each LLM alone",
    "exhaustive": "exhaustive",
    "no-fractions": "no fractions",
    "no-tp": "no TP",
    "no-replicas": "no replicas",
    "no-topology": "no topology",
    "scepsy-hierarchical": "Scepsy, paper's search",
    "scepsy-paper-whole": "paper's, whole GPUs",
    "independent-by-rate": "alone, by rate",
    "independent-shares": "alone, with shares",
    "muxserve-whole": "MuxServe, whole GPUs",
    "default-scheduler": "default scheduler",
}
PAPER_THROUGHPUT, PAPER_LATENCY = 2.4, 27.0
"""The abstract's claims (arXiv 2604.15186): up to 2.4x higher throughput, 27x lower latency."""

COLUMN_IN, PAGE_IN = 3.3, 7.0
"""Widths of one and of two columns of a paper: every figure has one of them, and letters of 6 to 7 points at that size."""

PRINT: dict[str, Any] = {
    "savefig.dpi": 300,
    "font.size": 7,
    "axes.labelsize": 7,
    "axes.titlesize": 7,
    "axes.titlelocation": "left",
    "xtick.labelsize": 6,
    "ytick.labelsize": 6,
    "legend.fontsize": 6,
    "axes.linewidth": 0.6,
    "grid.linewidth": 0.5,
    "lines.linewidth": 0.9,
    "lines.markersize": 3.2,
}
RC: dict[str, Any] = _SHARED["rc"] | PRINT
plt.rcParams.update(RC)


def folders(what: str, argv: Sequence[str] | None = None) -> tuple[Path, Path]:
    """Where to read and where to write, from the command line."""
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--data", type=Path, default=here / "data", help="folder of the parquet files")
    parser.add_argument("--output", type=Path, default=here / "out", help="folder for the PDF and PNG")
    options = parser.parse_args(argv)
    options.output.mkdir(parents=True, exist_ok=True)
    return options.data, options.output


SKIPPED = 3
"""Exit status of a script whose table is missing or has no rows for it."""
DERIVED = ("points", "comparisons", "maxima", "losses", "claims", "sensitivity")
"""Tables that follow from the evaluation's."""


def skip(name: str, why: str) -> NoReturn:
    """End without a picture, with one line that says why."""
    print(f"{name}: skipped: {why}", file=sys.stderr)
    raise SystemExit(SKIPPED)


def read(data: Path, experiment: str) -> pd.DataFrame:
    """One experiment's table; ends the script with one line when it is not there."""
    path = data / f"{experiment}.parquet"
    if not path.exists():
        run = "evaluation" if experiment in DERIVED else experiment
        skip(Path(sys.argv[0]).stem, f"{path} is missing: run: scepsy experiment run {run} -o {data}")
    return pd.read_parquet(path)


def save(figure: Figure, output: Path, name: str) -> None:
    """Write PDF, PNG, and SVG with text as text (for pages), without dates or program versions."""
    figure.savefig(output / f"{name}.pdf", metadata={"CreationDate": None, "ModDate": None, "Producer": None, "Creator": None})
    figure.savefig(output / f"{name}.png", metadata={"Software": None})
    with plt.rc_context({"svg.fonttype": "none"}):
        figure.savefig(output / f"{name}.svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)


def look(name: str, names: Sequence[str] = SYSTEMS) -> dict[str, Any]:
    """Colour, marker and dash of a series, the same wherever it appears."""
    number = list(names).index(name) if name in names else len(names)
    return {
        "color": PALETTE[number % len(PALETTE)],
        "marker": MARKERS[(number + number // len(PALETTE)) % len(MARKERS)],
        "linestyle": DASHES[(number + number // len(PALETTE)) % len(DASHES)],
    }


def hatch(name: str, names: Sequence[str] = SYSTEMS) -> str:
    """Hatch of a bar."""
    return HATCHES[list(names).index(name) % len(HATCHES)] if name in names else ""


def per_point(frame: pd.DataFrame) -> pd.DataFrame:
    """Workflows of one workload joined: latency is the mean over requests, stable only where all are."""
    found = frame[frame["source"] == "simulated"].copy()
    found["weighted"] = found["latency_mean_s"] * found["rate_per_s"]
    found["weighted_p95"] = found["latency_p95_s"] * found["rate_per_s"]
    keys = ["workload", "gpus", "system", "option", "load", "seed"]
    grouped = found.groupby(keys, as_index=False, sort=False).agg(
        rate_per_s=("rate_per_s", "sum"),
        weighted=("weighted", lambda v: v.sum(skipna=False)),
        weighted_p95=("weighted_p95", lambda v: v.sum(skipna=False)),
        stable=("stable", "all"),
    )
    grouped["latency_s"] = grouped["weighted"] / grouped["rate_per_s"]
    grouped["latency_p95_s"] = grouped["weighted_p95"] / grouped["rate_per_s"]
    return grouped.drop(columns=["weighted", "weighted_p95"])


def over_seeds(points: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds; stable only where every seed is."""
    keys = ["workload", "gpus", "system", "option", "load"]
    return points.groupby(keys, as_index=False, sort=False).agg(
        rate_per_s=("rate_per_s", "mean"),
        latency_s=("latency_s", "mean"),
        latency_p95_s=("latency_p95_s", "mean"),
        stable=("stable", "all"),
        seeds=("seed", "nunique"),
    )


def best_option(points: pd.DataFrame) -> pd.DataFrame:
    """Of each system's options the best at each load: a stable one before an unstable one, then the lowest latency."""
    ranked = points.assign(unstable=~points["stable"].astype(bool)).sort_values(
        ["unstable", "latency_s"], kind="stable", na_position="last"
    )
    keys = ["workload", "gpus", "system", "load"]
    return ranked.drop_duplicates(keys).drop(columns="unstable").sort_values([*keys], kind="stable")


def sweep(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of the common loads, without those that only narrow a border."""
    return frame[frame["kind"] == "sweep"] if "kind" in frame else frame


def highest_stable(frame: pd.DataFrame) -> pd.DataFrame:
    """By workload, GPUs and system: the highest rate at which some option is stable in every seed, all rows counted."""
    stable = over_seeds(per_point(frame))
    stable = stable[stable["stable"].astype(bool)]
    return stable.groupby(["workload", "gpus", "system"], as_index=False, sort=False)["rate_per_s"].max()


def curve(axes: Any, points: pd.DataFrame, name: str, label: str, names: Sequence[str] = SYSTEMS) -> None:
    """One system's latency against rate: filled markers where stable, hollow where not."""
    style = look(name, names)
    points = points.sort_values("rate_per_s")
    axes.plot(points["rate_per_s"], points["latency_s"], color=style["color"], linestyle=style["linestyle"], linewidth=1.3)
    for stable, face in ((True, style["color"]), (False, "white")):
        part = points[points["stable"].astype(bool) == stable]
        axes.plot(
            part["rate_per_s"],
            part["latency_s"],
            linestyle="none",
            marker=style["marker"],
            color=style["color"],
            markerfacecolor=face,
            markersize=4.5,
        )
    axes.plot([], [], label=label, markersize=4.5, linewidth=1.3, **style)


def note(figure: Figure, frame: pd.DataFrame) -> None:
    """What the picture rests on, in small print below everything."""
    scale = ", ".join(sorted(set(frame["scale"])))
    seeds = sorted({int(s) for s in frame["seed"].dropna() if s >= 0}) if "seed" in frame else []
    span = f"{seeds[0]}–{seeds[-1]}" if len(seeds) > 2 else ", ".join(map(str, seeds))
    text = f"{scale} scale" + (f"; seeds {span}" if seeds else "") + f"; version {frame['version'].iloc[0]}"
    small_print(figure, text)


SMALL_PRINT_IN = 0.09
"""Height of the strip for a line of small print below a legend, inches."""


def small_print(figure: Figure, text: str) -> None:
    """A line at the bottom right, below the legend where the figure has one."""
    if not figure.legends:
        figure.supxlabel(text, x=0.995, ha="right", fontsize=4.5, color="#666666")
        return
    strip = SMALL_PRINT_IN / figure.get_figheight()
    figure.text(0.995, 0.002, text, ha="right", va="bottom", fontsize=4.5, color="#666666")
    for legend in figure.legends:
        legend.borderaxespad += 72 * SMALL_PRINT_IN / legend.prop.get_size_in_points()  # in font sizes
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.set(rect=(0, strip, 1, 1 - strip))


def plain(axes: Any, which: str = "y") -> None:
    """A logarithmic axis with plain numbers, minor ones too where the axis covers little more than a decade."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis = axes.yaxis if which == "y" else axes.xaxis
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 1000 else (1.0,)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())
