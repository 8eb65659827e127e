"""Why nothing fits, in numbers: what each LLM needs at least, what would carry the load, and which rate would fit."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, fsum

import numpy as np

from scepsy.errors import Infeasible
from scepsy.predictors.critical_path import Latencies
from scepsy.search.knapsack import Items, backtrack, solve
from scepsy.search.problem import Problem
from scepsy.search.space import Space, build_space
from scepsy.slo import over


@dataclass(frozen=True)
class RateBound:
    """The largest common factor on all target rates that the budgets allow, packing left aside."""

    factor: float
    binding_llm: str


def rate_bound(problem: Problem, budgets: tuple[int, ...] | None = None) -> RateBound:
    """Bound the factor on the target rates by a bottleneck knapsack. Raises ``Infeasible`` when an LLM fits nowhere."""
    space = build_space(problem, keep_all=True)
    items = rate_items(space)
    budgets = budgets or space.budgets
    tables = solve(items, budgets, bottleneck=True)
    choices = backtrack(items, tables, budgets, bottleneck=True)
    if choices is None:
        return RateBound(0.0, space.llms[0].llm)
    factors = [-float(item.cost[choice]) for item, choice in zip(items, choices, strict=True)]
    worst = int(np.argmin(factors))
    return RateBound(factors[worst], space.llms[worst].llm)


def rate_items(space: Space) -> list[Items]:
    """Options whose cost is minus the factor on the target rates they carry at ``max_utilisation``."""
    limit = space.problem.max_utilisation
    return [Items(o.gpu_type, o.units, -limit * o.capacity_per_s / o.load_per_s) for o in space.llms]


def not_enough_gpus(problem: Problem, space: Space, gpus: int) -> Infeasible:
    """The error for a space whose LLMs fit one by one but not together."""
    need = {o.llm: int(o.units.min()) * space.unit_pct / 100 for o in space.llms}
    total = fsum(need.values())
    hungriest = max(need, key=lambda llm: (need[llm], llm))
    bound = rate_bound(problem, tuple(min(b, gpus * 100 // space.unit_pct) for b in space.budgets))
    rates = ", ".join(
        f"{t.workflow} {r * bound.factor:.3g}/s" for t, r in zip(problem.targets, problem.rates_per_s, strict=True)
    )
    more = ceil(total - 1e-9) - gpus
    how = f"add at least {more} GPUs" if more > 0 else f"their shares do not pack onto {gpus} GPUs, add one"
    remedy = f"; it could carry at most {rates}" if bound.factor > 0 else ""
    return Infeasible(
        f"the LLMs need at least {total:.1f} GPUs at the target rates, the cluster has {gpus}: {hungriest} alone needs "
        f"{need[hungriest]:.1f}; {how}{remedy} ({bound.binding_llm} binds)"
    )


def limits_too_tight(problem: Problem, best_s: dict[str, float]) -> Infeasible:
    """The error when the rates fit but a latency limit does not; ``best_s`` is the lowest latency found by workflow."""
    over = {name: best_s[name] / limit for name, limit in problem.goal.limits_s.items() if name in best_s}
    if not over:
        return Infeasible("no plan meets the latency limits")
    worst = max(over, key=lambda name: (over[name], name))
    what = "mean" if problem.goal.percentile is None else f"p{problem.goal.percentile:g}"
    return Infeasible(
        f"workflow {worst}: {what} latency limit {problem.goal.limits_s[worst]:.4g} s cannot be met at its target rate: "
        f"the best plan found has {best_s[worst]:.4g} s ({over[worst]:.2f} times the limit)"
    )


def objectives_too_tight(problem: Problem, walked: Sequence[Latencies] | None) -> Infeasible | None:
    """The error when the rates fit but an objective of the SLO does not; ``walked``: of the fastest plan found, by workflow.

    None where that plan keeps them all.
    """
    slo = problem.goal.slo
    if slo is None or walked is None:
        return None
    missed = [
        (value / limit, w.workflow, name, limit, value)
        for w in walked
        for name, limit, value in over(slo, w.workflow, w.by_statistic)
    ]
    if not missed:
        return None
    factor, workflow, name, limit, value = max(missed)
    return Infeasible(
        f"workflow {workflow}: its objective of {limit:.4g} s ({name}) cannot be met at its target rate: the plan with the "
        f"lowest latency has {value:.4g} s ({factor:.2f} times the limit): loosen the SLO, lower the rate or add GPUs"
    )
