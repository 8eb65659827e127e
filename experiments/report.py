"""The evaluation as one page: what came out with intervals, claims, losses, what is not settled, and what it all rests on."""

import math
import platform
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.code_version import code_hash
from experiments.findings.compare import ALL, KEYS, ONE_LOOK, OURS, OWN_GROUPS, TIE, grouped, records
from experiments.findings.derive import derive
from experiments.findings.losses import LOSS
from experiments.findings.sensitivity import variant_in_words
from experiments.runner import save_table
from experiments.systems.registry import SYSTEMS
from scepsy.errors import InputError
from scepsy.report.page import Picture, Section, Table, write_page
from scepsy.report.scripts import draw

FIGURES = {
    "fig_05_main": "Mean latency against arrival rate on 16 GPUs, every system at its best option.",
    "fig_06_aegaeon": "4 and 8 GPUs against Aegaeon's splits.",
    "fig_07_ayo": "4 and 8 GPUs against Ayo on user allocations.",
    "fig_09_ablation": "Scepsy without one of its means.",
    "fig_13_sensitivity": "What the advantage is when one assumption is changed; the abstract's claims as lines.",
}
UNKNOWN = (
    "The GPU type, models, arrivals and fraction unit behind the public numbers are not public. A reproduced claim is one at "
    "our assumptions."
)
Tables = dict[str, pd.DataFrame]


def headline_ratios(results: Path) -> list[dict[str, Any]]:
    """Scepsy against every other system at every common rate, as plain rows. Raises ``InputError`` without an evaluation."""
    return records(derive(results)["comparisons"])


def write_report(results: Path, path: Path) -> list[Path]:
    """Write the page and its pictures. Raises ``InputError`` without an evaluation."""
    tables = derive(results)
    points = tables["points"]
    if points.empty:
        file = results / "evaluation.parquet"
        raise InputError(f"{file} has no measured rates: run: scepsy experiment run evaluation -o {results}")
    sections = [
        outcome(tables),
        claimed(tables["claims"]),
        *pictures(results, tables),
        lost(tables["losses"]),
        settledness(tables),
        granted(),
    ]
    lead = (
        "Every system replays the same sampled runs at the same times on the same step models, simulated token by token. "
        f"Scale: {points['scale'].iloc[0]}, up to {int(points['seeds'].max())} seeds. Ratios above 1 mean Scepsy is better. "
        "Intervals are 95 %, paired by seed. * means not settled within the budget."
    )
    return write_page(path, "Evaluation", lead, sections, facts(results, points))


def interval(value: float, low: float, high: float, settled: bool = True) -> str:
    """``1.23 [1.20, 1.26]``, an asterisk where it is not settled.

    >>> interval(1.234, 1.2, 1.26), interval(1.234, float("nan"), float("nan"), settled=False)
    ('1.23 [1.2, 1.26]', '1.23 *')
    """
    if value != value:
        return "–"
    ends = f" [{low:.3g}, {high:.3g}]" if low == low and high == high else ""
    return f"{value:.3g}{ends}" + ("" if settled else " *")


def place(row: dict[str, Any]) -> str:
    """Workload, cluster and what is not as assumed elsewhere, in words."""
    changed = [
        row["gpu_type"] if row["gpu_type"] != "A100-80G" else "",
        f"nodes of {row['gpus_per_node']}" if row["gpus_per_node"] != 8 else "",
        row["arrivals"] if row["arrivals"] != "poisson" else "",
        variant_in_words(row["planned_on"]),
        row["models"].replace("=", " played by "),
    ]
    return ", ".join([f"{row['workload']}, {row['gpus']} GPUs", *(text for text in changed if text)])


