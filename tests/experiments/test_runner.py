"""Tasks are cached by content, resumed, and the same in any number of processes and on any back end."""

import json
import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from experiments import runner
from experiments.catalogue import EXPERIMENTS, find_experiment
from experiments.runner import FULL, QUICK, Experiment, Row, Scale, Task, row_key, run_experiment, save_table
from scepsy.errors import InputError
from sim.world.run import simulate


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
    with pytest.raises(InputError, match="did you mean evaluation"):
        find_experiment("evaluations")


def test_a_stage_sees_the_rows_of_the_stages_before_and_is_resumed_with_them(tmp_path: Path) -> None:
    log = tmp_path / "log"

    def second(scale: Scale, rows: Sequence[Row]) -> list[Task]:
        return [Task({"n": 10 * row["twice"], "log": str(log)}) for row in rows]

    first = study(log, 2)
    staged = replace(first, stages=(second,))
    counted: list[int] = []

    def progress(amount: int = 1, *, total: int | None = None, what: str | None = None) -> None:
        counted.append(amount)

    table = run_experiment(staged, QUICK, folder=tmp_path, jobs=1, progress=progress)
    assert list(table["n"]) == [0, 1, 0, 20]
    assert sum(counted) == 4
    assert run_experiment(staged, QUICK, folder=tmp_path, jobs=1).equals(table)
    assert log.read_text().split() == ["0", "1", "20"]  # n = 0 is one task, asked for twice


def slowly(params: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A task that takes a while, and says which process did it."""
    Path(params["log"]).mkdir(exist_ok=True)
    (Path(params["log"]) / f"{params['n']}-{os.getpid()}").touch()
    time.sleep(0.2)
    return [{"n": params["n"], "twice": 2 * params["n"], "seed": 1}]


def test_a_dask_worker_killed_in_the_middle_costs_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("distributed")
    log = tmp_path / "log"
    tasks = [Task({"n": n, "log": str(log)}) for n in range(24)]
    study = Experiment("made-up", "slow doubles", "none", lambda scale: tasks, slowly)
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
    ) as cluster:
        monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", cluster.scheduler_address)

        def killed() -> None:
            while not log.exists() or len(list(log.iterdir())) < 4:
                time.sleep(0.05)
            os.kill(int(next(log.iterdir()).name.partition("-")[2]), signal.SIGKILL)

        killer = threading.Thread(target=killed)
        killer.start()
        table = run_experiment(study, QUICK, folder=tmp_path, jobs=2, backend="dask")
        killer.join()
    assert list(table["twice"]) == [2 * n for n in range(24)]
    assert len({name.name.partition("-")[2] for name in log.iterdir()}) >= 2


def test_time_is_estimated_from_the_interpreted_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    engines = []

    def noting(*given: Any, **options: Any) -> Any:
        engines.append(options["engine"])
        return simulate(*given, **options)

    monkeypatch.setattr(runner, "simulate", noting)
    assert runner.calls_per_s() > 0
    assert engines == ["simpy", "simpy"]
