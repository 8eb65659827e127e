"""Local search under a judge: the best by the judge, never worse than what it started from."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scepsy.errors import Infeasible
from scepsy.plans import Plan
from scepsy.search import PLANNERS, Problem
from scepsy.search.assemble import objective_of
from scepsy.search.climb import climb, neighbours
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
def test_every_plan_judged_is_a_valid_plan_and_the_best_is_returned(seed: int, load: float) -> None:
    problem = small(seed, load)
    try:
        start = any_plan(problem)
    except Infeasible:
        return
    found = climb(problem, [start], lambda plan: objective_of(problem, plan))
    for plan, value in found.judged:
        check(problem, plan)
        assert value >= objective_of(problem, found.best)
    assert len({plan.allocations for plan, _ in found.judged}) == len(found.judged) <= 32


def test_it_climbs_from_an_equal_split_most_of_the_way_to_the_optimum() -> None:
    problem = small()
    start, best = PLANNERS["equal"](problem), PLANNERS["exact"](problem)
    found = climb(problem, [start], lambda plan: objective_of(problem, plan))
    reached, begun, optimum = (objective_of(problem, plan) for plan in (found.best, start, best))
    assert begun > optimum * 1.05, "a start from which there is nothing to climb shows nothing"
    assert reached < optimum + 0.2 * (begun - optimum)


def test_a_judge_that_disagrees_with_the_predictor_is_followed() -> None:
    problem = small()
    plan = PLANNERS["exact"](problem)
    first = plan.allocations[0].llm

    def judge(plan: Plan) -> float:  # likes GPUs for the first LLM, whatever the predictor says
        return 1.0 / sum(a.gpu_pct for a in plan.allocations if a.llm == first)

    found = climb(problem, [plan], judge)
    assert judge(found.best) < judge(plan)


def test_it_is_deterministic_and_keeps_to_its_judgements() -> None:
    problem = small()
    start = PLANNERS["equal"](problem)
    first, second = (climb(problem, [start], lambda plan: objective_of(problem, plan), judgements=7) for _ in range(2))
    assert [p.allocations for p, _ in first.judged] == [p.allocations for p, _ in second.judged]
    assert len(first.judged) == 7


def test_when_everything_is_unstable_the_first_start_stands() -> None:
    problem = small()
    start = PLANNERS["equal"](problem)
    assert climb(problem, [start], lambda plan: math.inf).best is start
    with pytest.raises(ValueError, match="at least one plan"):
        climb(problem, [], lambda plan: 0.0)


def test_neighbours_differ_in_at_most_two_llms_and_fit_the_budget() -> None:
    problem = small()
    space, plan = build_space(problem, keep_all=True), PLANNERS["exact"](problem)
    around = list(neighbours(space, plan.allocations))
    assert len(around) > 10
    for allocations in around:
        assert 1 <= sum(a != b for a, b in zip(allocations, plan.allocations, strict=True)) <= 2
        assert sum(a.gpu_pct for a in allocations) <= 100 * sum(space.gpus_of)
