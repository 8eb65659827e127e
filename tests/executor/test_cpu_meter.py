"""What engines did and the CPU time it took: by hand, against a stub engine's counters, and of real processes."""

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from executor import cpu_meter as meter_module
from executor.cpu_meter import EngineWork, Meter, Shape, cpu_s_of, decode, encode, shape_of, work_so_far
from executor.local.identity import born
from executor.local.state import Child
from scepsy.profile.step import StepModel

STEP = StepModel(
    base_s=0.01, prefill_s_per_token=1e-4, decode_s_per_sequence=1e-3, context_s_per_token=1e-6, attention_s_per_token2=1e-7
)


def test_work_adds_up():
    one = EngineWork(cpu_s=1.0, iterations=10, prompt_tokens=100, decoded_tokens=20)
    assert (one + one).step_s(STEP, Shape(40.0, 50.0)) == pytest.approx(2 * one.step_s(STEP, Shape(40.0, 50.0)))
    assert (one + one) - one == one


@given(st.lists(st.tuples(st.integers(1, 300), st.integers(1, 40)), min_size=1, max_size=6))
def test_seconds_of_counted_work_are_those_of_its_iterations(calls):
    """Calls one after another, iteration by iteration: the first token comes with the prompt."""
    seconds = 0.0
    for inputs, outputs in calls:
        seconds += STEP.step_s(inputs, inputs**2 / 2, 0, 0)
        seconds += sum(STEP.step_s(0, 0, 1, inputs + n) for n in range(1, outputs))
    work = EngineWork(
        iterations=sum(outputs for _, outputs in calls),
        prompt_tokens=sum(inputs for inputs, _ in calls),
        decoded_tokens=sum(outputs - 1 for _, outputs in calls),
    )
    assert work.step_s(STEP, shape_of(*zip(*calls, strict=True))) == pytest.approx(seconds)


def test_work_survives_its_text():
    work = {"a-0": EngineWork(1.5, 2.0, 3.0, 4.0), "b-0": EngineWork()}
    assert decode(encode(work)) == work


def test_a_meter_reads_what_an_engine_did_since(stub):
    engine = stub()
    child = Child(name="m-0", pid=engine.pid, born=born(engine.pid), url=engine.url)
    engine.post("/v1/completions", {"model": "m", "prompt": [1] * 30, "max_tokens": 5})
    meter = Meter([child, Child(name="gone-0", pid=engine.pid, born="", url="http://127.0.0.1:9")], idle_s=0.1)
    for _ in range(2):
        engine.post("/v1/completions", {"model": "m", "prompt": [1] * 20, "max_tokens": 4})
    engine.post("/v1/score", {"model": "m", "text_1": "a", "text_2": ["b"]})
    (found,) = meter.read().values()
    prompt = 2 * 20 + len('["b"]')
    assert (found.iterations, found.prompt_tokens, found.decoded_tokens) == (2 * 4 + 1, prompt, 2 * 4 - 3)
    assert found.cpu_s >= 0.0
    engine.kill()
    assert meter.read() == {}
    assert work_so_far(child) is None


def test_what_an_engine_takes_while_idle_is_not_work(monkeypatch):
    """2 % of a core idle; then 1 s of work in 10 s, on a clock and with counters of our own."""
    now_s, cpu_s = [0.0], [5.0]

    def gone(seconds, work_s=0.0):
        now_s[0] += seconds
        cpu_s[0] += 0.02 * seconds + work_s

    monkeypatch.setattr(meter_module, "time", SimpleNamespace(monotonic=lambda: now_s[0], sleep=gone))
    monkeypatch.setattr(meter_module, "work_so_far", lambda engine: EngineWork(cpu_s=cpu_s[0]))
    meter = Meter([Child(name="m-0", pid=1, born="")])
    gone(100.0)  # idle, before it is started
    meter.start()
    gone(10.0, work_s=1.0)
    assert meter.read()["m-0"].cpu_s == pytest.approx(1.0)
    gone(5.0)
    assert meter.read()["m-0"].cpu_s == pytest.approx(1.0)


def test_an_engine_that_was_restarted_behind_its_url_is_left_out(stub):
    first, second = stub(), stub()
    known = born(first.pid)
    first.kill()
    assert work_so_far(Child(name="m-0", pid=first.pid, born=known, url=second.url)) is None
    assert work_so_far(Child(name="m-0", pid=second.pid, born=born(second.pid), url=second.url)) is not None


def test_the_children_of_a_process_are_its_own():
    busy = "import time\nwhile time.process_time() < 0.3: pass\ntime.sleep(60)"
    shell = subprocess.Popen(["sh", "-c", f"{sys.executable} -c '{busy}' & wait"], start_new_session=True)
    try:
        until_s = time.monotonic() + 20
        while (spent_s := cpu_s_of([psutil.Process(shell.pid)])) < 0.25 and time.monotonic() < until_s:
            time.sleep(0.2)
        assert spent_s > 0.2
    finally:
        os.killpg(shell.pid, signal.SIGKILL)
        shell.wait()
