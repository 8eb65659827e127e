"""Is another plan worth the switch? What is predicted of both, what the move costs, and the rule.

Goal latency: plans are compared by the mean number of runs in the system (rate times latency, by Little's law), over the
horizon. A move costs the runs that wait meanwhile. Goal gpus: GPUs held over the horizon are compared. A move costs the GPU
seconds spent starting and what waits meanwhile: a second of a run counts as the new plan's GPUs over its runs in the system.
A plan that misses its goal is replaced by the best that does not, whatever the gain. All else must pay, and where there are
limits, what serves during the move must keep them too.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec
from msgspec.structs import replace

from scepsy.operate.settings import Settings
from scepsy.plans import Plan
from scepsy.value import Value


class Outlook(Value, frozen=True, kw_only=True):
    """What is predicted of one plan under the load that was seen."""

    latency_s: dict[str, float]
    """Mean by workflow."""
    limited_s: dict[str, float]
    """What the limits bound, by workflow: the mean or a percentile."""
    throughput_per_s: dict[str, float]
    """Highest rate that each workflow could have."""
    utilisation: float
    """Of the LLM that is loaded most."""
    gpus: int
    """GPUs that it touches."""
    in_system: float
    """Mean number of runs in the system over the horizon; where it cannot keep up, what piles up is part of it."""
    meets: bool
    """Keeps up, and within every limit."""


class Move(Value, frozen=True, kw_only=True):
    """What a switch costs."""

    started: int
    stopped: int
    cold_start_s: float
    """Until the slowest new instance answers."""
    gpu_s: float
    """GPU seconds spent starting."""
    lost_run_s: float
    """Seconds that runs wait more than under the running plan while it lasts, added over runs (a fluid approximation)."""
    meets_meanwhile: bool = True
    """Whether what serves until the new instances do keeps up, and within every limit."""


class Candidate(Value, frozen=True, kw_only=True):
    """A plan that could be switched to."""

    plan: Plan
    outlook: Outlook
    move: Move


class Answer(Value, frozen=True, kw_only=True):
    """What planning for the live load found."""

    running: Outlook
    candidates: tuple[Candidate, ...]
    note: str = ""
    """Why there are no candidates, or fewer."""


class Simulated(Value, frozen=True, kw_only=True):
    """The live window's runs replayed on both plans."""

    running_s: dict[str, float]
    """Mean latency by workflow."""
    candidate_s: dict[str, float]
    running_limited_s: dict[str, float] = msgspec.field(default_factory=dict)
    """What the limits bound, by workflow."""
    candidate_limited_s: dict[str, float] = msgspec.field(default_factory=dict)
    running_keeps_up: bool = True
    candidate_keeps_up: bool = True
    runs: int = 0


class Decision(Value, frozen=True, kw_only=True):
    """What to do, and why."""

    act: Literal["keep", "switch"]
    reason: str
    candidate: int | None = None
    """Which of the answer's candidates was best; set too where it was not taken."""
    blocked: Literal["", "frozen", "too soon"] = ""
    """What forbade a switch that was wanted."""
    gain: float = 0.0
    cost: float = 0.0
    """Over the horizon, in ``unit``."""
    unit: Literal["run-seconds", "GPU-seconds"] = "run-seconds"


