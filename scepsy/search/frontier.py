"""What every number of GPUs buys: lowest latency at the target rates, and highest rate, from one run of the knapsack each."""

from dataclasses import dataclass, replace

import numpy as np

from scepsy.errors import Infeasible
from scepsy.plans import Plan
from scepsy.search.goals import least_latency
from scepsy.search.infeasible import rate_items
from scepsy.search.knapsack import solve
from scepsy.search.problem import Problem
from scepsy.search.space import build_space
from scepsy.search.within import cost_items


@dataclass(frozen=True)
class FrontierPoint:
    """One number of GPUs. Latency and rate are the relaxed optimum (packing left aside): no plan does better."""

    gpus: int
    latency_s: float | None
    """Weighted mean latency at the target rates; None where they cannot be met."""
    rate_factor: float
    """Highest common factor on the target rates."""
    plan: Plan | None = None
    """A plan that attains the latency as far as packing allows; only where asked for."""


def frontier(problem: Problem, *, plans: bool = False) -> tuple[FrontierPoint, ...]:
    """One point per number of GPUs of the cluster, 1 … all, of any type. With ``plans`` each with its plan (slower).

    Raises ``Infeasible`` when an LLM fits nowhere even unloaded.
    """
    everything = build_space(problem, keep_all=True)
    rate_table = solve(rate_items(everything), everything.budgets, bottleneck=True)[0]
    try:
        space = build_space(problem)
        table, tool_s = solve(cost_items(space), space.budgets)[0], space.tool_s
    except Infeasible:
        table, tool_s = np.full_like(rate_table, np.inf), 0.0
    made = []
    for gpus in range(1, sum(everything.gpus_of) + 1):
        reach = _combinations(everything.gpus_of, gpus, 100 // everything.unit_pct)
        latency = min(float(table[budget]) for budget in reach) + tool_s
        factor = max(-float(rate_table[budget]) for budget in reach)
        plan = None
        if plans and np.isfinite(latency):
            try:
                plan = least_latency(replace(problem, goal=replace(problem.goal, kind="latency", max_gpus=gpus)))
            except Infeasible:
                plan = None
        made.append(FrontierPoint(gpus, latency if np.isfinite(latency) else None, max(factor, 0.0), plan))
    return tuple(made)


def _combinations(gpus_of: tuple[int, ...], total: int, units: int) -> list[tuple[int, ...]]:
    """Budgets in units of every way to take ``total`` GPUs of the types there are."""
    partial: list[tuple[int, ...]] = [()]
    for number, most in enumerate(gpus_of):
        rest = sum(gpus_of[number + 1 :])
        partial = [
            (*taken, count) for taken in partial for count in range(most + 1) if total - rest <= sum(taken) + count <= total
        ]
    return [tuple(count * units for count in taken) for taken in partial]
