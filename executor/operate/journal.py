"""The log of decisions: JSON lines, only ever appended to. Each line says what was seen, what could be done, and what was done.

An act is written down before it is begun and again when it is over, so that after a crash the last line tells what was under
way. A line that a crash cut short is skipped when reading.
"""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec

from scepsy.operate.controller import Finding, Report
from scepsy.operate.decision import Decision, Move, Outlook, Simulated
from scepsy.operate.drift import Drift
from scepsy.operate.naming import fingerprint
from scepsy.operate.window import Estimate, Window
from scepsy.plans import Allocation
from scepsy.value import Value

VERSION = 1


class LoadEntry(Value, frozen=True, kw_only=True):
    """One workflow's load as estimated."""

    workflow: str
    rate_per_s: Estimate
    planned_rate_per_s: float
    since_s: float
    """Unix seconds: when this load began."""
    live_runs: int
    """Runs of the recording that stand for its content; 0: the plan's trace does."""


class CandidateEntry(Value, frozen=True, kw_only=True):
    """A plan that was considered; it lies in ``plans/`` beside the log under its name."""

    plan: str
    allocations: tuple[Allocation, ...]
    outlook: Outlook
    move: Move


class Entry(Value, frozen=True, kw_only=True):
    """One line."""

    version: int = VERSION
    number: int
    at_s: float
    """Unix seconds."""
    kind: Literal["started", "decided", "acting", "outcome", "stopped"]
    mode: Literal["advise", "act"]
    plan: str
    """Fingerprint of the plan that serves."""
    found: str = ""
    """Why it was time to plan: drift, goal missed, GPUs lost, refined, blocked before."""
    drifts: tuple[Drift, ...] = ()
    windows: tuple[Window, ...] = ()
    loads: tuple[LoadEntry, ...] = ()
    lost: tuple[str, ...] = ()
    running: Outlook | None = None
    candidates: tuple[CandidateEntry, ...] = ()
    simulated: Simulated | None = None
    decision: Decision | None = None
    wanted: str = ""
    """Fingerprint of the plan that is switched to."""
    token: str = ""
    """Names one act: its ``acting`` and ``outcome`` lines."""
    result: Literal["", "serving", "rolled back", "refused", "left"] = ""
    """left: an act that a crash cut short was not gone on with, since acting is not allowed now."""
    took_s: float = 0.0
    note: str = ""


_DECODER = msgspec.json.Decoder(Entry)


