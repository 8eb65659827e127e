"""The fault table: every API call of apply, switch and delete, times every way in which it can go wrong.

A status or a lost connection must be got over within the run; a killed process by the next run. Either way the end is the
same as without any fault: nothing orphaned, nothing doubled, and what need not move has not moved.
"""

import copy
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from executor.cluster.api import Api
from executor.cluster.apply import apply
from executor.cluster.delete import delete
from executor.cluster.waits import WaitLimits
from executor.manifests import Rendered, render
from scepsy.errors import ScepsyError
from tests.builders import plans
from tests.executor.cluster.controllers import ready
from tests.executor.cluster.double import Double, Faults, Seen, serve
from tests.executor.cluster.lab import DoubleLab, everything, placement, planned

PROFILES = plans.profiles()
CLUSTER = plans.cluster(plans.node("n1", 2))
BEFORE = plans.plan(
    CLUSTER,
    plans.instance("qwen3-8b", 0, "n1", (0,), 40),
    plans.instance("embedder", 0, "n1", (0,), 50),
    plans.instance("reranker", 0, "n1", (1,), 50),
)
AFTER = plans.plan(
    CLUSTER,
    plans.instance("qwen3-8b", 0, "n1", (0,), 40),
    plans.instance("reranker", 0, "n1", (0,), 60),
    plans.instance("embedder", 0, "n1", (1,), 50),
)
LIMITS = WaitLimits(start_s=20.0, stop_s=20.0, drain_s=0.02, tick_s=0.5, poll_s=0.05)
ANSWERS = ("401", "409", "410", "429", "500", "503", "drop", "cut")
KILLS = ("killed before", "killed after")


class Killed(BaseException):
    """The process ends here: nothing of ours runs any more."""


class Mortal(Api):
    """An ``Api`` whose process dies at one of its requests, before it is sent or after it was served."""

    def __init__(self, connect: Callable[[], Any], at: int, after: bool, **settings: Any) -> None:
        super().__init__(connect, "scepsy", **settings)
        self.at, self.after, self.sent = at, after, 0

    def _open(self, *args: Any) -> Any:
        number, self.sent = self.sent, self.sent + 1
        if number > self.at or (number == self.at and not self.after):
            raise Killed
        answer = super()._open(*args)
        if number == self.at:
            answer.close()
            raise Killed
        return answer


@dataclass(frozen=True)
class Operation:
    """One of the three, from a state of the cluster to another."""

    name: str
    start: Rendered | None
    run: Callable[[Api], object]
    end: Rendered | None


def operations() -> list[Operation]:
    before, after = render(BEFORE, PROFILES, plans.OPTIONS), render(AFTER, PROFILES, plans.OPTIONS)
    return [
        Operation("apply", None, lambda api: apply(api, before, limits=LIMITS), before),
        Operation("switch", before, lambda api: apply(api, after, limits=LIMITS), after),
        Operation("delete", before, lambda api: delete(api, "scepsy", limits=LIMITS), None),
    ]


@dataclass(frozen=True)
class Outcome:
    """How the end of one case differs from the clean end."""

    orphaned: tuple[str, ...] = ()
    doubled: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    misplaced: bool = False
    restarted: bool = False
    error: str = ""
    met: bool = False

    @property
    def survived(self) -> bool:
        """Whether the end is the clean one."""
        return not (self.orphaned or self.doubled or self.missing or self.misplaced or self.restarted or self.error)


