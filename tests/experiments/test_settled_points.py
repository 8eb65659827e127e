"""Points are measured until they are settled, and highest rates found by bisection are those that a slow search finds."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.points.azure import azure_stream
from experiments.points.border import bracket, highest_rate
from experiments.points.questions import Question, reference_of, trace_of
from experiments.points.settled import GROWTH, Budget, settled_point
from scepsy.arrivals import issue_arrays
from scepsy.backend import Workload
from scepsy.steady.drift import Window, pooled_drift
from scepsy.steady.verdict import STABLE, UNDECIDED, UNSTABLE

QUESTION = Question(workflows=("reflection",), gpus=2)
BUDGET = Budget(seeds=(1, 2, 3), precision=0.08, tolerance=0.1, first_calls=1_500, most_calls=15_000)


@given(st.integers(0, 40), st.integers(0, 5), st.integers(1, 40), st.integers(0, 40))
def test_the_bracket_is_what_asking_every_load_gives_and_no_load_is_decided_twice(
    stable: int, undecided: int, more: int, start: int
) -> None:
    verdicts = [STABLE] * stable + [UNDECIDED] * undecided + [UNSTABLE] * more
    asked: list[int] = []

    def verdict(step: int) -> str:
        asked.append(step)
        return verdicts[step]

    good, bad = bracket(verdict, start, 0, len(verdicts) - 1, reach=100)
    assert good == (stable - 1 if stable else None)
    assert bad == verdicts.index(UNSTABLE) if stable else bad is None or verdicts[bad] == UNSTABLE
    assert len(asked) == len(set(asked))


def test_a_bracket_may_be_open() -> None:
    assert bracket(lambda step: STABLE, 3, 0, 20, reach=5) == (20, None)
    assert bracket(lambda step: UNSTABLE, 3, 0, 20, reach=5) == (None, 0)
    assert bracket(lambda step: STABLE if step < 5 else UNDECIDED, 3, 0, 20, reach=9) == (4, None)


def test_beyond_reach_nothing_is_asked() -> None:
    asked: list[int] = []

    def verdict(step: int) -> str:
        asked.append(step)
        return STABLE if step < 5 else UNDECIDED

    bracket(verdict, 3, 0, 200, reach=9)
    assert max(asked) <= 13


def test_a_light_load_settles_and_a_heavy_one_is_unstable_after_two_seeds() -> None:
    light = pd.DataFrame(settled_point(QUESTION, "scepsy", {}, 0.3, BUDGET, "sweep"))
    assert set(light["point_verdict"]) == {STABLE}
    assert light["point_settled"].all()
    assert list(light["seed"]) == [1, 2, 3]
    mean = light["latency_mean_s"]
    assert 4.303 * mean.std(ddof=1) / math.sqrt(3) <= BUDGET.precision * mean.mean() * 1.001  # Student's t, 2 degrees
    # Runs take minutes under overload, so showing that it is one takes more calls: windows must outlast three long runs.
    longer = replace(BUDGET, most_calls=150_000)
    heavy = pd.DataFrame(settled_point(QUESTION, "scepsy", {}, 1.5, longer, "sweep"))
    assert set(heavy["point_verdict"]) == {UNSTABLE}
    assert list(heavy["seed"]) == [1, 2]  # certain by then
    assert not heavy["point_settled"].any()
    assert heavy["point_why"].str.contains("stays behind").all()


def test_what_the_budget_does_not_settle_is_marked_and_kept() -> None:
    strict = Budget(seeds=(1, 2, 3), precision=0.0005, tolerance=0.1, first_calls=1_500, most_calls=5_000)
    rows = pd.DataFrame(settled_point(QUESTION, "scepsy", {}, 0.3, strict, "sweep"))
    assert len(rows) == 3
    assert not rows["point_settled"].any()
    assert rows["point_why"].str.len().gt(0).all()
    assert rows["latency_mean_s"].gt(0).all()
    # rounds are three times as long each time, so they were two: 1 + 3
    assert rows["calls_spent"].iloc[0] == pytest.approx((1 + GROWTH) * rows["calls"].sum() / GROWTH, rel=0.1)


def test_systems_replay_the_same_runs_at_the_same_times() -> None:
    first, second = (
        pd.DataFrame(settled_point(QUESTION, system, {}, 0.2, BUDGET, "sweep")).set_index("seed")
        for system in ("scepsy", "equal")
    )
    same = first.index[first["issued"] == second["issued"]]
    assert len(same) >= 1
    pd.testing.assert_series_equal(first.loc[same, "offered_per_s"], second.loc[same, "offered_per_s"], rtol=0.05)


def test_the_highest_rate_lies_between_a_load_shown_stable_and_one_shown_unstable() -> None:
    row = highest_rate(QUESTION, "scepsy", {}, replace(BUDGET, most_calls=150_000))[0]
    assert 0.3 < row["load_stable"] < row["load"] < row["load_unstable"] < 2
    assert row["settled"] == (row["load_unstable"] < 1.21 * row["load_stable"])
    assert row["settled"] or "undecided" in row["why"]
    rate = reference_of(QUESTION).rates_per_s[0]
    assert row["rate_low_per_s"] == pytest.approx(rate * row["load_stable"])
    assert row["rate_high_per_s"] == pytest.approx(rate * row["load_unstable"])


def test_seeds_together_decide_what_one_alone_cannot() -> None:
    rng = np.random.default_rng(5)
    windows = []
    for _ in range(6):  # single queues at 104 % load, in windows too short for one of them
        arrival = np.cumsum(rng.exponential(1.0, 1_500))
        service = rng.exponential(1.04, 1_500)
        end = np.zeros(1_500)
        for n in range(1_500):
            end[n] = max(arrival[n], end[n - 1] if n else 0.0) + service[n]
        windows.append(Window(arrival, end, service, 100.0, float(arrival[-1])))
    alone = [pooled_drift([window]) for window in windows]
    assert pooled_drift(windows).p < 0.3 * min(one.p for one in alone)
    assert pooled_drift(windows).part == pytest.approx(np.mean([one.part for one in alone]), abs=0.01)


@pytest.mark.data
def test_azure_arrivals_keep_their_shape_and_every_copy_is_another_user(scepsy_data, monkeypatch) -> None:
    monkeypatch.setenv("SCEPSY_DATA", str(scepsy_data))
    trace = trace_of("rag-rerank")
    item = azure_stream(trace, 7.0, seed=1)
    other = azure_stream(trace, 7.0, seed=2)
    assert item.trace != other.trace
    issued = next(issue_arrays(Workload(streams=(item,), runs=len(item.trace.runs))))
    assert len(issued.time_s) / issued.time_s[-1] == pytest.approx(7.0, rel=0.01)
    ids = [run.id for run in item.trace.runs]
    assert len(set(ids)) == len(ids)
    beam = azure_stream(trace_of("beam-search"), 7.0, seed=1).trace
    owners: dict[int, set[str]] = {}
    for run in beam.runs[:300]:
        for call in run.calls:
            for item_id in call.prefix_hashes:
                owners.setdefault(item_id, set()).add(run.id)
    private = [who for who in owners.values() if len(who) == 1]
    assert len(private) > 0.9 * len(owners)
