"""The relaxed problem against enumeration."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scepsy.search.knapsack import Items, backtrack, solve


def instance(seed: int) -> tuple[list[Items], tuple[int, ...]]:
    """A random small instance; whole-numbered costs, so that sums are exact and ties happen."""
    rng = np.random.default_rng(seed)
    resources = int(rng.integers(1, 3))
    budgets = tuple(rng.integers(0, 13, resources).tolist())
    items = []
    for _ in range(rng.integers(1, 5)):
        options = int(rng.integers(1, 7))
        cost = np.where(rng.random(options) < 0.1, np.inf, rng.integers(0, 21, options).astype(float))
        items.append(Items(rng.integers(0, resources, options), rng.integers(1, 10, options), cost))
    return items, budgets


def enumerate_all(items: list[Items], budgets: tuple[int, ...], bottleneck: bool) -> float:
    best = float("inf")
    for choice in product(*(range(len(item.units)) for item in items)):
        used = [0] * len(budgets)
        for item, option in zip(items, choice, strict=True):
            used[int(item.resource[option])] += int(item.units[option])
        if all(u <= b for u, b in zip(used, budgets, strict=True)):
            costs = [float(item.cost[option]) for item, option in zip(items, choice, strict=True)]
            best = min(best, max(costs) if bottleneck else sum(costs))
    return best


@pytest.mark.parametrize("bottleneck", [False, True])
@settings(max_examples=1000, deadline=None)
@given(seed=st.integers(0, 2**40))
def test_every_budget_has_its_optimum_and_an_option_for_each_llm(bottleneck: bool, seed: int) -> None:
    items, budgets = instance(seed)
    tables = solve(items, budgets, bottleneck=bottleneck)
    for budget in {budgets, tuple(b // 2 for b in budgets)}:
        expected = enumerate_all(items, budget, bottleneck)
        assert tables[0][budget] == expected
        choices = backtrack(items, tables, budget, bottleneck=bottleneck)
        if expected == float("inf"):
            assert choices is None
            continue
        assert choices is not None
        costs = [float(item.cost[option]) for item, option in zip(items, choices, strict=True)]
        assert (max(costs) if bottleneck else sum(costs)) == expected
        for resource, most in enumerate(budget):
            pairs = zip(items, choices, strict=True)
            assert sum(int(i.units[o]) for i, o in pairs if int(i.resource[o]) == resource) <= most


def test_more_units_never_cost_more() -> None:
    rng = np.random.default_rng(1)
    items = [Items(np.zeros(30, dtype=np.int64), rng.integers(1, 30, 30), rng.random(30)) for _ in range(5)]
    row = solve(items, (100,))[0]
    assert (np.diff(row[np.isfinite(row)]) <= 0).all()


def test_too_many_states_are_refused() -> None:
    item = Items(np.zeros(1, dtype=np.int64), np.ones(1, dtype=np.int64), np.ones(1))
    with pytest.raises(ValueError, match="coarser share units"):
        solve([item], (3000, 3000))
