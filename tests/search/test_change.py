"""From a running plan to another, and what a plan's explanation says."""

from dataclasses import replace

import msgspec
import pytest

from scepsy.errors import Infeasible, InputError
from scepsy.profile.model import kv_capacity_tokens
from scepsy.search import PLANNERS, Problem
from scepsy.search.assemble import objective_of
from scepsy.search.change import common_gpus, diff, plan_change, shape
from scepsy.search.explain import explain
from scepsy.search.goals import at_factor
from scepsy.search.grow import grown
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


def on_nodes(problem: Problem, *names: str) -> Problem:
    """The problem on a cluster of nodes like its first, under these names."""
    first = problem.cluster.nodes[0]
    nodes = tuple(msgspec.structs.replace(first, name=name) for name in names)
    return replace(problem, cluster=msgspec.structs.replace(problem.cluster, name=f"{len(names)} nodes", nodes=nodes))


@pytest.mark.parametrize("most", [2, 40])
def test_a_cluster_that_grows_keeps_what_runs(most: int) -> None:
    before, after = on_nodes(small(0.05), "a"), on_nodes(small(0.05), "a", "b")
    running = PLANNERS["exact"](before)
    plan = plan_change(after, running, most)
    found = diff(running, plan)
    assert plan.cluster == after.cluster
    assert len(found.started) <= most
    assert found.kept or most > len(plan.instances)
    assert objective_of(after, plan) <= objective_of(before, running) * (1 + 1e-9)
    if most == 40:
        assert objective_of(after, plan) < objective_of(before, running)


def test_a_cluster_that_shrinks_keeps_only_what_has_its_gpus() -> None:
    before, after = on_nodes(small(0.05), "a", "b"), on_nodes(small(0.05), "b")
    running = PLANNERS["exact"](before)
    plan = plan_change(after, running, 40)
    found = diff(running, plan)
    assert {gpu.node for instance in plan.instances for gpu in instance.gpus} == {"b"}
    assert {i.name for i in found.stopped} >= {i.name for i in running.instances if i.gpus[0].node == "a"}


def test_gpus_of_other_uuids_are_other_gpus() -> None:
    one, other = (
        msgspec.structs.replace(
            small().cluster,
            nodes=tuple(
                msgspec.structs.replace(n, gpu_uuids=tuple(f"{tag}-{n.name}-{i}" for i in range(n.gpus)))
                for n in small().cluster.nodes
            ),
        )
        for tag in ("x", "y")
    )
    assert common_gpus(one, one) == set(one.gpus)
    assert common_gpus(one, other) == set()
    assert common_gpus(one, small().cluster) == set(one.gpus)


def with_model(problem: Problem, llm: str, model: str) -> Problem:
    """The problem with another model behind one LLM, of the same size."""
    changed = tuple(
        msgspec.structs.replace(p, llm=msgspec.structs.replace(p.llm, model=model)) if p.llm.name == llm else p
        for p in problem.profiles.profiles
    )
    return replace(problem, profiles=msgspec.structs.replace(problem.profiles, profiles=changed))


def test_a_swapped_model_starts_all_its_instances_anew() -> None:
    problem = small()
    running = PLANNERS["exact"](problem)
    name = running.allocations[0].llm
    after = with_model(problem, name, "own/another")
    found = diff(running, PLANNERS["exact"](after), problem.profiles)
    assert [(change.llm, change.after.model) for change in found.models] == [(name, "own/another")]
    assert {i.llm for i in found.started} == {i.llm for i in found.stopped} == {name}
    assert found.cold_start_s > 0
    with pytest.raises(Infeasible, match="starts at most 0 instances"):
        plan_change(after, running, 0)
    count = running.allocation(name).replicas
    assert len(diff(running, plan_change(after, running, count)).started) <= count


def test_a_plan_without_models_says_that_a_swap_is_not_seen() -> None:
    running = PLANNERS["exact"](small())
    old = msgspec.structs.replace(running, models=())
    assert not diff(old, running).models_known
    assert diff(old, running).empty


def test_a_plan_for_another_cluster_is_refused() -> None:
    with pytest.raises(InputError, match=r"the running plan is for cluster .* no GPU in common"):
        plan_change(on_nodes(small(), "a", "b"), PLANNERS["equal"](on_nodes(small(), "c", "d")), 3)
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


def test_a_plan_grows_on_free_gpus_and_nothing_has_to_stop() -> None:
    problem = small(0.1)
    running = PLANNERS["independent"](problem)
    heavier = at_factor(problem, 1.3 * running.expected[0].throughput_per_s / problem.rates_per_s[0])
    assert grown(problem, PLANNERS["exact"](problem), 8) is None, "what meets its goal needs no more"
    plan = grown(heavier, running, 30)
    if plan is not None:
        assert not diff(running, plan).stopped
        assert diff(running, plan).started
        assert plan.expected[0].throughput_per_s >= heavier.rates_per_s[0]
    assert grown(heavier, running, 0) is None


def test_a_plan_with_replicas_to_spare_gives_them_back_where_gpus_count() -> None:
    problem = small(0.1)
    running = PLANNERS["independent"](problem)
    lighter = at_factor(problem, 0.2 * running.expected[0].throughput_per_s / problem.rates_per_s[0])
    assert grown(lighter, running, 8) is None, "GPUs do not count where latency does"
    goal = replace(lighter.goal, kind="gpus", limits_s={lighter.targets[0].workflow: 1e6})
    plan = grown(replace(lighter, goal=goal), running, 8)
    assert plan is not None
    assert not diff(running, plan).started
    assert len(plan.gpu_shares) < len(running.gpu_shares)
    kept = {shape(instance) for instance in running.instances}
    assert all(shape(instance) in kept for instance in plan.instances)
    assert plan.expected[0].throughput_per_s >= lighter.rates_per_s[0]
    assert grown(replace(lighter, goal=goal), plan, 8) is None, "what is left is needed"
