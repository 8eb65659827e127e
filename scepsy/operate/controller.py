"""One look: what changed, whether another plan is worth it, and what is remembered for the next look.

``step`` is called by the simulator's policy and by the executor's loop alike. It has no state of its own: ``Memory`` goes in
and comes out, can be written to a file, and everything else can be told again from the recording.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import msgspec
import numpy as np

from scepsy.cluster import Gpu
from scepsy.operate.decision import Answer, Decision, Simulated, confirmed, decide
from scepsy.operate.drift import LONGEST, Drift, arrival_drift, content_drifts, drifted_since, limit_of
from scepsy.operate.features import Seen
from scepsy.operate.reference import Reference, reference_of
from scepsy.operate.settings import Settings
from scepsy.operate.window import Estimate, dispersion_of, rate_of
from scepsy.plans import Plan
from scepsy.steady.interval import mean_interval
from scepsy.value import Value
from scepsy.workload import Run

PATIENCE = 4.0
"""Ended runs are read in order of arrival, so that short ones do not come first. One that is open for this many times the
95th percentile of latency is passed over."""
REFINED = (4, 16)
"""A load that was estimated from few runs is looked at again when there are this many times as many."""
CERTAIN = 512
"""Runs from which on an estimate counts as good."""
HEADROOM = 0.9
"""New plans are made for the upper end of the rate's two-sided 80 % interval: the rate is below it in 9 of 10 cases."""
MISSED = 0.999
"""Confidence with which an observed latency must be beyond its limit."""
KEPT_RUNS = 4 * LONGEST
"""The latest runs of each workflow that are worth knowing."""
LATENCIES = 200
"""Runs that the observed latency is judged by, at least 100."""


class Memory(Value, frozen=True, kw_only=True):
    """What must survive from look to look, and a crash."""

    references: dict[str, Reference]
    since_s: dict[str, float]
    """Runs that arrived later are tested against the reference, by workflow."""
    content_s: dict[str, float] = msgspec.field(default_factory=dict)
    """When the workflow's content last changed: runs that arrived since stand for it; absent: the plan's trace does."""
    begun_s: dict[str, float] = msgspec.field(default_factory=dict)
    """When the load that the reference describes began; absent: with the plan."""
    refined: dict[str, int] = msgspec.field(default_factory=dict)
    """How many of ``REFINED`` are done; absent: nothing to refine."""
    last_switch_s: float | None = None
    not_before_s: float | None = None
    """No switch may begin before, so what is found until then is only noted. Then it is planned again though the load stays:
    a switch was wanted and blocked, or came to nothing."""
    frozen: bool = False
    """It was the freeze that blocked it: it is planned again when that is over."""
    again_s: float | None = None
    """Before, a goal that is still missed and GPUs that are still lost are no reason to plan: nothing better was known."""
    lost: tuple[Gpu, ...] = ()
    """GPUs that were found lost while the running plan uses some of them."""


class Facts(Value, frozen=True, kw_only=True):
    """What is known now."""

    now_s: float
    seen: dict[str, tuple[Seen, ...]]
    """The latest runs by workflow in order of arrival, open ones included."""
    lost: tuple[Gpu, ...] = ()
    """GPUs that cannot be used any more, all of them, as long as that lasts."""
    known_until_s: float | None = None
    """Runs that arrived later are not all seen yet: a recording tells of calls when they end. None: all are seen."""
    serves_since_s: float | None = None
    """When the running plan began to serve: earlier runs do not tell how good it is. None: before all of them."""
    quiet_s: float = 0.0
    """A run is known to have ended so long after its end: open runs may have ended within that time."""

    @property
    def until_s(self) -> float:
        """What is known of arrivals ends here."""
        return self.now_s if self.known_until_s is None else self.known_until_s


class Load(Value, frozen=True, kw_only=True):
    """One workflow's load as estimated."""

    workflow: str
    rate_per_s: Estimate
    planned_rate_per_s: float
    """What new plans are made for."""
    runs: tuple[Run, ...] | None
    """Runs that show the content; None: as before."""
    begun_s: float


class Finding(Value, frozen=True, kw_only=True):
    """Why it is time to plan again."""

    kind: Literal["drift", "goal missed", "GPUs lost", "refined", "blocked before"]
    drifts: tuple[Drift, ...]
    loads: tuple[Load, ...]
    lost: tuple[Gpu, ...] = ()
    """GPUs that new plans must do without."""
    crippled: bool = False
    """Whether the running plan uses one of them."""


