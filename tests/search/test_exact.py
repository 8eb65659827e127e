"""The exact planner against trying every allocation that packs."""

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scepsy.cluster import Cluster
from scepsy.errors import Infeasible
from scepsy.plans import Allocation
from scepsy.search import PLANNERS, Problem, within
from scepsy.search.best_first import cheapest_first, slice_weights, undominated
from scepsy.search.knapsack import solve
from scepsy.search.random_problems import Size, random_problem
from scepsy.search.space import build_space
from scepsy.search.within import cost_items
from tests.builders.refusals import TOO_MUCH_LOAD


def packs(cluster: Cluster, allocations: tuple[Allocation, ...]) -> bool:
    """Whether all instances fit, by trying every GPU for each in turn: the slow reference."""
    domains = [(node.gpu_type, domain, node.name) for node in cluster.nodes for domain in node.domains]
    groups = sorted(
        ((a.tensor_parallel, a.share_pct, a.gpu_type) for a in allocations for _ in range(a.replicas)), reverse=True
    )
    free = {(name, index): 100 for _, domain, name in domains for index in domain}

    def place(number: int) -> bool:
        if number == len(groups):
            return True
        degree, share, gpu_type = groups[number]
        seen = set()
        for kind, domain, name in domains:
            if kind != gpu_type:
                continue
            keys = [(name, index) for index in domain]
            for slots in combinations_of(keys, degree):
                if any(free[slot] < share for slot in slots):
                    continue
                # GPUs of one domain with equal room are interchangeable.
                signature = (tuple(sorted(free[k] for k in keys)), tuple(sorted(free[slot] for slot in slots)))
                if signature in seen:
                    continue
                seen.add(signature)
                for slot in slots:
                    free[slot] -= share
                if place(number + 1):
                    return True
                for slot in slots:
                    free[slot] += share
        return False

    return place(0)


def combinations_of(keys: list[tuple[str, int]], size: int) -> list[tuple[tuple[str, int], ...]]:
    from itertools import combinations

    return list(combinations(keys, size))


def exhaustive(problem: Problem) -> float | None:
    """The least objective over all allocations that pack; None when there is none."""
    space = build_space(problem)
    ranked = []
    for choices in product(*(range(len(options)) for options in space.llms)):
        pairs = list(zip(space.llms, choices, strict=True))
        used = [0] * len(space.budgets)
        for options, choice in pairs:
            used[int(options.gpu_type[choice])] += int(options.units[choice])
        if all(u <= b for u, b in zip(used, space.budgets, strict=True)):
            ranked.append((sum(float(options.cost_s[choice]) for options, choice in pairs), choices))
    for cost, choices in sorted(ranked):
        if packs(problem.cluster, space.allocations(choices)):
            return cost + space.tool_s
    return None


def compare(size: Size, seed: int) -> None:
    problem = random_problem(size, seed)
    try:
        best = exhaustive(problem)
    except Infeasible:
        best = None
    if best is None:
        with pytest.raises(Infeasible, match=TOO_MUCH_LOAD):
            PLANNERS["exact"](problem)
        return
    plan = PLANNERS["exact"](problem)
    assert plan.objective_s == pytest.approx(best, rel=1e-9)
    assert plan.optimal
    assert plan.bound_latency_s == pytest.approx(best, rel=1e-9)


sizes = st.builds(
    Size,
    llms=st.integers(1, 3),
    nodes=st.integers(1, 2),
    gpus_per_node=st.sampled_from([1, 2]),
    degrees=st.sampled_from([(1,), (1, 2)]),
    share_unit_pct=st.sampled_from([50, 34]),
    load=st.sampled_from([0.1, 0.3, 0.6]),
)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(size=sizes, seed=st.integers(0, 100_000))
def test_exact_equals_exhaustive_enumeration(size: Size, seed: int) -> None:
    compare(size, seed)