class Journal:
    """Appends to one log."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries = read(path)

    def append(self, entry: Entry) -> Entry:
        """Number the entry, and write it through to the disk."""
        entry = msgspec.structs.replace(entry, number=len(self.entries) + 1)
        line = msgspec.json.encode(entry) + b"\n"
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                line = b"\n" + line
            os.write(descriptor, line)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self.entries.append(entry)
        return entry

    @property
    def under_way(self) -> Entry | None:
        """The act that was begun and of which no outcome is written."""
        acting = [entry for entry in self.entries if entry.kind == "acting"]
        if not acting:
            return None
        over = {entry.token for entry in self.entries if entry.kind == "outcome"}
        return None if acting[-1].token in over else acting[-1]

    @property
    def failures(self) -> list[Entry]:
        """The outcomes since one was not ``rolled back`` or ``refused``: switches that came to nothing, one after another."""
        outcomes = [entry for entry in self.entries if entry.kind == "outcome"]
        served = [place for place, entry in enumerate(outcomes) if entry.result not in ("rolled back", "refused")]
        return outcomes[served[-1] + 1 :] if served else outcomes


def read(path: Path) -> list[Entry]:
    """Every whole line of a log; nothing where there is none."""
    if not path.exists():
        return []
    found = []
    for line in path.read_bytes().split(b"\n"):
        if line.strip():
            try:
                found.append(_DECODER.decode(line))
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue
    return found


def decided(report: Report, plan: str, mode: Literal["advise", "act"], windows: tuple[Window, ...]) -> Entry:
    """What one look found and decided, without the runs themselves."""
    finding: Finding = report.finding
    answer, chosen = report.answer, report.chosen
    return Entry(
        number=0,
        at_s=report.now_s,
        kind="decided",
        mode=mode,
        plan=plan,
        found=finding.kind,
        drifts=finding.drifts,
        windows=windows,
        loads=tuple(
            LoadEntry(
                workflow=load.workflow,
                rate_per_s=load.rate_per_s,
                planned_rate_per_s=load.planned_rate_per_s,
                since_s=load.begun_s,
                live_runs=len(load.runs or ()),
            )
            for load in finding.loads
        ),
        lost=tuple(map(str, finding.lost)),
        running=answer.running if answer is not None else None,
        candidates=tuple(
            CandidateEntry(plan=fingerprint(each.plan), allocations=each.plan.allocations, outlook=each.outlook, move=each.move)
            for each in (answer.candidates if answer is not None else ())
        ),
        simulated=report.simulated,
        decision=report.decision,
        wanted=fingerprint(chosen) if chosen is not None else "",
        note=answer.note if answer is not None else "",
    )


def document(entry: Entry) -> dict[str, object]:
    """The entry as ``scepsy operate --explain … --json`` prints it."""
    made: dict[str, object] = json.loads(msgspec.json.encode(entry))
    return made


BECAUSE = {
    "drift": "the load is not the one known before",
    "goal missed": "the goal is missed",
    "GPUs lost": "GPUs were lost",
    "refined": "more is known of a load that had changed",
    "blocked before": "a switch that was wanted could not be made then",
}


def explained(entry: Entry) -> list[str]:
    """The entry in sentences."""
    when = datetime.fromtimestamp(entry.at_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    lines = [f"#{entry.number} {entry.kind} ({entry.mode}), plan {entry.plan}, {when}"]
    if entry.found:
        did = "Planned again" if entry.running is not None else "Noted"
        lines.append(f"{did}, because {BECAUSE.get(entry.found, entry.found)}.")
    for drift in entry.drifts:
        lines.append(
            f"{drift.workflow}: {drift.number} was {drift.expected:.4g} in the load known before, the last {drift.runs} runs "
            f"have {drift.observed:.4g} ({abs(drift.z):.1f} standard errors apart, alarm at {drift.threshold:.1f})."
        )
    for load in entry.loads:
        rate = load.rate_per_s
        known = f" ({rate.low:.3g} to {rate.high:.3g})" if rate.low is not None and rate.high is not None else ""
        runs = f"{load.live_runs} live runs show its content" if load.live_runs else "its content is the plan's"
        lines.append(
            f"{load.workflow}: {rate.value:.3g} runs/s{known}, new plans are made for {load.planned_rate_per_s:.3g}, {runs}."
        )
    if entry.running is not None:
        lines.append(f"Predicted of the running plan: {_outlook(entry.running)}.")
    for number, each in enumerate(entry.candidates):
        lines.append(
            f"Candidate {number} ({each.plan}): {_outlook(each.outlook)}; starts {each.move.started}, stops "
            f"{each.move.stopped}, {each.move.cold_start_s:.0f} s until it serves"
            f"{'' if each.move.meets_meanwhile else ', and until then a goal is missed'}."
        )
    if entry.simulated is not None:
        for name, value in entry.simulated.candidate_s.items():
            before = entry.simulated.running_s.get(name, float("nan"))
            lines.append(f"Simulated with {entry.simulated.runs} live runs: {name} {before:.3g} s now, {value:.3g} s then.")
    if entry.decision is not None:
        lines.append(f"Decision: {entry.decision.act}: {entry.decision.reason}.")
    if entry.result:
        lines.append(f"Outcome after {entry.took_s:.0f} s: {entry.result}.")
    if entry.note:
        lines.append(f"Note: {entry.note}.")
    return lines


def _outlook(outlook: Outlook) -> str:
    latency = ", ".join(f"{name} {value:.3g} s" for name, value in outlook.latency_s.items())
    meets = "meets its goal" if outlook.meets else "misses its goal"
    return f"{latency} on {outlook.gpus} GPUs at {100 * outlook.utilisation:.0f} % of what it carries, {meets}"
