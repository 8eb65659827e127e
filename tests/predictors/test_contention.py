"""Neighbours on a GPU: by hand where everyone is busy, and limits otherwise."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from scepsy.cluster import Gpu
from scepsy.plans import Allocation
from scepsy.predictors import contention
from scepsy.predictors.contention import (
    bandwidth_demand,
    compute_draw,
    expected_slowdowns,
    neighbours,
    poisson,
    prompt_slowdowns,
    shares_a_gpu,
    slowdowns,
)
from scepsy.profile.share import ContentionLaw
from scepsy.search.problem import Problem
from scepsy.search.random_problems import Size, random_problem

GPUS = [Gpu(node="n0", index=n) for n in range(4)]


def problem(load: float = 0.2) -> Problem:
    return random_problem(Size(llms=2, nodes=1, interference=0.5, load=load), seed=4)


def half(llm: str, replicas: int) -> Allocation:
    return Allocation(llm=llm, share_pct=50, tensor_parallel=1, replicas=replicas, gpu_type="G0")


def slowdowns_of(p: Problem, allocations: list[Allocation], groups: dict, **settings: bool) -> dict[str, float]:
    return expected_slowdowns(p.uses, p.rates_per_s, p.index, p.profiles, allocations, groups, **settings)


def test_alone_on_its_gpu_nobody_is_slowed() -> None:
    groups = {"m0": [(GPUS[0],)], "m1": [(GPUS[1],)]}
    assert not shares_a_gpu(groups)
    assert slowdowns_of(problem(), [half("m0", 1), half("m1", 1)], groups) == {"m0": 1.0, "m1": 1.0}


def test_with_everybody_decoding_the_law_is_read_at_all_demands() -> None:
    p = problem()
    groups = {"m0": [(GPUS[0],)], "m1": [(GPUS[0],)]}
    found = slowdowns_of(p, [half("m0", 1), half("m1", 1)], groups, saturated=True)
    own = bandwidth_demand(p.profiles, half("m0", 1))
    assert found["m0"] == pytest.approx(p.profiles.contention.slowdown(own, own))
    assert found["m0"] > 1.05


def test_less_load_means_less_slowdown() -> None:
    groups = {"m0": [(GPUS[0],), (GPUS[0],)], "m1": [(GPUS[1],)]}
    both = [half("m0", 2), half("m1", 1)]
    idle, busy = slowdowns_of(problem(0.001), both, groups), slowdowns_of(problem(0.2), both, groups)
    full = slowdowns_of(problem(0.2), both, groups, saturated=True)
    assert 1.0 <= idle["m0"] <= busy["m0"] <= full["m0"]
    assert idle["m0"] < full["m0"]
    assert busy["m1"] == 1.0


def test_of_two_on_a_gpu_the_lower_number_works_alone_when_one_call_is_in_flight() -> None:
    p = problem(0.02)
    apart = {"m0": [(GPUS[0],), (GPUS[1],), (GPUS[0],), (GPUS[1],)], "m1": [(GPUS[2],)]}
    together = {"m0": [(GPUS[0],), (GPUS[0],), (GPUS[1],), (GPUS[1],)], "m1": [(GPUS[2],)]}
    four = [half("m0", 4), half("m1", 1)]
    assert slowdowns_of(p, four, apart)["m0"] < slowdowns_of(p, four, together)["m0"]


def test_a_group_feels_its_most_crowded_gpu() -> None:
    groups = {"m0": [(GPUS[0], GPUS[1])], "m1": [(GPUS[1],)], "m2": [(GPUS[1],)]}
    found = neighbours(groups, {"m0": 0.1, "m1": 0.2, "m2": 0.3})
    assert set(found["m0"].other) == {"m1", "m2"}
    assert found["m1"].other["m0"].tolist() == [[1.0]]


def test_poisson_sums_to_one_and_has_its_mean() -> None:
    for mean in (0.0, 0.3, 7.0, 200.0):
        p = poisson(mean, 400)
        assert p.sum() == pytest.approx(1.0)
        assert (p * np.arange(401)).sum() == pytest.approx(mean, abs=1e-6)


def test_the_bandwidth_budget_holds_where_interference_alone_would_not() -> None:
    # 0.6 + 1.2 of the peak: interference says 1.6, the peak itself 1.8
    law = ContentionLaw(interference=0.5)
    assert slowdowns(law, 0.6, np.array([0.0, 0.2, 1.2])).tolist() == pytest.approx([1.0, 1.1, 1.8])
    for own in (0.1, 0.5, 0.9):
        others = np.linspace(0.0, 3.0, 31)
        assert slowdowns(law, own, others).tolist() == pytest.approx([law.slowdown(own, x) for x in others.tolist()])


def test_the_compute_budget_holds_for_arrays_as_for_one() -> None:
    for capacity in (1.0, 0.8, None):
        law = ContentionLaw(interference=0.5, compute_capacity=capacity)
        others = np.linspace(0.0, 3.0, 31)
        for own in (0.1, 0.6):
            assert prompt_slowdowns(law, own, others).tolist() == pytest.approx(
                [law.prompt_slowdown(own, x) for x in others.tolist()]
            )


def test_a_share_draws_less_bandwidth_since_its_steps_are_longer() -> None:
    p = problem()
    whole = p.profiles.of("m0", "G0", 1).decode_bandwidth_demand
    assert bandwidth_demand(p.profiles, half("m0", 1)) == pytest.approx(whole / (1 + p.profiles.share_law.decode_k))


def test_decoding_is_stretched_by_decoding_and_prompts_by_prompts_each_for_its_part_of_the_busy_time() -> None:
    p = problem()
    parts = {"decoding": 0.6, "stretchable": 0.7}
    p = replace(
        p,
        curves={
            key: msgspec.structs.replace(c, **{name: (part,) * len(c.utilisation) for name, part in parts.items()})
            for key, c in p.curves.items()
        },
    )
    one = half("m0", 2)
    found = slowdowns_of(p, [one, half("m1", 1)], {"m0": [(GPUS[0],), (GPUS[0],)], "m1": [(GPUS[1],)]}, saturated=True)["m0"]
    demand, draw, law = bandwidth_demand(p.profiles, one), compute_draw(p.profiles, one), p.profiles.contention
    decoding, prompts = law.slowdown(demand, 0.6 * demand), law.prompt_slowdown(draw, 0.3 * draw)
    assert decoding > 1.02
    assert found == pytest.approx(1.0 + 0.7 * (decoding - 1.0) + 0.3 * (prompts - 1.0))


def test_slower_instances_are_busier_and_slow_each_other_more_until_nothing_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    tenth = Allocation(llm="m0", share_pct=10, tensor_parallel=1, replicas=10, gpu_type="G0")
    groups = {"m0": [(GPUS[0],)] * 10, "m1": [(GPUS[1],)]}
    found = slowdowns_of(problem(0.05), [tenth, half("m1", 1)], groups)["m0"]
    monkeypatch.setattr(contention, "ROUNDS", 12)
    assert found == pytest.approx(slowdowns_of(problem(0.05), [tenth, half("m1", 1)], groups)["m0"], rel=0.01)


def of_prompts_only(p: Problem) -> Problem:
    """The same with curves of instances that do nothing but prompts."""
    none = {key: tuple(0.0 for _ in curve.utilisation) for key, curve in p.curves.items()}
    curves = {key: msgspec.structs.replace(c, decoding=none[key], stretchable=none[key]) for key, c in p.curves.items()}
    return replace(p, curves=curves)


def test_instances_full_of_prompts_together_do_what_one_gpu_does() -> None:
    p = of_prompts_only(problem())
    draw = compute_draw(p.profiles, half("m0", 1))
    assert 2 * draw > 1.0
    found = slowdowns_of(
        p, [half("m0", 2), half("m1", 1)], {"m0": [(GPUS[0],), (GPUS[0],)], "m1": [(GPUS[1],)]}, saturated=True
    )
    assert found == {"m0": pytest.approx(2 * draw), "m1": 1.0}
    mixed = slowdowns_of(p, [half("m0", 1), half("m1", 1)], {"m0": [(GPUS[0],)], "m1": [(GPUS[0],)]}, saturated=True)
    assert mixed == {"m0": pytest.approx(2 * draw), "m1": pytest.approx(2 * draw)}


def test_without_a_budget_prompts_do_not_feel_each_other() -> None:
    p = of_prompts_only(problem())
    law = ContentionLaw(interference=0.5, compute_capacity=None)
    p = replace(p, profiles=msgspec.structs.replace(p.profiles, contention=law))
    found = slowdowns_of(
        p, [half("m0", 2), half("m1", 1)], {"m0": [(GPUS[0],), (GPUS[0],)], "m1": [(GPUS[1],)]}, saturated=True
    )
    assert found == {"m0": 1.0, "m1": 1.0}


def test_a_slowdown_is_weighted_by_the_time_instances_are_busy() -> None:
    # two instances on one GPU, one call in flight half of the time, two a tenth of it: the first is busy in both, the second
    # only beside the first. Alone: factor 1. Together: 1.5. Weights 0.5 (alone) and 2 · 0.1 (together).
    law = ContentionLaw(interference=0.5)
    state = contention._State(in_flight=np.array([0.4, 0.5, 0.1]), decoding=1.0, stretchable=1.0)
    around = contention.Neighbours(same=np.array([[0.0, 1.0], [1.0, 0.0]]), other={})
    found = contention._factor(slowdowns, law, "m", 0.75, {"m": 0.75}, around, {"m": state})
    assert found == pytest.approx((0.5 * 1.0 + 0.2 * 1.5) / 0.7)


def test_neighbours_of_another_llm_count_as_often_as_they_are_busy() -> None:
    law = ContentionLaw(interference=0.5)
    states = {
        "m": contention._State(in_flight=np.array([0.5, 0.5]), decoding=1.0, stretchable=1.0),
        "k": contention._State(in_flight=np.array([0.75, 0.25]), decoding=1.0, stretchable=1.0),
    }
    around = contention.Neighbours(same=np.zeros((1, 1)), other={"k": np.array([[1.0]])})
    found = contention._factor(slowdowns, law, "m", 0.2, {"m": 0.2, "k": 0.4}, around, states)
    assert found == pytest.approx(1.0 + 0.5 * 0.25 * 0.4)
