"""Rows, errors and medians of the comparison, by hand."""

import json
from dataclasses import replace

import msgspec
import pandas as pd
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from executor.cpu_meter import EngineWork, encode, shape_of
from experiments.checks.by_llm import main as by_llm
from scepsy.api.compare import Comparison, as_measured, compare_plan, rows_of
from scepsy.api.rows import AT_SPEED, medians, row_of, simulated, slowdowns, slowed, with_errors, workload_of
from scepsy.cli import app
from scepsy.errors import InputError
from scepsy.files.plan import save_plan
from scepsy.files.profiles import save_profiles
from scepsy.files.records import load_records, save_records
from scepsy.files.trace import save_trace
from scepsy.plans import Target
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


def metered(profiles, cpu_s_per_step_s):
    known = {"cpu_s_per_step_s": cpu_s_per_step_s}
    return msgspec.structs.replace(profiles, profiles=tuple(msgspec.structs.replace(p, **known) for p in profiles.profiles))


def work_of(found, step, cpu_s_per_step_s):
    """What a meter would have shown: one instance, every call alone (an iteration per token)."""
    calls = found.calls.to_pandas()
    work = EngineWork(
        iterations=float(calls["output_tokens"].sum()),
        prompt_tokens=float(calls["input_tokens"].sum()),
        decoded_tokens=float((calls["output_tokens"] - 1).sum()),
    )
    step_s = work.step_s(step, shape_of(calls["input_tokens"], calls["output_tokens"]))
    return {"work": encode({"m-0": replace(work, cpu_s=cpu_s_per_step_s * step_s), "other-0": EngineWork(cpu_s=9.0)})}


def one_call():
    return Records(
        runs=records((0, 1)).runs,
        calls=pa.Table.from_pylist(
            [{"run": "r0", "call": "c", "workflow": "w", "llm": "m", "instance": "m-0", "issued_s": 0.0, "input_tokens": 50,
              "output_tokens": 8, "status": "completed"}], CALL_SCHEMA),
    )  # fmt: skip


def test_slowdown_is_the_cpu_time_per_work_over_the_profiles():
    found = one_call()
    measured = Records(runs=found.runs, calls=found.calls, meta=work_of(found, PROFILES.profiles[0].step, 1.2))
    assert slowdowns(measured, PLAN, metered(PROFILES, 0.8)) == {"m": pytest.approx(1.5)}
    assert slowdowns(measured, PLAN, PROFILES) == {}, "a profile that was not metered"
    assert slowdowns(found, PLAN, metered(PROFILES, 0.8)) == {}, "records that were not metered"


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


def test_a_comparison_simulates_twice_where_the_engines_were_metered():
    """The "measurement" is a simulation of engines half as slow again: at the speed that their CPU time tells they agree."""
    call = Call(id="a", llm="m", input_tokens=64, output_tokens=20)
    trace = Trace(source=TraceSource(origin="test"), runs=(Run(id="t", workflow="w", calls=(call,)),))
    plan = msgspec.structs.replace(PLAN, targets=(Target(workflow="w", arrivals=Arrivals(rate_per_s=2.0)),))
    question = Comparison(plan=plan, traces={"w": trace}, profiles=metered(PROFILES, 0.8), runs=30, seeds=(1,))
    slow = simulated(plan, workload_of(plan, question.traces, runs=30, seed=1), slowed(PROFILES, {"m": 1.5}))

    def sources(meta):
        measured = Records(runs=slow.runs, calls=slow.calls, meta={"load": "1", "seed": "1", **meta})
        return {row["source"]: row for row in with_errors(rows_of(question, {(1.0, 1): measured}))}

    found = sources({**work_of(slow, PROFILES.profiles[0].step, 1.2), "others_cores": "0.70"})
    assert found["measured"]["others_cores"] == 0.7
    assert list(found) == ["predicted", "simulated", AT_SPEED, "measured"]
    assert found[AT_SPEED]["latency_mean_err_pct"] == pytest.approx(0.0, abs=1e-6)
    assert found["simulated"]["latency_mean_err_pct"] < -25
    assert found["measured"]["slowdown"] == pytest.approx(1.5)
    assert list(sources({})) == ["predicted", "simulated", "measured"]


CALL = Call(id="a", llm="m", input_tokens=64, output_tokens=20)
TRACE = Trace(source=TraceSource(origin="test"), runs=(Run(id="t", workflow="w", calls=(CALL,)),))


def question_at(rate_per_s=2.0):
    plan = msgspec.structs.replace(PLAN, targets=(Target(workflow="w", arrivals=Arrivals(rate_per_s=rate_per_s)),))
    return Comparison(plan=plan, traces={"w": TRACE}, profiles=PROFILES)


