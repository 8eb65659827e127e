"""A switch on this host, with stub engines: calls go on, what stays is not touched, what does not start is rolled back."""

import json
import os
import signal
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from executor.local.deployment import apply, delete, status, switch
from executor.local.state import ask, load_state
from executor.operate.target import LocalTarget, Unfinished
from executor.random_models import RandomModel
from scepsy.errors import BackendError, InputError
from scepsy.operate.naming import fingerprint
from tests.executor.local_deployments import left, options, program
from tests.executor.test_local import make_plan, make_profiles

PROFILES = make_profiles(RandomModel(name="chat"), RandomModel(name="judge", kind="rerank"))
ONE = make_plan({"chat": [((0,), 40)], "judge": [((0,), 40)]})
TWO = make_plan({"chat": [((0,), 40), ((1,), 40)], "judge": [((0,), 40)]})
OTHER = make_plan({"chat": [((1,), 60)], "judge": [((0,), 40)]})


@pytest.fixture
def folder(tmp_path):
    where = tmp_path / "deployment"
    yield where
    delete(where, 5)
    assert left(where) == []


class Clients:
    """Calls to one LLM, one after another, until told to stop."""

    def __init__(self, url: str, llm: str = "chat") -> None:
        self.url, self.llm, self.answers = url, llm, []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._go, args=(n,)) for n in range(3)]
        for thread in self._threads:
            thread.start()

    def _go(self, number: int) -> None:
        sent = 0
        while not self._stop.is_set():
            sent += 1
            self.answers.append(call(self.url, self.llm, f"{number}-{sent}"))
            time.sleep(0.02)

    def stop(self) -> list[object]:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        return self.answers


def call(url: str, llm: str, name: str) -> object:
    """The tokens that came back, or what went wrong."""
    body = json.dumps({"model": llm, "prompt": "x", "max_tokens": 2, "stub": {"delay_s": 0.05}}).encode()
    headers = {"content-type": "application/json", "x-request-id": name}
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{url}/v1/completions", body, headers), timeout=30) as answer:
            return (name, len(json.load(answer)["choices"][0]["text"].split()))
    except urllib.error.HTTPError as error:
        return (name, error.code)
    except OSError as error:
        return (name, str(error))


def serving(folder: Path) -> dict[str, int]:
    """Process id by what the engine is and where."""
    state = load_state(folder)
    assert state is not None
    return {child.name: child.pid for child in state.children}


def test_growing_touches_nothing_that_runs_and_loses_no_call(tmp_path, folder):
    state = apply(ONE, PROFILES, options(program(tmp_path)), folder)
    before = serving(folder)
    clients = Clients(state.gateway.url)
    seen: list[str] = []
    after = switch(folder, TWO, seen.append)
    time.sleep(2)
    answers = clients.stop()
    assert {answer[1] for answer in answers} == {2}, "every call was answered, in full"
    assert len({answer[0] for answer in answers}) == len(answers)
    assert after.plan == fingerprint(TWO)
    assert state.since_s >= (folder / "options.json").stat().st_mtime + 0.4, "since its engines serve, not since it was written"
    assert after.since_s > state.since_s
    assert {name: pid for name, pid in serving(folder).items() if name in before} == before
    assert seen[-1] == "switch: done"
    assert status(folder)["phase"] == "healthy"
    assert len(status(folder)["instances"]) == 3


def test_an_engine_with_free_cores_moves_without_losing_a_call(tmp_path, folder):
    """The new engine stands elsewhere, so it comes first and the old one goes after."""
    state = apply(ONE, PROFILES, options(program(tmp_path)), folder)
    before = serving(folder)
    clients = Clients(state.gateway.url)
    switch(folder, OTHER)
    time.sleep(2)
    answers = clients.stop()
    assert {answer[1] for answer in answers} == {2}
    now = serving(folder)
    assert now["judge-0"] == before["judge-0"]
    assert before["chat-0"] not in now.values()
    assert len(now) == 2


def test_going_back_and_forth_leaves_what_the_plan_says(tmp_path, folder):
    apply(ONE, PROFILES, options(program(tmp_path)), folder)
    for plan in (TWO, OTHER, ONE):
        state = switch(folder, plan)
        assert state.plan == fingerprint(plan)
        assert len(state.children) == len(plan.instances)
        assert all(child.phase == "healthy" for child in state.children)


