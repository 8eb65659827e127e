"""One page for one plan: what it is, where it sits, what is predicted and what the simulator says at several rates."""

import platform
from collections.abc import Callable, Sequence
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scepsy.api.forecast import forecast
from scepsy.api.objectives import checks_against, goodput, kept, told
from scepsy.api.plan_tables import calls_table, cost_table, expected_table, memory_table, models_table
from scepsy.api.point import at_rate, measure, simulator
from scepsy.api.prepare import Load
from scepsy.api.settle import FIRST_RUNS, settle
from scepsy.api.settle import MOST_CALLS as MOST_CALLS_AT_TARGET
from scepsy.cost import Cost, cost_of, money
from scepsy.plans import Plan
from scepsy.progress import Progress, no_progress
from scepsy.records import Records
from scepsy.report.figures import gpu_map, heat_map, latency_vs_rate, share_stability
from scepsy.report.page import Fact, Picture, Section, Table, Verdict, cell, with_width, write_page
from scepsy.search.problem import Problem
from scepsy.stats.shares import shares_per_run
from scepsy.stats.stability import stability
from scepsy.stats.table import tabulate
from scepsy.steady.verdict import UNDECIDED, UNSTABLE
from scepsy.version import __version__

RATE_PARTS = (0.25, 0.5, 0.7, 0.85, 0.95, 1.1)
"""Simulated rates as parts of the highest that the plan carries by its predictor: through the knee and beyond. The target is
simulated too."""
HEAT_MAP_COLUMNS = 60
"""Columns of the heat map."""
MOST_CALLS = 60_000
"""Calls of the longest replay away from the target rates, where the number of runs is not given. At the target the page says
what ``simulate`` says, so it goes on for as long."""
NO_WARNING = ["The premise holds: no warning."]


def factors_of(plan: Plan, problem: Problem) -> tuple[float, ...]:
    """Factors on the target rates at which the plan is simulated, ascending; 1 is among them.

    ``RATE_PARTS`` of the factor at which the busiest LLM saturates. A part next to the target is left out.
    """
    busiest = max(part["utilisation"] for document in forecast(plan, problem) for part in document["by_llm"].values())
    swept = [part / busiest for part in RATE_PARTS] if busiest > 0 else []
    return tuple(sorted([1.0, *(factor for factor in swept if abs(factor - 1.0) > 0.07)]))


def sweep_plan(
    plan: Plan,
    loads: Sequence[Load],
    problem_at: Callable[[float], Problem],
    *,
    runs: int | None,
    seed: int,
    progress: Progress = no_progress,
) -> pd.DataFrame:
    """Predict and simulate the plan at ``factors_of`` its target rates; the columns of a comparison, and factor.

    ``runs``: exactly so many runs at each rate; None: until settled, or ``MOST_CALLS`` calls (more at the target).
    """
    problem = problem_at(1.0)
    replay = simulator(problem.profiles)
    rows: list[dict[str, Any]] = []
    for factor in factors_of(plan, problem):
        streams = [at_rate(load.stream, factor * float(load.arrivals.rate_per_s or 1.0)) for load in loads]
        for document, stream in zip(forecast(plan, problem_at(factor)), streams, strict=True):
            rows.append(
                {
                    "planner": plan.planner,
                    "workflow": stream.workflow,
                    "rate_per_s": stream.arrivals.rate_per_s,
                    "factor": factor,
                    "seed": -1,
                    "source": "predicted",
                    "latency_mean_s": document["latency_s"]["mean"],
                    "latency_p95_s": np.nan,
                    "throughput_per_s": document["throughput_per_s"],
                    "stable": bool(np.isfinite(document["latency_s"]["mean"])),
                }
            )
        most = None if runs is not None else MOST_CALLS_AT_TARGET if factor == 1.0 else MOST_CALLS
        for row in measure(plan, streams, replay, runs=runs or FIRST_RUNS, seed=seed, most_calls=most):
            rows.append({"planner": plan.planner, "factor": factor} | row)
        progress()
    return pd.DataFrame(rows)


def verdict_of(at_target: pd.DataFrame) -> Verdict:
    """One sentence on whether the plan keeps up with its target rates, from the simulated rows there."""
    rows = at_target[at_target["source"] == "simulated"].to_dict(orient="records")
    told = ", ".join(
        f"{row['workflow']} takes {cell(row['latency_mean_s'])} s in the mean and {cell(row['latency_p95_s'])} s at the 95th "
        f"percentile, at {row['rate_per_s']:g} runs/s"
        for row in rows
    )
    lost = sum(int(row["issued"] - row["completed"]) for row in rows)
    behind = [row["workflow"] for row in rows if row["verdict"] == UNSTABLE]
    open_ = [row["workflow"] for row in rows if row["verdict"] == UNDECIDED]
    if behind:
        return Verdict(
            False, f"This plan does not keep up with its target rates: {', '.join(behind)} falls behind in simulation."
        )
    if lost:
        return Verdict(False, f"This plan loses runs at its target rates: {lost} did not complete in simulation.")
    if open_:
        return Verdict(None, f"Whether this plan keeps up is not shown for {', '.join(open_)} (too few runs): {told}.")
    return Verdict(True, f"At its target rates this plan keeps up in simulation: {told}.")


