"""Tasks are cached by content, resumed, and the same in any number of processes and on any back end."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from experiments.catalogue import EXPERIMENTS, find_experiment
from experiments.runner import FULL, QUICK, Experiment, Task, row_key, run_experiment, save_table
from scepsy.errors import InputError


def doubled(params: Mapping[str, Any]) -> list[dict[str, Any]]:
    with Path(params["log"]).open("a") as log:
        log.write(f"{params['n']}\n")
    return [{"n": params["n"], "twice": 2 * params["n"], "seed": 1}]


def study(log: Path, count: int = 4) -> Experiment:
    return Experiment(
        "made-up", "doubles", "none", lambda scale: [Task({"n": n, "log": str(log)}) for n in range(count)], doubled
    )


def test_rows_come_in_task_order_and_say_where_they_are_from(tmp_path: Path) -> None:
    table = run_experiment(study(tmp_path / "log"), QUICK, folder=tmp_path, jobs=1)
    assert list(table["twice"]) == [0, 2, 4, 6]
    assert set(table["experiment"]) == {"made-up"}
    assert {"scale", "version", "commit", "code"} <= set(table.columns)


def test_an_interrupted_experiment_goes_on_where_it_stopped(tmp_path: Path) -> None:
    log = tmp_path / "log"
    run_experiment(study(log, 2), QUICK, folder=tmp_path, jobs=1)
    run_experiment(study(log, 4), QUICK, folder=tmp_path, jobs=1)
    assert log.read_text().split() == ["0", "1", "2", "3"]


def test_two_processes_give_the_same_table(tmp_path: Path) -> None:
    one = run_experiment(study(tmp_path / "log"), QUICK, folder=tmp_path / "a", jobs=1)
    two = run_experiment(study(tmp_path / "log"), QUICK, folder=tmp_path / "b", jobs=2)
    pd.testing.assert_frame_equal(one, two)


def test_dask_gives_the_same_table(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    plain = run_experiment(study(tmp_path / "log"), QUICK, folder=tmp_path / "a", jobs=1)
    dask = run_experiment(study(tmp_path / "log"), QUICK, folder=tmp_path / "b", jobs=1, backend="dask")
    pd.testing.assert_frame_equal(plain, dask)


def test_ray_gives_the_same_table(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    plain = run_experiment(study(tmp_path / "log"), QUICK, folder=tmp_path / "a", jobs=1)
    ray = run_experiment(study(tmp_path / "log"), QUICK, folder=tmp_path / "b", jobs=1, backend="ray")
    pd.testing.assert_frame_equal(plain, ray)


def test_the_same_table_is_the_same_bytes(tmp_path: Path) -> None:
    table = run_experiment(study(tmp_path / "log"), QUICK, folder=tmp_path, jobs=1)
    save_table(tmp_path / "a.parquet", table)
    save_table(tmp_path / "b.parquet", table)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


@pytest.mark.parametrize("name", list(EXPERIMENTS))
def test_every_experiment_has_tasks_that_are_json_and_distinct(name: str) -> None:
    for scale in (QUICK, FULL):
        tasks = EXPERIMENTS[name].tasks(scale)
        keys = [row_key(name, json.loads(json.dumps(task.params))) for task in tasks]
        assert tasks
        assert len(set(keys)) == len(keys)
    assert len(EXPERIMENTS[name].tasks(FULL)) >= len(EXPERIMENTS[name].tasks(QUICK))


def test_an_unknown_experiment_is_refused_with_a_hint() -> None:
    with pytest.raises(InputError, match="did you mean headline"):
        find_experiment("headlines")
