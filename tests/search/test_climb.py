"""Neighbours of a plan: valid, within the budget, the most promising first."""

from hypothesis import given, settings
from hypothesis import strategies as st

from scepsy.errors import Infeasible
from scepsy.plans import Plan
from scepsy.search import PLANNERS, Problem
from scepsy.search.assemble import objective_of
from scepsy.search.climb import neighbour_plans, neighbours
from scepsy.search.random_problems import Size, random_problem
from scepsy.search.space import build_space
from tests.search.test_planners import check


def small(seed: int = 3, load: float = 0.15) -> Problem:
    return random_problem(Size(llms=3, nodes=2, gpus_per_node=4, load=load, share_unit_pct=20), seed)


def any_plan(problem: Problem) -> Plan:
    for name in ("equal", "independent", "hierarchical"):
        try:
            return PLANNERS[name](problem)
        except Infeasible:
            continue
    return PLANNERS["exact"](problem)


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), load=st.floats(0.05, 0.3))
def test_every_neighbour_is_a_valid_plan(seed: int, load: float) -> None:
    problem = small(seed, load)
    try:
        start = any_plan(problem)
    except Infeasible:
        return
    found = neighbour_plans(problem, start.allocations, 6)
    for plan in found:
        check(problem, plan)
    assert len({plan.allocations for plan in found} | {start.allocations}) == len(found) + 1


def test_neighbours_lead_from_an_equal_split_most_of_the_way_to_the_optimum() -> None:
    problem = small()
    start, best = PLANNERS["equal"](problem), PLANNERS["exact"](problem)
    now = start
    for _ in range(6):
        now = min([now, *neighbour_plans(problem, now.allocations, 8)], key=lambda plan: objective_of(problem, plan))
    reached, begun, optimum = (objective_of(problem, plan) for plan in (now, start, best))
    assert begun > optimum * 1.05, "a start from which there is nothing to climb shows nothing"
    assert reached < optimum + 0.2 * (begun - optimum)


def test_neighbours_differ_in_at_most_two_llms_and_fit_the_budget() -> None:
    problem = small()
    space, plan = build_space(problem, keep_all=True), PLANNERS["exact"](problem)
    around = list(neighbours(space, plan.allocations))
    assert len(around) > 10
    for allocations in around:
        assert 1 <= sum(a != b for a, b in zip(allocations, plan.allocations, strict=True)) <= 2
        assert sum(a.gpu_pct for a in allocations) <= 100 * sum(space.gpus_of)
