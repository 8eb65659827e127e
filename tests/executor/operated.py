"""A deployment on this host that is really operated: real engines or stubs, real calls, ``scepsy operate`` as a process.

One LLM on two cores. Up to about four runs a second one core carries it, by its profile, beyond that two.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from math import fsum
from pathlib import Path

import aiohttp
import msgspec

import scepsy
from executor.local.deployment import apply
from executor.local.engine_metrics import read_metrics
from executor.local.options import LocalOptions
from executor.local.state import State, ask, load_state
from executor.operate.journal import Entry, explained, read
from executor.operate.operator import LOG
from executor.random_models import RandomModel
from scepsy.cluster import Cluster, Node
from scepsy.files.plan import load_plan, save_plan
from scepsy.files.profiles import save_profiles
from scepsy.files.trace import save_trace
from scepsy.importers.recorded.reader import load_recording
from scepsy.operate.naming import fingerprint
from scepsy.plans import Plan
from scepsy.profile.model import EngineLimits, ProfileSet
from scepsy.rng import stream
from scepsy.search.problem import Goal
from scepsy.workload import Call, Run, Trace, TraceSource
from tests.executor.test_local import CORE, make_profiles

W = "chat"
MODEL = RandomModel(name="chat")
LOW_PER_S, HIGH_PER_S = 2.0, 7.0
LIMIT_S = 2.0
TOKENS = (36, 45)
ENGINE = EngineLimits(max_num_seqs=2, max_num_batched_tokens=1024, activation_bytes=2**26, block_tokens=32)
CLUSTER = Cluster(name="two cores", gpu_types=(CORE,), nodes=(Node(name="localhost", gpu_type=CORE.name, gpus=2),))
DYING = Path(__file__).with_name("dying_operate.py")


def tokens_of(number: int) -> int:
    """Tokens that run ``number`` asks for."""
    low, high = TOKENS
    return low + number % (high - low)


def prompt_of(number: int) -> list[int]:
    """Its prompt, as token ids."""
    return [32 + (7 * number + place) % 90 for place in range(20 + number % 10)]


def made_up() -> tuple[Trace, ProfileSet, Plan]:
    """What the runs look like, what is believed of the engine, and the plan for the low rate: one core."""
    runs = tuple(
        Run(
            id=f"t{n}",
            workflow=W,
            calls=(Call(id="a", llm=MODEL.name, input_tokens=len(prompt_of(n)), output_tokens=tokens_of(n)),),
        )
        for n in range(90)
    )
    trace = Trace(source=TraceSource(origin="made up by a test"), runs=runs)
    profiles = make_profiles(MODEL, engine=ENGINE, degrees=(1,))
    goal = Goal(kind="gpus", limits_s={W: LIMIT_S})
    return trace, profiles, scepsy.plan(trace, rate_per_s=LOW_PER_S, cluster=CLUSTER, profiles=profiles, goal=goal)


@dataclass
class Operated:
    """One deployment in ``home``, its plan file, and what operates it. ``python`` runs the engines."""

    home: Path
    python: str
    models: dict[str, str] = field(default_factory=dict)
    start_s: float = 30.0
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """The deployment's state folder."""
        return self.home / "state" / "scepsy" / "local" / "default"

    @property
    def plan_file(self) -> Path:
        """The plan as a user has it."""
        return self.home / "chat.plan.yaml"

    def deploy(self) -> State:
        """Write the files of a planned workflow, and apply the plan."""
        trace, profiles, plan = made_up()
        assert len(plan.instances) == 1
        save_trace(self.home / "chat.jsonl", trace)
        save_profiles(self.home / "chat.profiles.yaml", profiles)
        targets = tuple(msgspec.structs.replace(target, trace="chat.jsonl") for target in plan.targets)
        save_plan(self.plan_file, msgspec.structs.replace(plan, targets=targets, profiles="chat.profiles.yaml"))
        options = LocalOptions(
            python=self.python,
            models=self.models,
            device="cpu",
            start_timeout_s=self.start_s,
            stop_timeout_s=10,
            record=str(self.home / "calls.jsonl"),
        )
        return apply(plan, profiles, options, self.folder)

    # ---- operating ---------------------------------------------------------------------------------------------------

    def operate(self, *words: str, dies: str = "") -> subprocess.Popen[str]:
        """Start ``scepsy operate --act``; ``dies``: the stage at which it is killed."""
        program = [str(DYING), dies] if dies else ["-c", "from scepsy.cli import main; main()"]
        limits = ["--goal", "gpus", "--max-latency", str(LIMIT_S), "--min-between", "5", "--horizon", "600"]
        looks = ["--look", "0.5", "--run-idle", "2"]
        command = [sys.executable, *program, "operate", str(self.plan_file), "--act", *limits, *looks, *words]
        with (self.home / "operate.log").open("a") as log:
            child = subprocess.Popen(command, env=self.environment(), stdout=log, stderr=log, text=True)
        self.processes.append(child)
        return child

    def explain(self, which: str = "LAST") -> str:
        """What ``--explain`` says."""
        command = [sys.executable, "-c", "from scepsy.cli import main; main()", "operate", str(self.plan_file)]
        done = subprocess.run(
            [*command, "--explain", which], env=self.environment(), capture_output=True, text=True, timeout=60, check=True
        )
        return done.stdout

    def environment(self) -> dict[str, str]:
        """Of every command: the state folder is the test's."""
        here = {"XDG_STATE_HOME": str(self.home / "state"), "XDG_CACHE_HOME": str(self.home / "cache")}
        return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **here}

    def entries(self, kind: str = "") -> list[Entry]:
        """The log."""
        return [entry for entry in read(self.folder / "operate" / LOG) if not kind or entry.kind == kind]

    def until(self, what: str, check: Callable[[], bool], timeout_s: float) -> None:
        """Wait; a failure says what the log and the command said."""
        deadline = time.monotonic() + timeout_s
        while not check():
            if time.monotonic() > deadline:
                said = (self.home / "operate.log").read_text()
                told = [f"{entry.at_s:.0f} s: {line}" for entry in self.entries() for line in explained(entry)]
                lines = "\n".join([*told, f"{len(self.recorded())} calls recorded", f"{time.time():.0f} s: now"])
                raise AssertionError(f"{what} did not happen within {timeout_s:g} s\n{said}\n{lines}")
            time.sleep(0.1)

    def stop(self) -> None:
        """End what operates, as Ctrl-C does."""
        for child in self.processes:
            with suppress(ProcessLookupError):
                child.send_signal(signal.SIGINT)
            child.wait(60)

    # ---- what is there -----------------------------------------------------------------------------------------------

    def state(self) -> State:
        """What the supervisor says."""
        state = load_state(self.folder)
        assert state is not None
        return ask(state.deployment) or state

    def serves(self) -> int:
        """Instances of the plan that serves."""
        state, plan = self.state(), load_plan(self.folder / "plan.yaml")
        assert state.plan == fingerprint(plan)
        return len(plan.instances)

    def finished_by_engines(self) -> float:
        """Calls that the engines which run now say they have finished."""
        return fsum(read_metrics(child.url).get("requests", 0.0) for child in self.state().children)

    def recorded(self) -> Counter[str]:
        """How often each run is in the recording."""
        return Counter(call.run for call in load_recording(self.home / "calls.jsonl").calls)