@pytest.mark.slow
@settings(max_examples=3000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(size=sizes, seed=st.integers(0, 10_000_000), types=st.integers(1, 2))
def test_exact_equals_exhaustive_enumeration_on_thousands(size: Size, seed: int, types: int) -> None:
    compare(replace(size, gpu_types=min(types, size.nodes)), seed)


@pytest.mark.parametrize(("limit", "seed"), [("MAX_ACCEPTED", 9), ("MAX_OPTIONS_VISITED", 2), ("MAX_OPTIONS_VISITED", 7)])
def test_a_search_that_ran_out_of_effort_does_not_claim_the_optimum(
    monkeypatch: pytest.MonkeyPatch, limit: str, seed: int
) -> None:
    problem = random_problem(Size(llms=3, nodes=1, gpus_per_node=4, load=0.3, interference=0.5, share_unit_pct=20), seed)
    best = PLANNERS["exact"](problem).objective_s
    monkeypatch.setattr(within, limit, 1)
    short = PLANNERS["exact"](problem)
    assert best is not None
    assert short.objective_s is not None
    assert short.bound_latency_s is not None
    assert short.objective_s > best * 1.001, "the question must be one that the short search does not solve"
    assert not short.optimal
    assert short.bound_latency_s <= best * (1 + 1e-9)


def test_an_optimum_that_may_or_may_not_pack_leaves_the_search_unproved(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = random_problem(Size(llms=3, nodes=1, gpus_per_node=4, load=0.3, interference=0.0, share_unit_pct=20), 2)
    best = PLANNERS["exact"](problem)
    assert best.optimal
    packed = within.Search._pack

    def unknown(search: within.Search, allocations: tuple[Allocation, ...], prove: bool) -> tuple[Any, bool]:
        known = sorted(allocations) != sorted(best.allocations)
        return packed(search, allocations, prove) if known else (None, False)

    monkeypatch.setattr(within.Search, "_pack", unknown)
    second = PLANNERS["exact"](problem)
    assert second.objective_s is not None
    assert best.objective_s is not None
    assert second.bound_latency_s is not None
    assert second.objective_s > best.objective_s
    assert not second.optimal
    assert second.bound_latency_s <= best.objective_s * (1 + 1e-9)


def test_no_option_is_loaded_beyond_the_limit() -> None:
    problem = replace(random_problem(Size(llms=2, nodes=1, gpus_per_node=4, load=0.3), seed=5), max_utilisation=0.7)
    for options in build_space(problem).llms:
        assert (options.load_per_s <= 0.7 * options.capacity_per_s).all()
    between = False
    for options in build_space(problem, keep_all=True).llms:
        within_it = options.load_per_s <= 0.7 * options.capacity_per_s
        assert (np.isfinite(options.cost_s) == within_it).all()
        between |= bool((options.load_per_s <= options.capacity_per_s)[~within_it].any())
    assert between, "some must lie between the limit and saturation"


def test_allocations_come_cheapest_first_and_none_is_missing() -> None:
    problem = random_problem(Size(llms=3, nodes=1, gpus_per_node=2, degrees=(1,), share_unit_pct=50, load=0.1), seed=2)
    space = build_space(problem)
    items = cost_items(space)
    tables = solve(items, space.budgets)
    found = list(cheapest_first(space, items, tables, space.budgets, lambda: float("inf"), prune=False))
    costs = [cost for cost, _ in found]
    assert costs == sorted(costs)
    expected = {
        choices
        for choices in product(*(range(len(options)) for options in space.llms))
        if packs(problem.cluster, space.allocations(choices))
    }
    assert expected <= {choices for _, choices in found}


@given(st.lists(st.integers(1, 100), max_size=8))
def test_what_fits_one_gpu_weighs_at_most_one(shares: list[int]) -> None:
    kept: list[int] = []
    for share in shares:
        if sum(kept) + share <= 100:
            kept.append(share)
    if kept:
        assert slice_weights(np.array(kept)).sum(axis=1).max() <= 1.0 + 1e-9


def test_an_undominated_option_stands_in_for_every_dropped_one() -> None:
    problem = random_problem(Size(llms=2, nodes=1, gpus_per_node=4, load=0.1), seed=5)
    space = build_space(problem)
    for options, item in zip(space.llms, cost_items(space), strict=True):
        kept = undominated(options, item)
        for n in set(range(len(options))) - set(kept.tolist()):
            held = (
                (options.tensor_parallel[n] // options.tensor_parallel[kept])
                * (options.share_pct[n] // options.share_pct[kept])
                * options.replicas[n]
            )
            assert ((held >= options.replicas[kept]) & (item.cost[kept] <= item.cost[n])).any()
