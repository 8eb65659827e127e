"""The loop: look, decide, write down, act, write down. Safe to kill at any time, and to start again."""

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from executor.local.folder import locked, make_own, write_own
from executor.operate.journal import Entry, Journal, decided
from executor.operate.live import LiveRuns
from executor.operate.tail import Tail
from executor.operate.target import Target, Unfinished
from scepsy.errors import BackendError, Infeasible, InputError, ScepsyError, SimulationError
from scepsy.files.plan import load_plan, save_plan
from scepsy.operate.controller import Facts, Memory, Replan, Report, Validate, begin, held_back, step, switched
from scepsy.operate.naming import fingerprint
from scepsy.operate.reference import Reference
from scepsy.operate.settings import Settings
from scepsy.operate.window import Window, window_of
from scepsy.plans import Plan
from scepsy.progress import Notify, no_notice
from scepsy.value import Value

Mode = Literal["advise", "act"]

LOCK, FREEZE, LOG, MEMORY, PLANS = "operate.lock", "freeze", "log.jsonl", "memory.json", "plans"
WINDOW_S = 600.0
"""The statistics that are shown and logged are those of so long."""
DOUBLINGS = 6
"""After switches that came to nothing, one after another, the pause before the next doubles so often at most."""


class Saved(Value, frozen=True, kw_only=True):
    """What is kept between two starts."""

    plan: str
    """Fingerprint of the plan that the memory is about."""
    memory: Memory


