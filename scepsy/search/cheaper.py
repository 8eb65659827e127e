"""What the next cheaper combination of GPUs would miss: the question after ``--goal cost`` has found its plan."""

from dataclasses import dataclass
from itertools import product
from math import fsum

import numpy as np

from scepsy.cost import gpus_by_type
from scepsy.errors import Infeasible
from scepsy.plans import Plan
from scepsy.search.goals import within_caps
from scepsy.search.knapsack import solve
from scepsy.search.problem import Problem
from scepsy.search.space import build_space
from scepsy.search.within import cost_items


@dataclass(frozen=True)
class Cheaper:
    """The dearest combination of GPUs that costs less than a plan, and why it will not do."""

    gpus: dict[str, int]
    """By type."""
    usd_per_hour: float
    misses: str
    """The limit or the rate that it misses, and by how much; empty: nothing, it would do."""


def next_cheaper(problem: Problem, plan: Plan) -> Cheaper | None:
    """The next cheaper combination of the cluster's GPUs than those the plan touches; None when there is none.

    Of several at one price it is the one with the lowest relaxed latency.
    """
    space = build_space(problem)
    costs = [problem.cluster.gpu_type(name).cost_per_hour for name in space.gpu_types]
    counts = gpus_by_type(plan)

    def price(caps: tuple[int, ...]) -> float:
        return fsum(cap * each for cap, each in zip(caps, costs, strict=True))

    paid = price(tuple(counts.get(name, 0) for name in space.gpu_types))
    options = [caps for caps in product(*(range(most + 1) for most in space.gpus_of)) if any(caps)]
    cheaper = [caps for caps in options if price(caps) < paid * (1 - 1e-9)]
    if not cheaper:
        return None
    tables = solve(cost_items(space), space.budgets)

    def order(caps: tuple[int, ...]) -> tuple[float, float, tuple[int, ...]]:
        relaxed = float(tables[0][tuple(cap * 100 // space.unit_pct for cap in caps)])
        return (-price(caps), relaxed if np.isfinite(relaxed) else float("inf"), caps)

    caps = min(cheaper, key=order)
    try:
        within_caps(problem, space, tables, caps)
        misses = ""
    except Infeasible as error:
        misses = str(error)
    gpus = {name: cap for name, cap in zip(space.gpu_types, caps, strict=True) if cap}
    return Cheaper(gpus=gpus, usd_per_hour=price(caps), misses=misses)