class Report(Value, frozen=True, kw_only=True):
    """What one look found and decided."""

    now_s: float
    finding: Finding
    answer: Answer | None
    """None: nothing was planned, since no switch may begin."""
    decision: Decision
    simulated: Simulated | None = None

    @property
    def chosen(self) -> Plan | None:
        """The plan to switch to; None: stay."""
        if self.decision.act == "keep" or self.decision.candidate is None or self.answer is None:
            return None
        return self.answer.candidates[self.decision.candidate].plan


Replan = Callable[[Plan, Finding], Answer]
"""(running plan, what was found) -> what is predicted of it and of others under that load."""
Validate = Callable[[Plan, Plan, Finding], Simulated]
"""(running plan, candidate, what was found) -> both replayed with the live runs."""


def begin(references: Sequence[Reference], now_s: float) -> Memory:
    """Memory of a plan that was just put into use."""
    return Memory(references={r.workflow: r for r in references}, since_s={r.workflow: now_s for r in references})


def step(
    memory: Memory, facts: Facts, settings: Settings, running: Plan, replan: Replan, validate: Validate | None, *, frozen: bool
) -> tuple[Memory, Report | None]:
    """Look once. The report says what to do; carrying it out, and saying so by ``switched``, is the caller's."""
    lost = set(facts.lost)
    crippled = any(gpu in lost for instance in running.instances for gpu in instance.gpus)
    memory, finding = look(memory, facts, settings, crippled=crippled, frozen=frozen)
    if finding is None:
        return memory, None
    if memory.not_before_s is not None and facts.now_s < memory.not_before_s:
        left_s = memory.not_before_s - facts.now_s
        noted = Decision(act="keep", reason=f"only noted: no switch may begin for {left_s:.0f} s, then it is planned again")
        report = Report(now_s=facts.now_s, finding=finding, answer=None, decision=noted)
        return remember(memory, facts, settings, finding, noted), report
    answer = replan(running, finding)
    must = crippled or not answer.running.meets
    decision = decide(settings, answer, now_s=facts.now_s, last_switch_s=memory.last_switch_s, frozen=frozen, lost=crippled)
    simulated = None
    if decision.act == "switch" and validate is not None and decision.candidate is not None and not crippled:
        simulated = validate(running, answer.candidates[decision.candidate].plan, finding)
        decision = confirmed(decision, simulated, settings, must=must)
    report = Report(now_s=facts.now_s, finding=finding, answer=answer, decision=decision, simulated=simulated)
    return remember(memory, facts, settings, finding, decision), report


def switched(memory: Memory, at_s: float) -> Memory:
    """A switch was begun."""
    return _with(memory, last_switch_s=at_s, not_before_s=None, frozen=False, again_s=None)


def held_back(memory: Memory, until_s: float) -> Memory:
    """A switch came to nothing: no other begins before then, and then it is planned again even where the load stays."""
    return _with(memory, not_before_s=max(until_s, memory.not_before_s or until_s))


# ---- looking ---------------------------------------------------------------------------------------------------------


def look(
    memory: Memory, facts: Facts, settings: Settings, *, crippled: bool = False, frozen: bool = False
) -> tuple[Memory, Finding | None]:
    """Test every workflow, whether a switch may begin or not. ``crippled``: the running plan has lost GPUs."""
    if memory.lost and not crippled:
        memory = _with(memory, lost=())
    waits = memory.not_before_s is not None and facts.now_s < memory.not_before_s
    due = memory.not_before_s is not None and not waits and not (memory.frozen and frozen)
    again = memory.again_s is None or facts.now_s >= memory.again_s
    drifts: list[Drift] = []
    loads: list[Load] = []
    for name in memory.references:
        found = _drifts(memory, facts, settings, name)
        load = _load(memory, facts, name, found)
        if found and _runs_since(memory, facts, load) < settings.least_runs:  # no reason to be silent about the others
            found, load = [], _load(memory, facts, name, [])
        drifts += found
        loads.append(load)
    kind: Literal["drift", "goal missed", "GPUs lost", "refined", "blocked before"] | None = None
    if crippled and (due or again or set(facts.lost) != set(memory.lost)):
        kind = "GPUs lost"
    elif drifts:
        kind = "drift"
    elif due:
        kind = "blocked before"
    elif again and _missed(facts, settings, memory):
        kind = "goal missed"
    elif not waits and any(_to_refine(memory, facts, name) for name in memory.references):
        kind = "refined"
    if kind is None:
        return memory, None
    return memory, Finding(kind=kind, drifts=tuple(drifts), loads=tuple(loads), lost=facts.lost, crippled=crippled)