class Bench:
    """One double for the whole table, put back to a state before each case."""

    def __init__(self, double: Double) -> None:
        self.double = double
        self.lab = DoubleLab(double)
        self.states: dict[str, Any] = {}

    def api(self) -> Api:
        return self.double.api()

    def prepare(self, operation: Operation) -> None:
        store = self.double.store
        if operation.name not in self.states:
            delete(self.api(), "scepsy", limits=LIMITS)
            if operation.start is not None:
                apply(self.api(), operation.start, limits=LIMITS)
            self.states[operation.name] = copy.deepcopy(store.objects)
        store.objects = copy.deepcopy(self.states[operation.name])
        store.by_plural = {}
        for key, obj in store.objects.items():
            store.by_plural.setdefault(key[0], {})[key] = obj
        store.log.clear()
        self.double.server.seen.clear()
        self.double.server.faults = Faults()

    def compare(self, operation: Operation, clean: list[str]) -> "Outcome":
        """What is there now against what a run without faults leaves."""
        has, wanted = Counter(_names(everything(self.lab))), Counter(clean)
        more = has - wanted
        return Outcome(
            orphaned=tuple(name for name in more if name not in wanted),
            doubled=tuple(name for name in more if name in wanted),
            missing=tuple(wanted - has),
            misplaced=operation.end is not None
            and placement(self.lab) != planned(BEFORE if operation.name == "apply" else AFTER),
        )

    def bury(self) -> None:
        """Note in the lease that its holder's process is gone, as the next run on that host would find out by itself."""
        for key, held in self.double.store.items("leases"):
            parts = held["spec"]["holderIdentity"].split("/")
            gone = "/".join([*parts[:3], "0.00", parts[4]])
            self.double.store.change(key, lambda o, gone=gone: o["spec"].update(holderIdentity=gone))  # type: ignore[misc]

    def kept_pod(self) -> str:
        """The pod of the one instance that both plans have."""
        [uid] = [o["metadata"]["uid"] for (p, _, n), o in self.double.store.objects.items() if p == "pods" and "-qwen3-" in n]
        return str(uid)


def _names(objects: list[str]) -> list[str]:
    """Pods are numbered as they come; how many there are of which engine is what counts."""
    return sorted(name.rpartition("-")[0] if name.startswith("Pod/") else name for name in objects)


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with serve(CLUSTER) as running:
        yield Bench(running)


def calls(seen: list[Seen], every: bool) -> list[int]:
    """Numbers of the calls to strike: all, or all that write and the first of each kind of read."""
    chosen: dict[object, int] = {}
    for number, call in enumerate(seen):
        read = call.verb in ("list", "get", "watch")
        chosen.setdefault((call.verb, call.plural, call.dry) if read and not every else number, number)
    return sorted(chosen.values())


def strike(bench: Bench, operation: Operation, at: int, fault: str, clean: list[str]) -> Outcome:
    """One case of the table."""
    bench.prepare(operation)
    kept = bench.kept_pod() if operation.name == "switch" else ""
    met = False
    try:
        if fault in KILLS:
            mortal = Mortal(bench.double.client, at, after=fault == "killed after", patience=bench.api().patience)
            try:
                operation.run(mortal)
            except Killed:
                met = True
                bench.bury()
        else:
            bench.double.server.faults = Faults(at=at, kind=fault)
        operation.run(bench.api())
    except ScepsyError as error:
        return Outcome(error=str(error), met=True)
    met = met or bool(bench.double.server.faults.struck)
    restarted = bool(kept) and bench.kept_pod() != kept
    return dataclasses.replace(bench.compare(operation, clean), met=met, restarted=restarted)


def table(bench: Bench, faults: tuple[str, ...], every: bool) -> dict[str, Outcome]:
    """Every case by its description."""
    found: dict[str, Outcome] = {}
    for operation in operations():
        bench.prepare(operation)
        operation.run(bench.api())
        seen, clean = list(bench.double.server.seen), _names(everything(bench.lab))
        for at in calls(seen, every):
            for fault in faults:
                case = f"{operation.name}: call {at}, {seen[at].verb} {seen[at].plural}/{seen[at].name}: {fault}"
                found[case] = strike(bench, operation, at, fault, clean)
    return found


