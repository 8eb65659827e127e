"""The rules of points and borders on made-up verdicts and records: nothing is simulated, every number is checked by eye."""

import math
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from experiments.points import border, measured, questions, settled
from experiments.points.border import highest_rate
from experiments.points.measured import Effort, _spent, interpreted, ladder, runs_of
from experiments.points.questions import Question, Reference
from experiments.points.settled import Budget, Round
from experiments.runner import SCALES
from experiments.studies.evaluation.design import FULL, SMOKE
from experiments.studies.evaluation.steps import maximum, until_unstable
from experiments.systems.registry import SYSTEMS
from scepsy.generate import generate
from scepsy.metrics import seeds_interval
from scepsy.steady.drift import Drift, Growth
from scepsy.steady.verdict import STABLE, UNDECIDED, UNSTABLE

BUDGET = Budget(seeds=(1, 2), precision=0.05, tolerance=0.02, first_calls=1_000, most_calls=9_000)
QUESTION = Question(workflows=("rag-rerank",), gpus=4)
FINE, WORSE, OPEN = Drift(0.0, 0.5, 0.01), Drift(0.1, 1e-9, 0.2, 0.01), Drift(0.02, 0.05, 0.09)
FILLS = Growth(WORSE, Drift(0.3, 1e-9, 0.4, 0.01), Drift(0.0, 0.5, 0.1, 0.01))


def of_seeds(means: list[float], half_width: float = 0.0, drift: Drift | Growth = FINE, **others: list[float]) -> Round:
    """A round of seeds with given means of workflow w, and of others."""
    by_name = {"w": means} | others
    seeds: dict[int, Any] = {
        seed: SimpleNamespace(
            by_workflow={
                name: SimpleNamespace(latency=SimpleNamespace(value=values[seed], half_width=half_width))
                for name, values in by_name.items()
            }
        )
        for seed in range(len(means))
    }
    made = Round(seeds, 0.05)
    growth = drift if isinstance(drift, Growth) else Growth(drift, drift, drift)
    made.__dict__["growth"] = dict.fromkeys(by_name, growth)  # a cached property
    return made


def test_over_three_seeds_students_t_says_how_precise_a_mean_is_and_below_batch_means_do() -> None:
    low, high = seeds_interval([1.0, 1.0, 1.3])
    assert of_seeds([1.0, 1.0, 1.3]).relative("w") == pytest.approx((high - low) / 2 / 1.1)
    assert of_seeds([1.0, 3.0], half_width=0.3).relative("w") == pytest.approx(math.sqrt(2 * 0.3**2) / 2 / 2.0)


def test_a_point_is_settled_when_it_is_stable_and_every_workflow_is_precise() -> None:
    same = [2.0, 2.0, 2.0]
    assert of_seeds(same).settled(0.05)
    assert not of_seeds(same, drift=OPEN).settled(0.05)
    assert of_seeds(same, drift=OPEN).verdict == UNDECIDED
    assert of_seeds(same, drift=WORSE).verdict == UNSTABLE
    assert of_seeds(same, drift=FILLS).verdict == UNDECIDED
    assert not of_seeds(same, v=[1.0, 2.0, 3.0]).settled(0.05)
    assert "±124.2%" in of_seeds(same, v=[1.0, 2.0, 3.0]).why(0.05)
    assert "known to ±" not in of_seeds([2.0], half_width=math.inf).why(0.05)
    assert "not known to any width" in of_seeds([2.0], half_width=math.inf).why(0.05)


def test_growth_that_does_not_last_is_told_and_not_called_overload() -> None:
    assert of_seeds([2.0] * 3, drift=FILLS).grows
    assert of_seeds([2.0] * 3, drift=FILLS).why(0.05) == (
        "not settled: 10.0% of the work that arrives stays behind (p = 1e-09), 30.0% in the first third, 0.0% in the rest: "
        "the system may only be filling (3 seeds together)"
    )
    assert of_seeds([2.0], drift=WORSE).why(0.05).startswith("overload: 10.0% of the work")


def test_trials_end_at_the_first_load_at_which_work_stays_behind() -> None:
    asked: list[bool] = []

    def points() -> Iterator[list[dict[str, Any]]]:
        for grows in (False, False, True, True):
            asked.append(grows)
            yield [{"grows": grows, "verdict": UNDECIDED}]  # a verdict needs longer replays than a trial's

    assert [row["grows"] for row in until_unstable(points())] == asked == [False, False, True]