def in_flight(records: Records, names: Sequence[str]) -> pd.DataFrame:
    """Calls at each of the named instances (waiting or running) over time: columns name, time_s and calls."""
    calls = records.calls.to_pandas()
    calls = calls[calls["instance"].notna()]
    end = calls["end_s"].fillna(calls["issued_s"].max())
    edges = np.linspace(0.0, float(end.max()), HEAT_MAP_COLUMNS + 1)
    rows = []
    for name in names:
        mine = (calls["instance"] == name).to_numpy()
        start, stop = calls.loc[mine, "issued_s"].to_numpy(), end[mine].to_numpy()
        for left, right in pairwise(edges):
            inside = np.clip(np.minimum(stop, right) - np.maximum(start, left), 0.0, None).sum()
            rows.append({"name": name, "time_s": left, "calls": inside / (right - left)})
    return pd.DataFrame(rows)


def write_plan_page(
    path: Path, plan: Plan, loads: Sequence[Load], frame: pd.DataFrame, problem: Problem, *, seed: int
) -> list[Path]:
    """Write the page of a plan from its sweep; returns the files."""
    at_target = frame[frame["factor"] == 1.0]
    runs = int(at_target["issued"].sum())
    replay = simulator(problem.profiles)
    found = settle(lambda workload: replay(plan, workload), [load.stream for load in loads], seed=seed, runs=runs)
    records = found.records
    documents = forecast(plan, problem)
    stem = path.name.removesuffix(".html")
    cost = cost_of(plan)
    sections = [
        _plan_section(stem, plan, problem, cost),
        _expectation_section(stem, plan, loads, documents, frame, records),
        _calls_section(stem, plan, records, runs),
        _shares_section(stem, loads),
    ]
    verdict = verdict_of(at_target)
    if plan.slo is not None:
        checks = checks_against(plan.slo, found, {load.workflow: load.arrivals.rate_per_s for load in loads})
        sections.insert(0, _objectives_section(checks, goodput(plan.slo, found)))
        held = kept(checks)
        verdict = Verdict(verdict.good if held else held, f"{told(checks)} {verdict.sentence}")
    lead = (
        f"{plan.planner} plan for {', '.join(load.workflow for load in loads)} on {plan.cluster.name}: {cost.gpus} of "
        f"{cost.cluster_gpus} GPUs, {money(cost.usd_per_hour)} per hour, {money(cost.usd_per_1000_runs)} per 1,000 runs."
    )
    title = f"Plan {path.name.removesuffix('.html')}"
    return write_page(path, title, lead, sections, _facts(plan, problem, runs, seed), verdict)


def _objectives_section(checks: Sequence[dict[str, Any]], good: Sequence[dict[str, Any]]) -> Section:
    """What the SLO asks and what the simulation shows, and the runs that keep it."""
    asked = Table(
        caption="Objectives",
        columns=["workflow or LLM", "objective", "limit", "simulated", "± (95 %)", "kept"],
        rows=[
            [c.get("llm") or c["workflow"], c["name"], c["limit"], c["value"], c["half_width"], "yes" if c["ok"] else "no"]
            for c in checks
        ],
        note="A limit is kept when the whole interval is within it.",
    )
    goodputs = Table(
        caption="Goodput",
        columns=["workflow", "within s", "of the objective for", "good %", "good runs/s"],
        rows=[[g["workflow"], g["within_s"], g["within"], g["good_pct"], g["goodput_per_s"]] for g in good],
    )
    return Section("Objectives", items=[asked, goodputs])


def _plan_section(stem: str, plan: Plan, problem: Problem, cost: Cost) -> Section:
    allocation = Table(
        caption="Allocation",
        columns=["LLM", "GPU type", "share %", "TP", "replicas", "GPUs"],
        rows=[[a.llm, a.gpu_type, a.share_pct, a.tensor_parallel, a.replicas, a.gpu_pct / 100] for a in plan.allocations],
    )
    where = Picture(f"{stem}-gpus", "Which instance sits where, at what share", gpu_map(plan))
    memory = memory_table(plan, problem.profiles, problem.longest_call_tokens)
    models = [models_table(plan)] if plan.models else []
    return Section("The plan", items=[allocation, *models, where, memory, cost_table(cost)])


