"""Sweeps: complete, ordered, equal on every back end; a cluster of processes included."""

import os

import joblib
import pytest

from scepsy.errors import InputError, SimulationError
from scepsy.metrics import summarise
from sim.profiling.sweep import grid, sweep
from sim.world.run import simulate
from tests.builders.simulated import load, plan, profile, profile_set, single_calls


def latency(rate_per_s: float, seed: int) -> float:
    one = profile()
    records = simulate(plan((one, 100, 2)), load(single_calls(100), rate_per_s, runs=60, seed=seed), profiles=profile_set(one))
    return summarise(records)["latency_s"]["mean"]


def failing(rate_per_s: float) -> float:
    raise SimulationError(f"no such rate {rate_per_s}")


def process(number: int) -> int:
    return os.getpid()


POINTS = grid(rate_per_s=[2.0, 10.0], seed=range(2))


def test_every_combination_once_last_axis_fastest():
    assert [(point["rate_per_s"], point["seed"]) for point in POINTS] == [(2.0, 0), (2.0, 1), (10.0, 0), (10.0, 1)]


def test_processes_give_what_one_gives_in_the_same_order():
    alone = sweep(latency, POINTS, jobs=1)
    seen = []
    assert sweep(latency, POINTS, jobs=2, progress=lambda amount=1, *, total=None, what=None: seen.append(amount)) == alone
    assert seen == [1] * 4
    assert len(set(alone)) == 4


def test_the_same_sweep_on_a_dask_cluster_of_processes():
    distributed = pytest.importorskip("distributed")
    alone = sweep(latency, POINTS, jobs=1)
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        distributed.Client(cluster),
        joblib.parallel_config(backend="dask"),
    ):
        assert sweep(latency, POINTS) == alone
        assert os.getpid() not in sweep(process, grid(number=range(4)))


def test_an_error_in_a_worker_is_raised_here():
    with pytest.raises(SimulationError, match=r"no such rate 3\.0"):
        sweep(failing, grid(rate_per_s=[3.0]), jobs=2)


def test_nothing_to_sweep_is_refused():
    with pytest.raises(InputError, match="sweep has 0 points"):
        sweep(latency, grid(rate_per_s=[], seed=[1]))
    with pytest.raises(InputError, match="jobs is 0"):
        sweep(latency, POINTS, jobs=0)