class Clients:
    """Calls at random times, one per run, at a rate that can be changed. Every answer is kept."""

    def __init__(self, url: str, rate_per_s: float, name: str) -> None:
        self.url, self.rate_per_s, self.name = url, rate_per_s, name
        self.sent: list[str] = []
        self.answers: list[tuple[str, object]] = []
        """(run, completion tokens or what went wrong)"""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._go()), daemon=True)
        self._thread.start()

    def stop(self) -> list[tuple[str, object]]:
        """Send no more, wait for every answer."""
        self._stop.set()
        self._thread.join(120)
        assert not self._thread.is_alive(), "an answer never came"
        return self.answers

    async def _go(self) -> None:
        rng, open_calls = stream(7, "clients"), set()
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=100)) as session:
            while not self._stop.is_set():
                name = f"{self.name}-{len(self.sent)}"
                self.sent.append(name)
                open_calls.add(asyncio.create_task(self._call(session, name, len(self.sent) - 1)))
                await asyncio.sleep(float(rng.exponential(1 / self.rate_per_s)))
            await asyncio.gather(*open_calls)

    async def _call(self, session: aiohttp.ClientSession, name: str, number: int) -> None:
        tokens = tokens_of(number)
        body = {"model": MODEL.name, "prompt": prompt_of(number), "max_tokens": tokens, "ignore_eos": True}
        headers = {"x-scepsy-run": name, "x-scepsy-workflow": W}
        try:
            async with session.post(f"{self.url}/v1/completions", json=body, headers=headers) as answer:
                text = await answer.text()
                told: object = json.loads(text)["usage"]["completion_tokens"] if answer.status == 200 else text
                self.answers.append((name, told))
        except (aiohttp.ClientError, OSError, ValueError, KeyError) as error:
            self.answers.append((name, f"{type(error).__name__}: {error}"))


