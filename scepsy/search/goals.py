"""What to optimise: latency at the target rates, GPUs or cost within latency limits, or the rate the cluster carries.

The knapsack's tables hold the relaxed optimum of every budget at once, so budgets that cannot do it are skipped without a
search, and the first that can is the answer: fewest GPUs, or the least cost per hour over all combinations of GPU types.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from math import fsum
from time import perf_counter

import msgspec
import numpy as np

from scepsy.errors import Infeasible, InputError
from scepsy.plans import Allocation, Plan
from scepsy.predictors.aggregate import Floats
from scepsy.search.assemble import Outlook, Proof, assemble, latencies_of
from scepsy.search.exact import best_within
from scepsy.search.infeasible import limits_too_tight, not_enough_gpus, rate_bound
from scepsy.search.knapsack import solve
from scepsy.search.problem import Problem
from scepsy.search.seeds import other_plans
from scepsy.search.space import Space, build_space
from scepsy.search.within import Accept, Found, Seeds, cost_items
from scepsy.slo import over

RATE_BISECTIONS = 12
"""Bisections of the rate between what was found to work and what cannot: 1/4096 of the bound."""


def plan_exact(problem: Problem) -> Plan:
    """The exact planner for whatever the problem's goal is. Raises ``Infeasible``; ``InputError`` for a contradictory goal."""
    return plan_exact_with(problem, other_plans)


def plan_exact_with(problem: Problem, others: Seeds) -> Plan:
    """The same with other planners' allocations at hand: for the least latency they need not be asked again."""
    goal = problem.goal
    if goal.percentile is not None and goal.percentile not in (50, 95, 99):
        raise InputError(f"goal.percentile is {goal.percentile}: must be 50, 95 or 99")
    if goal.percentile is not None and problem.run_models is None:
        raise InputError("goal.percentile needs the traced runs: give Problem.runs")
    limited = goal.limits_s or (goal.slo is not None and goal.slo.limits_latency)
    if goal.kind in ("gpus", "cost") and not limited:
        raise InputError(f"goal {goal.kind} needs a latency limit for at least one workflow: give limits_s")
    if goal.kind == "rate":
        return most_rate(problem)
    if goal.kind == "latency":
        return least_latency(problem, others)
    return least_gpus(problem)


def least_latency(problem: Problem, others: Seeds = other_plans) -> Plan:
    """Least weighted mean latency within the latency limits and ``max_gpus``. ``others``: see ``best_within``."""
    started = perf_counter()
    space = build_space(problem)
    tables = solve(cost_items(space), space.budgets)
    wanted = problem.goal.max_gpus
    if wanted is None or wanted >= sum(space.gpus_of):
        found = best_within(problem, space, tables, accept=_within_percentile(problem), others=others)
        return _plan(problem, found, started)
    options = [caps for caps in product(*(range(most + 1) for most in space.gpus_of)) if sum(caps) == wanted]
    best = _best_of(problem, space, tables, options)
    if best is None:
        raise not_enough_gpus(problem, space, wanted)
    return _plan(problem, best, started)


