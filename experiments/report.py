"""The evaluation as one page: ratios with intervals, where Scepsy loses and why, what it all rests on."""

import math
import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from experiments.ratios import OURS, TIE_RATIO, best_options, comparisons, highest_rates, points, read_table
from experiments.systems.registry import SYSTEMS
from scepsy.errors import InputError
from scepsy.metrics import seeds_interval
from scepsy.report.page import Picture, Section, Table, write_page
from scepsy.report.style import DASHES, MARKERS, looks, styled

PAPER = {"throughput": 2.4, "latency": 27.0}
"""The abstract of arXiv 2604.15186: up to 2.4x higher throughput, 27x lower latency."""


NO_LOSSES = (
    "At no stable point of the headline table was another system more than 2 % faster. Points are short and other tables are "
    "not looked at here, so this is no statement about all points."
)


def headline_ratios(results: Path) -> list[dict[str, Any]]:
    """The headline's comparisons as plain rows. Raises ``InputError`` when the experiment has not been run."""
    frame = read_table(results, "headline")
    if frame is None:
        raise InputError(f"{results / 'headline.parquet'} is missing: run: scepsy experiment run headline -o {results}")
    rows: list[dict[str, Any]] = comparisons(frame).to_dict("records")  # type: ignore[assignment]
    return rows


def write_report(results: Path, path: Path) -> list[Path]:
    """Write the page and its pictures. Raises ``InputError`` without a headline table."""
    frame = read_table(results, "headline")
    if frame is None:
        raise InputError(f"{results / 'headline.parquet'} is missing: run: scepsy experiment run headline -o {results}")
    found = comparisons(frame)
    rates = highest_rates(frame)
    sections = [
        verdict(found, rates),
        explained(results, found, rates),
        latencies(frame, found),
        losses(found),
        *further(results),
        granted(),
    ]
    lead = (
        "Every system replays the same sampled runs at the same times on the same step models, simulated at token level; "
        f"scale: {', '.join(sorted(set(frame['scale'])))}. Ratios above 1 mean Scepsy is better."
    )
    return write_page(path, "Evaluation", lead, sections, facts(results, frame))


def verdict(found: pd.DataFrame, rates: pd.DataFrame) -> Section:
    """The paper's two claims, system by system."""
    top = rates.set_index(["workload", "system"])["highest_per_s"]
    rows = []
    for system in [s for s in SYSTEMS if s in set(found["system"])]:
        for workload in dict.fromkeys(found["workload"]):
            mine = found[(found["system"] == system) & (found["workload"] == workload)]
            stable = mine[mine["both_stable"]]
            best = stable.loc[stable["ratio"].idxmax()] if len(stable) else None
            worst = stable.loc[stable["ratio"].idxmin()] if len(stable) else None
            ours, other = top.get((workload, OURS), 0.0), top.get((workload, system), 0.0)
            rows.append(
                [
                    SYSTEMS[system].title,
                    workload,
                    f"{ours / other:.2f}" if other else "–",
                    _interval(worst),
                    _interval(best),
                    float(mine["ratio"].max()) if mine["ratio"].notna().any() else None,
                ]
            )
    caption = (
        "Scepsy against each system at its best option. Latency ratios only at loads where both are stable, with 95 % intervals"
    )
    table = Table(
        caption,
        [
            "system",
            "workload",
            "highest stable rate, Scepsy / system",
            "latency ratio, least",
            "latency ratio, most",
            "unrestricted, most",
        ],
        rows,
        "Unrestricted: the largest ratio at any load, stable or not. An overloaded system's latency grows with the length of "
        "the experiment, so that number says little.",
    )
    stable = found[found["both_stable"] & ~found["system"].str.startswith("scepsy")]
    wins = int((stable["ratio"] > 1 + TIE_RATIO).sum())
    lost = int((stable["ratio"] < 1 - TIE_RATIO).sum())
    even = len(stable) - wins - lost
    words = [
        f"At {len(stable)} points where both are stable, Scepsy is more than 2 % faster than the other system at {wins}, more "
        f"than 2 % slower at {lost}, and within 2 % at {even}.",
        f"The paper's abstract claims up to {PAPER['throughput']}x throughput and {PAPER['latency']:g}x lower latency. The GPU "
        "type, models, arrivals and fraction unit behind those numbers are not public, so they are drawn beside these results "
        "and are not a target.",
    ]
    return Section("What came out", words, [table])


