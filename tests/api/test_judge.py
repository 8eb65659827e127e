"""The plan judged by simulation: valid, reproducible, and by the judge's longer replay no worse than what it started from."""

import itertools
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from scepsy.api import judge as judging
from scepsy.api.case import Case
from scepsy.api.judge import (
    CALLS_PER_S,
    FEWEST_JUDGED,
    FEWEST_RUNS_JUDGED,
    FINALISTS,
    MOST_JUDGED,
    SPANS_REPLAYED,
    Judgement,
    Replayed,
    Replays,
    choose,
    difference,
    judged_plan,
    misses,
    schedule,
    starts,
    why_not_judged,
)
from scepsy.api.prepare import Load, prepare
from scepsy.cluster import Cluster, Node
from scepsy.errors import Infeasible
from scepsy.generate import generate
from scepsy.plans import Plan
from scepsy.profile.catalogue import builtin_profiles, gpu_type
from scepsy.search import PLANNERS, seeds
from scepsy.search.climb import neighbour_plans
from scepsy.search.problem import Goal, Planner, Problem
from scepsy.slo import Limits, Slo, WorkflowSlo
from scepsy.workload import Arrivals


@pytest.fixture(scope="module")
def case() -> Case:
    gpu = gpu_type("A100-80G")
    cluster = Cluster(name="two", gpu_types=(gpu,), nodes=(Node(name="n0", gpu_type=gpu.name, gpus=2),))
    trace = generate("beam-search", runs=20, seed=1)
    load = Load(trace=trace, arrivals=Arrivals(rate_per_s=2.0))
    problem = prepare([load], cluster, builtin_profiles(list(trace.llms), [gpu.name], degrees=(1,)), share_unit_pct=50)
    return Case(problem=problem, streams=(load.stream,))


@pytest.fixture(scope="module")
def found(case: Case) -> Judgement:
    return judged_plan(case, 1.0)


def test_the_judged_plan_is_no_slower_than_the_exact_planners_and_says_what_it_was_judged_at(
    case: Case, found: Judgement
) -> None:
    begun = starts(case.problem)
    plan, judged = found.best, found.best.judged
    assert judged is not None
    assert judged.candidates == len(found.judged) >= len({p.allocations for p in begun})
    assert {p.allocations for p in begun} <= {p.allocations for p, _ in found.judged}
    assert judged.stable
    assert plan.predictor == begun[0].predictor
    long = Replays(case)
    chosen, exact = long.replay(plan, 3000), long.replay(begun[0], 3000)
    gap = difference(exact, chosen)
    assert gap.value <= gap.half_width, "slower than the exact planner's plan"
    assert judged.latency_s["beam-search"] == pytest.approx(chosen.mean_s, rel=0.15)


def test_each_planner_is_asked_once_and_again_only_for_a_part_of_the_rates(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, float]] = []

    def counted(name: str, planner: Planner, refuses: bool) -> Planner:
        def plan(problem: Problem) -> Plan:
            asked.append((name, problem.rates_per_s[0]))
            if refuses and problem.rates_per_s == case.problem.rates_per_s:
                raise Infeasible("too much")
            return planner(problem)

        return plan

    named = {name: counted(name, planner, name == "paper") for name, planner in PLANNERS.items() if name != "exact"}
    monkeypatch.setattr(judging, "PLANNERS", {"exact": PLANNERS["exact"], **named})
    monkeypatch.setattr(seeds, "OTHERS", named)
    begun = starts(case.problem)
    (rate,) = case.problem.rates_per_s
    assert sorted(asked) == sorted([*((name, rate) for name in named), ("paper", 0.8 * rate)])
    assert [plan.targets[0].arrivals.rate_per_s for plan in begun if plan.planner == "paper"] == [0.8 * rate]


def test_it_decides_the_same_again_whatever_the_clock_says(case: Case, found: Judgement) -> None:
    def timeless(plan: Plan) -> Plan:
        return msgspec.structs.replace(plan, search_s=0.0, judged=msgspec.structs.replace(plan.judged, seconds=0.0))

    assert timeless(judged_plan(case, 1.0).best) == timeless(found.best)


def test_a_budget_is_kept_in_calls(case: Case, found: Judgement) -> None:
    assert found.best.judged is not None
    assert found.best.judged.calls <= 1.5 * 1.0 * CALLS_PER_S  # rounds have a fewest number of runs


def test_rounds_shrink_to_the_finalists_and_a_small_budget_tries_fewer_plans_not_shorter_replays(case: Case) -> None:
    plan = starts(case.problem)[0]
    shortest = SPANS_REPLAYED * case.problem.rates_per_s[0] * plan.expected[0].latency_s
    rich, poor = (schedule(case, plan, calls, MOST_JUDGED) for calls in (10_000_000, 400_000))
    for sizes, runs in (rich, poor):
        assert sizes[-1] == FINALISTS
        assert all(later < earlier for earlier, later in itertools.pairwise(sizes))
        assert all(later > earlier for earlier, later in itertools.pairwise(runs))
        assert runs[0] >= shortest
    assert rich[0][0] == MOST_JUDGED > poor[0][0]
    sizes, runs = schedule(case, plan, 1.0, MOST_JUDGED)
    assert sizes[0] == FEWEST_JUDGED
    assert set(runs) == {FEWEST_RUNS_JUDGED}


def test_a_lower_mean_wins_where_the_noise_is_not_known_and_the_gap_is_large() -> None:
    fast, few = replayed([1.0, 1.1, 0.9], 9, "fast"), replayed([1.4, 1.5, 1.3], 1, "few")
    assert not np.isfinite(difference(fast, few).half_width)
    assert choose([fast, few])[0].plan.planner == "fast"


