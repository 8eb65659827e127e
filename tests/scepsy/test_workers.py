"""Killed and interrupted programs leave no worker computing. Real processes, real signals."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from scepsy.errors import InputError
from scepsy.files.trace import save_trace
from scepsy.generate import generate
from scepsy.workers import delayed, parallel

psutil = pytest.importorskip("psutil")


def twice(number: int) -> int:
    return 2 * number


def test_results_come_in_order() -> None:
    assert list(parallel((delayed(twice)(n) for n in range(5)), jobs=2)) == [0, 2, 4, 6, 8]
    assert sorted(parallel((delayed(twice)(n) for n in range(5)), jobs=1, unordered=True)) == [0, 2, 4, 6, 8]
    with pytest.raises(InputError, match="jobs is 0: must be >= 1"):
        parallel([], jobs=0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_a_killed_plan_leaves_no_worker(
    number: signal.Signals, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """``scepsy plan`` is hit while its workers profile; Ctrl-C reaches them too."""
    record_property("fault", "`scepsy plan` is interrupted, terminated or killed while its workers compute")
    save_trace(tmp_path / "t.jsonl", generate("beam-search", runs=60, seed=1))
    command = [sys.executable, "-c", "from scepsy.start import main; main()", "plan", "-t", str(tmp_path / "t.jsonl")]
    command += ["--rate", "1", "--jobs", "2", "-o", str(tmp_path / "out" / "x.plan.yaml")]
    (tmp_path / "out").mkdir()
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    plan = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, start_new_session=True)
    workers = _busy_workers(plan)
    if number == signal.SIGINT:
        os.killpg(plan.pid, number)
    else:
        plan.send_signal(number)
    out, told = plan.communicate(timeout=60)
    _, left = psutil.wait_procs(workers, timeout=5)
    assert left == []
    assert list((tmp_path / "out").iterdir()) == []
    if number != signal.SIGKILL:
        assert (plan.returncode, out) == (128 + number, "")
        assert told.startswith("scepsy: ")
        assert told.count("\n") == 1, told
    assert "Traceback" not in told


def _busy_workers(plan: subprocess.Popen[str]) -> list[psutil.Process]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert plan.poll() is None, plan.communicate()
        found = [p for p in psutil.Process(plan.pid).children(recursive=True) if "LokyProcess" in " ".join(p.cmdline())]
        if len(found) == 2 and all(sum(p.cpu_times()[:2]) > 2.5 for p in found):
            return found
        time.sleep(0.1)
    raise AssertionError("the workers did not start")