WHY = {
    "equal": "It splits GPUs without a view of the workflow, so the LLM that binds saturates first.",
    "proportional": "Parameters say what a token costs, not how many tokens or calls a run asks for.",
    "independent": "Each LLM's own load is known, but not what its latency is worth to a run; whole GPUs only.",
    "oracle-user": "It knows what Scepsy knows, on whole GPUs: what is left to gain is fractions.",
    "hpa": "Each LLM scales by its own metric, one GPU at a time, until the cluster is full; no degree, no fraction.",
    "ayo": "Its batching and early prefills gain a few percent; the rest of the difference is the user's allocation.",
    "aegaeon": "It swaps models on whole GPUs between tokens, which pays where many LLMs are called rarely. Here every LLM is "
    "called all the time: each call waits for its model's turn.",
    "muxserve": "Prefills take all SMs of a mesh in turn, and calls reserve their final KV length: bursts of a workflow queue.",
}


def explained(results: Path, found: pd.DataFrame, rates: pd.DataFrame) -> Section:
    """The paper's claims held against each system: what was reached, and what sets the size of the ratio."""
    top = rates.set_index(["workload", "system"])["highest_per_s"]
    rows = []
    for system in [s for s in WHY if s in set(found["system"])]:
        mine = found[found["system"] == system]
        ratios = [top[w, OURS] / top[w, system] if top.get((w, system)) else math.inf for w in dict.fromkeys(mine["workload"])]
        stable = mine[mine["both_stable"]]["ratio"]
        rows.append(
            [
                SYSTEMS[system].title,
                f"{min(ratios):.2g} to {max(ratios):.2g}"
                if math.isfinite(max(ratios))
                else f"{min(ratios):.2g} to never stable",
                f"{stable.max():.1f}" if len(stable) else "never both stable",
                f"{mine['ratio'].max():.1f}",
                WHY[system],
            ]
        )
    words = [
        "A stable point is one whose work in the system does not drift. "
        f"{PAPER['latency']:g}x takes a point at which the other system is overloaded, and there the ratio grows "
        "with the length of the experiment (table below). Which length, load and system stand behind the paper's number is not "
        "public.",
        f"A throughput ratio of {PAPER['throughput']}x is reached or not depending on whom one compares with: see the first "
        "column. Rates are those of the swept loads.",
    ]
    columns = [
        "system",
        f"throughput ratio (paper {PAPER['throughput']}x)",
        "latency, both stable, most",
        "latency, any, most",
        "why",
    ]
    items = [Table("By system, over all workloads", columns, rows)]
    long = read_table(results, "overload")
    if long is not None:
        items.append(lengths(long))
    return Section("The paper's claims, system by system", words, items)


def lengths(frame: pd.DataFrame) -> Table:
    """Latency over Scepsy's by system and length of the arrivals."""
    means = frame.groupby(["system", "length"], sort=False)["latency_mean_s"].mean().unstack("length")
    steady = frame.groupby("system", sort=False)["stable"].all()
    rows = [
        [SYSTEMS[str(system)].title, bool(steady[system]), *(float(v) for v in means.loc[system] / means.loc[OURS])]
        for system in means.index
        if system != OURS
    ]
    columns = ["system", "stable", *(f"arrivals {length:g}x as long" for length in means.columns)]
    return Table("Mean latency over Scepsy's at 90 % load, 4 GPUs, by the length of the experiment", columns, rows)


def _interval(row: Any) -> str:
    if row is None:
        return "–"
    return f"{row['ratio']:.2f} [{row['low']:.2f}, {row['high']:.2f}] at load {row['load']:g}"