def test_neighbours_of_the_leader_join_and_none_is_replayed_twice(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, int]] = []

    def asking(problem: Any, allocations: Any, most: int, without: Any = ()) -> list[Plan]:
        found = neighbour_plans(problem, allocations, most, without)
        assert allocations in without
        assert not {plan.allocations for plan in found} & set(without)
        asked.append((allocations, most))
        return found

    monkeypatch.setattr(judging, "neighbour_plans", asking)
    found = judged_plan(case, 1.0)
    sizes, _ = schedule(case, starts(case.problem)[0], CALLS_PER_S, MOST_JUDGED)
    assert len(asked) == len(sizes)  # to fill the first round, and after each but the last
    assert len({plan.allocations for plan, _ in found.judged}) == len(found.judged)


def test_starts_hold_every_planner_that_finds_something_and_the_best_splits(case: Case) -> None:
    planners = {plan.planner for plan in starts(case.problem)}
    assert {"exact", "hierarchical", "oracle-user"} <= planners


def replayed(latency: Any, instances: int, planner: str) -> Any:
    """A replay with as many instances and given latencies, all in the steady state."""
    plan = SimpleNamespace(instances=(0,) * instances, planner=planner)
    one = SimpleNamespace(begin_s=0.0, verdict="stable", grows=False)
    return Replayed(plan, {"w": one}, np.asarray(latency, dtype=float), np.arange(len(latency), dtype=float))  # type: ignore[arg-type]


def test_what_cannot_be_told_apart_goes_to_the_fewest_instances_and_what_can_to_the_fastest() -> None:
    rng = np.random.default_rng(1)
    common, noise = rng.exponential(size=2000), rng.normal(scale=0.01, size=(3, 2000))
    fast, same, slow = (
        replayed(common + 1.0 + noise[0], 9, "fast"),
        replayed(common + 1.0 + noise[1], 4, "same"),
        replayed(common + 1.1 + noise[2], 1, "slow"),
    )
    chosen, over = choose(sorted([fast, same, slow], key=lambda one: one.rank))
    assert (chosen.plan.planner, over.plan.planner) == ("same", "fast")  # type: ignore[union-attr]
    assert choose([fast, slow])[0].plan.planner == "fast"
    growing = replayed(common, 1, "growing")
    growing.outcome["w"].grows = True
    assert growing.mean_s < slow.mean_s
    assert choose(sorted([growing, slow], key=lambda one: one.rank))[0].plan.planner == "slow"


def test_what_keeps_the_limits_comes_before_what_is_faster() -> None:
    rng = np.random.default_rng(2)
    common = rng.exponential(size=2000)
    fast, kept = replayed(common + 1.0, 4, "fast"), replayed(common + 1.2, 9, "kept")
    over_limit = replace(fast, misses=("w p95 4 s, limit 3 s",))
    chosen, over = choose(sorted([over_limit, kept], key=lambda one: one.rank))
    assert (chosen.plan.planner, over.plan.planner) == ("kept", "fast")  # type: ignore[union-attr]
    assert choose(sorted([fast, kept], key=lambda one: one.rank))[0].plan.planner == "fast"


def test_limits_are_read_from_the_replay(case: Case, found: Judgement) -> None:
    one = Replays(case).replay(found.best, 400)
    assert misses(Goal(), one.outcome) == ()
    mean_s, p95_s = one.outcome["beam-search"].latency.value, one.outcome["beam-search"].p95_s.value
    assert misses(Goal(limits_s={"beam-search": 1.01 * mean_s}), one.outcome) == ()
    assert misses(Goal(limits_s={"beam-search": 0.99 * mean_s}), one.outcome)[0].startswith("beam-search mean")
    assert misses(Goal(limits_s={"beam-search": 0.99 * p95_s}, percentile=95), one.outcome)[0].startswith("beam-search p95")
    slo = Slo(workflows={"*": WorkflowSlo(latency_s=Limits(mean=1.01 * mean_s, p95=0.99 * p95_s))})
    assert [each.split()[1] for each in misses(Goal(slo=slo), one.outcome)] == ["p95"]


def test_a_plan_within_limits_is_judged_against_them(case: Case, found: Judgement) -> None:
    assert found.best.judged is not None
    [mean_s] = found.best.judged.latency_s.values()
    for part, standing in ((3.0, (False, 0)), (0.5, (False, 1))):
        slo = Slo(workflows={"beam-search": WorkflowSlo(latency_s=Limits(mean=part * mean_s))})
        limited = replace(case, problem=replace(case.problem, goal=Goal(slo=slo)))
        assert why_not_judged(limited.problem) == ""
        assert Replays(limited).replay(found.best, 400).standing == standing


def test_a_question_without_a_steady_state_or_with_another_goal_is_not_judged(case: Case) -> None:
    assert why_not_judged(case.problem) == ""
    fewest = replace(case.problem, goal=Goal(kind="gpus", limits_s={"beam-search": 9.0}))
    assert "the goal is the fewest GPUs" in why_not_judged(fewest)
    assert "number of GPUs" in why_not_judged(replace(case.problem, goal=Goal(max_gpus=1)))
    target = msgspec.structs.replace(case.problem.targets[0], arrivals=Arrivals(kind="trace", rate_per_s=1.0))
    assert "arrivals of kind trace" in why_not_judged(replace(case.problem, targets=(target,)))
