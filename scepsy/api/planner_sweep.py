"""Planners against rates on one workflow: plans, predictions and simulated points as one tidy table."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from scepsy.api.point import at_rate, measure, simulator
from scepsy.backend import Stream
from scepsy.errors import Infeasible
from scepsy.plans import Plan
from scepsy.progress import Progress, no_progress
from scepsy.search import PLANNERS
from scepsy.search.assemble import evaluate
from scepsy.search.goals import at_rates
from scepsy.search.problem import Goal, Problem
from scepsy.workers import delayed, parallel

ARRIVALS_PER_LATENCY = 3.0
"""Arrivals of a simulated point last this many predicted latencies, and at least ``MIN_ARRIVALS_S``."""
MIN_ARRIVALS_S = 12.0


@dataclass(frozen=True)
class Planned:
    """A planner's answer at one rate. ``carried`` says why the plan is one made for a lower rate."""

    planner: str
    rate_per_s: float
    load: float
    """The rate over the highest rate the exact planner finds."""
    plan: Plan
    carried: str = ""


def problem_at(problem: Problem, rate_per_s: float, goal: Goal | None = None) -> Problem:
    """The same one-workflow question at another rate; curves of one workflow do not depend on the rate."""
    there = at_rates(problem, [rate_per_s])
    return there if goal is None else replace(there, goal=goal)


def highest_rate(problem: Problem) -> float:
    """The highest rate (runs/s) for which the exact planner finds a plan on the cluster."""
    plan = PLANNERS["exact"](problem_at(problem, problem.rates_per_s[0], Goal(kind="rate")))
    return plan.expected[0].throughput_per_s * problem.max_utilisation


def plan_all(problem: Problem, planners: Sequence[str], loads: Sequence[float], top_per_s: float) -> list[Planned]:
    """Every planner at every load, ascending. Where one finds none, its plan for the last rate it met is carried over:
    that is what its user would be running. A planner that met no rate at all is left out.
    """
    found = []
    for name in planners:
        last: Plan | None = None
        for load in sorted(loads):
            rate = load * top_per_s
            why = ""
            try:
                last = PLANNERS[name](problem_at(problem, rate))
            except Infeasible as error:
                why = str(error)
            if last is not None:
                found.append(Planned(planner=name, rate_per_s=rate, load=load, plan=last, carried=why))
    return found


def predicted_row(one: Planned, problem: Problem) -> dict[str, Any]:
    """What the aggregate predictor says of a plan at its rate; infinite where it saturates."""
    there = problem_at(problem, one.rate_per_s)
    outlook = evaluate(there, one.plan.allocations, one.plan.placement)
    saturated = max(outlook.utilisation.values()) >= 1.0
    return {
        "planner": one.planner,
        "workflow": one.plan.targets[0].workflow,
        "rate_per_s": one.rate_per_s,
        "load": one.load,
        "seed": -1,
        "source": "predicted",
        "latency_mean_s": math.inf if saturated else outlook.expected[0].latency_s,
        "latency_p95_s": math.nan,
        "throughput_per_s": outlook.expected[0].throughput_per_s,
        "gpus": len(one.plan.gpu_shares),
        "optimal": one.plan.optimal,
        "search_s": one.plan.search_s,
        "stable": not saturated,
        "settled": True,
        "why": one.carried,
        "utilisation": max(outlook.utilisation.values()),
    }


def runs_by_rate(predicted: Sequence[Mapping[str, Any]], least: int) -> dict[float, int]:
    """Runs of the simulated points at each rate, the same for every planner: overload shows only as long as arrivals last.

    Arrivals last ``ARRIVALS_PER_LATENCY`` times the lowest predicted latency, and at least ``MIN_ARRIVALS_S``. Most of what is
    measured is then the steady state and not the filling of an empty cluster. ``predicted`` has rows with ``rate_per_s`` and
    ``latency_mean_s``.
    """
    found: dict[float, int] = {}
    for rate in {row["rate_per_s"] for row in predicted}:
        finite = [
            row["latency_mean_s"] for row in predicted if row["rate_per_s"] == rate and math.isfinite(row["latency_mean_s"])
        ]
        found[rate] = max(least, round(rate * max(MIN_ARRIVALS_S, ARRIVALS_PER_LATENCY * min(finite, default=0.0))))
    return found


def simulated_rows(
    one: Planned, stream: Stream, problem: Problem, *, runs: int, seed: int, most_calls: int | None = None
) -> list[dict[str, Any]]:
    """One simulated point of a plan at its rate: ``runs`` runs, and with ``most_calls`` more until it is settled."""
    replay = simulator(problem.profiles)
    rows = measure(one.plan, [at_rate(stream, one.rate_per_s)], replay, runs=runs, seed=seed, most_calls=most_calls)
    extra = {"planner": one.planner, "load": one.load, "gpus": len(one.plan.gpu_shares)}
    return [extra | row for row in rows]


def sweep(
    problem: Problem,
    stream: Stream,
    planned: Sequence[Planned],
    *,
    least_runs: int,
    seeds: Sequence[int],
    jobs: int = 1,
    most_calls: int | None = None,
    progress: Progress = no_progress,
) -> pd.DataFrame:
    """Predict and simulate every plan at its rate: one row per (planner, rate, seed, source).

    Without ``most_calls`` every planner's point has the same runs; with it a point goes on until it is settled, at most that
    many calls.

    The simulations run in ``jobs`` processes; the same seeds give the same rows in any number of them.
    """
    small = replace(problem, curves={}, runs={})  # what a simulation needs of it, cheap to send to another process
    rows = [predicted_row(one, problem) for one in planned]
    sizes = runs_by_rate(rows, least_runs)
    outcomes = parallel(
        (
            delayed(simulated_rows)(one, stream, small, runs=sizes[one.rate_per_s], seed=seed, most_calls=most_calls)
            for one in planned
            for seed in seeds
        ),
        jobs=jobs,
    )
    for outcome in outcomes:
        rows += outcome
        progress()
    return pd.DataFrame(rows)