def lost_or_doubled(clients: Clients, recorded: Counter[str]) -> dict[str, list[object]]:
    """Every call that was not answered once, in full, and recorded once."""
    answers: dict[str, list[object]] = {name: [] for name in clients.sent}
    for name, told in clients.answers:
        answers[name].append(told)
    wrong: dict[str, list[object]] = {}
    for number, (name, told) in enumerate(answers.items()):
        if told != [tokens_of(number)] or recorded[name] != 1:
            wrong[name] = [*told, f"recorded {recorded[name]} times"]
    return wrong


def whole_story(one: Operated, breaks: Callable[[], None], mends: Callable[[], None], *, quiet_s: float, wait_s: float) -> None:
    """The load grows while a new engine cannot start, then can; what operates is killed on the way; the load falls again.

    ``breaks`` makes every further engine fail to start, ``mends`` undoes that. ``wait_s`` bounds each step.
    """
    state = one.deploy()
    assert state.gateway is not None
    first = state.children[0].pid
    clients = Clients(state.gateway.url, LOW_PER_S, "grow")
    try:
        one.operate()
        one.until("the first look", lambda: bool(one.entries("started")), wait_s)
        time.sleep(quiet_s)
        assert one.entries("decided") == [], "the load is what was planned for, although the engine took its time to start"

        breaks()
        clients.rate_per_s = HIGH_PER_S
        one.until("a roll-back", lambda: bool(one.entries("outcome")), wait_s)
        [outcome] = one.entries("outcome")
        assert outcome.result == "rolled back", outcome
        assert (one.serves(), [child.pid for child in one.state().children]) == (1, [first])
        one.stop()
        mends()

        for stage in ("after decided", "in starting", "before outcome"):
            killed = one.operate(dies=stage)
            one.until(f"kill -9 {stage}", lambda killed=killed: killed.poll() is not None, wait_s)  # type: ignore[misc]
            assert killed.returncode == -signal.SIGKILL, (stage, killed.returncode)
        one.operate()
        one.until("its outcome", lambda: one.entries("outcome")[-1].result == "serving", wait_s)
        acted = one.entries("acting")
        assert len({entry.token for entry in acted}) == len(acted) == 2, "tried once in vain, carried out once"
        assert one.state().switch.token == acted[-1].token  # type: ignore[union-attr]
        assert one.serves() == len(one.state().children) == 2
        assert first in [child.pid for child in one.state().children], "what both plans have is not touched"
        clients.stop()
        assert lost_or_doubled(clients, one.recorded()) == {}
        assert one.finished_by_engines() == len(clients.sent), "no call was computed twice"

        clients = Clients(state.gateway.url, LOW_PER_S, "shrink")
        one.until("the way back", lambda: len(one.entries("outcome")) == 3, wait_s)
        assert one.entries("outcome")[-1].result == "serving"
        assert one.serves() == len(one.state().children) == 1
        one.stop()
        clients.stop()
        assert lost_or_doubled(clients, one.recorded()) == {}, "the engine that went finished its calls first"
        assert len(one.recorded()) > len(clients.sent), "all that was recorded is in one file"
        the_log_tells_it(one)
    finally:
        one.stop()
        clients.stop()


def the_log_tells_it(one: Operated) -> None:
    """Which switches there were, why, and what became of them, in the log's own words."""
    switches = [entry for entry in one.entries("decided") if entry.wanted]
    assert [entry.found for entry in switches if entry.found == "drift"] == ["drift", "drift"], (
        "one for each change of the load"
    )
    assert switches[0].drifts[0].number == switches[-1].drifts[0].number == "rate"
    back, grown, shrunk = one.entries("outcome")
    assert (back.result, grown.result, shrunk.result) == ("rolled back", "serving", "serving")
    assert "did not start" in one.explain(str(back.number))
    last = one.explain()
    assert "Decision: switch: a better plan pays for the move" in last
    assert "Simulated with 400 live runs" in last