def least_gpus(problem: Problem) -> Plan:
    """Fewest GPUs, or least cost per hour, within the latency limits. The bound of the proof is the latency's."""
    started = perf_counter()
    space = build_space(problem)
    tables = solve(cost_items(space), space.budgets)
    nearest: Infeasible | None = None
    for caps in _by_price(problem, space):
        budget = tuple(cap * 100 // space.unit_pct for cap in caps)
        if not np.isfinite(tables[0][budget]) or float(tables[0][budget]) + space.tool_s > _loosest(problem):
            continue
        try:
            found = best_within(problem, space, tables, caps, _within_percentile(problem))
        except Infeasible as error:
            nearest = error
            continue
        return _plan(problem, found, started)
    if nearest is not None:
        raise nearest
    full = float(tables[0][space.budgets])
    if not np.isfinite(full):
        raise not_enough_gpus(problem, space, sum(space.gpus_of))
    only = dict.fromkeys(problem.goal.limits_s, full + space.tool_s)
    raise limits_too_tight(problem, only)


def within_caps(problem: Problem, space: Space, tables: list[Floats], caps: tuple[int, ...]) -> Found:
    """The best plan within the goal's limits on at most ``caps`` GPUs by type. Raises ``Infeasible`` saying what is missed."""
    return best_within(problem, space, tables, caps, _within_percentile(problem))


def most_rate(problem: Problem) -> Plan:
    """The largest common factor on the target rates, and at that rate the least latency within the limits.

    The plan's targets carry the rates it was found for. The bottleneck knapsack bounds the factor; below it the largest
    factor with a plan that packs is found by bisection.
    """
    started = perf_counter()
    factor, proved = highest_factor(problem)
    scaled = at_factor(problem, factor)
    space = build_space(scaled)
    found = best_within(scaled, space, solve(cost_items(space), space.budgets), accept=_within_percentile(scaled))
    proof = Proof(optimal=proved, bound_latency_s=found.proof.bound_latency_s)
    return assemble(scaled, "exact", found.allocations, found.placement, started, proof)


def highest_factor(problem: Problem) -> tuple[float, bool]:
    """The largest common factor on the target rates for which there is a plan, and whether it is proved to be that.

    Raises ``Infeasible`` naming what binds when there is none.
    """
    bound = rate_bound(problem)
    if bound.factor <= 0:
        raise not_enough_gpus(problem, build_space(problem), len(problem.cluster.gpus))
    top = bound.factor * (1 - 1e-9)
    proved = _carries(problem, top)
    low, high = (top, top) if proved else (0.0, top)
    for _ in range(0 if proved else RATE_BISECTIONS):
        middle = (low + high) / 2
        if _carries(problem, middle):
            low = middle
        else:
            high = middle
    if low == 0.0:
        raise Infeasible(
            f"no plan meets the latency limits even at {high:.3g} times the target rates "
            f"({bound.binding_llm} binds at {bound.factor:.3g})"
        )
    return low, proved


def _carries(problem: Problem, factor: float) -> bool:
    """Whether some plan carries ``factor`` times the target rates within the limits."""
    scaled = at_factor(problem, factor)
    try:
        space = build_space(scaled)
        best_within(scaled, space, solve(cost_items(space), space.budgets), accept=_within_percentile(scaled), first_only=True)
    except Infeasible:
        return False
    return True


def at_factor(problem: Problem, factor: float) -> Problem:
    """The problem with all target rates multiplied."""
    return at_rates(problem, [rate * factor for rate in problem.rates_per_s])


def at_rates(problem: Problem, rates_per_s: Sequence[float]) -> Problem:
    """The problem at other target rates, the latency goal in place of the rate goal."""
    targets = tuple(
        msgspec.structs.replace(target, arrivals=target.arrivals.at_rate(rate))
        for target, rate in zip(problem.targets, rates_per_s, strict=True)
    )
    goal = replace(problem.goal, kind="latency") if problem.goal.kind == "rate" else problem.goal
    return replace(problem, targets=targets, goal=goal)


def _plan(problem: Problem, found: Found, started: float) -> Plan:
    return assemble(problem, "exact", found.allocations, found.placement, started, found.proof)


def _best_of(problem: Problem, space: Space, tables: list[Floats], options: list[tuple[int, ...]]) -> Found | None:
    """The best over several combinations of GPUs by type, the most promising bound first."""
    unit = space.unit_pct
    ranked = sorted((float(tables[0][tuple(cap * 100 // unit for cap in caps)]), caps) for caps in options)
    best: Found | None = None
    for relaxed, caps in ranked:
        if best is not None and relaxed + space.tool_s >= best.outlook.objective_s:
            break
        if not np.isfinite(relaxed):
            break
        try:
            found = best_within(problem, space, tables, caps, _within_percentile(problem))
        except Infeasible:
            continue
        if best is None or found.outlook.objective_s < best.outlook.objective_s:
            best = found
    return best


def _by_price(problem: Problem, space: Space) -> Iterator[tuple[int, ...]]:
    """Combinations of GPUs by type, the fewest GPUs or the least cost first; ties in favour of the other."""
    cost = [problem.cluster.gpu_type(name).cost_per_hour for name in space.gpu_types]
    combinations = list(product(*(range(most + 1) for most in space.gpus_of)))

    def price(caps: tuple[int, ...]) -> float:
        return fsum(cap * each for cap, each in zip(caps, cost, strict=True))

    if problem.goal.kind == "cost":
        return iter(sorted(combinations, key=lambda caps: (price(caps), sum(caps), caps)))
    return iter(sorted(combinations, key=lambda caps: (sum(caps), price(caps), caps)))


def _loosest(problem: Problem) -> float:
    """A weighted latency above which some limited workflow must exceed its limit; infinite when one is unlimited.

    Percentile limits bound nothing in the mean.
    """
    goal = problem.goal
    if goal.percentile is not None or any(target.workflow not in goal.limits_s for target in problem.targets):
        return float("inf")
    return fsum(w * goal.limits_s[t.workflow] for w, t in zip(problem.normal_weights, problem.targets, strict=True))


def _within_percentile(problem: Problem) -> Accept:
    """Accept what keeps every workflow's percentile, by the critical path, within its limit."""
    goal = problem.goal

    def accept(allocations: tuple[Allocation, ...], outlook: Outlook) -> bool:
        bounded = goal.percentile is not None and bool(goal.limits_s)
        if not bounded and goal.slo is None:
            return True
        walked = latencies_of(problem, allocations, outlook)
        if walked is None:
            raise InputError("limits on percentiles need traced runs and curves with regressions: profile them again")
        if goal.slo is not None and any(True for w in walked for _ in over(goal.slo, w.workflow, w.by_statistic)):
            return False
        if not bounded:
            return True
        return all(w.percentile(goal.percentile) <= goal.limits_s.get(w.workflow, float("inf")) for w in walked)

    return accept
