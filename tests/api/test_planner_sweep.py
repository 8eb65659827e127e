"""Planners against rates: every row is accounted for, and the table does not depend on how many processes made it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from scepsy.api.demo_page import side_by_side, within_tolerance
from scepsy.api.offered import exactly, work_s
from scepsy.api.planner_sweep import plan_all, sweep
from scepsy.api.point import Replay, measure, simulator
from scepsy.api.prepare import Load, loads_of, prepare
from scepsy.api.settle import checks_of
from scepsy.arrivals import issue
from scepsy.backend import Stream, Workload
from scepsy.errors import InputError
from scepsy.generate import generate
from scepsy.plans import Plan
from scepsy.profile.catalogue import builtin_profiles, cluster_of
from scepsy.records import CALL_SCHEMA, RUN_SCHEMA, Records
from scepsy.search.problem import Problem
from scepsy.steady.verdict import Sample, measured
from scepsy.workload import Arrivals

PLANNERS = ("exact", "equal")


@pytest.fixture(scope="module")
def load() -> Load:
    return Load(trace=generate("rag-rerank", runs=40, seed=5), arrivals=Arrivals(rate_per_s=1.0))


@pytest.fixture(scope="module")
def problem(load: Load, tmp_path_factory: pytest.TempPathFactory) -> Problem:
    cluster = cluster_of(4)
    profiles = builtin_profiles(load.trace.llms, cluster.gpu_types, degrees=(1, 2))
    return prepare([load], cluster, profiles, seed=1, cache_dir=tmp_path_factory.mktemp("cache"))


def test_the_same_table_from_one_process_and_from_two(problem: Problem, load: Load) -> None:
    planned = plan_all(problem, PLANNERS, (0.2, 0.5), 8.0)
    tables = [sweep(problem, load.stream, planned, least_runs=800, seeds=(1, 2), jobs=jobs) for jobs in (1, 2)]
    pd.testing.assert_frame_equal(*tables)
    table = tables[0]
    assert len(table) == 2 * 2 * (1 + 2)
    simulated = table[table["source"] == "simulated"]
    assert (simulated["issued"] == simulated["completed"] + simulated["rejected"]).all()
    assert simulated["latency_mean_s"].gt(0).all()
    assert (simulated.groupby("rate_per_s")["issued"].nunique() == 1).all(), "every planner is measured over the same runs"
    steady = simulated[simulated["stable"]]
    assert len(steady) >= 6
    assert (steady["throughput_per_s"] / steady["offered_per_s"]).between(0.96, 1.04).all()
    good, checked, worst = within_tolerance(side_by_side(table.assign(settled=True)))
    assert checked > 0
    assert good == checked, worst


def test_curves_are_cached(problem: Problem, load: Load, tmp_path: Path) -> None:
    cluster = cluster_of(4)
    profiles = builtin_profiles(load.trace.llms, cluster.gpu_types, degrees=(1, 2))
    first = prepare([load], cluster, profiles, seed=1, cache_dir=tmp_path)
    files = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    again = prepare([load], cluster, profiles, seed=1, cache_dir=tmp_path)
    assert dict(first.curves) == dict(again.curves) == dict(problem.curves)
    assert files == sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert files


def test_an_overloaded_plan_is_called_unstable_with_the_reason(problem: Problem, load: Load) -> None:
    (one,) = plan_all(problem, ["equal"], [1.0], 1.0)
    stream = Stream(trace=load.trace, arrivals=Arrivals(rate_per_s=14.0))
    (row,) = measure(one.plan, [stream], simulator(problem.profiles), runs=1500, seed=1)
    assert not row["stable"]
    assert not row["settled"]
    assert row["verdict"] == "unstable"
    assert "stays behind" in row["why"]
    assert row["throughput_per_s"] < 0.9 * row["offered_per_s"]
    assert row["issued"] == row["completed"] == 1500


def replayed(latency_s: Callable[[np.ndarray], np.ndarray], lost: int = 0) -> Replay:
    """A backend whose runs take what ``latency_s`` says of their arrivals; every ``lost``-th never completes."""

    def replay(plan: Plan, workload: Workload) -> Records:
        issued = list(issue(workload))
        arrival = np.array([at for at, _, _ in issued])
        gone = np.array([bool(lost) and number % lost == 0 for number in range(len(issued))])
        columns = {
            "run": [name for _, name, _ in issued],
            "workflow": [run.workflow for _, _, run in issued],
            "template": [run.id for _, _, run in issued],
            "arrival_s": arrival,
            "end_s": np.where(gone, np.nan, arrival + latency_s(arrival)),
            "status": np.where(gone, "unfinished", "completed").tolist(),
        }
        missing = {field.name: [None] * len(issued) for field in RUN_SCHEMA if field.name not in columns}
        return Records(
            runs=pa.table(columns | missing).select(RUN_SCHEMA.names).cast(RUN_SCHEMA), calls=CALL_SCHEMA.empty_table(), meta={}
        )

    return replay


def measured_row(problem: Problem, load: Load, replay: Replay, runs: int = 3000) -> dict[str, Any]:
    (one,) = plan_all(problem, ["equal"], [1.0], 1.0)
    (row,) = measure(one.plan, [Stream(trace=load.trace, arrivals=Arrivals(rate_per_s=10.0))], replay, runs=runs, seed=1)
    return row


def test_the_warm_up_is_not_measured(problem: Problem, load: Load) -> None:
    # a cluster that is ten times as slow for the first 30 s
    noise = np.random.default_rng(1)
    row = measured_row(problem, load, replayed(lambda at: np.where(at < 30.0, 10.0, 1.0) * noise.uniform(0.9, 1.1, len(at))))
    assert row["latency_mean_s"] == pytest.approx(1.0, rel=0.01)
    assert row["settled"]


def test_runs_that_do_not_complete_are_counted_against_the_plan(problem: Problem, load: Load) -> None:
    row = measured_row(problem, load, replayed(lambda at: np.full(len(at), 1.0), lost=5))
    assert (row["issued"], row["completed"]) == (3000, 2400)
    assert (row["stable"], row["verdict"]) == (False, "unstable")
    assert row["throughput_per_s"] == pytest.approx(8.0, rel=0.03), "completed runs only"
    assert row["offered_per_s"] == pytest.approx(10.0, rel=0.03)


def test_latency_that_grows_is_not_stable_whatever_its_factor(problem: Problem, load: Load) -> None:
    # 8 % more work than the cluster can do: latency stays below five times the unloaded one, and yet it grows
    row = measured_row(problem, load, replayed(lambda at: 20.0 + 0.08 * at), runs=16_000)
    assert row["latency_mean_s"] < 5 * 20.0
    assert row["verdict"] == "unstable"


def test_a_constant_high_latency_is_stable(problem: Problem, load: Load) -> None:
    noise = np.random.default_rng(1)
    row = measured_row(problem, load, replayed(lambda at: 6.0 * noise.uniform(0.9, 1.1, len(at))))
    assert row["stable"]


def test_offered_work_is_exactly_what_was_asked_for(load: Load) -> None:
    for runs, seed in ((150, 1), (777, 2)):
        asked = Stream(trace=load.trace, arrivals=Arrivals(rate_per_s=10.0), order="sampled")
        drawn = list(issue(exactly([asked], runs=runs, seed=seed)))
        mean = np.mean([work_s(run) for run in load.trace.runs])
        assert sum(work_s(run) for _, _, run in drawn) / drawn[-1][0] == pytest.approx(10.0 * mean, rel=1e-9)
        plain = list(issue(Workload(streams=(asked,), runs=runs, seed=seed)))
        assert [run.id for _, _, run in plain] == [run.id for _, _, run in drawn], "the same runs in the same order"


def test_a_limit_is_kept_only_with_its_whole_interval() -> None:
    rng = np.random.default_rng(1)
    arrival = np.cumsum(rng.exponential(1.0, 4_000))
    one = measured(Sample(arrival, arrival + rng.exponential(1.0, 4_000), np.ones(4_000)))
    mean, width = one.latency.value, one.latency.half_width

    def kept(limit: float) -> bool:
        return next(check for check in checks_of("w", one, limit, None, None) if check["name"] == "max_latency_s")["ok"]

    assert kept(mean + 1.01 * width)
    assert not kept(mean + 0.99 * width)
    assert [c["ok"] for c in checks_of("w", one, None, 10.0, 0.9)] == [True] * 4
    assert [c["ok"] for c in checks_of("w", one, None, 2.0, 1.2)] == [True, True, False, False]


def test_loads_need_one_rate_for_each_workflow() -> None:
    trace = generate("rag-rerank", runs=2, seed=1)
    with pytest.raises(InputError, match="once for each of 1 workflows"):
        loads_of([(trace, "")], [1.0, 2.0], Arrivals(rate_per_s=1.0))
    with pytest.raises(InputError, match="one trace only"):
        loads_of([(trace, ""), (trace, "")], [1.0, 2.0], Arrivals(rate_per_s=1.0))