def test_the_plan_that_runs_already_is_done_at_once(tmp_path, folder):
    apply(ONE, PROFILES, options(program(tmp_path)), folder)
    before = serving(folder)
    switch(folder, ONE)
    assert serving(folder) == before


def test_an_engine_that_cannot_start_is_rolled_back(tmp_path, folder, record_property):
    record_property("fault", "a switch to an engine that cannot start ×1")
    refuse = tmp_path / "refuse"
    python = program(tmp_path, f"[ -e {refuse} ] && exit 7")
    state = apply(ONE, PROFILES, options(python), folder)
    before = serving(folder)
    clients = Clients(state.gateway.url, "chat")
    refuse.touch()
    with pytest.raises(BackendError, match=r"chat-1 did not start: exit 7.*the plan before it serves"):
        switch(folder, TWO)
    refuse.unlink()
    answers = clients.stop()
    assert {answer[1] for answer in answers} == {2}
    assert serving(folder) == before
    after = ask(load_state(folder).deployment)
    assert (after.plan, after.switch.phase) == (fingerprint(ONE), "rolled back")
    assert status(folder)["phase"] == "healthy"


def test_what_had_to_go_comes_back_when_the_new_does_not_start(tmp_path, folder, eventually, record_property):
    record_property("fault", "a switch that had drained engines and cannot start the new ×1")
    refuse = tmp_path / "refuse"
    python = program(tmp_path, f"[ -e {refuse} ] && rm {refuse} && exit 7")
    apply(ONE, PROFILES, options(python), folder)
    larger = make_plan({"chat": [((0,), 60)], "judge": [((0,), 40)]})  # on the core of the one that runs
    refuse.touch()
    with pytest.raises(BackendError, match="the plan before it serves"):
        switch(folder, larger)
    eventually(lambda: status(folder)["phase"] == "healthy", 15, "the old plan")
    assert ask(load_state(folder).deployment).plan == fingerprint(ONE)
    assert len(status(folder)["instances"]) == 2


def test_a_plan_for_another_host_is_refused_before_anything_is_touched(tmp_path, folder):
    apply(ONE, PROFILES, options(program(tmp_path)), folder)
    before = serving(folder)
    far = make_plan({"chat": [((900,), 40)], "judge": [((0,), 40)]}, gpus=901)
    with pytest.raises(InputError, match="core 900 is not here"):
        switch(folder, far)
    assert serving(folder) == before


def test_a_killed_command_leaves_a_switch_that_ends_by_itself(tmp_path, folder, eventually, record_property):
    record_property("fault", "kill -9 of the command in the middle of a switch ×1")
    apply(ONE, PROFILES, options(program(tmp_path)), folder)
    child = os.fork()
    if child == 0:
        switch(folder, TWO, token="abc")
        os._exit(0)
    eventually(lambda: ask(load_state(folder).deployment).switch is not None, 10, "the begin")
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert switch(folder, TWO, token="abc").switch.phase == "done", "the same order is not carried out twice"
    assert len(load_state(folder).children) == 3


def test_without_a_supervisor_nothing_can_be_switched(tmp_path, folder):
    state = apply(ONE, PROFILES, options(program(tmp_path)), folder)
    os.kill(state.supervisor.pid, signal.SIGKILL)
    time.sleep(0.3)
    with pytest.raises(InputError, match="no supervisor runs there"):
        switch(folder, TWO)


def test_a_switch_whose_supervisor_is_killed_is_gone_on_with(tmp_path, folder, record_property):
    """Neither plan serves for sure then, so the switch is not called rolled back: asked for again, the plan is applied."""
    record_property("fault", "kill -9 of the supervisor in the middle of a switch that operate ordered ×1")
    state = apply(ONE, PROFILES, options(program(tmp_path)), folder)
    killed = []

    def kill(line: str) -> None:
        if line == "switch: starting" and not killed:
            killed.append(os.kill(state.supervisor.pid, signal.SIGKILL))

    target = LocalTarget(folder)
    with pytest.raises(Unfinished, match="the supervisor ended meanwhile"):
        target.switch(TWO, "abc", kill)
    target.switch(TWO, "abc")
    assert killed
    assert fingerprint(target.running()) == load_state(folder).plan == fingerprint(TWO)
    assert status(folder)["phase"] == "healthy"
    assert len(status(folder)["instances"]) == 3
