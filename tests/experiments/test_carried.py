"""Beyond the rates that a system plans for it runs its plan for the highest of them, found once."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from experiments.points import measured, settled
from experiments.points.border import highest_rate
from experiments.points.questions import Question, planning_case
from experiments.points.settled import Budget
from experiments.studies.evaluation import steps
from experiments.systems.deployment import Deployment, Option
from experiments.systems.registry import SYSTEMS, System, deploy, highest_part
from scepsy.api.case import Case
from scepsy.errors import Infeasible

QUESTION = Question(("rag-rerank",), gpus=4)


class Limited:
    """Plans for at most ``most_per_s`` runs per second, and counts how often it is asked."""

    def __init__(self, most_per_s: float) -> None:
        self.most_per_s, self.asked_per_s = most_per_s, list[float]()

    def __call__(self, case: Case, option: Option) -> Deployment:
        rate = case.problem.rates_per_s[0]
        self.asked_per_s.append(rate)
        if rate > self.most_per_s:
            raise Infeasible(f"no more than\n{self.most_per_s} runs/s")
        return Deployment(replay=_never, decided=f"{rate}", gpus=4, plan=None)


def _never(workload: Any) -> Any:
    raise AssertionError("nothing is replayed here")


@pytest.fixture
def limited(monkeypatch: pytest.MonkeyPatch) -> Limited:
    at_one = planning_case(QUESTION, 1.0).problem.rates_per_s[0]
    rule = Limited(0.62 * at_one)
    monkeypatch.setattr(measured, "find_system", lambda name: _system(rule))
    measured._deployed.cache_clear()
    measured._highest_planned.cache_clear()
    return rule


def _system(rule: Limited, probe: Limited | None = None) -> System:
    return System("limited", "Limited", "allocation", rule, "made up", probe=probe)


def test_the_highest_rate_is_found_once_for_all_loads_beyond_it(limited: Limited) -> None:
    first = measured.deployed(QUESTION, "limited", {}, 1.0)
    assert isinstance(first, Deployment)
    asked = len(limited.asked_per_s)
    second = measured.deployed(QUESTION, "limited", {}, 1.4)
    assert isinstance(second, Deployment)
    assert len(limited.asked_per_s) == asked + 2  # at 1.4 and at the highest
    assert first.decided == second.decided
    part = float(first.carried.split()[2])
    assert 0.61 <= part <= 0.62
    assert first.carried.endswith("of the rate: no more than " + f"{limited.most_per_s} runs/s")
    assert float(second.carried.split()[2]) == pytest.approx(part / 1.4, abs=2e-3)
    assert isinstance(measured.deployed(QUESTION, "limited", {}, 0.5), Deployment)


def test_a_system_without_any_plan_says_why(limited: Limited) -> None:
    limited.most_per_s = 0.0
    assert measured.deployed(QUESTION, "limited", {}, 1.0) == "no more than 0.0 runs/s"


def test_the_highest_rate_and_every_point_of_a_system_that_cannot_run_say_why(
    limited: Limited, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited.most_per_s = 0.0
    budget = Budget(seeds=(1,), precision=0.1, tolerance=0.1, first_calls=100, most_calls=100)
    monkeypatch.setattr(settled, "find_system", lambda name: _system(limited))
    assert highest_rate(QUESTION, "limited", {}, budget)[0]["why"] == "infeasible: no more than 0.0 runs/s"
    params = {"question": msgspec.to_builtins(QUESTION), "budget": msgspec.to_builtins(budget), "system": "limited"}
    params |= {"step": "sweep", "option": {}, "loads": [0.5], "unstable": True}
    assert steps.run(params)[0]["point_why"] == "infeasible: no more than 0.0 runs/s"


def test_a_probe_is_asked_in_place_of_a_dear_planner() -> None:
    case = planning_case(QUESTION, 1.0)
    dear, cheap = (Limited(0.3 * case.problem.rates_per_s[0]) for _ in range(2))
    system = _system(dear, cheap)
    part = highest_part(system, case, {})
    assert 0.297 <= part <= 0.3
    assert dear.asked_per_s == []
    assert deploy(system, case, {}).decided == f"{case.at_factor(part).problem.rates_per_s[0]}"
    assert len(dear.asked_per_s) == 2
    assert highest_part(_system(Limited(0.0)), case, {}) == 0.0


@pytest.mark.parametrize("name", ["scepsy", "no-fractions"])
def test_the_probe_of_judged_systems_is_their_planner_without_the_judge(name: str) -> None:
    system, case = SYSTEMS[name], planning_case(QUESTION, 0.3)
    assert system.probe is not None
    assert system.probe(case, {}).decided
    assert highest_part(replace(system, deploy=_never), case, {}) == 1.0  # type: ignore[arg-type]
