"""Neighbours on a GPU: by hand where everyone is busy, and limits otherwise."""

import numpy as np
import pytest

from scepsy.cluster import Gpu
from scepsy.plan import Allocation
from scepsy.predict.contention import bandwidth_demand, neighbours, poisson, shares_a_gpu, stretches
from scepsy.search.problem import Problem
from scepsy.search.random_problems import Size, random_problem

GPUS = [Gpu(node="n0", index=n) for n in range(4)]


def problem(load: float = 0.2) -> Problem:
    return random_problem(Size(llms=2, nodes=1, interference=0.5, load=load), seed=4)


def half(llm: str, replicas: int) -> Allocation:
    return Allocation(llm=llm, share_pct=50, tensor_parallel=1, replicas=replicas, gpu_type="G0")


def pull(p: Problem, allocations: list[Allocation], groups: dict, **settings: bool) -> dict[str, float]:
    return stretches(p.uses, p.rates_per_s, p.index, p.profiles, allocations, groups, **settings)


def test_alone_on_its_gpu_nobody_is_slowed() -> None:
    groups = {"m0": [(GPUS[0],)], "m1": [(GPUS[1],)]}
    assert not shares_a_gpu(groups)
    assert pull(problem(), [half("m0", 1), half("m1", 1)], groups) == {"m0": 1.0, "m1": 1.0}


def test_with_everybody_decoding_the_law_is_read_at_all_demands() -> None:
    p = problem()
    groups = {"m0": [(GPUS[0],)], "m1": [(GPUS[0],)]}
    found = pull(p, [half("m0", 1), half("m1", 1)], groups, saturated=True)
    own = bandwidth_demand(p.profiles, half("m0", 1))
    assert found["m0"] == pytest.approx(p.profiles.contention.slowdown(own, own))
    assert found["m0"] > 1.05


def test_less_load_means_less_slowdown() -> None:
    groups = {"m0": [(GPUS[0],), (GPUS[0],)], "m1": [(GPUS[1],)]}
    both = [half("m0", 2), half("m1", 1)]
    idle, busy = pull(problem(0.001), both, groups), pull(problem(0.2), both, groups)
    full = pull(problem(0.2), both, groups, saturated=True)
    assert 1.0 <= idle["m0"] <= busy["m0"] <= full["m0"]
    assert idle["m0"] < full["m0"]
    assert busy["m1"] == 1.0


def test_of_two_on_a_gpu_the_lower_number_works_alone_when_one_call_is_in_flight() -> None:
    p = problem(0.02)
    apart = {"m0": [(GPUS[0],), (GPUS[1],), (GPUS[0],), (GPUS[1],)], "m1": [(GPUS[2],)]}
    together = {"m0": [(GPUS[0],), (GPUS[0],), (GPUS[1],), (GPUS[1],)], "m1": [(GPUS[2],)]}
    four = [half("m0", 4), half("m1", 1)]
    assert pull(p, four, apart)["m0"] < pull(p, four, together)["m0"]


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
