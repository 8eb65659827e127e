"""Planning for a live load, on curves profiled for real: what is predicted, what is proposed, what the move costs."""

from collections.abc import Sequence
from dataclasses import replace

import msgspec
import pytest

import scepsy
from scepsy.api.inputs import load_cluster, profiles_of
from scepsy.api.live import LivePlanner
from scepsy.api.settle import Settled
from scepsy.backend import Stream
from scepsy.files.cache import cache_dir
from scepsy.operate.controller import Finding, Load
from scepsy.operate.decision import decide
from scepsy.operate.settings import Settings
from scepsy.operate.window import Estimate
from scepsy.plans import Plan
from scepsy.search.change import diff
from scepsy.search.problem import Goal
from scepsy.workload import Run

W, LIMIT_S = "chat", 40.0


@pytest.fixture(scope="module")
def made() -> tuple[LivePlanner, Plan]:
    trace = scepsy.generate_trace(W, runs=60, seed=1)
    cluster = load_cluster(4)
    profiles = profiles_of({name: name for name in trace.llms}, cluster)
    goal = Goal(kind="gpus", limits_s={W: LIMIT_S})
    aim = Settings(goal="gpus", limits_s={W: LIMIT_S})
    planner = LivePlanner({W: trace}, profiles, aim, cache_dir=cache_dir(), replayed_runs=200)
    plan = scepsy.plan(trace, rate_per_s=0.5, cluster=cluster, profiles=profiles, goal=goal)
    return planner, plan


def finding(rate: float, runs: tuple[Run, ...] | None = None, **fields) -> Finding:
    load = Load(workflow=W, rate_per_s=Estimate(value=rate), planned_rate_per_s=rate, runs=runs, begun_s=0.0)
    return Finding(kind="drift", drifts=(), loads=(load,), **fields)


def test_under_the_planned_load_the_running_plan_is_the_best(made) -> None:
    planner, plan = made
    answer = planner.replan(plan, finding(0.5))
    assert answer.running.meets
    assert answer.running.latency_s[W] == pytest.approx(plan.expected[0].latency_s, rel=0.01)
    assert decide(planner.settings, answer, now_s=0, last_switch_s=None, frozen=False).act == "keep"


def test_more_load_asks_for_more_gpus_and_simulation_agrees(made) -> None:
    planner, plan = made
    rate = 1.5 * plan.expected[0].throughput_per_s
    answer = planner.replan(plan, finding(rate))
    assert not answer.running.meets
    decision = decide(planner.settings, answer, now_s=0, last_switch_s=None, frozen=False)
    assert decision.act == "switch"
    chosen = answer.candidates[decision.candidate or 0]
    assert chosen.outlook.meets
    assert chosen.outlook.gpus > answer.running.gpus
    assert chosen.move.started == len(diff(plan, chosen.plan).started) > 0
    assert chosen.move.cold_start_s > 30
    seen = planner.validate(plan, chosen.plan, finding(rate))
    assert seen.candidate_keeps_up
    assert seen.candidate_s[W] < seen.running_s[W]


def test_longer_answers_are_planned_for_from_the_live_runs(made) -> None:
    planner, plan = made
    runs = planner.traces[W].runs
    longer = tuple(
        msgspec.structs.replace(
            run, calls=tuple(msgspec.structs.replace(c, output_tokens=3 * c.output_tokens) for c in run.calls)
        )
        for run in runs
    )
    usual, long = planner.replan(plan, finding(0.5, runs)), planner.replan(plan, finding(0.5, longer))
    assert long.running.latency_s[W] > 2 * usual.running.latency_s[W]


def test_lost_gpus_are_not_used(made) -> None:
    planner, plan = made
    lost = tuple(dict.fromkeys(plan.instances[0].gpus))
    answer = planner.replan(plan, finding(0.5, lost=lost, crippled=True))
    assert answer.candidates
    for candidate in answer.candidates:
        assert not {gpu for instance in candidate.plan.instances for gpu in instance.gpus} & set(lost)
        assert candidate.plan.cluster == plan.cluster


def test_with_all_gpus_lost_there_is_nothing_to_plan(made) -> None:
    planner, plan = made
    answer = planner.replan(plan, finding(0.5, lost=plan.cluster.gpus, crippled=True))
    assert (answer.candidates, answer.note) == ((), "all 4 GPUs of cluster 4x-a100-80g are lost")


def test_where_the_upper_end_of_the_rate_is_too_much_the_rate_itself_is_planned_for(made) -> None:
    planner, plan = made
    most = max(
        each.outlook.throughput_per_s[W]
        for each in planner.replan(plan, finding(1.5 * plan.expected[0].throughput_per_s)).candidates
    )
    unsure = finding(0.9 * most)
    [load] = unsure.loads
    assert planner.replan(
        plan, msgspec.structs.replace(unsure, loads=(msgspec.structs.replace(load, planned_rate_per_s=9 * most),))
    ).candidates


def test_where_nothing_carries_the_load_the_plan_that_carries_most_is_taken(made) -> None:
    planner, plan = made
    answer = planner.replan(plan, finding(10 * plan.expected[0].throughput_per_s))
    [most] = answer.candidates
    assert not most.outlook.meets
    assert most.outlook.gpus == 4 > answer.running.gpus
    assert most.outlook.throughput_per_s[W] > answer.running.throughput_per_s[W]
    assert "exceeds" in answer.note
    assert decide(planner.settings, answer, now_s=0, last_switch_s=None, frozen=False).act == "switch"
    settled = planner.replan(most.plan, finding(10 * plan.expected[0].throughput_per_s))
    assert decide(planner.settings, settled, now_s=0, last_switch_s=None, frozen=False).act == "keep", "it is the best there is"


def test_a_load_beyond_the_cluster_is_said(made) -> None:
    planner, plan = made
    answer = planner.replan(plan, finding(1000.0))
    assert answer.candidates == ()
    assert "GPU" in answer.note
    assert decide(planner.settings, answer, now_s=0, last_switch_s=None, frozen=False).reason == answer.note


def test_goal_latency_uses_the_gpus_it_may(made) -> None:
    planner, plan = made
    for most, wanted in ((2, 2), (4, 4)):
        aim = Settings(gpus_to=most, horizon_s=86400.0)
        answer = replace(planner, settings=aim).replan(plan, finding(0.5))
        assert max(candidate.outlook.gpus for candidate in answer.candidates) <= wanted


@pytest.mark.parametrize("growing", ["running", "candidate"])
def test_a_plan_on_which_work_stays_behind_is_not_said_to_keep_up(made, monkeypatch: pytest.MonkeyPatch, growing: str) -> None:
    planner, plan = made
    replayed, seen = LivePlanner._replayed, []

    def grows(self: LivePlanner, which: Plan, streams: Sequence[Stream]) -> Settled:
        found = replayed(self, which, streams)
        seen.append("candidate" if seen else "running")
        mine = {name: replace(one, grows=seen[-1] == growing) for name, one in found.by_workflow.items()}
        return replace(found, by_workflow=mine)

    monkeypatch.setattr(LivePlanner, "_replayed", grows)
    found = planner.validate(plan, plan, finding(0.5))
    assert (found.running_keeps_up, found.candidate_keeps_up) == (growing != "running", growing != "candidate")
