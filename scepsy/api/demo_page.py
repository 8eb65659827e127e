"""The demo's page: the table, the curves, the GPU maps, how far predictions are off and why."""

import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd

from scepsy.api.demo import LOADS, PLANNERS, SEED, WorkflowResult
from scepsy.cluster import Cluster
from scepsy.report.figures import gpu_map, latency_vs_rate, prediction_error, share_stability
from scepsy.report.page import Picture, Section, Table, write_page
from scepsy.steady.verdict import PRECISION, STABLE, UNSTABLE
from scepsy.version import __version__

TOLERANCE = 0.15
"""A prediction this far (relative) from the simulated mean, at loads up to ``TRUSTED_LOAD``, is explained in words."""
TRUSTED_LOAD = 0.7


def side_by_side(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per (workflow, planner, load): predicted and simulated means, the deviation, and whether it was stable."""
    keys = ["workflow", "planner", "load", "rate_per_s"]
    predicted = frame[frame["source"] == "predicted"].set_index(keys)
    simulated = (
        frame[frame["source"] == "simulated"]
        .assign(half_width_s=lambda d: d["latency_mean_high_s"] - d["latency_mean_s"])
        .groupby(keys)
        .agg(
            simulated_s=("latency_mean_s", "mean"),
            p95_s=("latency_p95_s", "mean"),
            throughput_per_s=("throughput_per_s", "mean"),
            half_width_s=("half_width_s", "mean"),
            offered_per_s=("offered_per_s", "mean"),
            stable=("stable", "all"),
            settled=("settled", "all"),
            standing=("verdict", standing),
            gpus=("gpus", "first"),
        )
    )
    joined = simulated.join(
        predicted[["latency_mean_s", "utilisation", "why"]].rename(columns={"latency_mean_s": "predicted_s"})
    )
    joined["deviation_pct"] = 100.0 * (joined["predicted_s"] / joined["simulated_s"] - 1.0)
    joined.loc[~np.isfinite(joined["predicted_s"]) | (joined["standing"] == "no"), "deviation_pct"] = np.nan
    joined.loc[(joined["standing"] == "yes") & ~joined["settled"], "standing"] = "yes, not settled"
    order = {name: index for index, name in enumerate(PLANNERS)}
    table = joined.reset_index()
    return table.sort_values(
        ["workflow", "load", "planner"],
        key=lambda c: c.map(order) if c.name == "planner" else c,
        kind="stable",
        ignore_index=True,
    )


def standing(verdicts: pd.Series) -> str:
    """Whether a point keeps up, over its seeds: yes, no, or not settled when that is not decided."""
    if (verdicts == UNSTABLE).any():
        return "no"
    return "yes" if (verdicts == STABLE).all() else "not settled"


def not_settled(table: pd.DataFrame) -> str:
    """One sentence on the points whose mean is not known to the precision asked for; empty when there is none."""
    open_ = table[~table["settled"] & (table["standing"] != "no")]
    if open_.empty:
        return ""
    return (
        f"{len(open_)} of {len(table)} points are not settled: the budget of calls ended before their mean was known to "
        f"{PRECISION:.0%}. Their ± says how well it is known."
    )


def within_tolerance(table: pd.DataFrame) -> tuple[int, int, float]:
    """(points within ±15 %, points, worst deviation %) over settled points of plans loaded up to 70 % of their own capacity."""
    checked = table[(table["utilisation"] <= TRUSTED_LOAD) & table["settled"] & table["deviation_pct"].notna()]
    if checked.empty:
        return 0, 0, float("nan")
    size = checked["deviation_pct"].abs()
    return (
        int((size <= 100 * TOLERANCE).sum()),
        len(checked),
        float(checked["deviation_pct"].iloc[int(size.to_numpy().argmax())]),
    )


def compared_with(name: str, other_s: float, own_s: float) -> str:
    """How a latency compares with another's, in words.

    >>> compared_with("a", 1.1, 1.0), compared_with("b", 1.0, 1.1), compared_with("c", 1.001, 1.0)
    ('1.10x faster than a', '1.10x slower than b', 'as fast as c')
    """
    if f"{other_s / own_s:.2f}" == "1.00":
        return f"as fast as {name}"
    return f"{other_s / own_s:.2f}x faster than {name}" if other_s > own_s else f"{own_s / other_s:.2f}x slower than {name}"


def headline(table: pd.DataFrame, workflow: str) -> str:
    """One sentence: Scepsy's exact plan against the best and the worst baseline at the highest load where both are stable."""
    mine = table[(table["workflow"] == workflow) & table["stable"]]
    sentences = []
    for load in sorted(LOADS, reverse=True):
        at = mine[mine["load"] == load].set_index("planner")["simulated_s"]
        others = at.drop(["exact", "hierarchical"], errors="ignore")
        if "exact" in at and len(others):
            best, worst = str(others.idxmin()), str(others.idxmax())
            own, name = float(at["exact"]), f"the best baseline there ({best})"
            rest = f" and {compared_with(worst, float(others[worst]), own)}" if worst != best else ""
            sentences.append(
                f"At {load:.0%} of its highest rate the exact plan's mean latency is {own:.3g} s: "
                f"{compared_with(name, float(others[best]), own)}{rest}."
            )
            break
    baselines = table[(table["workflow"] == workflow) & ~table["planner"].isin(["exact", "hierarchical"])]
    alone = sorted(
        load for load in LOADS if (at := baselines[baselines["load"] == load]["standing"]).empty or (at == "no").all()
    )
    if alone:
        sentences.append(f"From {alone[0]:.0%} on, no baseline is stable.")
    return " ".join(sentences) or "No rate at which the exact plan and a baseline are both stable."


def explanations(table: pd.DataFrame, workflow: str) -> list[str]:
    """Why a prediction is off by more than the tolerance, in words, for each such point at loads up to 70 %."""
    mine = table[(table["workflow"] == workflow) & (table["utilisation"] <= TRUSTED_LOAD) & table["settled"]]
    off = mine[mine["deviation_pct"].abs() > 100 * TOLERANCE]
    words = []
    for row in off.to_dict(orient="records"):
        cause = (
            "the pipeline adds up LLMs that in fact overlap, and reads every LLM at its mean load"
            if row["deviation_pct"] > 0
            else "bursts that one LLM passes on to the next are not in the sum of separately profiled LLMs"
        )
        words.append(
            f"{row['planner']} at {row['load']:.0%}: predicted {row['predicted_s']:.3g} s, "
            f"simulated {row['simulated_s']:.3g} s ({row['deviation_pct']:+.0f} %): {cause}."
        )
    return words


def _table(table: pd.DataFrame, workflow: str) -> Table:
    mine = table[table["workflow"] == workflow]
    return Table(
        caption="Mean end-to-end latency, predicted and simulated",
        columns=[
            "load",
            "runs/s",
            "planner",
            "GPUs",
            "predicted s",
            "simulated s",
            "± s",
            "deviation %",
            "p95 s",
            "arriving/s",
            "completed/s",
            "stable",
            "busiest LLM's load",
        ],
        rows=[
            [
                f"{r['load']:.0%}",
                float(r["rate_per_s"]),
                r["planner"],
                int(r["gpus"]),
                float(r["predicted_s"]),
                float(r["simulated_s"]),
                float(r["half_width_s"]),
                float(r["deviation_pct"]),
                float(r["p95_s"]),
                float(r["offered_per_s"]),
                float(r["throughput_per_s"]),
                r["standing"],
                float(r["utilisation"]),
            ]
            for r in mine.to_dict(orient="records")
        ],
        note="load: rate over the highest rate for which the exact planner finds a plan. Where a planner meets a rate no more, "
        "its last plan is carried over. Deviation: predicted over simulated mean. Predicted ∞: a saturated LLM. "
        "±: 95 % interval of the simulated mean. Stable: the work in the system does not grow. Not settled: the budget of "
        "calls ended before that, or the mean, was known.",
    )


def _workflow_section(result: WorkflowResult, table: pd.DataFrame) -> Section:
    workflow = result.workflow
    items: list[Table | Picture] = [
        Picture(
            f"{workflow}-latency", f"{workflow}: mean latency against arrival rate", latency_vs_rate(result.frame, workflow)
        ),
        _table(table, workflow),
    ]
    for planner in ("exact", "hierarchical", "independent"):
        plan = result.plan(planner, TRUSTED_LOAD)
        if plan is not None:
            items.append(
                Picture(
                    f"{workflow}-gpus-{planner}",
                    f"{workflow}: where the {planner} plan for 70 % load puts each instance",
                    gpu_map(plan),
                )
            )
    why = explanations(table, workflow)
    paragraphs = [headline(table, workflow)]
    paragraphs += [open_] if (open_ := not_settled(table[table["workflow"] == workflow])) else []
    paragraphs += ["Predictions off by more than 15 % at up to 70 % load, and why: " + " ".join(why)] if why else []
    return Section(title=workflow, paragraphs=paragraphs, items=items)


def write_demo_page(
    folder: Path, results: Sequence[WorkflowResult], cluster: Cluster, shares: pd.DataFrame, seeds: Sequence[int], wall_s: float
) -> list[Path]:
    """Write ``report.html``, its pictures and ``comparison.parquet``; returns the files."""
    frame = pd.concat([result.frame for result in results], ignore_index=True)
    frame.to_parquet(folder / "comparison.parquet", index=False)
    table = side_by_side(frame)
    good, checked, worst = within_tolerance(table)
    gpu = cluster.gpu_types[0]
    lead = (
        f"{len(results)} workflows on {len(cluster.gpus)} {gpu.name} GPUs ({len(cluster.nodes)} nodes): Scepsy's exact and "
        f"hierarchical plans against three allocation rules. {good} of {checked} predictions for plans loaded up to 70 % lie "
        f"within 15 % of the simulated mean (worst: {worst:+.0f} %)."
    )
    ratio = table[table["stable"] & table["deviation_pct"].notna()].assign(ratio=lambda d: 1 + d["deviation_pct"] / 100)
    ratio = ratio.assign(load=ratio["utilisation"])
    sections = [_workflow_section(result, table) for result in results]
    sections.append(
        Section(
            title="How far predictions are off",
            paragraphs=["Each marker is one plan at one rate; load is that of its busiest LLM."],
            items=[Picture("prediction-error", "Predicted over simulated mean latency against load", prediction_error(ratio))],
        )
    )
    sections.append(
        Section(
            title="How stable the shares are",
            paragraphs=[
                "Planning from aggregates rests on each LLM's share of a run's LLM time varying less than the run's latency "
                "does: the share's curve should be steeper than the dotted one."
            ],
            items=[
                Picture(
                    "share-stability",
                    "Distribution over runs of shares and of latency, each over its mean",
                    share_stability(shares),
                )
            ],
        )
    )
    assumed = list(dict.fromkeys(note for result in results for note in result.problem.assumptions))
    facts = [
        ("GPU type", f"{gpu.name} ({gpu.source})"),
        ("Models", ", ".join(dict.fromkeys(llm for result in results for llm in result.load.trace.llms))),
        (
            "Traces",
            "; ".join(
                f"{r.workflow}: {r.load.trace.source.origin}, {len(r.load.trace.runs)} runs, seed {r.load.trace.source.seed}"
                for r in results
            ),
        ),
        ("Highest rates", "; ".join(f"{result.workflow}: {result.top_per_s:.3g} runs/s" for result in results)),
        ("Arrivals", f"Poisson, seeds {', '.join(map(str, seeds))}; curves profiled with seed {SEED}"),
        ("Assumed", "; ".join(assumed) or "nothing beyond the traces"),
        (
            "Versions",
            f"scepsy {__version__}, Python {platform.python_version()}, simpy {version('simpy')}, numpy {version('numpy')}",
        ),
        ("Made by", f"scepsy demo, in {wall_s:.0f} s"),
    ]
    files = write_page(folder / "report.html", "Scepsy demo: planned, predicted, simulated", lead, sections, facts)
    return [*files, folder / "comparison.parquet"]
