"""Goals, frontier, several workflows: each against the plain latency planner."""

from dataclasses import replace

import numpy as np
import pytest

from scepsy.errors import Infeasible, InputError
from scepsy.search import PLANNERS, Goal, Problem
from scepsy.search.frontier import frontier
from scepsy.search.goals import at_factor, at_rates, plan_exact
from scepsy.search.multi import admit, plan_admitted, subset, with_more_gpus
from scepsy.search.random_problems import Size, random_problem


def small(load: float = 0.3, *, workflows: int = 1, types: int = 1, seed: int = 3) -> Problem:
    size = Size(llms=3, nodes=2, gpus_per_node=4, load=load, workflows=workflows, gpu_types=types, share_unit_pct=20)
    return random_problem(size, seed)


def test_fewest_gpus_within_a_limit_and_one_fewer_is_not_enough() -> None:
    problem = small(0.1)
    best = plan_exact(problem)
    limit = {"w0": best.expected[0].latency_s * 1.5}
    plan = plan_exact(replace(problem, goal=Goal(kind="gpus", limits_s=limit)))
    assert plan.expected[0].latency_s <= limit["w0"]
    gpus = len(plan.gpu_shares)
    assert gpus < len(best.gpu_shares)
    fewer = replace(problem, goal=Goal(max_gpus=gpus - 1, limits_s=limit))
    with pytest.raises(Infeasible):
        plan_exact(fewer)


def test_at_most_so_many_gpus_are_touched() -> None:
    plan = plan_exact(replace(small(0.1), goal=Goal(max_gpus=4)))
    assert len(plan.gpu_shares) <= 4


def test_the_cheapest_plan_costs_no_more_than_the_smallest() -> None:
    problem = small(0.1, types=2)
    limit = {"w0": plan_exact(problem).expected[0].latency_s * 2.0}

    def cost(plan: object) -> float:
        return sum(problem.cluster.type_of(gpu).cost_per_hour for gpu in plan.gpu_shares)  # type: ignore[attr-defined]

    cheapest, smallest = (plan_exact(replace(problem, goal=Goal(kind=kind, limits_s=limit))) for kind in ("cost", "gpus"))
    assert cost(cheapest) <= cost(smallest)
    assert len(smallest.gpu_shares) <= len(cheapest.gpu_shares)
    assert cheapest.expected[0].latency_s <= limit["w0"]


def test_the_highest_rate_is_carried_and_a_little_more_is_not() -> None:
    problem = small(0.3)
    plan = plan_exact(replace(problem, goal=Goal(kind="rate")))
    rate = plan.targets[0].arrivals.rate_per_s
    assert rate is not None
    assert rate > problem.rates_per_s[0]
    plan_exact(at_rates(problem, [rate * 0.999]))
    with pytest.raises(Infeasible):
        plan_exact(at_rates(problem, [rate * 1.01]))


def test_a_limit_nobody_meets_is_named_with_what_is_possible() -> None:
    problem = replace(small(0.1), goal=Goal(limits_s={"w0": 1e-6}))
    with pytest.raises(Infeasible, match=r"workflow w0: mean latency limit 1e-06 s cannot be met .* \d"):
        plan_exact(problem)


