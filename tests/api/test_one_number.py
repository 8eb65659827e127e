"""A plan's numbers are the same wherever they are shown, and what is said to explain it is true."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from scepsy.api.forecast import forecast, predictor_of
from scepsy.api.prepare import Load, prepare, search_notes
from scepsy.generate import generate
from scepsy.place.hierarchical import layout, pack
from scepsy.plans import Plan
from scepsy.profile.catalogue import builtin_profiles, cluster_of
from scepsy.search import PLANNERS, Problem
from scepsy.search.assemble import evaluate
from scepsy.search.explain import explain
from scepsy.workload import Arrivals


@pytest.fixture(scope="module")
def problem() -> Problem:
    trace = generate("rag-rewrite", runs=40, seed=1)
    cluster = cluster_of(4)
    profiles = builtin_profiles(list(trace.llms), cluster.gpu_types, degrees=(1, 2, 4))
    load = Load(trace=trace, arrivals=Arrivals(rate_per_s=4.0))
    return prepare([load], cluster, profiles, share_unit_pct=50)


@pytest.fixture(scope="module")
def plan(problem: Problem) -> Plan:
    return PLANNERS["exact"](problem)


@pytest.mark.parametrize("planner", sorted(PLANNERS))
def test_a_forecast_at_the_plans_rates_says_what_the_plan_says(problem: Problem, planner: str) -> None:
    made = PLANNERS[planner](problem)
    [document] = forecast(made, problem)
    assert document["predictor"] == made.predictor
    assert document["latency_s"]["mean"] == made.expected[0].latency_s
    assert document["throughput_per_s"] == made.expected[0].throughput_per_s
    outlook = evaluate(problem, made.allocations, made.placement)
    assert {llm: part["utilisation"] for llm, part in document["by_llm"].items()} == outlook.utilisation


@pytest.mark.parametrize("predictor", ["aggregate", "critical-path", "paper"])
def test_the_highest_rate_is_the_same_by_every_predictor(problem: Problem, plan: Plan, predictor: str) -> None:
    [document] = forecast(plan, problem, predictor)
    assert document["predictor"] == predictor
    assert document["throughput_per_s"] == plan.expected[0].throughput_per_s


def test_a_simulated_plan_is_predicted_by_the_critical_path(plan: Plan) -> None:
    assert predictor_of(msgspec.structs.replace(plan, predictor="simulation")) == "critical-path"
    assert predictor_of(msgspec.structs.replace(plan, predictor="aggregate")) == "aggregate"


def test_the_objective_is_never_below_its_bound(plan: Plan) -> None:
    assert plan.objective_s is not None
    assert plan.bound_latency_s is not None
    assert plan.bound_latency_s <= plan.objective_s * (1 + 1e-12)


def test_the_optimal_plan_is_best_in_most_resamples_of_its_trace(problem: Problem, plan: Plan) -> None:
    found = explain(plan, problem, resamples=40)
    assert plan.optimal
    assert found.same_choice is not None
    assert found.same_choice > 0.5
    assert found.same_choice + np.sum([item.wins for item in found.alternatives]) <= 1 + 1e-9
    assert any("best by the critical path in" in line for line in found.lines())


def test_what_a_poor_plan_is_compared_with_packs(problem: Problem) -> None:
    found = explain(PLANNERS["equal"](problem), problem, resamples=40)
    assert found.same_choice is not None
    assert found.same_choice < 0.5
    for item in found.alternatives:
        assert pack(layout(problem.cluster), item.allocations) is not None


@pytest.fixture(scope="module")
def shares_at_two_degrees(problem: Problem) -> Problem:
    """As from a curves file that has no partial shares at degree 4."""
    known = {key: c for key, c in problem.curves.items() if c.share_pct == 100 or c.tensor_parallel <= 2}
    return replace(problem, curves=known)


def test_a_degree_looked_at_on_whole_gpus_only_is_not_said_to_be_needed_by_the_load(shares_at_two_degrees: Problem) -> None:
    problem = shares_at_two_degrees
    plan = PLANNERS["exact"](problem)
    views = [view for view in explain(plan, problem, resamples=0).llms if view.allocation.gpu_pct < 400]
    said = [why for view in views for degree, why in view.other_degrees if degree == 4]
    said = [why for why in said if "not profiled" not in why]  # pooling models have curves at one degree
    assert said
    assert all("on whole GPUs only" in why for why in said), said


def test_the_plan_says_at_which_degrees_shares_were_searched(problem: Problem, shares_at_two_degrees: Problem) -> None:
    assert not any(note.startswith("searched at shares") for note in problem.assumptions), "they were searched at all"
    [note] = search_notes(shares_at_two_degrees.curves.values())
    assert "llama-2-7b TP 1, TP 2" in note
    assert "llama-2-13b TP 1, TP 2" in note
    assert "TP 4" not in note