def overall(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of workloads of several workflows the rows of all requests."""
    return [row for row in rows if "+" not in row["workload"] or row["workflow"] == ALL]


def best_others(compared: pd.DataFrame) -> list[dict[str, Any]]:
    """At every question and rate, the comparison with the fastest other system that is stable there."""
    rows = [row for row in overall(records(compared)) if row["group"] not in OWN_GROUPS and row["other_verdict"] == "stable"]
    return [min(some, key=lambda row: row["other_s"]) for some in grouped(rows, (*KEYS, "load")).values()]


def outcome(tables: Tables) -> Section:
    """The first screen: against the best other system, question by question; how much is settled; every loss."""
    best = grouped(best_others(tables["comparisons"]), KEYS)
    rows = []
    for key, systems in grouped(records(tables["maxima"]), KEYS).items():
        others = [row for row in systems if row["group"] not in OWN_GROUPS and row["rate_per_s"] > 0]
        if not any(row["system"] == OURS for row in systems) or not others:
            continue
        top = max(others, key=lambda row: row["rate_per_s"])
        both = [row for row in best.get(key, []) if row["stable"]]
        least = min(both, key=lambda row: row["ratio"], default=None)
        most = max(both, key=lambda row: row["ratio"], default=None)
        rows.append(
            [
                place(top),
                top["title"],
                interval(top["ratio"], top["ratio_low"], top["ratio_high"], top["settled"]),
                len(both),
                _against(least),
                _against(most),
            ]
        )
    table = Table(
        "Scepsy against the best other system, question by question",
        [
            "question",
            "best other by rate",
            "highest rates, Scepsy's over its",
            "rates at which both are stable",
            "latency, least: best other's over Scepsy's",
            "latency, most",
        ],
        rows,
        "The best other system is chosen anew at each rate, so no single system need be all of them.",
    )
    losses = tables["losses"]
    certain = records(losses[losses["verdict"] == LOSS]) if len(losses) else []
    words = [settled_words(tables), loss_words(certain, len(losses) - len(certain))]
    items = [table]
    if certain:
        items.append(loss_table("Losses", certain))
    return Section("What came out", words, items)


def _against(row: dict[str, Any] | None) -> str:
    if row is None:
        return "–"
    return f"{interval(row['ratio'], row['low'], row['high'], row['settled'])} ({row['title']}, {row['rate_per_s']:.3g}/s)"


def settled_words(tables: Tables) -> str:
    """How many points are what."""
    rows = overall(records(tables["points"]))
    total = len(rows)
    settled = len([row for row in rows if row["settled"]])
    unstable = len([row for row in rows if row["verdict"] == "unstable"])
    borders = tables["maxima"]
    one_look = int((borders["why"] == ONE_LOOK).sum())
    doubt = (
        f" In {one_look} of these, and at the points that are called unstable, a single look decided that a load is too much. "
        "It may have seen the system fill, so no such end is used, and ratios of rates compare what is shown stable."
    )
    both = int((borders["low"].gt(0) & borders["high"].map(math.isfinite)).sum())
    return (
        f"{settled} of {total} points are settled, {unstable} are called unstable, {total - settled - unstable} are "
        f"neither within the budget. Of {len(borders)} highest stable rates {int(borders['settled'].sum())} are as precise as "
        f"asked for, {both} are known from both sides."
    ) + (doubt if one_look else "")


def loss_words(certain: list[dict[str, Any]], possible: int) -> str:
    """Losses in one sentence."""
    more = f" At {possible} more, ratios are past {TIE:.0%} but not certain." if possible else ""
    if not certain:
        return f"Nowhere is another system better by more than {TIE:.0%} with an interval that leaves out 1.{more}"
    return (
        f"Another system is better by more than {TIE:.0%}, with an interval that leaves out 1, at {len(certain)} points listed "
        f"below.{more}"
    )


def loss_table(caption: str, rows: list[dict[str, Any]]) -> Table:
    """Losses with both decisions side by side."""
    return Table(
        caption,
        ["question", "workflow", "of", "load", "better system", "ratio", "Scepsy ran", "it ran", "explanation"],
        [
            [
                place(row),
                row["workflow"],
                row["statistic"],
                f"{row['load']:.3g}",
                row["title"],
                interval(row["ratio"], row["low"], row["high"], row["settled"]),
                row["ours_decided"],
                row["other_decided"],
                row["explanation"],
            ]
            for row in rows
        ],
    )


def claimed(claims: pd.DataFrame) -> Section:
    """Public claims beside ours."""
    rows = [
        [
            row["text"],
            row["source"],
            f"{row['claimed']:g} {row['unit']}",
            interval(row["ours"], row["low"], row["high"]),
            row["at"],
            row["verdict"],
            row["why"],
        ]
        for row in records(claims)
    ]
    columns = ["claim", "source", "claimed", "here", "where", "verdict", "reason"]
    return Section("Public claims", [UNKNOWN], [Table("Claims at the same cut", columns, rows)])


def pictures(results: Path, tables: Tables) -> list[Section]:
    """The figures that rest on the evaluation, each with the command that draws it; those without rows say so."""
    items: list[Table | Picture] = []
    words = []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "tables"
        for name, table in tables.items():
            save_table(data / f"{name}.parquet", table)
        for one in draw(list(FIGURES), data, Path(folder) / "figures"):
            command = f"scepsy figures --data {results} --only {one.name} -o figures"
            if one.skipped:
                words.append(f"{one.name} is not drawn: {one.skipped.replace(str(data), str(results))}.")
                continue
            image = next(path for path in one.files if path.suffix == ".svg").read_bytes()
            items.append(Picture(one.name, f"{FIGURES[one.name]} Drawn by: {command}", image))
    return [Section("Figures", words, items)]


def lost(losses: pd.DataFrame) -> Section:
    """Everything past 2 %, certain or not."""
    possible = records(losses[losses["verdict"] != LOSS]) if len(losses) else []
    if not possible:
        return Section(
            "Possible losses", ["There is no point at which another system's mean is past 2 % without being a loss above."]
        )
    return Section(
        "Possible losses",
        ["The interval holds 1, or a highest rate is known from one side: more seeds or longer runs may make them losses."],
        [loss_table("Points past 2 % that are not certain", possible)],
    )


def settledness(tables: Tables) -> Section:
    """By system: how many of its points and borders are settled, and the first reason why not."""
    borders = grouped(records(tables["maxima"]), ("system",))
    rows = []
    for (system,), mine in grouped([row for row in overall(records(tables["points"])) if row["best"]], ("system",)).items():
        highest = borders.get((system,), [])
        whys = [
            row["why"] for row in (*mine, *highest) if row["why"] and not row["settled"] and row.get("verdict") != "unstable"
        ]
        rows.append(
            [
                mine[0]["title"],
                len(mine),
                len([row for row in mine if row["settled"]]),
                len([row for row in mine if row["verdict"] == "unstable"]),
                f"{len([row for row in highest if row['settled']])} of {len(highest)}",
                whys[0] if whys else "",
            ]
        )
    table = Table(
        "Points and borders by system", ["system", "points", "settled", "unstable", "borders settled", "why not"], rows
    )
    return Section(
        "What is settled",
        ["A point that the budget did not settle is kept. Its interval is wide, and decides what follows from the point."],
        [table],
    )


def granted() -> Section:
    """What each system is assumed and granted, and whom that favours."""
    rows = [
        [s.title, s.assumes, {"it": "the system", "others": "the others", "nobody": "nobody"}[s.favours]]
        for s in SYSTEMS.values()
    ]
    return Section("What each system was granted", [], [Table("Assumptions by system", ["system", "assumed", "favours"], rows)])


def facts(results: Path, points: pd.DataFrame) -> list[tuple[str, str]]:
    """What the page rests on."""
    row = points.iloc[0]
    have = sorted(path.stem for path in results.glob("*.parquet"))
    same = row["code"] == code_hash()
    age = "the same as this checkout's" if same else "another than this checkout's: rows may be older than the code"
    return [
        ("Version", f"{row['version']}; commit {row['commit'] or 'unknown'}"),
        ("Source hash", f"{row['code']}, {age}"),
        ("Machine", str(row["machine"])),
        ("Scale", str(row["scale"])),
        ("Tables", f"{results}: {', '.join(have)}"),
        (
            "Command",
            f"scepsy experiment run evaluation --scale {row['scale']} -o {results}; scepsy experiment report -r {results}",
        ),
        ("Python", platform.python_version()),
    ]
