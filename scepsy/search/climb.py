"""Neighbours of a plan, for a better judge than the predictor, such as a brief simulation (``scepsy.api.judge``).

Predictors order allocations that differ much and mistake those that differ little: a few percent of error is more than
what separates the best dozen. A neighbour moves GPU units from one LLM to another, or gives one LLM another option of the same
or fewer units.
"""

from collections.abc import Container, Iterator
from functools import cache
from math import fsum
from time import perf_counter

import numpy as np

from scepsy.place.hierarchical import layout, pack
from scepsy.plans import Allocation, Plan
from scepsy.search.assemble import assemble
from scepsy.search.problem import Problem
from scepsy.search.space import Options, Space, build_space

OPTIONS_PER_UNIT_COUNT = 2
"""Options of one LLM at one number of units that are looked at, cheapest first."""
Choices = tuple[int, ...]


def neighbour_plans(
    problem: Problem, allocations: tuple[Allocation, ...], most: int, without: Container[tuple[Allocation, ...]] = ()
) -> list[Plan]:
    """At most ``most`` neighbours that pack and are not in ``without``, cheapest first by the predictor."""
    space, where, found = build_space(problem, keep_all=True), layout(problem.cluster), list[Plan]()
    for each in neighbours(space, allocations):
        if len(found) == most:
            break
        if each in without:
            continue
        started = perf_counter()
        placement = pack(where, each)
        if placement is not None:
            found.append(assemble(problem, "neighbour", each, placement, started))
    return found


def neighbours(space: Space, allocations: tuple[Allocation, ...]) -> Iterator[tuple[Allocation, ...]]:
    """Allocations one step away that keep to the budgets, cheapest first by the predictor; none that it calls saturated."""
    choices = _choices(space, allocations)
    if choices is None:
        return
    found: dict[Choices, float] = {}
    for changed in _steps(space, choices):
        if changed not in found and changed != choices:
            found[changed] = fsum(float(o.cost_s[n]) for o, n in zip(space.llms, changed, strict=True))
    for changed in sorted(found, key=lambda c: (found[c], c)):
        if np.isfinite(found[changed]):
            yield space.allocations(changed)


def _choices(space: Space, allocations: tuple[Allocation, ...]) -> Choices | None:
    """Option numbers of an allocation; None when it holds an option that the space lacks."""
    by_llm = {a.llm: a for a in allocations}
    found = []
    for options in space.llms:
        a = by_llm[options.llm]
        same = (
            (options.share_pct == a.share_pct)
            & (options.tensor_parallel == a.tensor_parallel)
            & (options.replicas == a.replicas)
            & (options.gpu_type == space.gpu_types.index(a.gpu_type))
        )
        where = np.flatnonzero(same)
        if len(where) == 0:
            return None
        found.append(int(where[0]))
    return tuple(found)


def _steps(space: Space, choices: Choices) -> Iterator[Choices]:
    """Every LLM's cheapest options at every size; where that exceeds the budget, another LLM makes room."""
    used = [sum(_units(space, choices, kind)) for kind in range(len(space.budgets))]
    smaller = cache(lambda giver, kind, units: _within(space.llms[giver], kind, units))
    for m, options in enumerate(space.llms):
        for option in _cheapest(options):
            kind = int(options.gpu_type[option])
            over = used[kind] + int(options.units[option]) - space.budgets[kind]
            if int(options.gpu_type[choices[m]]) == kind:
                over -= int(options.units[choices[m]])
            step = (*choices[:m], option, *choices[m + 1 :])
            if over <= 0:
                yield step
                continue
            for k, giver in enumerate(space.llms):
                if k != m and int(giver.gpu_type[choices[k]]) == kind:
                    for less in smaller(k, kind, int(giver.units[choices[k]]) - over):
                        yield (*step[:k], less, *step[k + 1 :])


def _units(space: Space, choices: Choices, kind: int) -> list[int]:
    return [int(o.units[n]) for o, n in zip(space.llms, choices, strict=True) if int(o.gpu_type[n]) == kind]


def _cheapest(options: Options) -> list[int]:
    """The ``OPTIONS_PER_UNIT_COUNT`` cheapest options of every number of units on every GPU type."""
    order = np.lexsort((options.cost_s, options.units, options.gpu_type))
    taken: dict[tuple[int, int], list[int]] = {}
    for n in order.tolist():
        if np.isfinite(options.cost_s[n]):
            ways = taken.setdefault((int(options.gpu_type[n]), int(options.units[n])), [])
            if len(ways) < OPTIONS_PER_UNIT_COUNT:
                ways.append(n)
    return [n for ways in taken.values() for n in ways]


def _within(options: Options, kind: int, units: int) -> list[int]:
    """The ``OPTIONS_PER_UNIT_COUNT`` cheapest options of at most ``units`` units of one GPU type."""
    fits = np.flatnonzero((options.gpu_type == kind) & (options.units <= units) & np.isfinite(options.cost_s))
    rank = np.lexsort((options.units[fits], options.cost_s[fits]))
    return [int(n) for n in fits[rank[:OPTIONS_PER_UNIT_COUNT]]]