def judge(capsys: pytest.CaptureFixture[str], title: str, found: dict[str, Outcome]) -> None:
    """Print the table of the guide (tried, met, survived by operation and fault); fail with every case that did not survive."""
    rows: dict[tuple[str, str], list[Outcome]] = {}
    for case, outcome in found.items():
        rows.setdefault((case.partition(":")[0], case.rpartition(": ")[2]), []).append(outcome)
    with capsys.disabled():
        print(
            f"\n{title}\n\n| operation | fault | tried | met | survived | orphaned | doubled |\n|---|---|---|---|---|---|---|"
        )
        for (operation, fault), outcomes in rows.items():
            met, survived = sum(o.met for o in outcomes), sum(o.survived for o in outcomes)
            orphaned, doubled = sum(len(o.orphaned) for o in outcomes), sum(len(o.doubled) for o in outcomes)
            print(f"| {operation} | {fault} | {len(outcomes)} | {met} | {survived} | {orphaned} | {doubled} |")
    assert {case: outcome for case, outcome in found.items() if not outcome.survived} == {}
    # A run whose requests come in another order may be over before a late call number comes up.
    assert sum(o.met for o in found.values()) >= 0.95 * len(found)


def test_every_write_and_every_kind_of_read_may_be_the_last(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    judge(capsys, "fault table, short", table(bench, ("killed after",), every=False))


@pytest.mark.slow
def test_the_whole_table(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    judge(capsys, "fault table, whole", table(bench, (*ANSWERS, *KILLS), every=True))


@pytest.mark.parametrize("kind", ANSWERS)
def test_every_kind_of_answer_is_got_over(bench: Bench, kind: str) -> None:
    """Each kind at one write of each operation, for the quick run."""
    for operation in operations():
        bench.prepare(operation)
        operation.run(bench.api())
        seen, clean = list(bench.double.server.seen), _names(everything(bench.lab))
        writes = [n for n, call in enumerate(seen) if call.verb in ("patch", "delete") and not call.dry]
        outcome = strike(bench, operation, writes[len(writes) // 2], kind, clean)
        assert outcome.met
        assert outcome.survived, outcome


def test_a_server_that_is_away_for_a_while(bench: Bench) -> None:
    """Sixty requests in a row are dropped in the middle of an apply; it waits and goes on."""
    operation = operations()[0]
    bench.prepare(operation)
    bench.double.server.faults = Faults(at=40, kind="drop", times=60)
    operation.run(bench.api())
    assert len(bench.double.server.faults.struck) == 60
    assert placement(bench.lab) == planned(BEFORE)


def test_a_watch_that_is_always_too_old_is_replaced_by_lists(bench: Bench) -> None:
    """No event ever arrives, and the pods become ready only after a while: only listing again can tell."""
    operation = operations()[0]
    bench.prepare(operation)
    controllers = bench.double.server.controllers
    controllers.verdict = lambda pod: None
    bench.double.store.oldest = 10**9

    def watches() -> int:
        return sum(call.verb == "watch" for call in bench.double.server.seen)

    def wake() -> None:
        if watches() <= 3:  # however slow the machine is today
            bench.double.later(0.1, wake)
            return
        controllers.verdict = ready
        controllers.settle()

    bench.double.later(0.1, wake)
    try:
        operation.run(bench.api())
    finally:
        controllers.verdict = ready
        bench.double.store.oldest = 0
    assert watches() > 3
    assert placement(bench.lab) == planned(BEFORE)


PROGRAM = """
import sys
from executor.cluster.apply import apply
from executor.manifests import render
from tests.executor.cluster import test_faults as t
from tests.executor.cluster.double import Double
api = Double(None, sys.argv[1]).api()
print("begin", flush=True)
apply(api, render(t.AFTER, t.PROFILES), limits=t.LIMITS)
"""


@pytest.mark.parametrize("after_ms", [5, 40, 80, 120])
def test_a_process_that_is_really_killed(bench: Bench, after_ms: int) -> None:
    operation = operations()[1]
    bench.prepare(operation)
    kept = bench.kept_pod()
    child = subprocess.Popen([sys.executable, "-c", PROGRAM, bench.double.url], stdout=subprocess.PIPE, env={**os.environ})
    assert child.stdout is not None
    child.stdout.readline()
    time.sleep(after_ms / 1000)
    child.send_signal(signal.SIGKILL)
    child.wait()
    operation.run(bench.api())
    assert placement(bench.lab) == planned(AFTER)
    assert bench.kept_pod() == kept
    assert len([name for name in everything(bench.lab) if name.startswith("Pod/")]) == 4