def test_one_seed_alone_ends_no_round() -> None:
    assert not of_seeds([2.0], drift=WORSE).certain
    assert of_seeds([2.0, 2.0], drift=WORSE).certain
    assert not of_seeds([2.0, 2.0], drift=FILLS).certain


def test_an_interpreted_system_has_a_budget_of_its_own() -> None:
    compiled, asked = FULL.budget_of("scepsy"), FULL.budget_of("aegaeon")
    assert len(compiled.seeds) == 5
    assert compiled.tolerance == 0.02
    # Ratios are paired by seed, so the fewer seeds are some of the others.
    assert asked.most_calls < compiled.most_calls
    assert set(asked.seeds) < set(compiled.seeds)
    for system in SYSTEMS:
        assert FULL.budget_of(system) is (FULL.policy_budget if interpreted(system) else FULL.budget)


def test_a_border_is_sought_with_one_long_replay() -> None:
    for system in ("scepsy", "aegaeon"):
        point, border = FULL.budget_of(system), FULL.border_budget_of(system)
        assert border == replace(point, seeds=(1,), most_calls=border.most_calls)
        assert border.most_calls == len(point.seeds) * point.most_calls
    wanted = {name: SMOKE.border_budget_of(name) for name in SYSTEMS}
    tasks = maximum(SCALES["smoke"])
    assert tasks
    assert all(task.params["budget"] == asdict(wanted[task.params["system"]]) for task in tasks)


def test_changed_assumptions_are_measured_at_half_of_the_common_rates() -> None:
    assert FULL.rates_of("headline") == FULL.rates
    assert len(FULL.rates) == 8
    assert FULL.rates_of("tokens") == (0.25, 0.55, 0.85, 1.1)


def border_of(monkeypatch: pytest.MonkeyPatch, unstable_above: float) -> dict[str, Any]:
    """The highest rate of a made-up system that is stable up to load 1, and unstable above another."""

    def verdict(load: float) -> str:
        return STABLE if load <= 1.0 else UNDECIDED if load <= unstable_above else UNSTABLE

    def rounds(deployment: Any, question: Question, load: float, *_: Any, stability: bool) -> tuple[Any, int]:
        assert stability
        return SimpleNamespace(verdict=verdict(load), seeds={1: None}), 100

    for name, made in {
        "deployed": lambda *_: SimpleNamespace(), "rounds": rounds, "engine_of": lambda _: "compiled",
        "described": lambda *_: {}, "decided": lambda _: {}, "rates_of": lambda _, load: [20.0 * load],
    }.items():  # fmt: skip
        monkeypatch.setattr(border, name, made)
    return highest_rate(QUESTION, "scepsy", {}, BUDGET)[0]


