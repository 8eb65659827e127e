"""Plans of other planners for the exact search to begin with, so that it is never worse than they are.

The walk in order of relaxed cost can meet thousands of allocations that do not pack before the first that does. A plan
that another planner found packs already. For workflows that share no LLM there is also the union of their separate plans.
"""

from collections.abc import Iterator, Mapping
from itertools import product
from math import fsum

import numpy as np

from scepsy.baselines.independent import plan_independent
from scepsy.baselines.whole_gpus import plan_equal, plan_proportional
from scepsy.errors import Infeasible
from scepsy.plans import Allocation, Plan
from scepsy.search.hierarchical import plan_hierarchical
from scepsy.search.knapsack import solve
from scepsy.search.paper import plan_paper
from scepsy.search.problem import Planner, Problem, subset
from scepsy.search.space import build_space
from scepsy.search.within import Found, Search, accept_all, cost_items

MAX_LLMS_HIERARCHICAL_FIRST = 6
"""Up to so many LLMs the hierarchical planner takes a fraction of a second; with more it is asked only when nothing else
was found."""
SPLITS_PLANNED = 4
"""Splits of the GPUs among workflows whose separate plans are made, best first by relaxed cost."""
MOST_SPLITS = 20_000

Allocations = tuple[Allocation, ...]


OTHERS: dict[str, Planner] = {
    "independent": plan_independent,
    "equal": plan_equal,
    "proportional": plan_proportional,
    "hierarchical": plan_hierarchical,
    "paper": plan_paper,
}
"""The planners that are asked, in this order; the last two only where the LLMs are few."""


def plan_or_none(planner: Planner, problem: Problem) -> Plan | None:
    """A planner's plan; None where it finds none."""
    try:
        return planner(problem)
    except Infeasible:
        return None


def other_plans(search: Search, known: Mapping[str, Plan | None] | None = None) -> Iterator[Allocations]:
    """Allocations of the other planners for the search's problem, the hierarchical one's and separate plans included.

    ``known``: what some of them have answered to this problem already, by name.
    """
    problem, answered = search.problem, known or {}

    def asked(name: str) -> Iterator[Allocations]:
        plan = answered[name] if name in answered else plan_or_none(OTHERS[name], problem)
        if plan is not None:
            yield plan.allocations

    quick = len(search.space.llms) <= MAX_LLMS_HIERARCHICAL_FIRST
    for name in OTHERS:
        if quick or name not in ("hierarchical", "paper"):
            yield from asked(name)
    yield from separate_plans(problem)
    if not quick and search.best is None:
        yield from asked("hierarchical")


def separate_plans(problem: Problem) -> Iterator[Allocations]:
    """For workflows that share no LLM on GPUs of one type: the union of exact plans of each on GPUs of its own."""
    llms = [llm.llm for use in problem.uses for llm in use.llms]
    if len(problem.targets) < 2 or len(set(llms)) != len(llms) or len(problem.cluster.gpu_types) != 1:
        return
    alone = [_Alone(subset(problem, [number])) for number in range(len(problem.targets))]
    gpus = alone[0].space.gpus_of[0]
    if gpus ** (len(alone) - 1) > MOST_SPLITS:
        return
    splits = [(*part, gpus - sum(part)) for part in product(range(1, gpus), repeat=len(alone) - 1) if sum(part) < gpus]
    weights = problem.normal_weights

    def relaxed_s(split: tuple[int, ...]) -> float:
        return fsum(w * one.relaxed_s(own) for w, one, own in zip(weights, alone, split, strict=True))

    for split in sorted((s for s in splits if np.isfinite(relaxed_s(s))), key=relaxed_s)[:SPLITS_PLANNED]:
        parts = [one.best(own) for one, own in zip(alone, split, strict=True)]
        if all(parts):
            joined = {a.llm: a for part in parts if part for a in part.allocations}
            yield tuple(joined[llm] for llm in llms)


class _Alone:
    """One workflow as if the others did not exist."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.space = build_space(problem)
        self.tables = solve(cost_items(self.space), self.space.budgets)
        self._found: dict[int, Found | None] = {}

    def relaxed_s(self, gpus: int) -> float:
        """Relaxed latency on so many GPUs; infinite when they do not carry the rate."""
        return float(self.tables[0][gpus * 100 // self.space.unit_pct]) + self.space.tool_s

    def best(self, gpus: int) -> Found | None:
        """The best on so many GPUs that a short exact search finds."""
        if gpus not in self._found:
            self._found[gpus] = Search(self.problem, self.space, self.tables, (gpus,), accept_all, quick=True).run()
        return self._found[gpus]