@dataclass
class Operator:
    """One deployment's controller. ``folder`` is its own: log, memory, plans, the lock and the freeze file."""

    folder: Path
    target: Target
    tail: Tail
    live: LiveRuns
    settings: Settings
    references: Callable[[Plan], list[Reference]]
    replan: Replan
    validate: Validate | None
    mode: Mode = "advise"
    notify: Notify = no_notice
    clock: Callable[[], float] = time.time
    memory: Memory | None = None
    report: Report | None = None
    """The latest one."""
    facts: Facts | None = None
    """Of the latest look."""
    looks: int = 0
    problem: str = ""
    """Why the latest look came to nothing; empty when it did not."""
    blind: str = ""
    """Why nothing can be said of the load; empty when it can."""
    _journal: Journal = field(init=False)

    def __post_init__(self) -> None:
        make_own(self.folder)
        make_own(self.folder / PLANS)
        self._journal = Journal(self.folder / LOG)

    @property
    def journal(self) -> Journal:
        """The log."""
        return self._journal

    @property
    def frozen(self) -> bool:
        """Whether the freeze file is there: then nothing is switched."""
        return (self.folder / FREEZE).exists()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the lock: two controllers of one deployment must not be. Raises ``BackendError`` when there is another."""
        with locked(self.folder, LOCK, "another scepsy operate"):
            yield

    # ---- starting and stopping -------------------------------------------------------------------------------------

    def start(self) -> None:
        """Finish what a crash cut short, then take up what was remembered about the plan that serves."""
        self._finish()
        running = self.target.running()
        name = fingerprint(running)
        self.memory = self._remembered(name) or begin(self.references(running), min(self.clock(), self.target.since_s()))
        self._hold_back()
        self._save(name)
        self._append(Entry(number=0, at_s=self.clock(), kind="started", mode=self.mode, plan=name))

    def _finish(self) -> Entry | None:
        """Go on with an act that has no outcome; what was written then. The token makes sure that it is carried out once."""
        entry = self._journal.under_way
        if entry is None:
            return None
        serves = fingerprint(self.target.running())
        acts = self.mode == "act" and not self.frozen
        if serves == entry.wanted and not (acts and self.target.half_done()):
            return self._outcome(entry, "serving", "found serving after a restart")
        if not acts:
            why = "the freeze file is there" if self.frozen else "--advise changes nothing"
            return self._outcome(entry, "left", f"{why}; plan {serves} serves")
        return self._carry_out(entry, load_plan(self._plan_path(entry.wanted)))

    def run(self, stop: threading.Event) -> None:
        """Look until told to stop. What goes wrong in one look is said, and the next one tries again."""
        while not stop.is_set():
            try:
                self.look()
                self.problem = ""
            except (InputError, BackendError, Infeasible, SimulationError, OSError) as error:
                if str(error) != self.problem:
                    self.notify(f"this look came to nothing: {error}")
                self.problem = str(error)
            stop.wait(self.settings.look_s)
        self._append(Entry(number=0, at_s=self.clock(), kind="stopped", mode=self.mode, plan=self._name()))

    # ---- one look --------------------------------------------------------------------------------------------------

    def look(self) -> Entry | None:
        """Look once; returns the last line that was written, None when there was nothing to say."""
        assert self.memory is not None
        finished = self._finish()
        if finished is not None:
            return finished
        self.live.add(self.tail.read())
        now_s = self.clock()
        running, since_s = self.target.running(), self.target.since_s()
        facts = Facts(
            now_s=now_s,
            seen=self.live.seen(now_s),
            lost=self.target.lost(),
            known_until_s=self.live.known_until_s(now_s),
            serves_since_s=since_s if since_s <= now_s else None,
            quiet_s=self.live.quiet_s,
        )
        self.facts, self.looks = facts, self.looks + 1
        before, self.blind = self.blind, self._blind(facts)
        if self.blind and not before:
            self.notify(self.blind)
        self.memory, report = step(
            self.memory, facts, self.settings, running, self.replan, self.validate, frozen=self.frozen or self.mode == "advise"
        )
        name = fingerprint(running)
        if report is None:
            return None
        if self.mode == "advise":
            report = _as_advice(report, frozen=self.frozen)
        self.report = report
        for candidate in report.answer.candidates if report.answer is not None else ():
            self._keep(candidate.plan)
        entry = self._append(decided(report, name, self.mode, self.windows(facts)))
        self._save(name)
        self.notify(f"{report.finding.kind}: {report.decision.act}: {report.decision.reason}")
        if self.mode == "act" and report.chosen is not None:
            return self._act(name, report.chosen)
        return entry

    def _blind(self, facts: Facts) -> str:
        if any(facts.seen.values()):
            return ""
        held = f"the {self.live.calls} calls read are of other workflows" if self.live.calls else "no calls were read"
        remedy = "name the workflow in the calls" if self.live.calls else "does the gateway record there?"
        return f"no run of {', '.join(facts.seen)} is seen: {held} from {self.tail.path} ({remedy})"

    def windows(self, facts: Facts) -> tuple[Window, ...]:
        """Statistics of the last ten minutes."""
        begin_s = facts.until_s - WINDOW_S
        return tuple(
            window_of(name, [each.arrival_s for each in seen], [s for s in seen if s.end_s is not None], begin_s, facts.until_s)
            for name, seen in facts.seen.items()
        )

    # ---- acting ----------------------------------------------------------------------------------------------------

    def _act(self, before: str, plan: Plan) -> Entry:
        assert self.memory is not None
        self._keep(plan)
        at_s = self.clock()
        self.memory = switched(self.memory, at_s)
        self._save(before)
        entry = self._append(
            Entry(
                number=0,
                at_s=at_s,
                kind="acting",
                mode=self.mode,
                plan=before,
                wanted=fingerprint(plan),
                token=secrets.token_hex(6),
            )
        )
        return self._carry_out(entry, plan)

    def _carry_out(self, entry: Entry, plan: Plan) -> Entry:
        try:
            self.target.switch(plan, entry.token, self.notify)
        except Unfinished as error:
            raise BackendError(f"the switch to {entry.wanted} is gone on with at the next look: {error}") from error
        except BackendError as error:
            return self._outcome(entry, "rolled back", str(error))
        except ScepsyError as error:
            return self._outcome(entry, "refused", str(error))
        return self._outcome(entry, "serving", "")

    def _outcome(self, entry: Entry, result: Literal["serving", "rolled back", "refused", "left"], note: str) -> Entry:
        now_s = self.clock()
        serves = fingerprint(self.target.running())
        self.notify(f"switch to {entry.wanted}: {result}{f': {note}' if note else ''}")
        written = self._append(
            Entry(
                number=0,
                at_s=now_s,
                kind="outcome",
                mode=self.mode,
                plan=serves,
                wanted=entry.wanted,
                token=entry.token,
                result=result,
                took_s=max(0.0, now_s - entry.at_s),
                note=note,
            )
        )
        self._hold_back()
        if self.memory is not None:
            self._save(serves)
        return written

    def _hold_back(self) -> None:
        """After a switch that came to nothing, plan again after a pause, longer each time, whether the load changes or not."""
        failures = self._journal.failures
        if self.memory is None or not failures:
            return
        most_s = max(self.settings.min_between_s, self.settings.horizon_s)
        pause_s = min(self.settings.min_between_s * 2.0 ** min(len(failures) - 1, DOUBLINGS), most_s)
        self.memory = held_back(self.memory, failures[-1].at_s + pause_s)

    # ---- keeping ---------------------------------------------------------------------------------------------------

    def _append(self, entry: Entry) -> Entry:
        return self._journal.append(entry)

    def _name(self) -> str:
        return self._journal.entries[-1].plan if self._journal.entries else ""

    def _plan_path(self, name: str) -> Path:
        return self.folder / PLANS / f"{name}.plan.yaml"

    def _keep(self, plan: Plan) -> None:
        path = self._plan_path(fingerprint(plan))
        if not path.exists():
            targets = tuple(msgspec.structs.replace(target, trace="") for target in plan.targets)
            save_plan(path, msgspec.structs.replace(plan, targets=targets, profiles=""))

    def _save(self, plan: str) -> None:
        assert self.memory is not None
        write_own(self.folder / MEMORY, msgspec.json.encode(Saved(plan=plan, memory=self.memory)))

    def _remembered(self, plan: str) -> Memory | None:
        """What was kept, when it is about this plan or the one that was switched from; a damaged file is begun anew."""
        try:
            saved = msgspec.json.decode((self.folder / MEMORY).read_bytes(), type=Saved)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            self.notify(f"{self.folder / MEMORY} cannot be read ({error}): what was remembered of the load is begun anew")
            return None
        acts = [entry for entry in self._journal.entries if entry.kind == "acting"]
        before = {acts[-1].plan} if acts and acts[-1].wanted == plan else set()
        return saved.memory if saved.plan in {plan, *before} else None


def _as_advice(report: Report, *, frozen: bool) -> Report:
    """The decision as it would be with acting allowed: what the frozen core blocked is advised."""
    decision = report.decision
    if decision.blocked == "frozen" and not frozen:
        reason = decision.reason.removesuffix(", but the freeze file is there")
        decision = msgspec.structs.replace(decision, act="switch", blocked="", reason=f"{reason} (advice: nothing is changed)")
    return msgspec.structs.replace(report, decision=decision)