def _drifts(memory: Memory, facts: Facts, settings: Settings, workflow: str) -> list[Drift]:
    """What has changed of one workflow, strongest first."""
    reference, (times, ended) = memory.references[workflow], fresh(memory, facts, workflow)
    h = limit_of(reference, settings.alarms_per_week, len(memory.references))
    rate = arrival_drift(times, memory.since_s[workflow], facts.until_s, reference, h)
    found = [*([rate] if rate is not None else []), *content_drifts(ended, reference, h)]
    return sorted(found, key=lambda each: -each.strength)


def fresh(memory: Memory, facts: Facts, workflow: str) -> tuple[list[float], list[Seen]]:
    """Arrivals after the reference, and ended runs among them, both in order of arrival."""
    mine = [each for each in facts.seen.get(workflow, ()) if each.arrival_s > memory.since_s[workflow]]
    return [each.arrival_s for each in mine if each.arrival_s <= facts.until_s], readable(mine, facts.now_s, facts.quiet_s)


def readable(seen: Sequence[Seen], now_s: float, quiet_s: float) -> list[Seen]:
    """Ended runs up to the first that is still open, unless that one is overdue. One that may have ended within ``quiet_s``
    is not: where runs are short, all that are open would be passed over, and the short among them would be read first. Runs
    of which no call was completed are part of the rate, and tell nothing else."""
    latencies = [each.latency_s for each in seen if each.end_s is not None and each.values]
    overdue = PATIENCE * float(np.quantile(latencies, 0.95)) if latencies else float("inf")
    found = []
    for each in seen:
        if each.end_s is not None:
            found += [each] if each.values else []
        elif now_s - quiet_s - each.arrival_s <= overdue:
            break
    return found


def _load(memory: Memory, facts: Facts, workflow: str, drifts: Sequence[Drift]) -> Load:
    """Estimate a workflow's load: since its change where it changed, else since the reference's load began."""
    reference, until = memory.references[workflow], facts.until_s
    times, ended = fresh(memory, facts, workflow)
    content = [d for d in drifts if d.number != "rate"]
    if drifts:
        begun = drifted_since(times, ended, drifts[0], until, reference)
    else:
        begun = memory.begun_s.get(workflow, memory.since_s[workflow])
    every = [each.arrival_s for each in facts.seen.get(workflow, ()) if begun <= each.arrival_s <= until]
    kept = every[-KEPT_RUNS:]
    spread = dispersion_of(kept)
    if not drifts and reference.arrivals == 0:  # nothing speaks against what was planned for
        rate = Estimate(value=reference.rate_per_s)
        planned = reference.rate_per_s
    else:
        lasted_s = max(until - (kept[0] if kept else begun), 1e-9)
        rate = rate_of(len(kept), lasted_s, spread)
        upper = rate_of(len(kept), lasted_s, spread, confidence=2 * HEADROOM - 1).high
        planned = upper if upper is not None else rate.value
    runs: tuple[Run, ...] | None = None
    if content:
        known = [each.run for each in ended if each.arrival_s >= begun and each.run is not None]
        runs = tuple(known[-LONGEST:]) or None
    elif workflow in memory.content_s:
        first = memory.content_s[workflow]
        fresh_runs = [s for s in readable(facts.seen.get(workflow, ()), facts.now_s, facts.quiet_s) if s.arrival_s >= first]
        known = [s.run for s in fresh_runs if s.run is not None]
        runs = tuple(known[-LONGEST:]) or None
    return Load(workflow=workflow, rate_per_s=rate, planned_rate_per_s=planned, runs=runs, begun_s=begun)


def _runs_since(memory: Memory, facts: Facts, load: Load) -> int:
    return sum(each.arrival_s >= load.begun_s for each in facts.seen.get(load.workflow, ()))


