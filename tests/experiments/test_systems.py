"""The systems that are compared: sharing and planning told apart, placement by a scheduler, every option runs."""

from dataclasses import replace

import msgspec
import pytest

from experiments.points.questions import Question, planning_case
from experiments.systems.allocations import on_whole_gpus, planner, whole_gpus_only
from experiments.systems.deployment import allocations_text
from experiments.systems.registry import SYSTEMS
from experiments.systems.runtimes import own_degrees, pod_profiles, rates_within
from experiments.systems.scheduler import scheduled
from scepsy.api.case import Case
from scepsy.api.judge import judged_plan
from scepsy.api.prepare import Load, prepare
from scepsy.backend import Stream
from scepsy.cluster import Gpu
from scepsy.errors import Infeasible
from scepsy.generate import generate
from scepsy.place.hierarchical import layout, pack
from scepsy.plans import Allocation, Plan
from scepsy.profile.catalogue import builtin_profiles, cluster_of
from scepsy.search import PLANNERS
from scepsy.search.assemble import assemble
from scepsy.search.problem import Problem
from scepsy.search.random_problems import Size, random_problem
from scepsy.workload import Arrivals


def case_of(problem: Problem) -> Case:
    """A made-up problem; its streams are not replayed."""
    stream = Stream(trace=generate("reflection", runs=2, seed=1), arrivals=problem.targets[0].arrivals)
    return Case(problem=problem, streams=(stream,) * len(problem.targets))


@pytest.mark.parametrize("name", ["scepsy-predicted", "scepsy-exact", "scepsy-paper", "scepsy-hierarchical"])
@pytest.mark.parametrize("seed", range(4))
def test_on_whole_gpus_nothing_is_shared_and_sharing_is_never_worse_for_exact(name: str, seed: int) -> None:
    case = case_of(random_problem(Size(llms=3, nodes=1, load=0.1), seed))
    shared = SYSTEMS[name].deploy(case, {}).plan
    whole = on_whole_gpus(SYSTEMS[name].deploy)(case, {}).plan
    assert shared is not None
    assert whole is not None
    assert {a.share_pct for a in whole.allocations} == {100}
    if shared.planner == "exact":
        assert shared.objective_s <= whole.objective_s * (1 + 1e-9)


@pytest.mark.parametrize("load", [0.05, 0.2, 0.4])
@pytest.mark.parametrize("seed", range(8))
def test_an_ablation_never_uses_what_it_takes_away(load: float, seed: int) -> None:
    case = case_of(random_problem(Size(llms=3, nodes=1, load=load), seed))
    for name, taken in (("no-tp", "tensor_parallel"), ("no-replicas", "replicas")):
        try:
            plan = SYSTEMS[name].deploy(case, {}).plan
        except Infeasible:
            continue
        assert plan is not None
        assert {getattr(allocation, taken) for allocation in plan.allocations} == {1}


def test_each_whole_gpu_variant_is_the_system_it_is_a_variant_of() -> None:
    case = case_of(random_problem(Size(llms=3, nodes=1, load=0.1), 0))
    expected = SYSTEMS["scepsy-paper"].deploy(whole_gpus_only(case), {})
    assert SYSTEMS["scepsy-paper-whole"].deploy(case, {}).decided == expected.decided


def test_scepsy_is_the_default_of_the_command_line_with_and_without_shares() -> None:
    trace, cluster = generate("rag-rerank", runs=20, seed=1), cluster_of(4)
    load = Load(trace=trace, arrivals=Arrivals(rate_per_s=4.0))
    profiles = builtin_profiles(list(trace.llms), ["A100-80G"], degrees=(1,))
    problem = prepare([load], cluster, profiles, share_unit_pct=50)
    case = Case(problem=problem, streams=(load.stream,))
    assert SYSTEMS["scepsy"].deploy(case, {}).decided == allocations_text(judged_plan(case).best)
    whole = SYSTEMS["no-fractions"].deploy(case, {})
    assert whole.decided == allocations_text(judged_plan(whole_gpus_only(case)).best)
    assert whole.plan is not None
    assert {a.share_pct for a in whole.plan.allocations} == {100}


def test_independent_with_shares_has_no_worse_own_latency_than_on_whole_gpus() -> None:
    case = case_of(random_problem(Size(llms=4, nodes=1, gpus_per_node=4, load=0.05), 5))
    plan = SYSTEMS["independent-shares"].deploy(case, {}).plan
    assert plan is not None
    assert any(a.share_pct < 100 for a in plan.allocations)  # four GPUs, four LLMs


def plan_of(*allocations: Allocation, nodes: int = 2, per_node: int = 4) -> tuple[Plan, Problem]:
    """A plan with these allocations on made-up nodes, packed as a planner packs."""
    problem = random_problem(Size(llms=len(allocations), nodes=nodes, gpus_per_node=per_node, load=0.01), 1)
    placement = pack(layout(problem.cluster), allocations)
    assert placement is not None
    return assemble(problem, "test", allocations, placement, 0.0), problem


