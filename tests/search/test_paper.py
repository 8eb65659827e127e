"""The paper's planner: its formula by hand, its outer loop against every split."""

from itertools import product
from math import fsum

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scepsy.errors import Infeasible
from scepsy.predictors.aggregate import predict
from scepsy.search.hierarchical import plan_hierarchical
from scepsy.search.paper import Pipeline, apart, by_formula, candidates, plan_paper, splits
from scepsy.search.random_problems import Size, random_problem
from scepsy.search.space import build_space


def test_an_option_costs_what_the_formula_says() -> None:
    """Every option's cost is what ``formula="paper"`` predicts of it, weighted; summed over LLMs it is L_w."""
    problem = random_problem(Size(llms=3, nodes=1, gpus_per_node=2, workflows=2, share_unit_pct=50, load=0.1), 7)
    space = build_space(problem, keep_all=True)
    priced = [by_formula(space, options) for options in space.llms]
    chosen = [int(np.flatnonzero(np.isfinite(options.cost_s))[-1]) for options in priced]
    allocations = space.allocations(tuple(chosen))
    expected = predict(problem.uses, problem.rates_per_s, problem.index, allocations, formula="paper")
    by_hand = fsum(w * e.latency_s for w, e in zip(problem.normal_weights, expected, strict=True))
    total = fsum(float(options.cost_s[n]) for options, n in zip(priced, chosen, strict=True))
    assert total + space.tool_s == pytest.approx(by_hand, rel=1e-9)


def test_the_formula_can_choose_otherwise_than_measured_busy_seconds() -> None:
    """p_m of the trace differs from what the replay shows at more replicas, so some of 30 problems get another plan."""
    others = 0
    for seed in range(30):
        problem = random_problem(Size(llms=3, nodes=1, load=0.2), seed)
        try:
            others += plan_paper(problem).allocations != plan_hierarchical(problem).allocations
        except Infeasible:
            continue
    assert others > 0


def test_workflows_that_share_an_llm_are_one_pipeline() -> None:
    for seed in range(20):
        problem = random_problem(Size(llms=4, nodes=1, workflows=2), seed)
        space = build_space(problem, keep_all=True)
        sharing = bool({llm.llm for llm in problem.uses[0].llms} & {llm.llm for llm in problem.uses[1].llms})
        groups = apart(problem, space)
        assert len(groups) == (1 if sharing else 2)
        assert sorted(m for group in groups for m in group) == list(range(len(space.llms)))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 5_000), gpus=st.sampled_from([2, 4, 8]), load=st.sampled_from([0.05, 0.2, 0.5]))
def test_the_outer_loop_finds_the_best_split(seed: int, gpus: int, load: float) -> None:
    """Against every pair of divisions that fit the GPUs, each workflow on GPUs of its own."""
    problem = random_problem(Size(llms=3, nodes=1, gpus_per_node=gpus, workflows=2, share_unit_pct=50, load=load), seed)
    space = build_space(problem, keep_all=True)
    groups = apart(problem, space)
    if len(groups) == 1:
        return
    priced = [by_formula(space, options) for options in space.llms]
    parts = [Pipeline(space, priced, members, 0) for members in groups]
    best = min(
        (
            float(a + b)
            for (a, n), (b, m) in product(*(list(zip(part.cost, part.gpus, strict=True)) for part in parts))
            if n + m <= gpus
        ),
        default=np.inf,
    )
    first = next(candidates(parts, gpus, len(space.llms)), None)
    if first is None:
        assert best == np.inf
        return
    found = fsum(float(options.cost_s[choice]) for options, choice in zip(priced, first, strict=True))
    assert found == pytest.approx(best, rel=1e-9)


def test_splits_are_thinned_when_there_are_too_many() -> None:
    assert len(list(splits(16, 3))) == 105
    assert sum(1 for _ in splits(1024, 3)) <= 200_000
    assert all(sum(split) == 1024 for split in splits(1024, 4))
