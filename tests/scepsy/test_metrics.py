"""Metrics over hand-written records: every number can be checked by eye."""

import numpy as np
import pyarrow as pa
import pytest

from scepsy.metrics import by_llm, call_times, counts, describe, mean_interval, seeds_interval, summarise
from scepsy.records import CALL_SCHEMA, RUN_SCHEMA, Records


def runs(*rows):
    columns = ("run", "template", "workflow", "arrival_s", "end_s", "status")
    return pa.Table.from_pylist([dict(zip(columns, row, strict=True)) for row in rows], schema=RUN_SCHEMA)


def calls(*rows):
    columns = CALL_SCHEMA.names
    return pa.Table.from_pylist([dict(zip(columns, row, strict=True)) for row in rows], schema=CALL_SCHEMA)


def example():
    return Records(
        runs=runs(
            ("a", "t", "w", 0.0, 4.0, "completed"),
            ("b", "t", "w", 1.0, 3.0, "completed"),
            ("c", "t", "v", 2.0, None, "rejected"),
            ("d", "t", "v", 10.0, None, "unfinished"),
        ),
        calls=calls(
            ("a", "1", "w", "m", "m-0", 0.0, 0.5, 1.0, 4.0, 100, 4, 20, 1, "completed"),
            ("b", "1", "w", "m", "m-0", 1.0, 1.0, 2.0, 3.0, 100, 1, 0, 0, "completed"),
            ("c", "1", "v", "m", None, 2.0, None, None, None, 10, 5, 0, 0, "rejected"),
            ("d", "1", "v", "m", "m-0", 10.0, 11.0, None, None, 10, 5, 0, 0, "unfinished"),
        ),
        meta={"simulated_s": "12.0"},
    )


def test_counts_add_up():
    document = summarise(example(), wall_s=0.5)
    for kind in ("runs", "calls"):
        assert document[kind] == {"issued": 4, "completed": 2, "rejected": 1, "unfinished": 1}
    assert document["latency_s"]["mean"] == 3.0
    assert document["throughput_per_s"] == pytest.approx(2 / 12)
    assert document["calls_per_wall_s"] == 8.0
    assert document["by_workflow"]["v"]["runs"]["completed"] == 0
    assert document["by_workflow"]["v"]["latency_s"]["mean"] is None


def test_warmup_and_window_choose_by_arrival():
    assert summarise(example(), warmup_s=0.5)["latency_s"]["mean"] == 2.0
    windowed = summarise(example(), window_s=0.5)
    assert windowed["latency_s"]["mean"] == 4.0
    assert windowed["throughput_per_s"] == pytest.approx(1 / 4)  # its one run ended at 4, after the window
    both = summarise(example(), warmup_s=0.5, window_s=1.0)  # b alone: arrived at 1, ended at 3
    assert both["throughput_per_s"] == pytest.approx(1 / 2.5)
    assert both["by_llm"]["m"]["cached_prompt_share"] == 0.0  # the cached tokens are those of a call before the window


def test_token_timings():
    times = call_times(example().calls)
    assert times["queue"].tolist() == [0.5, 0.0]
    assert times["prefill"].tolist() == [0.5, 1.0]
    assert times["decode"].tolist() == [3.0, 1.0]
    assert times["tpot"][0] == 1.0
    assert np.isnan(times["tpot"][1])
    m = by_llm(example().calls)["m"]
    assert m["preemptions"] == 1
    assert m["cached_prompt_share"] == pytest.approx(20 / 220)


def test_goodput_counts_runs_that_meet_every_limit():
    assert summarise(example(), slo_s=3.0)["goodput"]["runs"] == 1
    assert summarise(example(), slo_s={"w": 5.0})["goodput"] == {
        "runs": 2,
        "share_of_issued": 0.5,
        "per_s": pytest.approx(2 / 12),
    }
    assert summarise(example(), ttft_slo_s=0.9)["goodput"]["runs"] == 0
    assert summarise(example(), tpot_slo_s=0.9)["goodput"]["runs"] == 1


def test_an_unknown_status_is_refused():
    with pytest.raises(ValueError, match="status is 'lost'"):
        counts(runs(("a", "t", "w", 0.0, 1.0, "lost")))


def test_nothing_is_described_as_nothing():
    assert describe(np.array([])) == {"mean": None, "p50": None, "p95": None, "p99": None}
    empty = Records(runs=RUN_SCHEMA.empty_table(), calls=CALL_SCHEMA.empty_table())
    assert summarise(empty)["runs"]["issued"] == 0


def test_intervals_cover_the_mean_as_often_as_they_say():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(400):
        # an autocorrelated series (AR(1), 0.8): what batch means are for
        noise = rng.standard_normal(4000)
        series = np.empty(4000)
        value = 0.0
        for index in range(4000):
            value = 0.8 * value + noise[index]
            series[index] = value
        low, high = mean_interval(series, 0.95)
        hits += low <= 0.0 <= high
    assert 0.90 <= hits / 400 <= 0.98
    low, high = seeds_interval([5.0, 5.0])
    assert (low, high) == (5.0, 5.0)


def test_too_few_values_have_no_interval():
    with pytest.raises(ValueError, match="must be at least 40 for 20 batches"):
        mean_interval(np.zeros(39))
    with pytest.raises(ValueError, match="must be at least 2"):
        seeds_interval([1.0])