def test_a_border_is_settled_when_a_stable_and_an_unstable_load_are_neighbours_on_the_grid(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    row = border_of(monkeypatch, unstable_above=1.0)
    assert row["settled"]
    assert row["load_stable"] == 1.0
    assert row["load_unstable"] == pytest.approx(1.04)
    assert row["rate_per_s"] == pytest.approx(20.0 * math.sqrt(1.04))
    assert row["calls_spent"] == 100 * row["probes"]


def test_loads_that_stay_undecided_widen_the_bracket_and_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    row = border_of(monkeypatch, unstable_above=1.15)
    assert not row["settled"]
    assert (row["load_stable"], row["load_unstable"]) == (1.0, pytest.approx(1.04**4, abs=1e-3))
    assert row["rate_per_s"] == pytest.approx(20.0 * 1.04**2, rel=1e-3)
    assert row["why"].startswith("not settled: the budget leaves loads between 1 and 1.17 undecided")


def test_what_a_point_spent_is_counted_on_all_its_gpus_and_on_completed_calls() -> None:
    calls = pa.table({"status": ["completed", "unfinished"], "input_tokens": [10, 100], "output_tokens": [3, 50]})
    records: Any = SimpleNamespace(calls=calls, meta={"simulated_s": "7.0"})
    deployment: Any = SimpleNamespace(gpus=4, decided="d", carried="", hash="h", plan=None)
    row = _spent(records, deployment)
    assert (row["gpu_s"], row["input_tokens"], row["output_tokens"]) == (28.0, 10, 3)


def test_a_ladder_ends_after_two_unstable_loads_and_narrows_the_border(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def point(question: Question, system: str, option: Any, load: float, seed: int, effort: Effort) -> list[dict[str, Any]]:
        asked.append(load)
        return [{"load": load, "stable": load < 0.45}]

    monkeypatch.setattr(measured, "measured_point", point)
    rows = ladder(QUESTION, "scepsy", {}, (0.2, 0.4, 0.6, 0.8, 1.0), 1, Effort(spans=1.0), halvings=2)
    assert asked == [0.2, 0.4, 0.6, 0.8, 0.5, pytest.approx(0.45)]
    assert [row["kind"] for row in rows] == ["sweep"] * 4 + ["capacity"] * 2


def test_the_rarest_workflow_of_a_mixture_has_its_least_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "reference_of", lambda _: Reference(rates_per_s=(9.0, 1.0), latency_s=0.1))
    both = Question(workflows=("rag-rerank", "chat"), gpus=4)
    assert runs_of(both, 1.0, Effort(spans=1.0, least_runs=80)) == 800


def test_a_mixture_is_in_the_proportion_of_what_each_could_have_alone_times_its_weight(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shapes = []

    def case(asked: Question, rates: tuple[float, ...], jobs: int = 1) -> Any:
        shapes.append(rates)
        return SimpleNamespace(problem=None, at_factor=lambda _: SimpleNamespace(problem=None))

    alone = {"rag-rerank": 40.0, "chat": 8.0}
    plan = SimpleNamespace(expected=[SimpleNamespace(latency_s=1.5)])
    for name, made in {
        "known_reference": lambda _: None, "base_case": case, "highest_factor": lambda _: (0.5, True),
        "PLANNERS": {"exact": lambda _: plan}, "_reference_path": lambda _: tmp_path / "r.json",
        "reference_of": lambda asked, jobs=1: Reference(rates_per_s=(alone[asked.workflows[0]],), latency_s=1.0),
    }.items():  # fmt: skip
        monkeypatch.setattr(questions, name, made)
    found = questions._reference(Question(workflows=("rag-rerank", "chat"), mix=(1.0, 3.0)), 1)
    assert shapes[0] == (40.0, 24.0)
    assert found.rates_per_s == (20.0, 12.0)


def test_systems_plan_on_one_variant_and_are_measured_on_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {variant: generate("chat", runs=5, seed=seed) for seed, variant in enumerate(("planned", "measured"))}
    seen: dict[str, Any] = {}

    def prepare(loads: Any, *_: Any, **settings: Any) -> Any:
        seen.update(settings, loads=loads)

    for name, made in {
        "trace_of": lambda workflow, variant="": known[variant], "prepare": prepare,
        "reference_of": lambda _: Reference(rates_per_s=(2.0,), latency_s=1.0),
    }.items():  # fmt: skip
        monkeypatch.setattr(questions, name, made)
    asked = Question(workflows=("chat",), gpus=4, planned_on="planned", measured_on="measured")
    questions.base_case.cache_clear()
    case = questions.base_case(asked, (1.0,))
    questions.base_case.cache_clear()
    assert seen["loads"][0].trace is case.streams[0].trace is known["planned"]
    (stream,) = questions.measured_streams(asked, 0.5)
    assert stream.trace is known["measured"]
    assert stream.arrivals.rate_per_s == 1.0
    assert seen["seed"] not in range(6), "curves replay other arrivals than the measurements, whose seeds are small"


def test_a_round_of_a_point_is_three_times_as_long_as_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    played = []

    def play(deployment: Any, question: Question, load: float, seeds: Any, runs: int, precision: float) -> Any:
        played.append(runs)
        one = SimpleNamespace(
            records=SimpleNamespace(calls=SimpleNamespace(num_rows=runs), runs=SimpleNamespace(num_rows=runs))
        )
        return SimpleNamespace(seeds={1: one}, verdict=UNDECIDED, settled=lambda _: False)

    monkeypatch.setattr(settled, "play", play)
    monkeypatch.setattr(settled, "first_runs", lambda *_: 1_000)
    monkeypatch.setattr(settled, "engine_of", lambda _: "compiled")
    deployment: Any = None
    _, spent = settled.rounds(deployment, QUESTION, 0.5, (1,), BUDGET)
    assert played == [1_000, 3_000, 9_000]
    assert spent == 13_000
