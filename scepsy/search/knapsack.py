"""The relaxed problem, exactly: one option per LLM under additive budgets, by dynamic programming over GPU units.

A multiple-choice knapsack (Kellerer, Pferschy, Pisinger, *Knapsack Problems*, 2004, ch. 11). ``tables[k][b]`` is the least
cost of LLMs k … M−1 within budget b (one axis per GPU type), so ``tables[0]`` is the whole cost-versus-GPUs frontier and
the later tables are exact lower bounds for what a partial allocation still has to pay. What is relaxed is geometry: that
shares pack onto GPUs and groups into NVLink domains.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from scepsy.predictors.aggregate import Floats, Integers

MAX_STATES = 4_000_000
"""Budget combinations a table may have; more GPU types and units than this need coarser units."""


@dataclass(frozen=True)
class Items:
    """The options of one LLM as the knapsack sees them: which budget they draw on, how many units, at what cost."""

    resource: Integers
    units: Integers
    cost: Floats

    def pruned(self) -> Integers:
        """Numbers of the options that no other dominates (same resource, no more units, no more cost), by resource and
        units."""
        order = np.lexsort((np.arange(len(self.units)), self.cost, self.units, self.resource))
        order = order[np.isfinite(self.cost[order])]
        if len(order) == 0:
            return order
        resource, cost = self.resource[order], self.cost[order]
        keep = np.zeros(len(order), dtype=bool)
        for value in np.unique(resource):
            mine = np.flatnonzero(resource == value)
            best_before = np.concatenate(([np.inf], np.minimum.accumulate(cost[mine])[:-1]))
            keep[mine] = cost[mine] < best_before
        return order[keep]


Combine = Callable[[Floats | float, Floats], Floats]


def _add(cost: Floats | float, rest: Floats) -> Floats:
    return rest + cost


def _worst(cost: Floats | float, rest: Floats) -> Floats:
    return np.maximum(rest, cost)


def solve(items: Sequence[Items], budgets: tuple[int, ...], *, bottleneck: bool = False) -> list[Floats]:
    """Fill the tables: ``tables[k]`` has shape (budgets + 1) and holds the least total cost of LLMs k … M−1; inf where
    none fits.

    With ``bottleneck`` the total is the largest single cost instead of the sum (for maximising the rate: cost = −factor).
    Raises ``ValueError`` when the tables would exceed ``MAX_STATES``.
    """
    shape = tuple(budget + 1 for budget in budgets)
    if np.prod([float(size) for size in shape]) > MAX_STATES:
        raise ValueError(f"{shape} budget states exceed {MAX_STATES}: use coarser share units")
    combine: Combine = _worst if bottleneck else _add
    tables = [np.full(shape, -np.inf if bottleneck else 0.0)]
    for item in reversed(items):
        tables.append(_extend(item, tables[-1], combine))
    return tables[::-1]


def _extend(item: Items, rest: Floats, combine: Combine) -> Floats:
    best = np.full(rest.shape, np.inf)
    for option in item.pruned():
        axis, units = int(item.resource[option]), int(item.units[option])
        if units >= rest.shape[axis]:
            continue
        into = _slice(rest.ndim, axis, slice(units, None))
        source = _slice(rest.ndim, axis, slice(0, rest.shape[axis] - units))
        np.minimum(best[into], combine(float(item.cost[option]), rest[source]), out=best[into])
    return best


def _slice(ndim: int, axis: int, part: slice) -> tuple[slice, ...]:
    return tuple(part if dim == axis else slice(None) for dim in range(ndim))


def backtrack(
    items: Sequence[Items], tables: Sequence[Floats], budgets: tuple[int, ...], *, bottleneck: bool = False
) -> tuple[int, ...] | None:
    """One option number per LLM that attains ``tables[0][budgets]``; None when that is infinite.

    Ties go to the fewest units, then the lowest option number.
    """
    if not np.isfinite(tables[0][budgets]):
        return None
    combine: Combine = _worst if bottleneck else _add
    left = list(budgets)
    choices = []
    for k, item in enumerate(items):
        wanted = tables[k][tuple(left)]
        for option in item.pruned():
            axis, units = int(item.resource[option]), int(item.units[option])
            if units > left[axis]:
                continue
            after = [value - units if dim == axis else value for dim, value in enumerate(left)]
            reached = combine(float(item.cost[option]), tables[k + 1][tuple(after)])
            if reached == wanted or (bottleneck and reached <= wanted):
                left = after
                choices.append(int(option))
                break
    return tuple(choices)
