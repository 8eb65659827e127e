"""Streamed records equal kept ones, appear whole or not at all, and keep a long simulation's memory bounded."""

import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from scepsy.files.records import load_records, records_paths
from sim.compiled import machine
from sim.world.recorder import RecordWriter
from sim.world.run import simulate
from sim.world.stream import RecordsStream
from tests.builders.memory import PEAK_KIB
from tests.builders.simulated import load, plan, profile, profile_set, single_calls


@pytest.mark.usefixtures("on_both_engines")
def test_streamed_records_equal_kept_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(RecordWriter.__init__, "__defaults__", (100,))  # many small batches
    monkeypatch.setattr(machine, "ROWS", 100)
    one = profile()
    arguments = (plan((one, 100, 2)), load(single_calls(100), 8.0, runs=550, seed=1))
    kept = simulate(*arguments, profiles=profile_set(one))
    with RecordsStream(tmp_path / "x") as stream:
        empty = simulate(*arguments, profiles=profile_set(one), sink=stream)
        stream.describe(empty.meta)
        assert not list(tmp_path.glob("x.*"))
    read = load_records(tmp_path / "x")
    assert read.runs.equals(kept.runs.combine_chunks())
    assert read.calls.equals(kept.calls.combine_chunks())
    assert dict(read.meta) == dict(kept.meta)
    assert stream.rows == {"runs": 550, "calls": 550}


def test_an_error_leaves_no_file(tmp_path):
    with pytest.raises(RuntimeError), RecordsStream(tmp_path / "x"):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


_MILLION = """
import sys
sys.path.insert(0, {root!r})
from sim.world.run import simulate
from sim.world.stream import RecordsStream
from tests.builders.simulated import load, plan, profile, profile_set, single_calls
one = profile()
with RecordsStream({path!r}) as stream:
    simulate(plan((one, 100, 4)), load(single_calls(), 22.0, runs={runs}, seed=1), profiles=profile_set(one), sink=stream,
             engine={engine!r})
print({peak})
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "calls", "mebibytes"), [("simpy", 10**6, 400), ("compiled", 10**6, 400), ("compiled", 10**7, 1024)]
)
def test_millions_of_streamed_calls_fit(tmp_path, pytestconfig, benchmark, engine, calls, mebibytes):
    code = _MILLION.format(root=str(pytestconfig.rootpath), path=str(tmp_path / "x"), runs=calls, peak=PEAK_KIB, engine=engine)
    command = [sys.executable, "-c", code]
    done = benchmark.pedantic(lambda: subprocess.run(command, capture_output=True, text=True, check=True))
    benchmark.extra_info["MiB"] = int(done.stdout) // 1024
    assert int(done.stdout) < mebibytes * 1024  # KiB
    assert pq.read_metadata(records_paths(tmp_path / "x")[1]).num_rows == calls
