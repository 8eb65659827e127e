"""Rows, errors and medians of the comparison, by hand."""

import pyarrow as pa
import pytest

from experiments.compare import medians, row_of, with_errors
from scepsy.errors import InputError
from scepsy.records import CALL_SCHEMA, RUN_SCHEMA, Records
from tests.executor.two_cores import two_core_plan

PLAN = two_core_plan("m")[0]


def records(*runs):
    """``runs``: (arrival, end or None)."""
    rows = [
        {"run": f"r{i}", "template": "t", "workflow": "w", "arrival_s": at, "end_s": end,
         "status": "completed" if end is not None else "unfinished"}
        for i, (at, end) in enumerate(runs)
    ]  # fmt: skip
    return Records(runs=pa.Table.from_pylist(rows, RUN_SCHEMA), calls=pa.Table.from_pylist([], CALL_SCHEMA))


def test_a_row_by_hand():
    row = row_of(records((0, 2), (1, 5), (2, None), (3, 4)), PLAN, "w", 1.0, 7, "measured")
    assert (row["latency_mean_s"], row["runs"], row["not_completed"]) == (pytest.approx(7 / 3), 3, 1)
    assert row["throughput_per_s"] == pytest.approx(3 / 5)
    assert row["latency_p95_s"] == pytest.approx(3.8)  # between 2 and 4, nine tenths of the way


def test_nothing_completed_is_said():
    with pytest.raises(InputError, match="measured records of w: no run was completed"):
        row_of(records((0, None)), PLAN, "w", 1.0, 7, "measured")


def row(source, seed, mean, p95=None):
    return {"planner": "p", "workflow": "w", "rate_per_s": 1.0, "seed": seed, "source": source, "latency_mean_s": mean,
            "latency_p95_s": p95, "throughput_per_s": 1.0}  # fmt: skip


def test_errors_are_signed_and_against_the_same_seed():
    found = with_errors([row("simulated", 1, 1.1, 2.0), row("measured", 1, 1.0, 2.5), row("predicted", 2, 9.0)])
    assert found[0]["latency_mean_err_pct"] == pytest.approx(10.0)
    assert found[0]["latency_p95_err_pct"] == pytest.approx(-20.0)
    assert "latency_mean_err_pct" not in found[1]
    assert "latency_mean_err_pct" not in found[2]


def test_medians_compare_medians():
    rows = [row("simulated", seed, mean) for seed, mean in ((1, 1.0), (2, 2.0), (3, 9.0))]
    rows += [row("measured", seed, mean) for seed, mean in ((1, 4.0), (2, 1.0), (3, 2.5))]
    simulated, measured = medians(rows)
    assert (simulated["latency_mean_s"], measured["latency_mean_s"], simulated["seeds"]) == (2.0, 2.5, 3)
    assert simulated["latency_mean_err_pct"] == pytest.approx(-20.0)
    assert simulated["latency_p95_err_pct"] is None
