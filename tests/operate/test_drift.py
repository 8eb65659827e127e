"""Detection: thresholds by formula, no alarms on a load that stays, alarms on one that changes."""

from bisect import bisect

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scepsy.operate.controller import begin, look
from scepsy.operate.drift import rate_z
from scepsy.operate.features import features_of, llms_of
from scepsy.operate.reference import Reference, moments_of, planned_for
from scepsy.operate.settings import Settings
from scepsy.operate.threshold import WEEK_S, WINDOWS, adjusted, crossings_per_run, threshold
from scepsy.operate.window import dispersion_of, rate_of, window_of
from scepsy.rng import stream
from scepsy.stats.use import workflow_use
from scepsy.workload import Call, Run, Trace, TraceSource
from tests.operate.loads import arrivals, facts_at, load, runs_of

SETTINGS = Settings()


def longer(run: Run, llm: str, factor: float) -> Run:
    calls = tuple(
        msgspec.structs.replace(call, output_tokens=max(1, round(call.output_tokens * factor))) if call.llm == llm else call
        for call in run.calls
    )
    return msgspec.structs.replace(run, calls=calls)


# ---- features --------------------------------------------------------------------------------------------------------


def test_features_are_the_statistics_of_the_same_runs_without_recorded_times() -> None:
    runs = runs_of("beam-search", 30)
    use = workflow_use(Trace(source=TraceSource(origin="test"), runs=runs), "beam-search")
    values = [features_of(run) for run in runs]
    for llm in use.llms:
        calls = np.mean([each.get(f"calls:{llm.llm}", 0.0) for each in values])
        ratio = sum(v.get(f"call_s:{llm.llm}", 0) for v in values) / sum(v.get(f"busy_s:{llm.llm}", 0) for v in values)
        assert calls == pytest.approx(llm.calls_per_run)
        assert ratio == pytest.approx(llm.parallelism)
    assert np.mean([each["tool_s"] for each in values]) == pytest.approx(use.tool_s)


def test_recorded_times_change_no_feature() -> None:
    run = runs_of(count=1)[0]
    slow = tuple(msgspec.structs.replace(call, start_s=100.0 * n, end_s=100.0 * n + 50.0) for n, call in enumerate(run.calls))
    assert features_of(msgspec.structs.replace(run, calls=slow)) == features_of(run)


# ---- thresholds ------------------------------------------------------------------------------------------------------


@given(st.floats(0.01, 100.0), st.floats(0.01, 50.0), st.integers(1, 60))
def test_the_threshold_keeps_the_stated_rate_and_falls_with_it(alarms: float, rate: float, numbers: int) -> None:
    h = threshold(alarms, rate, numbers)
    per_week = crossings_per_run(h) * rate * WEEK_S * numbers
    assert per_week <= alarms * (1 + 1e-6) or h == 12.0
    assert threshold(alarms / 10, rate, numbers) >= h


def test_the_formula_bounds_what_normal_runs_do() -> None:
    """200,000 normal runs at h = 3.5: alarms by window, counted as excursions, against the bound."""
    h, total = 3.5, 200_000
    x = stream(3, "normal").normal(size=total)
    sums = np.concatenate(([0.0], np.cumsum(x)))
    crossings = 0
    for n in WINDOWS:
        z = (sums[n:] - sums[:-n]) / np.sqrt(n)
        beyond = np.abs(z) > h
        starts = np.flatnonzero(beyond[1:] & ~beyond[:-1])
        crossings += 1 + int((np.diff(starts) > n).sum()) if len(starts) else 0  # one per excursion of a window's length
    assert 0.3 * crossings_per_run(h) * total < crossings < 1.5 * crossings_per_run(h) * total


@given(st.floats(2.0, 8.0), st.sampled_from(WINDOWS), st.floats(-5, 5), st.floats(-1, 30), st.booleans())
def test_heavy_tails_only_raise_the_threshold(h: float, n: int, skew: float, kurtosis: float, above: bool) -> None:
    assert adjusted(h, n, skew, kurtosis, above=above) >= h


def test_a_number_that_never_varied_is_given_the_variance_that_would_not_have_been_seen() -> None:
    found = moments_of(np.full(100, 3.0))
    assert (found.mean, found.std) == (3.0, pytest.approx(0.3))


def test_arrivals_give_a_normal_number() -> None:
    one = Reference(workflow="w", rate_per_s=2.0, runs=1, moments={}, parallelism={})
    times = stream(5, "gaps").exponential(0.5, size=(4000, 64)).sum(axis=1)
    z = np.array([rate_z(each, 64, one) for each in times])
    assert abs(z.mean()) < 0.05
    assert z.std() == pytest.approx(1.0, abs=0.05)


# ---- windows ---------------------------------------------------------------------------------------------------------