def allocation(llm: str, degree: int, replicas: int, share: int = 100) -> Allocation:
    return Allocation(llm=llm, share_pct=share, tensor_parallel=degree, replicas=replicas, gpu_type="G0")


def test_a_scheduler_spreads_over_the_emptiest_nodes() -> None:
    plan, problem = plan_of(allocation("m0", 1, 3, 50), allocation("m1", 2, 1))
    placed = scheduled(plan, problem)
    where = {(i.llm, i.index): i.gpus for i in placed.instances}
    # m0's three halves go to n0, then n1 (emptier), then n0 again (equal: the first) beside the first half. m1's pair goes to
    # n1, which has 3.5 GPUs free against 3.
    assert where["m0", 0] == (Gpu(node="n0", index=0),)
    assert where["m0", 1] == (Gpu(node="n1", index=0),)
    assert where["m0", 2] == (Gpu(node="n0", index=0),)
    assert where["m1", 0] == (Gpu(node="n1", index=1), Gpu(node="n1", index=2))
    assert placed.allocations == plan.allocations


def test_a_scheduler_strands_what_packing_places() -> None:
    plan, problem = plan_of(allocation("m0", 1, 2), allocation("m1", 4, 1))
    with pytest.raises(Infeasible, match=r"instance 0 of m1 \(4 GPUs at 100 %\) stays pending"):
        scheduled(plan, problem)  # one GPU of each node is taken


@pytest.mark.parametrize("gpus", [4, 8, 16])
def test_options_are_what_is_said_to_be_swept(gpus: int) -> None:
    cluster = cluster_of(gpus)
    copies = [option["copies"] for option in SYSTEMS["muxserve"].options(cluster)]
    assert copies == list(range(1, gpus + 1))
    tried = {(option["prefill"], option["dispatch"]) for option in SYSTEMS["aegaeon"].options(cluster)}
    assert tried == {(p, d) for p in range(1, gpus) for d in ("published", "balanced", "counted")}


def test_an_autoscalers_window_must_outlast_its_memory() -> None:
    question = Question(workflows=("rag-rerank",), gpus=4)
    for name, memory_s in (("hpa", 300.0), ("wva", 300.0), ("dynamo", 180.0)):
        options = SYSTEMS[name].options(cluster_of(4))
        cold = next(option for option in options if option.get("start") == "cold")
        deployment = SYSTEMS[name].deploy(planning_case(question, 0.2), cold)
        assert deployment.memory_s == memory_s
        assert deployment.decided.startswith("starts cold at ")
        assert deployment.gpus == 4


def test_pods_can_be_as_large_as_suits_each_llm() -> None:
    problem = random_problem(Size(llms=2, nodes=1, load=0.1), 0)
    plan = PLANNERS["independent"](problem)
    wanted = {a.llm: a.tensor_parallel for a in plan.allocations}
    assert max(wanted.values()) > 1
    assert own_degrees(problem, {"pods": "own"}) == wanted
    assert {llm: p.tensor_parallel for llm, p in pod_profiles(problem, wanted).items()} == wanted
    assert own_degrees(problem, {}) == {}


def test_rates_within_a_latency_target_rise_with_the_target() -> None:
    problem = random_problem(Size(llms=2, nodes=1, load=0.1), 0)
    tight, loose = rates_within(problem, 1.5, {}), rates_within(problem, 4.0, {})
    assert set(tight) == set(loose) == {"m0", "m1"}
    # Made-up curves: mean = service / (1 - u) from u = 0.05, capacity 8 / service calls/s. 1.5 times the mean at 0.05
    # is reached at u = 1 - 0.95 / 1.5 on the true curve; read between its points at 0.3 and 0.6 a little earlier.
    for llm in tight:
        curve = next(
            c for c in problem.curves.values() if (c.llm, c.tensor_parallel, c.share_pct, c.replicas) == (llm, 1, 100, 1)
        )
        assert 0.30 < tight[llm] / curve.capacity_per_s < 0.37
        assert tight[llm] < loose[llm]


def test_every_system_says_what_it_assumes() -> None:
    assert all(system.assumes and system.title for system in SYSTEMS.values())
    assert planner("paper")(case_of(random_problem(Size(llms=2, nodes=1, load=0.1), 0)), {}).plan is not None
    assert "paper" in PLANNERS
    assert msgspec.json.encode([option for s in SYSTEMS.values() for option in s.options(cluster_of(4))])


def test_models_that_aegaeon_cannot_hold_are_infeasible_before_anything_is_replayed() -> None:
    trace, cluster = generate("reflection", runs=2, seed=1), cluster_of(4)
    played = dict.fromkeys(trace.llms, "llama-3.1-70b")
    profiles = builtin_profiles(played, ["A100-80G"], degrees=(1, 4))
    problem = random_problem(Size(llms=3, nodes=1, load=0.1), 0)
    case = case_of(replace(problem, cluster=cluster, profiles=profiles))
    option = SYSTEMS["aegaeon"].options(cluster)[0]
    with pytest.raises(Infeasible, match="prefetches the next on one GPU"):
        SYSTEMS["aegaeon"].deploy(case, option)
