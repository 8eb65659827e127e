"""A made-up deployment that remembers on disk, a recording that can be written ahead, and planning that knows two plans."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import msgspec

from executor.operate.live import LiveRuns
from executor.operate.operator import Operator
from executor.operate.tail import Tail
from executor.operate.target import Target
from scepsy.cluster import Gpu
from scepsy.errors import BackendError
from scepsy.files.plan import load_plan, save_plan
from scepsy.importers.recorded.record import CallRecord, Header
from scepsy.operate.controller import Finding, Replan
from scepsy.operate.decision import Answer, Candidate, Move, Outlook
from scepsy.operate.naming import fingerprint
from scepsy.operate.reference import planned_for
from scepsy.operate.settings import Settings
from scepsy.plans import Plan
from scepsy.progress import Notify, no_notice
from scepsy.rng import stream
from scepsy.workload import Call, Run
from tests.executor.test_local import make_plan

W = "w"
ONE = make_plan({"chat": [((0,), 40)]})
TWO = make_plan({"chat": [((0,), 40), ((1,), 40)]})
BORN_S = 1_700_000_000.0
RUNS = tuple(
    Run(id=f"t{n}", workflow=W, calls=(Call(id="a", llm="chat", input_tokens=90 + n % 20, output_tokens=40 + n % 7),))
    for n in range(100)
)


class Killed(BaseException):
    """Where a test does not fork, this stands for kill -9."""


class DiskTarget:
    """A deployment whose whole state is two files: the plan that serves, and the tokens of the switches that were made."""

    def __init__(self, folder: Path, *, fails: bool = False, before: Callable[[], None] = lambda: None) -> None:
        self.folder, self.fails, self.before = folder, fails, before
        if not (folder / "serves.yaml").exists():
            save_plan(folder / "serves.yaml", ONE)

    def running(self) -> Plan:
        return load_plan(self.folder / "serves.yaml")

    def since_s(self) -> float:
        return float("inf")

    def lost(self) -> tuple[Gpu, ...]:
        return ()

    def half_done(self) -> bool:
        return False

    def made(self) -> list[str]:
        path = self.folder / "tokens"
        return path.read_text().split() if path.exists() else []

    def switch(self, plan: Plan, token: str, notify: Notify = no_notice) -> None:
        self.before()
        if self.fails:
            raise BackendError("chat-1 did not start: exit 7; the plan before it serves")
        if token not in self.made():
            save_plan(self.folder / "serves.yaml", plan)
            with (self.folder / "tokens").open("a") as file:
                file.write(token + "\n")


def record(number: int, start_s: float, output_tokens: int = 43, **fields: object) -> CallRecord:
    known = {
        "id": f"c{number}", "session": "s", "run": f"r{number}", "rung": "header", "workflow": W, "llm": "chat",
        "endpoint": "completions", "kind": "generate", "start_s": start_s, "end_s": start_s + 1.0, "outcome": "completed",
        "input_tokens": 100, "output_tokens": output_tokens, **fields,
    }  # fmt: skip
    return CallRecord(**known)  # type: ignore[arg-type]


def write_recording(path: Path, parts: list[tuple[float, float]], seed: int = 0, call_s: float = 1.0) -> float:
    """Runs of one call each, by parts of (seconds, runs per second) from ``BORN_S`` on; returns when it ends."""
    rng, lines, now, number = stream(seed, "recording"), [], BORN_S, 0
    header = {"format": "scepsy.recording", "version": 1} | msgspec.to_builtins(Header(session="s", started_s=BORN_S))
    lines.append(msgspec.json.encode(header))
    for seconds, rate in parts:
        end = now + seconds
        while True:
            now += float(rng.exponential(1 / rate))
            if now >= end:
                now = end
                break
            number += 1
            run = RUNS[int(rng.integers(len(RUNS)))]
            lines.append(msgspec.json.encode(record(number, now, run.calls[0].output_tokens, end_s=now + call_s)))
    path.write_bytes(b"\n".join(lines) + b"\n")
    return now


def outlook(plan: Plan, *, meets: bool) -> Outlook:
    return Outlook(
        latency_s={W: 1.0}, limited_s={W: 1.0}, throughput_per_s={W: 4.0}, utilisation=0.5 if meets else 1.5,
        gpus=len(plan.gpu_shares), in_system=4.0 if meets else 40.0, meets=meets,
    )  # fmt: skip


def between(low: Plan, high: Plan) -> Replan:
    """The first plan up to 3 runs a second, the other beyond."""

    def replan(running: Plan, finding: Finding) -> Answer:
        wanted = high if finding.loads[0].rate_per_s.value > 3.0 else low
        fits = fingerprint(running) in (fingerprint(wanted), fingerprint(high))
        move = Move(started=1, stopped=0, cold_start_s=40.0, gpu_s=40.0, lost_run_s=0.0)
        candidate = Candidate(plan=wanted, outlook=outlook(wanted, meets=True), move=move)
        return Answer(running=outlook(running, meets=fits), candidates=(candidate,))

    return replan


class Clock:
    """Time that a test moves."""

    def __init__(self, now_s: float = BORN_S) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


class SoFar(Tail):
    """The part of a recording that was written by now: calls that ended later are not there yet."""

    def __init__(self, path: Path, clock: Clock) -> None:
        super().__init__(path)
        self._clock, self._later = clock, []

    def read(self):  # type: ignore[no-untyped-def]
        every = [*self._later, *super().read()]
        self._later = [each for each in every if each.end_s > self._clock.now_s]
        return [each for each in every if each.end_s <= self._clock.now_s]


def operator(folder: Path, target: Target, clock: Clock, **fields: object) -> Operator:
    known = {
        "settings": Settings(look_s=30.0, min_between_s=300.0), "references": lambda plan: [planned_for(W, RUNS, 2.0)],
        "replan": between(ONE, TWO), "validate": None, "mode": "act", **fields,
    }  # fmt: skip
    return Operator(
        folder=folder / "operate", target=target, tail=SoFar(folder / "calls.jsonl", clock), live=LiveRuns([W], 10.0),
        clock=clock, **known,  # type: ignore[arg-type]
    )  # fmt: skip


def look_until(one: Operator, clock: Clock, end_s: float, every_s: float = 30.0) -> None:
    while clock.now_s + every_s <= end_s:
        clock.now_s += every_s
        one.look()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