def kept(folder, load, seed, runs=30, name=None):
    """Measured records as a comparison keeps them; the measurement was a simulation."""
    question = question_at()
    found = simulated(question.plan, workload_of(question.plan, question.traces, runs=runs, seed=seed, scale=load), PROFILES)
    records = Records(runs=found.runs, calls=found.calls, meta={"load": f"{load:g}", "seed": str(seed)})
    save_records(folder / (name or f"load{load:g}-seed{seed}"), records)


def test_kept_records_say_what_was_asked(tmp_path):
    for load in (0.5, 1.0):
        for seed in (1, 2):
            kept(tmp_path, load, seed)
    question = as_measured(question_at(), [tmp_path])
    assert (question.runs, question.seeds, question.loads) == (30, (1, 2), (0.5, 1.0))
    rows = with_errors(compare_plan(question, records=[tmp_path]))
    assert [(row["rate_per_s"], row["seed"]) for row in rows if row["source"] == "measured"] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert all(row["latency_mean_err_pct"] == pytest.approx(0.0) for row in rows if row["source"] == "simulated")
    with pytest.raises(InputError, match=r"30 runs were measured at load 0.5 with seed 1: must be --runs \(3\)"):
        compare_plan(replace(question, runs=3), records=[tmp_path])


def test_one_load_and_one_seed_may_be_chosen_among_kept_records(tmp_path):
    kept(tmp_path, 1 / 3, 1)
    kept(tmp_path, 1.0, 1, runs=20)
    kept(tmp_path, 1.0, 2, runs=20)
    with pytest.raises(InputError, match="records have 20, 30 runs: must all have the same number"):
        as_measured(question_at(), [tmp_path])
    third = as_measured(question_at(), [tmp_path], loads=[1 / 3])
    assert (third.runs, third.loads, third.seeds) == (30, (1 / 3,), (1,))
    assert [row["source"] for row in compare_plan(third, records=[tmp_path])] == ["predicted", "simulated", "measured"]
    assert as_measured(question_at(), [tmp_path], loads=[1.0], seeds=[2]).seeds == (2,)
    with pytest.raises(InputError, match="no measurement of that load and seed"):
        as_measured(question_at(), [tmp_path], loads=[2.0])


def test_records_of_another_rate_are_refused(tmp_path):
    kept(tmp_path, 1.0, 1)
    faster = as_measured(question_at(rate_per_s=4.0), [tmp_path])
    with pytest.raises(InputError, match="must be a measurement at the plan's rates"):
        compare_plan(faster, records=[tmp_path])


def test_records_that_no_comparison_kept_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"no measurement of that load and seed"):
        as_measured(question_at(), [tmp_path])
    kept(tmp_path, 1.0, 1)
    kept(tmp_path, 1.0, 1, name="again")
    with pytest.raises(InputError, match=r"load 1 with seed 1 was measured in .*again.runs.parquet too: must be one of them"):
        as_measured(question_at(), [tmp_path])
    for number, meta in enumerate(({}, {"load": "fast", "seed": "1"})):
        save_records(tmp_path / f"odd{number}", Records(runs=records((0, 1)).runs, calls=records().calls, meta=meta))
        with pytest.raises(InputError, match="meta lacks load or seed"):
            as_measured(question_at(), [tmp_path / f"odd{number}.runs.parquet"])


def plan_with_records(folder):
    """A plan file with what it refers to, and a folder of kept records."""
    save_trace(folder / "t.jsonl", TRACE)
    save_profiles(folder / "p.yaml", PROFILES)
    plan = question_at().plan
    targets = tuple(msgspec.structs.replace(target, trace="t.jsonl") for target in plan.targets)
    save_plan(folder / "x.plan.yaml", msgspec.structs.replace(plan, targets=targets, profiles="p.yaml"))
    (folder / "measured").mkdir()
    kept(folder / "measured", 1.0, 1)
    return folder / "x.plan.yaml", folder / "measured"


def test_the_command_compares_with_a_folder_of_records(tmp_path):
    plan_file, measured = plan_with_records(tmp_path)
    done = CliRunner().invoke(app, ["compare", str(plan_file), "--records", str(measured), "--json"])
    assert done.exit_code == 0, done.output
    rows = {row["source"]: row for row in json.loads(done.stdout)["medians"]}
    assert rows["simulated"]["latency_mean_err_pct"] == pytest.approx(0.0)


def test_calls_by_llm(tmp_path):
    plan_file, measured = plan_with_records(tmp_path)
    by_llm(plan_file, [measured], tmp_path / "by-llm.csv")
    (row,) = pd.read_csv(tmp_path / "by-llm.csv").to_dict("records")
    calls = load_records(measured / "load1-seed1").calls.to_pandas()
    assert (row["load"], row["seed"], row["llm"]) == (1.0, 1, "m")
    assert row["measured_call_mean_s"] == pytest.approx((calls["end_s"] - calls["issued_s"]).mean(), abs=1e-4)
    assert row["simulated_call_mean_s"] == row["measured_call_mean_s"], "the measurement was a simulation"
    assert pd.isna(row["slowdown"]), "nothing was metered"