def test_window_statistics_hold_the_truth_as_often_as_they_say() -> None:
    inside = 0
    for seed in range(200):
        count = len(arrivals(3.0, 0.0, 100.0, seed))
        found = rate_of(count, 100.0)
        assert found.low is not None
        assert found.high is not None
        inside += found.low <= 3.0 <= found.high
    assert inside >= 180


def test_a_window_says_n_tokens_shares_and_latency() -> None:
    runs = runs_of()
    seen = load(runs, 2.0, 0.0, 200.0)
    found = window_of("rag-rerank", [each.arrival_s for each in seen], seen, 0.0, 200.0)
    assert found.rate_per_s.value == pytest.approx(2.0, rel=0.2)
    assert {each.llm for each in found.llms} == set(llms_of([features_of(run) for run in runs]))
    assert sum(each.share.value for each in found.llms) == pytest.approx(1.0)
    assert found.latency_s is not None
    assert found.latency_s.value == pytest.approx(5.2, rel=0.1)


def test_bursts_widen_the_interval() -> None:
    gaps = stream(1, "bursts").gamma(0.25, 4.0, 4000)  # CV² of 4
    assert dispersion_of(np.cumsum(gaps).tolist()) == pytest.approx(4.0, rel=0.3)
    assert dispersion_of([1.0, 2.0]) == 1.0


# ---- detection -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workflow", ["rag-rerank", "beam-search"])
def test_a_day_of_the_planned_load_raises_no_alarm(workflow: str) -> None:
    runs = runs_of(workflow)
    memory = begin([planned_for(workflow, runs, 0.5)], 0.0)
    seen = load(runs, 0.5, 0.0, 24 * 3600.0, seed=11)
    times = [each.arrival_s for each in seen]
    for now in range(600, 24 * 3600, 600):
        recent = seen[bisect(times, now - 2000.0) : bisect(times, now)]
        memory, finding = look(memory, facts_at(float(now), recent), SETTINGS)
        assert finding is None, finding


CHANGES = {
    "the rate doubles": lambda runs: (runs, 2.0),
    "the rate halves": lambda runs: (runs, 0.5),
    "nobody comes any more": lambda runs: (runs, 1e-6),
    "answers double": lambda runs: (tuple(longer(run, "llama-2-7b", 2.0) for run in runs), 1.0),
    "answers halve": lambda runs: (tuple(longer(run, "llama-2-7b", 0.5) for run in runs), 1.0),
}
NUMBER = {"the rate doubles": "rate", "the rate halves": "rate", "nobody comes any more": "rate"}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_is_found_and_named_and_its_time_is_known(what: str) -> None:
    runs = runs_of()
    memory = begin([planned_for("rag-rerank", runs, 1.0)], 0.0)
    changed, rate = CHANGES[what](runs)
    seen = [*load(runs, 1.0, 0.0, 1000.0), *load(changed, rate, 1000.0, 2000.0, seed=1)]
    for now in range(30, 2000, 30):
        memory, finding = look(memory, facts_at(float(now), seen), Settings(least_runs=2))
        if finding is not None:
            break
    assert finding is not None
    assert now > 1000
    assert now < 1150, "a factor of two shows within 150 seconds at one run a second"
    assert finding.drifts[0].number == NUMBER.get(what, "output_tokens:llama-2-7b")
    assert abs(finding.loads[0].begun_s - 1000.0) < 60


def test_calls_to_an_llm_that_was_never_called_are_found() -> None:
    runs = runs_of()
    other = tuple(
        msgspec.structs.replace(
            run, calls=(*run.calls, Call(id="new", llm="guard", input_tokens=100, output_tokens=5, parents=(run.calls[-1].id,)))
        )
        for run in runs
    )
    memory = begin([planned_for("rag-rerank", runs, 1.0)], 0.0)
    _, finding = look(memory, facts_at(200.0, load(other, 1.0, 0.0, 200.0)), SETTINGS)
    assert finding is not None
    assert "calls:guard" in {drift.number for drift in finding.drifts}


def test_long_runs_that_are_still_open_do_not_make_the_others_look_short() -> None:
    """Ended runs are read in order of arrival: what ended early is not taken for what arrived."""
    runs = runs_of()
    long_runs = tuple(longer(run, "llama-2-7b", 3.0) for run in runs[:50])
    mixed = (*long_runs, *runs[50:])
    memory = begin([planned_for("rag-rerank", mixed, 1.0)], 0.0)
    longer_ids = {id(run) for run in long_runs}
    seen = [
        msgspec.structs.replace(each, end_s=each.arrival_s + (60.0 if id(each.run) in longer_ids else 2.0))
        for each in load(mixed, 1.0, 0.0, 300.0)
    ]
    for now in range(20, 300, 10):
        memory, finding = look(memory, facts_at(float(now), seen), Settings(least_runs=2))
        assert finding is None