@pytest.mark.parametrize(
    ("goal", "message"),
    [
        (Goal(percentile=42.0, limits_s={"w0": 1.0}), "percentile is 42"),
        (Goal(percentile=95.0, limits_s={"w0": 1.0}), "needs the traced runs"),
        (Goal(kind="gpus"), "needs a latency limit"),
    ],
)
def test_contradictory_goals_are_refused(goal: Goal, message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan_exact(replace(small(), goal=goal))


def test_bad_problems_are_refused() -> None:
    problem = small()
    for change, message in [
        ({"targets": ()}, "targets is empty"),
        ({"uses": ()}, "uses has 0 entries"),
        ({"weights": (-1.0,)}, "weights is"),
        ({"max_utilisation": 1.5}, "max_utilisation is 1.5"),
        ({"share_unit_pct": 0}, "share_unit_pct is 0"),
        ({"goal": Goal(limits_s={"nobody": 1.0})}, "nobody"),
        ({"curves": {}}, "no curve"),
    ]:
        with pytest.raises(InputError, match=message):
            plan_exact(replace(problem, **change))  # type: ignore[arg-type]


def test_the_frontier_bounds_every_plan_and_falls() -> None:
    problem = small(0.2)
    points = frontier(problem, plans=True)
    assert [point.gpus for point in points] == list(range(1, 9))
    latencies = [point.latency_s for point in points if point.latency_s is not None]
    assert latencies == sorted(latencies, reverse=True)
    factors = [point.rate_factor for point in points]
    assert factors == sorted(factors)
    for point in points:
        assert (point.latency_s is None) == (point.rate_factor < 1.0)
        if point.plan is not None:
            assert len(point.plan.gpu_shares) <= point.gpus
            assert point.plan.objective_s is not None
            assert point.latency_s is not None
            assert point.plan.objective_s >= point.latency_s * (1 - 1e-9)


def test_weights_move_latency_between_workflows() -> None:
    problem = small(0.2, workflows=2, seed=8)
    first, second = (PLANNERS["exact"](replace(problem, weights=weights)).expected for weights in ((1.0, 0.001), (0.001, 1.0)))
    assert first[0].latency_s <= second[0].latency_s
    assert second[1].latency_s <= first[1].latency_s


def test_admission_says_what_a_refused_workflow_could_have() -> None:
    problem = at_factor(small(0.3, workflows=2), 1.0)
    top = plan_exact(replace(problem, goal=Goal(kind="rate"))).targets
    rates = [target.arrivals.rate_per_s or 0.0 for target in top]
    heavy = at_rates(problem, [rates[0] * 0.6, rates[1] * 2.5])
    served, refused = admit(heavy)
    assert served.served
    assert not refused.served
    assert 0 < refused.possible_rate_per_s < refused.rate_per_s
    plan_exact(at_rates(heavy, [rates[0] * 0.6, refused.possible_rate_per_s]))
    assert refused.more_gpus is not None
    plan_exact(with_more_gpus(heavy, refused.more_gpus))
    with pytest.raises(Infeasible):
        plan_exact(with_more_gpus(heavy, refused.more_gpus - 1) if refused.more_gpus > 1 else heavy)
    with pytest.raises(Infeasible, match=r"workflow w1 cannot be served at .*/s; it can at .*/s, or with \d+ more GPU"):
        plan_admitted(heavy)


def test_a_subset_keeps_its_own_limits_only() -> None:
    problem = replace(small(workflows=2), goal=Goal(kind="gpus", limits_s={"w1": 3.0}))
    assert subset(problem, [0]).goal.kind == "latency"
    assert subset(problem, [1]).goal.limits_s == {"w1": 3.0}


def test_fixed_partitions_are_the_only_shares() -> None:
    import msgspec

    problem = small(0.1)
    cluster = problem.cluster
    types = tuple(msgspec.structs.replace(kind, partitions_pct=(20, 40, 100)) for kind in cluster.gpu_types)
    cut = replace(problem, cluster=msgspec.structs.replace(cluster, gpu_types=types))
    for name, planner in PLANNERS.items():
        plan = planner(cut)
        assert {a.share_pct for a in plan.allocations} <= {20, 40, 100}, name


def test_a_target_without_limits_on_sms_gets_whole_gpus_and_one_without_tp_on_shared_gpus_whole_groups() -> None:
    import msgspec

    problem = small(0.1)
    blunt = replace(problem, capabilities=msgspec.structs.replace(problem.capabilities, sm_percent=False))
    assert {a.share_pct for a in plan_exact(blunt).allocations} == {100}
    alone = replace(problem, capabilities=msgspec.structs.replace(problem.capabilities, tp_on_shared_gpu=False))
    for a in plan_exact(alone).allocations:
        assert a.tensor_parallel == 1 or a.share_pct == 100


def test_no_llm_starves_however_small_its_weight() -> None:
    problem = replace(small(0.3, workflows=2), weights=(1.0, 0.0))
    for expected, rate in zip(plan_exact(problem).expected, problem.rates_per_s, strict=True):
        assert expected.throughput_per_s >= rate
        assert np.isfinite(expected.latency_s)
