"""Rows, errors and medians of the comparison, by hand."""

import json

import msgspec
import pyarrow as pa
import pytest

from experiments.compare import AT_SPEED, medians, row_of, simulated, slowdowns, slowed, with_errors, workload_of
from experiments.measured import Comparison, rows_of
from scepsy.errors import InputError
from scepsy.plan import Target
from scepsy.records import CALL_SCHEMA, RUN_SCHEMA, Records
from scepsy.workload import Arrivals, Call, Run, Trace, TraceSource
from tests.executor.two_cores import two_core_plan

PLAN, PROFILES = two_core_plan("m")


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


def probed(profiles, probe_s):
    return msgspec.structs.replace(
        profiles, profiles=tuple(msgspec.structs.replace(profile, probe_s=probe_s) for profile in profiles.profiles)
    )


def test_slowdown_is_that_of_the_llms_own_cores_over_the_profiles_full_speed():
    (instance,) = PLAN.instances
    core = str(instance.gpus[0].index)
    measured = Records(runs=records().runs, calls=records().calls, meta={"probe_s": json.dumps({core: 0.003, "77": 0.009})})
    assert slowdowns(measured, PLAN, probed(PROFILES, 0.002)) == {"m": pytest.approx(1.5)}
    assert slowdowns(measured, PLAN, PROFILES) == {}, "a profile that was not probed"
    assert slowdowns(records(), PLAN, probed(PROFILES, 0.002)) == {}, "records that were not probed"


def test_slower_profiles_take_longer_for_every_step():
    slower = slowed(PROFILES, {"m": 1.5}).profiles[0].step
    step = PROFILES.profiles[0].step
    for work in ((100, 0, 0, 0), (0, 0, 4, 900), (64, 5000, 2, 300)):
        assert slower.step_s(*work) == pytest.approx(1.5 * step.step_s(*work))
    assert slowed(PROFILES, {"other": 2.0}) == PROFILES


def test_medians_keep_both_simulations_and_the_slowdown():
    rows = [row("simulated", 1, 1.0), {**row(AT_SPEED, 1, 1.4), "slowdown": 1.4}, {**row("measured", 1, 1.5), "slowdown": 1.4}]
    found = {one["source"]: one for one in medians(rows)}
    assert found["simulated"]["latency_mean_err_pct"] == pytest.approx(-100 / 3)
    assert found[AT_SPEED]["latency_mean_err_pct"] == pytest.approx(-20 / 3)
    assert found[AT_SPEED]["slowdown"] == 1.4
    assert "slowdown" not in found["simulated"]


def test_a_comparison_simulates_twice_where_the_speed_was_probed():
    """The "measurement" is a simulation of engines half as slow again: at the speed that was probed they agree."""
    call = Call(id="a", llm="m", input_tokens=64, output_tokens=20)
    trace = Trace(source=TraceSource(origin="test"), runs=(Run(id="t", workflow="w", calls=(call,)),))
    plan = msgspec.structs.replace(PLAN, targets=(Target(workflow="w", arrivals=Arrivals(rate_per_s=2.0)),))
    question = Comparison(plan=plan, traces={"w": trace}, profiles=probed(PROFILES, 0.002), runs=30, seeds=(1,))
    core = str(plan.instances[0].gpus[0].index)

    def sources(meta):
        workload = workload_of(plan, question.traces, runs=30, seed=1)
        slow = simulated(plan, workload, slowed(PROFILES, {"m": 1.5}))
        measured = Records(runs=slow.runs, calls=slow.calls, meta={"load": "1", "seed": "1", **meta})
        return {row["source"]: row for row in with_errors(rows_of(question, {(1.0, 1): measured}))}

    found = sources({"probe_s": json.dumps({core: 0.003}), "others_cores": "0.70"})
    assert found["measured"]["others_cores"] == 0.7
    assert list(found) == ["predicted", "simulated", AT_SPEED, "measured"]
    assert found[AT_SPEED]["latency_mean_err_pct"] == pytest.approx(0.0, abs=1e-6)
    assert found["simulated"]["latency_mean_err_pct"] < -25
    assert found["measured"]["slowdown"] == pytest.approx(1.5)
    assert list(sources({})) == ["predicted", "simulated", "measured"]
