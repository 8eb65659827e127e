"""Schedules: reading curves of rates, and that no other cut of the curve is cheaper."""

from dataclasses import replace
from itertools import combinations, pairwise
from math import fsum

import pytest

from scepsy.api.schedule import RatePiece, at_rates, read_rates, schedule
from scepsy.errors import Infeasible, InputError
from scepsy.search import Problem
from scepsy.search.change import diff, keep_instances
from scepsy.search.goals import plan_exact
from scepsy.search.problem import Goal
from scepsy.search.random_problems import Size, random_problem


def small() -> Problem:
    problem = random_problem(Size(llms=2, nodes=1, gpus_per_node=4, load=0.3, share_unit_pct=50), 3)
    return replace(problem, goal=Goal(kind="gpus", limits_s={problem.targets[0].workflow: 1e6}))


def pieces(problem: Problem, *parts: float, hours: float = 3.0) -> list[RatePiece]:
    [name], [rate] = [target.workflow for target in problem.targets], problem.rates_per_s
    return [RatePiece(3600 * hours * n, 3600 * hours, {name: rate * part}) for n, part in enumerate(parts)]


def test_a_curve_is_read_by_clock_or_seconds(tmp_path) -> None:
    path = tmp_path / "day.csv"
    path.write_text("time,rate_per_s\n00:00,1.5\n08:30,6\n20:00,2\n")
    found = read_rates(path, ["w"])
    assert [(p.begin_s, p.duration_s, p.rates_per_s["w"]) for p in found] == [
        (0.0, 30600.0, 1.5), (30600.0, 41400.0, 6.0), (72000.0, 14400.0, 2.0)
    ]  # fmt: skip
    path.write_text("time,b,a\n0,1,2\n600,3,4\n")
    found = read_rates(path, ["a", "b"])
    assert [(p.duration_s, p.rates_per_s) for p in found] == [(600.0, {"b": 1.0, "a": 2.0}), (600.0, {"b": 3.0, "a": 4.0})]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("time,rate_per_s\n", "has no rows"),
        ("when,rate_per_s\n0,1\n", "columns are when, rate_per_s: must be time and rate_per_s or w"),
        ("time,rate_per_s\n0,1\n0,2\n", "line 3: time is not after the line before it"),
        ("time,rate_per_s\n00:00,1\nnoon,2\n", "line 3: time is 'noon'"),
        ("time,rate_per_s\n00:00,-1\n", "line 2: rate_per_s is '-1': must be a finite number > 0"),
        ("time,rate_per_s\n06:00,1\n", "must begin at 0"),
    ],
)
def test_a_wrong_curve_is_refused_by_line(tmp_path, text: str, reason: str) -> None:
    path = tmp_path / "day.csv"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        read_rates(path, ["w"])
    assert reason in str(error.value)


def test_a_flat_day_is_one_plan(tmp_path) -> None:
    problem = small()
    found = schedule(problem, pieces(problem, 1.0, 1.0, 1.0))
    assert len(found.stretches) == 1
    assert found.stretches[0].change.empty
    assert found.gpu_hours == pytest.approx(found.static_gpu_hours)


def test_no_other_cut_of_the_day_is_cheaper() -> None:
    """Against every way to cut the day, each stretch planned for its highest rate and placed around the plan before."""
    problem = small()
    day = pieces(problem, 0.2, 0.4, 1.6, 1.5, 0.3)
    found = schedule(problem, day)

    def cost(borders: tuple[int, ...]) -> float:
        total, before = 0.0, None
        for first, last in pairwise(borders):
            mine = day[first:last]
            rates = {name: max(p.rates_per_s[name] for p in mine) for name in mine[0].rates_per_s}
            plan = plan_exact(at_rates(problem, rates))
            if before is not None:
                plan = keep_instances(problem, plan, before)
                total += diff(before, plan, problem.profiles).cold_start_gpu_s
            total += len(plan.gpu_shares) * fsum(p.duration_s for p in mine)
            before = plan
        return total

    inner = range(1, len(day))
    best = min(cost((0, *cut, len(day))) for size in range(len(day)) for cut in combinations(inner, size))
    mine = cost((*(next(n for n, p in enumerate(day) if p.begin_s == s.begin_s) for s in found.stretches), len(day)))
    assert mine == pytest.approx(best)
    assert found.gpu_hours < found.static_gpu_hours
    assert all(one.switch_s <= one.begin_s for one in found.stretches)


def test_a_rate_that_no_plan_carries_is_said_with_its_time() -> None:
    problem = small()
    with pytest.raises(Infeasible, match="from 03:00 on"):
        schedule(problem, pieces(problem, 1.0, 1e6))