def _expectation_section(
    stem: str,
    plan: Plan,
    loads: Sequence[Load],
    documents: Sequence[dict[str, Any]],
    frame: pd.DataFrame,
    records: Records,
) -> Section:
    parts = Table(
        caption="Where the time goes",
        columns=["workflow", "LLM", "calls per run", "busy s per run", "load of its instances, %"],
        rows=[
            [d["workflow"], llm, part["calls_per_run"], part["busy_s"], 100 * part["utilisation"]]
            for d in documents
            for llm, part in d["by_llm"].items()
        ],
        note="busy: seconds per run with at least one call to the LLM in flight, at the target rate.",
    )
    curves = [
        Picture(
            f"{stem}-latency-{load.workflow}",
            f"{load.workflow}: latency against rate, all workflows scaled together",
            latency_vs_rate(
                frame,
                load.workflow,
                target_per_s=load.arrivals.rate_per_s,
                limits_s={} if plan.slo is None else plan.slo.workflow(load.workflow).latency_s.given,
            ),
        )
        for load in loads
    ]
    at_target = frame[frame["factor"] == 1.0]
    items: list[Table | Picture] = [
        expected_table(plan, loads, documents, at_target),
        *curves,
        calls_table(records),
        parts,
        _rates_table(frame),
    ]
    return Section("What to expect", items=items)


def _rates_table(frame: pd.DataFrame) -> Table:
    """Predicted and simulated side by side, one row per workflow and rate."""
    keys = ["workflow", "factor", "rate_per_s"]
    predicted = frame[frame["source"] == "predicted"].set_index(keys)["latency_mean_s"]
    order = list(dict.fromkeys(frame["workflow"]))
    simulated = frame[frame["source"] == "simulated"].sort_values(
        ["workflow", "factor"],
        kind="stable",
        key=lambda column: column.map(order.index) if column.name == "workflow" else column,
    )
    return Table(
        caption="Latency at several rates",
        columns=[
            "workflow",
            "x target",
            "runs/s",
            "predicted mean s",
            "simulated mean s",
            "p95 s",
            "completed/s",
            "keeps up",
            "what is open",
        ],
        rows=[
            [
                r["workflow"],
                r["factor"],
                r["rate_per_s"],
                float(predicted[(r["workflow"], r["factor"], r["rate_per_s"])]),
                with_width(r["latency_mean_s"], (r["latency_mean_high_s"] - r["latency_mean_low_s"]) / 2),
                r["latency_p95_s"],
                r["throughput_per_s"],
                r["verdict"],
                r["why"].removeprefix("not settled: "),
            ]
            for r in simulated.to_dict(orient="records")
        ],
        note="± ?: the runs were too few for an interval.",
    )


def _calls_section(stem: str, plan: Plan, records: Records, runs: int) -> Section:
    names = [instance.name for instance in sorted(plan.instances, key=lambda i: (i.llm, i.index))]
    shown = heat_map(in_flight(records, names), value="calls", title="calls in flight")
    return Section(
        "Calls at each instance over time",
        paragraphs=[f"{runs:,} runs simulated at the target rates; waiting and running calls together."],
        items=[Picture(f"{stem}-load", "Calls in flight per instance", shown)],
    )


def _shares_section(stem: str, loads: Sequence[Load]) -> Section:
    reports = [stability(table) for load in loads for table in tabulate(load.trace.runs).values()]
    shares = pd.concat([shares_per_run(load.trace) for load in loads], ignore_index=True)
    return Section(
        "How stable the shares are",
        paragraphs=list(dict.fromkeys(warning for report in reports for warning in report.warnings)) or NO_WARNING,
        items=[
            Picture(f"{stem}-shares", "Shares of LLM time and latency over runs, each over its mean", share_stability(shares))
        ],
    )


def _facts(plan: Plan, problem: Problem, runs: int, seed: int) -> list[Fact]:
    proved = ", proved optimal under its predictor" if plan.optimal else ""
    sources = dict.fromkeys(f"{p.llm.name} on {p.gpu.name}: {p.source.split(';')[0]}" for p in problem.profiles.profiles)
    return [
        ("Assumed", plan.assumptions or "nothing beyond the traces"),
        ("Profiles", tuple(sources)),
        ("Planner", f"{plan.planner}, searched {plan.search_s:.3g} s{proved}"),
        ("Cluster", f"{plan.cluster.name}: {len(plan.cluster.gpus)} GPUs, {', '.join(t.name for t in plan.cluster.gpu_types)}"),
        ("Seed and runs", f"seed {seed}, {runs:,} runs at the target rates"),
        ("Versions", f"scepsy {__version__}, Python {platform.python_version()}, simpy {version('simpy')}"),
    ]
