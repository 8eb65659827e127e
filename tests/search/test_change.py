"""From a running plan to another, and what a plan's explanation says."""

from dataclasses import replace

import pytest

from scepsy.errors import Infeasible, InputError
from scepsy.profile.model import kv_capacity_tokens
from scepsy.search import PLANNERS, Problem
from scepsy.search.assemble import objective_of
from scepsy.search.change import diff, plan_change
from scepsy.search.explain import explain
from scepsy.search.goals import at_factor
from scepsy.search.random_problems import Size, random_problem


def small(load: float = 0.15, seed: int = 3) -> Problem:
    return random_problem(Size(llms=3, nodes=2, gpus_per_node=4, load=load, share_unit_pct=20), seed)


def test_a_plan_differs_from_itself_in_nothing() -> None:
    problem = small()
    plan = PLANNERS["exact"](problem)
    found = diff(plan, plan, problem.profiles)
    assert found.empty
    assert found.cold_start_s == 0.0
    assert len(found.kept) == len(plan.instances)


def test_started_and_stopped_are_what_one_plan_has_more_than_the_other() -> None:
    problem = small()
    before, after = PLANNERS["equal"](problem), PLANNERS["exact"](problem)
    found = diff(before, after, problem.profiles)
    assert len(found.kept) + len(found.started) == len(after.instances)
    assert len(found.kept) + len(found.stopped) == len(before.instances)
    assert found.cold_start_s >= problem.profiles.cold_start.base_s
    back = diff(after, before)
    assert {i.gpus for i in back.started} == {i.gpus for i in found.stopped}


@pytest.mark.parametrize("most", [0, 1, 2, 5, 40])
def test_a_change_keeps_its_bound_and_more_room_is_never_worse(most: int) -> None:
    problem = small()
    running = PLANNERS["equal"](problem)
    plan = plan_change(problem, running, most)
    assert len(diff(running, plan).started) <= most
    assert objective_of(problem, plan) <= objective_of(problem, running) * (1 + 1e-9)
    if most == 40:
        assert objective_of(problem, plan) == pytest.approx(objective_of(problem, PLANNERS["exact"](problem)), rel=0.02)


def test_a_running_plan_that_is_overloaded_is_mended_or_the_bound_is_said_to_be_too_tight() -> None:
    problem = small(0.1)
    running = PLANNERS["independent"](problem)
    heavier = at_factor(problem, 0.97 * running.expected[0].throughput_per_s / problem.rates_per_s[0])
    with pytest.raises(Infeasible, match="starts at most 0 instances"):
        plan_change(heavier, running, 0)
    plan = plan_change(heavier, running, 30)
    assert plan.expected[0].throughput_per_s >= heavier.rates_per_s[0]


def test_a_plan_for_another_cluster_is_refused() -> None:
    other = random_problem(Size(llms=3, nodes=1, gpus_per_node=4, load=0.1), 3)
    with pytest.raises(InputError, match="the running plan is for cluster"):
        plan_change(small(), PLANNERS["equal"](other), 3)
    with pytest.raises(InputError, match="max_started is -1"):
        plan_change(small(), PLANNERS["equal"](small()), -1)


def test_a_degree_without_curves_is_said_to_be_unprofiled_or_without_room() -> None:
    whole = small()
    name = whole.uses[0].llms[0].llm
    room = kv_capacity_tokens(whole.profiles.of(name, "G0", 1), 100)
    fours = {key: curve for key, curve in whole.curves.items() if key[1] != name or key[3] == 4}
    problem = replace(whole, curves=fours, longest_call_tokens={name: room + 1})
    (view,) = [view for view in explain(PLANNERS["exact"](problem), problem).llms if view.llm == name]
    said = dict(view.other_degrees)
    assert said[1] == f"no instance of it holds the model and its longest call ({room + 1} tokens)"
    assert said[2] == "its latency under load was not profiled"


def test_an_explanation_names_what_binds_and_every_other_degree() -> None:
    problem = small()
    plan = PLANNERS["exact"](problem)
    found = explain(plan, problem)
    assert sum(view.latency_share for view in found.llms) == pytest.approx(1.0, abs=0.2)
    assert found.binding_llm in {view.llm for view in found.llms}
    assert found.gain_s_per_gpu >= 0.0
    for view in found.llms:
        degrees = {degree for degree, _ in view.other_degrees}
        assert degrees == {1, 2, 4, 8} - {view.allocation.tensor_parallel}
    text = "\n".join(found.lines())
    assert "binds" in text
    assert "not TP" in text
