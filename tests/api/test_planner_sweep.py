"""Planners against rates: every row is accounted for, and the table does not depend on how many processes made it."""

from pathlib import Path

import pandas as pd
import pytest

from scepsy.api.demo_page import side_by_side, within_tolerance
from scepsy.api.measure import measure, simulator
from scepsy.api.planner_sweep import plan_all, sweep
from scepsy.api.prepare import Load, loads_of, prepare
from scepsy.backend import Stream
from scepsy.errors import InputError
from scepsy.generate import generate
from scepsy.profile.catalogue import builtin_profiles, cluster_of
from scepsy.search.problem import Problem
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
    tables = [sweep(problem, load.stream, planned, least_runs=60, seeds=(1, 2), jobs=jobs) for jobs in (1, 2)]
    pd.testing.assert_frame_equal(*tables)
    table = tables[0]
    assert len(table) == 2 * 2 * (1 + 2)
    simulated = table[table["source"] == "simulated"]
    assert (simulated["issued"] == simulated["completed"] + simulated["rejected"]).all()
    assert simulated["latency_mean_s"].gt(0).all()
    assert (simulated.groupby("rate_per_s")["issued"].nunique() == 1).all(), "every planner is measured over the same runs"
    good, checked, worst = within_tolerance(side_by_side(table))
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
    stream = Stream(trace=load.trace, arrivals=Arrivals(rate_per_s=200.0))
    (row,) = measure(one.plan, [stream], simulator(problem.profiles), runs=1500, seed=1, unloaded={"rag-rerank": 2.4})
    assert not row["stable"]
    assert "in time" in row["why"] or "unloaded" in row["why"]
    assert row["issued"] == row["completed"] == 1500


def test_loads_need_one_rate_for_each_workflow() -> None:
    trace = generate("rag-rerank", runs=2, seed=1)
    with pytest.raises(InputError, match="once for each of 1 workflows"):
        loads_of([(trace, "")], [1.0, 2.0], Arrivals(rate_per_s=1.0))
    with pytest.raises(InputError, match="one trace only"):
        loads_of([(trace, ""), (trace, "")], [1.0, 2.0], Arrivals(rate_per_s=1.0))
