"""The exact planner against the others: never worse in the same problem, feasible wherever one of them is, and below."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scepsy.errors import Infeasible
from scepsy.plans import Allocation, Plan
from scepsy.search import PLANNERS, seeds
from scepsy.search.assemble import Outlook, objective_of
from scepsy.search.goals import at_factor
from scepsy.search.knapsack import solve
from scepsy.search.problem import Problem, subset
from scepsy.search.random_problems import Size, random_problem
from scepsy.search.seeds import OTHERS, other_plans, separate_plans
from scepsy.search.space import build_space
from scepsy.search.within import MAX_ACCEPTED, Search, accept_all, cost_items

SIZES = st.builds(
    Size,
    llms=st.integers(2, 5),
    nodes=st.integers(1, 2),
    gpus_per_node=st.sampled_from([2, 4, 8]),
    share_unit_pct=st.sampled_from([10, 20, 50]),
)


def planned(problem: Problem, planner: str) -> Plan | None:
    try:
        return PLANNERS[planner](problem)
    except Infeasible:
        return None


@settings(max_examples=25)
@given(size=SIZES, seed=st.integers(0, 10_000), factor=st.sampled_from([0.5, 1.0, 1.5, 2.0, 3.0]))
def test_exact_is_never_worse_than_another_planner(size: Size, seed: int, factor: float) -> None:
    problem = at_factor(random_problem(size, seed), factor)
    exact = planned(problem, "exact")
    for name in set(PLANNERS) - {"exact"}:
        other = planned(problem, name)
        if other is not None:
            assert exact is not None, f"{name} has a plan"
            assert objective_of(problem, exact) <= objective_of(problem, other) * (1 + 1e-9), name


@settings(max_examples=15)
@given(size=SIZES, seed=st.integers(0, 10_000), factor=st.sampled_from([1.0, 2.0, 3.0, 4.0]))
def test_feasible_at_a_rate_is_feasible_below_it(size: Size, seed: int, factor: float) -> None:
    problem = at_factor(random_problem(size, seed), factor)
    if planned(problem, "exact") is not None:
        for part in (0.97, 0.8, 0.5):
            assert planned(at_factor(problem, part), "exact") is not None, part


def test_a_planner_that_has_answered_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = random_problem(Size(llms=3, nodes=1, gpus_per_node=4), 3)
    space = build_space(problem)
    search = Search(problem, space, solve(cost_items(space), space.budgets), space.gpus_of, accept_all)
    plain = list(other_plans(search))
    known = {name: planned(problem, name) for name in OTHERS}
    assert {plan.allocations for plan in known.values() if plan} <= set(plain)
    monkeypatch.setattr(seeds, "OTHERS", dict.fromkeys(OTHERS, lambda problem: pytest.fail("asked again")))
    assert list(other_plans(search, known)) == plain
    assert list(other_plans(search, dict.fromkeys(OTHERS))) == []


def test_rejected_candidates_do_not_use_up_the_search() -> None:
    """Many allocations that pack but that neighbours slow too much may lie before the first that is accepted."""
    problem = random_problem(Size(llms=3, nodes=1, gpus_per_node=4), 3)
    space = build_space(problem)
    seen: list[tuple[Allocation, ...]] = []

    def accept(allocations: tuple[Allocation, ...], outlook: Outlook) -> bool:
        seen.append(allocations)
        return len(seen) > 3 * MAX_ACCEPTED

    found = Search(problem, space, solve(cost_items(space), space.budgets), space.gpus_of, accept).run()
    assert found is not None
    assert len(seen) > 3 * MAX_ACCEPTED


@pytest.mark.parametrize("seed", range(6))
def test_joint_plans_are_never_worse_than_separate_ones(seed: int) -> None:
    joint = random_problem(Size(llms=4, nodes=1, workflows=2, gpus_per_node=8, interference=0.3), seed)
    llms = [llm.llm for use in joint.uses for llm in use.llms]
    unions = list(separate_plans(joint))
    assert bool(unions) == (len(set(llms)) == len(llms))  # those that share an LLM have no separate plans
    exact = planned(joint, "exact")
    assert exact is not None
    search = Search(joint, build_space(joint), [], build_space(joint).gpus_of, accept_all)
    for allocations in unions:
        search.seed(allocations)
    if search.best is not None:
        assert objective_of(joint, exact) <= search.best.outlook.objective_s * (1 + 1e-9)


def test_a_subset_keeps_its_own_targets() -> None:
    problem = random_problem(Size(llms=3, nodes=1, gpus_per_node=4), 1)
    assert subset(problem, [0]).targets == problem.targets[:1]
