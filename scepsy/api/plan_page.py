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
from scepsy.api.point import at_rate, measure, simulator
from scepsy.api.prepare import Load
from scepsy.backend import Workload
from scepsy.plans import Plan
from scepsy.progress import Progress, no_progress
from scepsy.records import Records
from scepsy.report.figures import gpu_map, heat_map, latency_vs_rate, share_stability
from scepsy.report.page import Picture, Section, Table, write_page
from scepsy.search.problem import Problem
from scepsy.stats.shares import shares_per_run
from scepsy.stats.stability import stability
from scepsy.stats.table import tabulate
from scepsy.version import __version__

RATE_FACTORS = (0.25, 0.5, 0.75, 1.0, 1.25)
"""Simulated rates as parts of the target rates."""
HEAT_MAP_COLUMNS = 60
"""Columns of the heat map."""


def sweep_plan(
    plan: Plan,
    loads: Sequence[Load],
    problem_at: Callable[[float], Problem],
    *,
    runs: int,
    seed: int,
    progress: Progress = no_progress,
) -> pd.DataFrame:
    """Predict and simulate the plan at ``RATE_FACTORS`` of its target rates; the columns of a comparison."""
    problem = problem_at(1.0)
    replay = simulator(problem.profiles)
    rows: list[dict[str, Any]] = []
    for factor in RATE_FACTORS:
        streams = [at_rate(load.stream, factor * float(load.arrivals.rate_per_s or 1.0)) for load in loads]
        for document, stream in zip(forecast(plan, problem_at(factor)), streams, strict=True):
            rows.append(
                {
                    "planner": plan.planner,
                    "workflow": stream.workflow,
                    "rate_per_s": stream.arrivals.rate_per_s,
                    "seed": -1,
                    "source": "predicted",
                    "latency_mean_s": document["latency_s"]["mean"],
                    "latency_p95_s": np.nan,
                    "throughput_per_s": document["throughput_per_s"],
                    "stable": bool(np.isfinite(document["latency_s"]["mean"])),
                }
            )
        for row in measure(plan, streams, replay, runs=runs, seed=seed):
            rows.append({"planner": plan.planner} | row)
        progress()
    return pd.DataFrame(rows)


def in_flight(records: Records) -> pd.DataFrame:
    """Calls at each instance (waiting or running) over time: columns name, time_s and calls, ``HEAT_MAP_COLUMNS`` slices."""
    calls = records.calls.to_pandas()
    calls = calls[calls["instance"].notna()]
    end = calls["end_s"].fillna(calls["issued_s"].max())
    edges = np.linspace(0.0, float(end.max()), HEAT_MAP_COLUMNS + 1)
    rows = []
    for name in sorted(calls["instance"].unique()):
        mine = (calls["instance"] == name).to_numpy()
        start, stop = calls.loc[mine, "issued_s"].to_numpy(), end[mine].to_numpy()
        for left, right in pairwise(edges):
            inside = np.clip(np.minimum(stop, right) - np.maximum(start, left), 0.0, None).sum()
            rows.append({"name": name, "time_s": left, "calls": inside / (right - left)})
    return pd.DataFrame(rows)


def write_plan_page(
    path: Path, plan: Plan, loads: Sequence[Load], frame: pd.DataFrame, problem: Problem, *, runs: int, seed: int
) -> list[Path]:
    """Write the page of a plan from its sweep; returns the files."""
    replay = simulator(problem.profiles)
    workload = Workload(streams=tuple(load.stream for load in loads), seed=seed, runs=runs)
    records = replay(plan, workload)
    documents = forecast(plan, problem)
    reports = [stability(table) for load in loads for table in tabulate(load.trace.runs).values()]
    shares = pd.concat([shares_per_run(load.trace) for load in loads], ignore_index=True)
    stem = path.name.removesuffix(".html")
    expected = Table(
        caption=f"Expected at the target rates ({plan.predictor})",
        columns=["workflow", "target runs/s", "mean latency s", "highest runs/s"],
        rows=[
            [d["workflow"], load.arrivals.rate_per_s, d["latency_s"]["mean"], d["throughput_per_s"]]
            for d, load in zip(documents, loads, strict=True)
        ],
    )
    parts = Table(
        caption="Where the time goes",
        columns=["workflow", "LLM", "calls per run", "busy s per run", "load of its instances"],
        rows=[
            [d["workflow"], llm, part["calls_per_run"], part["busy_s"], part["utilisation"]]
            for d in documents
            for llm, part in d["by_llm"].items()
        ],
        note="busy: seconds per run with at least one call to the LLM in flight, at the target rate.",
    )
    allocation = Table(
        caption="Allocation",
        columns=["LLM", "GPU type", "share %", "TP", "replicas", "GPUs"],
        rows=[[a.llm, a.gpu_type, a.share_pct, a.tensor_parallel, a.replicas, a.gpu_pct / 100] for a in plan.allocations],
    )
    rates = Table(
        caption="Predicted and simulated",
        columns=["workflow", "runs/s", "source", "mean s", "p95 s", "completed/s", "stable", "why not"],
        rows=[
            [
                r["workflow"],
                r["rate_per_s"],
                r["source"],
                r["latency_mean_s"],
                r["latency_p95_s"],
                r["throughput_per_s"],
                r["stable"],
                r.get("why") if isinstance(r.get("why"), str) else "",
            ]
            for r in frame.to_dict(orient="records")
        ],
        note="completed/s of a predicted row is the highest rate the plan sustains.",
    )
    curves = [
        Picture(
            f"{stem}-latency-{load.workflow}", f"{load.workflow}: latency against rate", latency_vs_rate(frame, load.workflow)
        )
        for load in loads
    ]
    sections = [
        Section(
            "The plan", items=[allocation, Picture(f"{stem}-gpus", "Which instance sits where, at what share", gpu_map(plan))]
        ),
        Section("What to expect", items=[expected, parts, *curves, rates]),
        Section(
            "Calls at each instance over time",
            paragraphs=[f"{runs} runs simulated at the target rates; waiting and running calls together."],
            items=[
                Picture(
                    f"{stem}-load",
                    "Calls in flight per instance",
                    heat_map(in_flight(records), value="calls", title="calls in flight"),
                )
            ],
        ),
        Section(
            "How stable the shares are",
            paragraphs=[warning for report in reports for warning in report.warnings] or ["The premise holds: no warning."],
            items=[
                Picture(
                    f"{stem}-shares", "Shares of LLM time and latency over runs, each over its mean", share_stability(shares)
                )
            ],
        ),
    ]
    facts = [
        (
            "Planner",
            f"{plan.planner}, {plan.search_s * 1e3:.0f} ms" + (", proved optimal under its predictor" if plan.optimal else ""),
        ),
        ("Cluster", f"{plan.cluster.name}: {len(plan.cluster.gpus)} GPUs, {', '.join(t.name for t in plan.cluster.gpu_types)}"),
        (
            "Profiles",
            "; ".join(
                dict.fromkeys(f"{p.llm.name} on {p.gpu.name}: {p.source.split(';')[0]}" for p in problem.profiles.profiles)
            ),
        ),
        ("Assumed", "; ".join(plan.assumptions) or "nothing beyond the traces"),
        ("Seeds and runs", f"seed {seed}, {runs} runs per simulated point"),
        ("Versions", f"scepsy {__version__}, Python {platform.python_version()}, simpy {version('simpy')}"),
    ]
    lead = f"{plan.planner} plan for {', '.join(load.workflow for load in loads)} on {plan.cluster.name}."
    return write_page(path, f"Plan {path.name.removesuffix('.html')}", lead, sections, facts)
