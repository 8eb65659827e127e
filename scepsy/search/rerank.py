"""A better judge for the last few: the critical path re-ranks what the aggregate found best.

The aggregate's objective adds LLMs up; where branches run side by side some seconds of an LLM cost the run nothing. Its
*exposure* e_m is how many seconds the critical path gains per busy second of m. Weighting each LLM's busy seconds by its
exposure at the best allocation so far makes the same knapsack search for the critical path's optimum (a linearisation,
repeated once).
"""

from dataclasses import replace
from math import fsum

import msgspec
import numpy as np

from scepsy.predictors import critical_path
from scepsy.predictors.aggregate import call_rates_per_s
from scepsy.predictors.critical_path import CallTimes
from scepsy.search.assemble import latencies_of
from scepsy.search.knapsack import Items, backtrack, solve
from scepsy.search.problem import Problem
from scepsy.search.space import Space
from scepsy.search.within import Found, Search

ROUNDS = 2
RELATIVE_STEP = 0.05
"""Relative change of an LLM's call times in the finite difference."""
CANDIDATES_RANKED = 12
"""Candidates that the critical path ranks."""


def walked_s(problem: Problem, found: Found) -> float:
    """Weighted mean latency by the critical path; the aggregate's where the problem has no runs."""
    walked = latencies_of(problem, found.allocations, found.outlook)
    if walked is None:
        return found.outlook.objective_s
    return fsum(weight * w.mean_s for weight, w in zip(problem.normal_weights, walked, strict=True))


def rerank(search: Search) -> Found | None:
    """The candidate with the lowest critical path among the search's best and those found by exposure.

    Keeps the proof: it speaks of the aggregate's objective. ``optimal`` is withdrawn where the aggregate's best was passed
    over.
    """
    problem, best = search.problem, search.best
    if best is None or problem.run_models is None or not problem.has_regressions:
        return best
    for _ in range(ROUNDS):
        leader = _leader(problem, search)
        items = exposed_items(problem, search.space, leader)
        choices = backtrack(items, solve(items, search.budgets), search.budgets)
        if choices is None or not search.consider(choices):
            break
    chosen = _leader(problem, search)
    same = chosen.allocations == best.allocations
    return replace(chosen, proof=replace(best.proof, optimal=best.proof.optimal and same))


def _leader(problem: Problem, search: Search) -> Found:
    ranked = sorted(search.pool, key=lambda found: (found.outlook.objective_s, found.allocations))[:CANDIDATES_RANKED]
    recent = search.pool[-1:]
    return min([*ranked, *search.seeded, *recent], key=lambda found: (walked_s(problem, found), found.allocations))


def exposed_items(problem: Problem, space: Space, at: Found) -> list[Items]:
    """Options at their busy seconds times the exposure of their LLM in each workflow."""
    exposure = exposures(problem, at)
    weights = np.asarray(problem.normal_weights)
    items = []
    for options in space.llms:
        factor = np.array([exposure.get((use.workflow, options.llm), 1.0) for use in problem.uses])
        with np.errstate(invalid="ignore"):
            cost = np.where(np.isfinite(options.cost_s), (weights * factor) @ np.nan_to_num(options.busy_s, posinf=0.0), np.inf)
        items.append(Items(options.gpu_type, options.units, cost))
    return items


def exposures(problem: Problem, at: Found) -> dict[tuple[str, str], float]:
    """Critical-path seconds per busy second, by (workflow, LLM), at one allocation; between 0 and about 1."""
    models = problem.run_models
    assert models is not None, "exposures need the traced runs"
    loads = call_rates_per_s(problem.uses, problem.rates_per_s)
    by_llm = {a.llm: a for a in at.allocations}
    found: dict[tuple[str, str], float] = {}
    for use in problem.uses:
        times: dict[str, CallTimes] = {}
        busy: dict[str, float] = {}
        for item in use.llms:
            a, slowdown = by_llm[item.llm], at.outlook.slowdown.get(item.llm, 1.0)
            times[item.llm] = critical_path.call_times(problem.index, use.workflow, a, loads[item.llm], slowdown=slowdown)
            busy[item.llm] = critical_path.busy_s(models[use.workflow], item.llm, times[item.llm])
        base = critical_path.latencies(models[use.workflow], times).mean_s
        for item in use.llms:
            slower = critical_path.latencies(
                models[use.workflow], {**times, item.llm: slowed(times[item.llm], 1 + RELATIVE_STEP)}
            )
            found[use.workflow, item.llm] = (
                (slower.mean_s - base) / (RELATIVE_STEP * busy[item.llm]) if busy[item.llm] > 0 else 0.0
            )
    return found


def slowed(times: CallTimes, factor: float) -> CallTimes:
    """Call times multiplied by ``factor``."""
    return msgspec.structs.replace(
        times,
        base_s=times.base_s * factor,
        s_per_input_token=times.s_per_input_token * factor,
        s_per_output_token=times.s_per_output_token * factor,
    )
