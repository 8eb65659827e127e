"""The speed probe with work and clocks of our own; only one test runs the real thing, and asks nothing of its times."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from executor import measure
from executor.speed import (
    LEAST_SAMPLES,
    Sample,
    full_speed_clock,
    full_speed_s,
    probing,
    read_samples,
    round_of,
    slowdown,
)


def samples(*slow, core=0, reference_s=0.002, period_s=1.0):
    return [Sample(at_s=period_s * i, core=core, cpu_s=reference_s * factor) for i, factor in enumerate(slow)]


def test_a_round_times_the_work_on_every_core_by_its_cpu_clock():
    clock_s, bound = [0.0], []

    def work():
        clock_s[0] += 0.002 * (1 + bound[-1])  # core 1 takes twice as long

    found = round_of([0, 1], work, bind=bound.append, cpu_s=lambda: clock_s[0], now_s=lambda: 100.0)
    assert bound == [0, 1]
    assert [(sample.core, sample.at_s) for sample in found] == [(0, 100.0), (1, 100.0)]
    assert [sample.cpu_s for sample in found] == pytest.approx([0.002, 0.004])


def test_full_speed_is_near_the_fastest_and_unknown_for_few_samples():
    assert full_speed_s(samples(*[1.0] * 10, *[1.7] * 90)) == pytest.approx(0.002)
    assert full_speed_s(samples(*[0.1], *[1.0] * 99)) > 0.0019, "one lucky sample is not full speed"
    assert full_speed_s(samples(*[1.0] * (LEAST_SAMPLES - 1))) is None


def test_slowdown_is_that_of_the_cores_and_times_asked_for():
    both = samples(1.0, 2.0, 3.0) + samples(5.0, 5.0, 5.0, core=1)
    assert slowdown(both, 0.002, [0]) == pytest.approx(2.0)
    assert slowdown(both, 0.002, [0], 0.5, 1.5) == pytest.approx(2.0)
    assert slowdown(both, 0.002, [0, 1], 1.5) == pytest.approx(4.0)
    assert slowdown(both, 0.002, [2]) is None
    assert slowdown(both, 0.002, [0], 10, 20) is None


def test_the_clock_runs_slower_where_the_machine_does():
    clock = full_speed_clock(samples(1.0, 1.0, 2.0, 2.0), 0.002, [0])  # full speed until 1.5 s, then half
    assert clock(np.array([0.0, 1.0, 1.5, 2.5, 3.0, 5.0])).tolist() == pytest.approx([0.0, 1.0, 1.5, 2.0, 2.25, 3.25])
    assert clock(np.array([-2.0]))[0] == pytest.approx(-2.0)
    assert full_speed_clock([], 0.002, [0])(np.array([7.0]))[0] == 7.0
    two = full_speed_clock(samples(1.0, 1.0) + samples(3.0, 3.0, core=1), 0.002, [0, 1])
    assert two(np.array([1.0]))[0] - two(np.array([0.0]))[0] == pytest.approx(0.5), "the mean over the cores"


@given(st.lists(st.floats(0.5, 4.0), min_size=1, max_size=20), st.lists(st.floats(-5, 30), min_size=2, max_size=20))
def test_the_clock_never_goes_back_and_keeps_within_the_slowdowns(slow, at):
    times = np.sort(np.array(at))
    gone = np.diff(full_speed_clock(samples(*slow), 0.002, [0])(times))
    assert (gone >= np.diff(times) / max(slow) - 1e-9).all()
    assert (gone <= np.diff(times) / min(slow) + 1e-9).all()


def test_a_line_that_was_cut_off_is_left_out(tmp_path):
    path = tmp_path / "speed.jsonl"
    assert read_samples(path) == []
    path.write_text(json.dumps({"at_s": 1.0, "core": 0, "cpu_s": 0.002}) + '\n{"at_s": 2.0, "co')
    assert read_samples(path) == [Sample(1.0, 0, 0.002)]


def until(condition, limit_s=30.0):
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_the_probe_writes_while_the_block_runs_and_is_gone_after_it(tmp_path):
    path, core = tmp_path / "speed.jsonl", min(os.sched_getaffinity(0))
    before = set(psutil.Process().children())
    with probing(path, [core]):
        (probe,) = set(psutil.Process().children()) - before
        until(lambda: len(read_samples(path)) >= 2)
    assert not probe.is_running()
    assert all(sample.core == core and sample.cpu_s > 0 for sample in read_samples(path))


def test_the_probe_ends_when_who_started_it_is_killed(tmp_path):
    path = tmp_path / "speed.jsonl"
    code = (
        "import sys, time; from pathlib import Path; from executor.speed import probing\n"
        f"with probing(Path({str(path)!r}), [{min(os.sched_getaffinity(0))}]): print('up', flush=True); time.sleep(60)"
    )
    starter = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert starter.stdout.readline().strip() == "up"
    until(lambda: path.exists() and len(read_samples(path)) >= 1)
    (probe,) = psutil.Process(starter.pid).children()
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    until(lambda: not probe.is_running() or probe.status() == psutil.STATUS_ZOMBIE)


def test_the_children_of_a_deployments_processes_are_its_own_even_without_its_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = "import time\nwhile time.process_time() < 0.3: pass\ntime.sleep(60)"
    shell = subprocess.Popen(["sh", "-c", f"{sys.executable} -c '{busy}' & wait"], start_new_session=True)
    try:
        monkeypatch.setattr(measure, "load_state", lambda folder: SimpleNamespace(deployment="d"))
        monkeypatch.setattr(measure, "marked", lambda deployment: [psutil.Process(shell.pid)])
        before = psutil.Process().cpu_times()
        until_s = time.monotonic() + 20
        while (spent_s := measure._cpu_s(tmp_path)[1]) < before.user + before.system + 0.25 and time.monotonic() < until_s:
            time.sleep(0.2)
        now = psutil.Process().cpu_times()
        assert spent_s - now.user - now.system > 0.2
    finally:
        os.killpg(shell.pid, signal.SIGKILL)
        shell.wait()