def _missed(facts: Facts, settings: Settings, memory: Memory) -> bool:
    """Whether observed latency is beyond a limit with confidence. Needs 100 runs that ended."""
    for workflow, limit in settings.limits_s.items():
        if workflow not in memory.references:
            continue
        ended = [s for s in fresh(memory, facts, workflow)[1] if s.arrival_s >= (facts.serves_since_s or 0.0)][-LATENCIES:]
        values = np.array([each.latency_s for each in ended], dtype=float)
        if settings.percentile is not None:
            values, limit = (values > limit).astype(float), 1 - settings.percentile / 100
        if len(values) >= 100 and mean_interval(values, 2 * MISSED - 1).low > limit:
            return True
    return False


def _to_refine(memory: Memory, facts: Facts, workflow: str) -> bool:
    done = memory.refined.get(workflow)
    reference = memory.references[workflow]
    if done is None or done >= len(REFINED) or reference.arrivals == 0:
        return False
    begun = memory.begun_s.get(workflow, memory.since_s[workflow])
    have = sum(each.arrival_s >= begun for each in facts.seen.get(workflow, ()))
    wanted = min(CERTAIN, reference.arrivals * REFINED[done] // (REFINED[done - 1] if done else 1))
    return have >= wanted > reference.arrivals


# ---- remembering -----------------------------------------------------------------------------------------------------


def remember(memory: Memory, facts: Facts, settings: Settings, finding: Finding, decision: Decision) -> Memory:
    """What was found becomes the reference, so it is said once. A blocked switch is planned again when it may begin."""
    now = facts.now_s
    not_before_s, blocked_by_freeze = None, False
    if memory.not_before_s is not None and now < memory.not_before_s:
        not_before_s, blocked_by_freeze = memory.not_before_s, memory.frozen
    elif decision.blocked == "too soon" and memory.last_switch_s is not None:
        not_before_s = memory.last_switch_s + settings.min_between_s
    elif decision.blocked == "frozen":
        not_before_s, blocked_by_freeze = now, True
    again_s = None if finding.drifts else memory.again_s
    if decision.act == "keep" and (finding.crippled or finding.kind == "goal missed"):  # do not ask at every look
        again_s = now + max(settings.look_s, settings.min_between_s)
    references, since = dict(memory.references), dict(memory.since_s)
    content, begun, refined = dict(memory.content_s), dict(memory.begun_s), dict(memory.refined)
    for load in finding.loads:
        name, before = load.workflow, memory.references[load.workflow]
        drifted = any(drift.workflow == name for drift in finding.drifts)
        refine = _to_refine(memory, facts, name)
        if not drifted and not refine:
            continue
        if drifted:
            begun[name], refined[name] = load.begun_s, 0
            if any(drift.workflow == name and drift.number != "rate" for drift in finding.drifts):
                content[name] = load.begun_s
        else:
            refined[name] = refined.get(name, 0) + 1
        references[name] = _estimated(memory, facts, load, before, content_changed=name in content)
        since[name] = now
    return _with(
        memory,
        references=references,
        since_s=since,
        content_s=content,
        begun_s=begun,
        refined=refined,
        not_before_s=not_before_s,
        frozen=blocked_by_freeze,
        again_s=again_s,
        lost=finding.lost if finding.crippled else (),
    )


def _estimated(memory: Memory, facts: Facts, load: Load, before: Reference, *, content_changed: bool) -> Reference:
    mine = [each for each in facts.seen.get(load.workflow, ()) if each.arrival_s >= load.begun_s][-KEPT_RUNS:]
    values = [each.values for each in readable(mine, facts.now_s, facts.quiet_s)]
    count = len(mine)
    spread = dispersion_of([each.arrival_s for each in mine])
    if content_changed and len(values) >= 2:
        return reference_of(
            load.workflow, values, load.rate_per_s.value, arrivals=max(count, 1), dispersion=max(before.dispersion, spread)
        )
    return Reference(
        workflow=load.workflow,
        rate_per_s=load.rate_per_s.value,
        arrivals=max(count, 1),
        dispersion=max(before.dispersion, spread),
        runs=before.runs,
        moments=before.moments,
        parallelism=before.parallelism,
    )


def _with(memory: Memory, **fields: object) -> Memory:
    return msgspec.structs.replace(memory, **fields)


__all__ = [
    "Facts",
    "Finding",
    "Load",
    "Memory",
    "Replan",
    "Report",
    "Validate",
    "begin",
    "fresh",
    "held_back",
    "look",
    "readable",
    "remember",
    "step",
    "switched",
]