def latencies(frame: pd.DataFrame, found: pd.DataFrame) -> Section:
    """Latency against rate, one picture per workload, and the numbers."""
    best = best_options(points(frame))
    items: list[Table | Picture] = []
    for workload in dict.fromkeys(best["workload"]):
        mine = best[best["workload"] == workload]
        items.append(Picture(f"evaluation-{workload}", f"{workload}: hollow markers are not stable", _picture(mine)))
        loads = sorted(set(mine["load"]))
        rows = []
        for system in [s for s in SYSTEMS if s in set(mine["system"])]:
            cells: list[object] = [SYSTEMS[system].title]
            for load in loads:
                here = mine[(mine["system"] == system) & (mine["load"] == load)]
                cells.append("–" if here.empty or here["mean"].isna().all() else _cell(here))
            rows.append(cells)
        columns = ["system", *(f"load {load:g}" for load in loads)]
        items.append(Table(f"{workload}: mean latency (s) with its 95 % interval; * not stable", columns, rows))
    return Section(
        "Latency against rate, 16 GPUs", ["Load 1 is the highest rate for which the exact planner finds a plan."], items
    )


def _cell(here: pd.DataFrame) -> str:
    star = "" if here["stable"].all() else " *"
    if len(here) >= 2:
        low, high = seeds_interval(here["mean"].to_numpy())
    else:
        low, high = float(here["low"].iloc[0]), float(here["high"].iloc[0])
    return f"{here['mean'].mean():.2f} [{low:.2f}, {high:.2f}]{star}"


def _picture(mine: pd.DataFrame) -> Figure:
    names = [name for name in SYSTEMS if name in set(mine["system"])]
    with styled():
        figure, axes = plt.subplots(figsize=(7.4, 3.9), layout="constrained")
        for number, (name, look) in enumerate(looks(names).items()):
            # The palette has ten colours. From the eleventh series on, marker and dash tell it from its colour's first user.
            turn = number // len(MARKERS)
            look = replace(
                look, marker=MARKERS[(number + 3 * turn) % len(MARKERS)], dash=DASHES[(number + 5 * turn) % len(DASHES)]
            )
            one = (
                mine[mine["system"] == name]
                .groupby("load")
                .agg(rate=("rate_per_s", "mean"), mean=("mean", "mean"), stable=("stable", "all"))
            )
            axes.plot(one["rate"], one["mean"], color=look.colour, linestyle=look.dash, linewidth=1.2)
            for stable, face in ((True, look.colour), (False, "white")):
                part = one[one["stable"] == stable]
                axes.plot(
                    part["rate"], part["mean"], linestyle="none", marker=look.marker, color=look.colour, markerfacecolor=face
                )
            axes.plot([], [], color=look.colour, linestyle=look.dash, marker=look.marker, label=SYSTEMS[name].title)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("arrival rate (runs/s)")
        axes.set_ylabel("mean latency (s)")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=7.5)
    return figure


def losses(found: pd.DataFrame) -> Section:
    """Every stable point at which another system was more than 2 % faster, with both decisions side by side."""
    others = found[found["both_stable"] & (found["ratio"] < 1 - TIE_RATIO)].sort_values("ratio")
    if others.empty:
        return Section("Where Scepsy loses", [NO_LOSSES])
    rows = [
        [
            row["workload"],
            row["load"],
            SYSTEMS[row["system"]].title,
            f"{row['ratio']:.2f} [{row['low']:.2f}, {row['high']:.2f}]",
            row["ours_decided"] + (f" ({row['ours_carried'].partition(':')[0]})" if row["ours_carried"] else ""),
            row["other_decided"],
        ]
        for _, row in others.iterrows()
    ]
    carried = int((others["ours_carried"] != "").sum())
    words = [
        f"At {carried} of {len(others)} points Scepsy ran a plan made for a lower rate: its planner refuses plans beyond 95 % "
        "predicted utilisation, where a system without a predictor just spends every GPU. At the others its predictor ranked "
        "another allocation first; both decisions are in the table.",
        "Where the interval includes 1 the difference is not established at this scale.",
    ]
    table = Table(
        "Points lost by more than 2 %",
        ["workload", "load", "faster system", "latency ratio", "Scepsy ran", "the other ran"],
        rows,
    )
    return Section("Where Scepsy loses, and why", words, [table])