def decide(
    settings: Settings, answer: Answer, *, now_s: float, last_switch_s: float | None, frozen: bool, lost: bool = False
) -> Decision:
    """Apply the rule. ``lost``: GPUs of the running plan are gone, so it is not what it was and must be replaced."""
    unit: Literal["run-seconds", "GPU-seconds"] = "GPU-seconds" if settings.goal == "gpus" else "run-seconds"
    allowed = [(n, c) for n, c in enumerate(answer.candidates) if _allowed(settings, c)]
    if not allowed:
        return Decision(act="keep", reason=answer.note or "no other plan within the limits", unit=unit)
    must = lost or not answer.running.meets
    if must:
        meeting = [(n, c) for n, c in allowed if c.outlook.meets]
        least = (1 - settings.least_gain_pct / 100) * answer.running.in_system
        better = [(n, c) for n, c in allowed if c.outlook.in_system < least]
        choice = _best(settings, answer, meeting or better)
        if choice is None:
            return Decision(act="keep", reason="the running plan misses its goal, and no plan within the limits does better")
        why = "GPUs of the running plan are lost" if lost else "the running plan misses its goal"
    else:
        meeting = [(n, c) for n, c in allowed if c.outlook.meets]
        gentle = [(n, c) for n, c in meeting if c.move.meets_meanwhile or not settings.limits_s]
        choice = _best(settings, answer, gentle)
        why = "a better plan pays for the move"
        if choice is None:
            other = "every other would miss a limit while it is switched to" if meeting else "no other does within the limits"
            return Decision(act="keep", reason=f"the running plan meets its goal, and {other}", unit=unit)
    number, candidate = choice
    gain, cost, part = worth(settings, answer.running, candidate)
    seen = Decision(act="keep", reason="", candidate=number, gain=gain, cost=cost, unit=unit)
    if not must and candidate.move.started + candidate.move.stopped == 0:
        return replace(seen, reason="the best plan found is the running one")
    if not must and (gain <= settings.margin * cost or 100 * part < settings.least_gain_pct):
        reason = (
            f"the best plan found gains {gain:.4g} {unit} ({100 * part:.1f} %) for {cost:.4g}: it must gain "
            f"{settings.margin:g} times as much and {settings.least_gain_pct:g} %"
        )
        return replace(seen, reason=reason)
    if frozen:
        return replace(seen, blocked="frozen", reason=f"{why}, but the freeze file is there")
    if last_switch_s is not None and now_s - last_switch_s < settings.min_between_s:
        left = settings.min_between_s - (now_s - last_switch_s)
        return replace(seen, blocked="too soon", reason=f"{why}, but the next switch may begin in {left:.0f} s only")
    return replace(seen, act="switch", reason=why)


def worth(settings: Settings, running: Outlook, candidate: Candidate) -> tuple[float, float, float]:
    """(gain over the horizon, cost of the move, gain as a part of what the running plan uses); units as the goal's."""
    if settings.goal == "gpus":
        saved = running.gpus - candidate.outlook.gpus
        price = candidate.outlook.gpus / max(candidate.outlook.in_system, 1e-9)
        cost = candidate.move.gpu_s + candidate.move.lost_run_s * price
        return settings.horizon_s * saved, cost, saved / max(running.gpus, 1)
    less = running.in_system - candidate.outlook.in_system
    part = less / running.in_system if running.in_system > 0 else 0.0
    return settings.horizon_s * less, candidate.move.lost_run_s, part


def confirmed(decision: Decision, simulated: Simulated, settings: Settings, *, must: bool) -> Decision:
    """The decision after the simulation of the live runs: a switch that the simulation does not bear out is not made."""
    if decision.act == "keep":
        return decision
    if not simulated.candidate_keeps_up and (simulated.running_keeps_up or not must):
        return _refused(decision, "in simulation the new plan does not keep up with the live load")
    over = [
        name
        for name, limit in settings.limits_s.items()
        if simulated.candidate_limited_s.get(name, 0.0) > limit
        and simulated.candidate_limited_s[name] > simulated.running_limited_s.get(name, 0.0)
    ]
    if over and not must:
        return _refused(decision, f"in simulation the new plan misses the limit of {', '.join(over)}")
    if settings.goal == "latency" or must:
        slower = all(value >= simulated.running_s.get(name, 0.0) for name, value in simulated.candidate_s.items())
        if slower and simulated.candidate_s:
            return _refused(decision, "in simulation the new plan is not faster")
    return decision


def _refused(decision: Decision, why: str) -> Decision:
    return replace(decision, act="keep", reason=why)


def _allowed(settings: Settings, candidate: Candidate) -> bool:
    most = settings.gpus_to if settings.gpus_to is not None else candidate.outlook.gpus
    return candidate.move.started <= settings.most_started and settings.gpus_from <= candidate.outlook.gpus <= most


def _best(settings: Settings, answer: Answer, among: Sequence[tuple[int, Candidate]]) -> tuple[int, Candidate] | None:
    """The largest gain net of the move."""

    def rank(item: tuple[int, Candidate]) -> tuple[float, float, int]:
        gain, cost, _ = worth(settings, answer.running, item[1])
        if settings.goal == "gpus" and not item[1].outlook.meets:
            return (item[1].outlook.in_system, -(gain - cost), item[0])
        return (-(gain - cost), item[1].outlook.in_system, item[0])

    return min(among, key=rank, default=None)
