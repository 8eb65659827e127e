"""The plan judged by simulation: valid, reproducible, and by the judge's longer replay no worse than what it started from."""

import msgspec
import pytest

from scepsy.api.case import Case
from scepsy.api.judge import expected_s, judged_plan, replays, starts
from scepsy.api.prepare import Load, prepare
from scepsy.cluster import Cluster, Node
from scepsy.generate import generate
from scepsy.profile.catalogue import builtin_profiles, gpu_type
from scepsy.workload import Arrivals


@pytest.fixture(scope="module")
def case() -> Case:
    gpu = gpu_type("A100-80G")
    cluster = Cluster(name="two", gpu_types=(gpu,), nodes=(Node(name="n0", gpu_type=gpu.name, gpus=2),))
    trace = generate("beam-search", runs=20, seed=1)
    load = Load(trace=trace, arrivals=Arrivals(rate_per_s=2.0))
    problem = prepare([load], cluster, builtin_profiles(list(trace.llms), [gpu.name], degrees=(1,)), share_unit_pct=50)
    return Case(problem=problem, streams=(load.stream,))


def test_the_judged_plan_is_no_slower_than_the_exact_planners_and_expects_what_it_was_judged_at(case: Case) -> None:
    begun = starts(case.problem)
    found = judged_plan(case)
    replay = replays(case, expected_s(begun[0])).longer()
    assert replay.mean_s(found.best) <= replay.mean_s(begun[0])
    assert found.best.expected[0].latency_s == pytest.approx(replay.mean_s(found.best), rel=1e-12)
    assert (found.best.planner, found.best.predictor) == ("exact+simulation", "simulation")
    assert {plan.allocations for plan in begun} <= {plan.allocations for plan, _ in found.judged}


def test_it_decides_the_same_again(case: Case) -> None:
    first, second = (msgspec.structs.replace(judged_plan(case).best, search_s=0.0) for _ in range(2))
    assert first == second


def test_starts_hold_every_planner_that_finds_something_and_the_best_splits(case: Case) -> None:
    planners = {plan.planner for plan in starts(case.problem)}
    assert {"exact", "hierarchical", "oracle-user"} <= planners
