"""Latency against cost over GPU types, and what the next cheaper combination misses."""

from dataclasses import replace
from itertools import product

import pytest

from scepsy.cluster import Cluster
from scepsy.cost import gpus_by_type, usd_per_hour
from scepsy.errors import Infeasible
from scepsy.search import Goal, Problem
from scepsy.search.cheaper import next_cheaper
from scepsy.search.goals import least_latency, plan_exact
from scepsy.search.offers import MAX_PLANS_PER_CLUSTER, _counts, offers
from scepsy.search.random_problems import Size, random_problem


def small(load: float = 0.3, *, types: int = 1, seed: int = 3) -> Problem:
    return random_problem(Size(llms=3, nodes=2, gpus_per_node=4, load=load, gpu_types=types, share_unit_pct=20), seed)


def by_type(problem: Problem) -> list[Cluster]:
    kinds = {node.gpu_type for node in problem.cluster.nodes}
    return [
        Cluster(
            name=kind,
            gpu_types=tuple(gpu for gpu in problem.cluster.gpu_types if gpu.name == kind),
            nodes=tuple(node for node in problem.cluster.nodes if node.gpu_type == kind),
        )
        for kind in sorted(kinds)
    ]


def test_every_offer_is_the_plan_of_its_number_of_gpus() -> None:
    problem = small(0.2, types=2)
    clusters = by_type(problem)
    found, left_out = offers(problem, clusters)
    assert not left_out
    assert {(o.gpu_type, o.gpus) for o in found} == {(c.name, n) for c in clusters for n in range(1, len(c.gpus) + 1)}
    for offer in found:
        if offer.plan is None:
            continue
        here = replace(problem, cluster=next(c for c in clusters if c.name == offer.gpu_type))
        again = least_latency(replace(here, goal=Goal(max_gpus=offer.gpus)))
        assert offer.latency_s == again.expected[0].latency_s
        assert offer.cost is not None
        assert offer.cost.gpus == len(again.gpu_shares) <= offer.gpus


@pytest.mark.parametrize("seed", range(4))
def test_the_line_is_what_no_other_beats_in_both(seed: int) -> None:
    problem = small(0.2, types=2, seed=seed)
    found, _ = offers(problem, by_type(problem))
    points = [(o.cost.usd_per_hour, o.latency_s, o) for o in found if o.cost is not None]
    assert any(o.on_pareto for _, _, o in points)
    for dollars, latency, offer in points:
        beaten = any(d <= dollars and s <= latency and (d, s) != (dollars, latency) for d, s, _ in points)
        equal_before = any((d, s) == (dollars, latency) and o.on_pareto and o is not offer for d, s, o in points)
        assert offer.on_pareto == (not beaten and not equal_before), (offer.gpu_type, offer.gpus)
    assert not any(o.on_pareto for o in found if o.plan is None)


def test_a_rate_that_no_gpu_meets_is_said_and_has_no_plan() -> None:
    found, _ = offers(small(50.0), [small().cluster])
    assert all(o.plan is None and o.cost is None and not o.on_pareto and not o.searched for o in found)


def test_of_many_counts_the_first_the_last_and_so_many_are_planned() -> None:
    assert _counts(range(3, 10)) == set(range(3, 10))
    many = _counts(range(5, 129))
    assert len(many) == MAX_PLANS_PER_CLUSTER
    assert {5, 128} <= many


def test_the_next_cheaper_is_the_dearest_below_and_misses_the_limit() -> None:
    problem = small(0.1, types=2)
    limit = {"w0": plan_exact(problem).expected[0].latency_s * 1.5}
    asked = replace(problem, goal=Goal(kind="cost", limits_s=limit))
    plan = plan_exact(asked)
    found = next_cheaper(asked, plan)
    assert found is not None
    paid = usd_per_hour(problem.cluster, gpus_by_type(plan))
    counts = {c.name: len(c.gpus) for c in by_type(problem)}
    prices = [
        usd_per_hour(problem.cluster, dict(zip(counts, caps, strict=True)))
        for caps in product(*(range(n + 1) for n in counts.values()))
        if any(caps)
    ]
    assert found.usd_per_hour == pytest.approx(max(price for price in prices if price < paid - 1e-9))
    assert found.usd_per_hour < paid
    assert found.misses


def test_what_the_next_cheaper_misses_is_so_and_nothing_lies_below_one_gpu() -> None:
    problem = small(0.1)
    limit = {"w0": plan_exact(problem).expected[0].latency_s * 1.5}
    asked = replace(problem, goal=Goal(kind="cost", limits_s=limit))
    plan = plan_exact(asked)
    found = next_cheaper(asked, plan)
    assert found is not None
    assert sum(found.gpus.values()) == len(plan.gpu_shares) - 1
    with pytest.raises(Infeasible):
        plan_exact(replace(problem, goal=Goal(max_gpus=len(plan.gpu_shares) - 1, limits_s=limit)))
    one = small(0.01)
    loose = replace(one, goal=Goal(kind="cost", limits_s={"w0": 1e9}))
    cheapest = plan_exact(loose)
    if len(cheapest.gpu_shares) == 1:
        assert next_cheaper(loose, cheapest) is None