def further(results: Path) -> list[Section]:
    """What the other experiments say, in a table each, where they have been run."""
    sections = []
    robust = read_table(results, "robustness")
    if robust is not None:
        sections.append(
            Section(
                "Robustness", ["Predicted over simulated mean latency of Scepsy's own plan at 60 % load."], [robustness(robust)]
            )
        )
    oracle = read_table(results, "oracle")
    if oracle is not None:
        kept = points(oracle)
        best = kept[kept["system"] == "exhaustive"].set_index(["workload", "load"])["mean"]
        rows = [
            [
                row["workload"],
                row["load"],
                SYSTEMS[row["system"]].title,
                row["mean"],
                100 * (row["mean"] / best[row["workload"], row["load"]] - 1),
            ]
            for _, row in kept.iterrows()
            if (row["workload"], row["load"]) in best.index
        ]
        table = Table(
            "Two GPUs, every allocation simulated",
            ["workload", "load", "planner", "mean latency s", "above the oracle %"],
            rows,
        )
        sections.append(Section("Against the exhaustive oracle", [], [table]))
    return sections


def robustness(frame: pd.DataFrame) -> Table:
    """Predictor errors and systems by dimension."""
    simulated = frame[frame["source"] == "simulated"]
    predicted = frame[frame["source"] == "predicted"]
    keys = ["dimension", "workload", "value"]
    ours = (
        simulated[simulated["system"] == OURS]
        .groupby(keys, sort=False)
        .agg(s=("latency_mean_s", "mean"), stable=("stable", "all"))
    )
    guesses = predicted.groupby([*keys, "predictor"])["latency_mean_s"].mean().unstack("predictor")
    systems = simulated.groupby([*keys, "system"])["latency_mean_s"].mean().unstack("system")
    rows = []
    for key, own, steady in zip(ours.index, ours["s"], ours["stable"], strict=True):
        cells: list[object] = [*key, own, bool(steady)]
        for source, names in ((guesses, ("aggregate", "critical-path", "paper")), (systems, ("scepsy-exact", "equal"))):
            for name in names:
                cells.append(float(source[name].get(key, math.nan) / own) if name in source else None)
        rows.append(cells)
    columns = ["what", "workload", "value", "simulated s", "stable", "aggregate", "critical path", "paper's formula"]
    return Table(
        "Predicted / simulated, and two other planners' latency over Scepsy's",
        [*columns, "aggregate-only plan", "equal GPUs"],
        rows,
    )


def granted() -> Section:
    """What each system is assumed and granted, and whom that favours."""
    rows = [
        [s.title, s.assumes, {"it": "the system", "others": "the others", "nobody": "nobody"}[s.favours]]
        for s in SYSTEMS.values()
    ]
    return Section("What each system was granted", [], [Table("Assumptions by system", ["system", "assumed", "favours"], rows)])


def facts(results: Path, frame: pd.DataFrame) -> list[tuple[str, str]]:
    """What the page rests on."""
    seeds = sorted({int(seed) for seed in frame["seed"] if seed >= 0})
    have = sorted(path.stem for path in results.glob("*.parquet"))
    return [
        ("Version", f"{', '.join(sorted(set(frame['version'])))}; commit {', '.join(sorted(set(frame['commit'].fillna(''))))}"),
        ("Source hash", ", ".join(sorted(set(frame["code"])))),
        ("Seeds", ", ".join(map(str, seeds))),
        ("GPU type", ", ".join(sorted(set(frame["gpu_type"])))),
        ("Tables", f"{results}: {', '.join(have)}"),
        ("Command", f"scepsy experiment run --{frame['scale'].iloc[0]} -o {results}; scepsy experiment report -r {results}"),
        ("Python", platform.python_version()),
    ]
