"""The controller of ``scepsy operate`` as a policy: it watches ended and open runs, plans again, and switches with drains and
cold starts, as the executor does.

Instances whose GPUs the new plan needs are drained and go first, the others when all that was started serves. While a switch
is under way nothing else is decided.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import simpy

from scepsy.operate.controller import KEPT_RUNS, Facts, Memory, Replan, Report, Validate, begin, step, switched
from scepsy.operate.features import Seen, features_of
from scepsy.operate.reference import Reference
from scepsy.operate.settings import Settings
from scepsy.plans import Instance, Plan
from scepsy.profile.model import instance_memory_bytes
from scepsy.search.change import shape
from scepsy.workload import Run
from sim.engine.clock import seconds
from sim.world.agent import Agent
from sim.world.control import PENDING, READY, STARTING, STOPPED, Control, Member, Policy

POLL_S = 1.0
"""Between two looks at whether a switch is over."""


@dataclass
class Eyes:
    """What the controller sees of a simulation: ended runs, and when the open ones arrived."""

    ended: dict[str, list[Seen]] = field(default_factory=dict)
    _values: dict[int, tuple[Run, dict[str, float]]] = field(default_factory=dict)

    def run_ended(self, agent: Agent) -> None:
        """Note an ended run."""
        run, now_s = agent.walk.run, seconds(agent.world.env.now)
        known = self._values.get(id(run))
        if known is None:
            known = self._values[id(run)] = (run, features_of(run))
        mine = self.ended.setdefault(run.workflow, [])
        mine.append(Seen(workflow=run.workflow, arrival_s=seconds(agent.arrival), end_s=now_s, values=known[1], run=run))
        if len(mine) > 2 * KEPT_RUNS:
            del mine[:KEPT_RUNS]

    def facts(self, control: Control, serves_since_s: float) -> Facts:
        """Everything known now."""
        seen = {name: list(mine) for name, mine in self.ended.items()}
        for agent in control.open_runs:
            run = agent.walk.run
            seen.setdefault(run.workflow, []).append(Seen(workflow=run.workflow, arrival_s=seconds(agent.arrival)))
        return Facts(
            now_s=control.now_s,
            seen={name: tuple(sorted(mine, key=lambda each: each.arrival_s)) for name, mine in seen.items()},
            lost=tuple(sorted(control.lost)),
            serves_since_s=serves_since_s,
        )


@dataclass
class Log:
    """What the policy did, for tests and tables."""

    reports: list[Report] = field(default_factory=list)
    switches: list[tuple[float, float]] = field(default_factory=list)
    """(begin, end) in seconds."""
    rollbacks: list[tuple[float, float]] = field(default_factory=list)
    """Switches that were taken back, likewise."""


def adaptive(
    plan: Plan,
    references: Sequence[Reference],
    settings: Settings,
    replan: Replan,
    validate: Validate | None,
    log: Log | None = None,
) -> Policy:
    """The policy for a simulation that begins with ``plan``, made for the load of ``references``."""
    told = log if log is not None else Log()

    def policy(control: Control) -> Generator[simpy.Event, Any, None]:
        eyes, running, since_s = Eyes(), plan, control.now_s
        memory: Memory = begin(references, control.now_s)
        control.tell_ended_runs(eyes.run_ended)
        while True:
            yield control.sleep(settings.look_s)
            memory, report = step(memory, eyes.facts(control, since_s), settings, running, replan, validate, frozen=False)
            if report is None:
                continue
            told.reports.append(report)
            if report.chosen is None:
                continue
            begun_s = control.now_s
            memory = switched(memory, begun_s)
            if (yield from switch_to(control, report.chosen)):
                running, since_s = report.chosen, control.now_s
                told.switches.append((begun_s, control.now_s))
            else:
                told.rollbacks.append((begun_s, control.now_s))

    return policy


def switch_to(control: Control, wanted: Plan) -> Generator[simpy.Event, Any, bool]:
    """Bring the cluster to a plan: drain what is in the way, start what is missing, then drain the rest.

    False where something new did not come to serve, because its GPU was lost: then all that was started goes, and what had to
    go first is started again, as the executor does.
    """
    here = [member for llm in {m.llm for m in control.members} for member in control.of(llm, PENDING, STARTING, READY)]
    missing = list(wanted.instances)
    unwanted: list[Member] = []
    for member in sorted(here, key=lambda each: (each.llm, each.index)):
        mine = (member.llm, member.share_pct, tuple(sorted(member.gpus or member.wanted)))
        same = next((instance for instance in missing if shape(instance) == mine), None)
        if same is None:
            unwanted.append(member)
        else:
            missing.remove(same)
    needed = {gpu for instance in missing for gpu in instance.gpus}
    first = [member for member in unwanted if needed & set(member.gpus)]
    started = [control.place(instance) for instance in missing]  # before the drains, so that calls wait for them
    for member in first:
        control.drain(member)
    while True:
        if any(member.state == STOPPED or control.lost & set(member.wanted) for member in started):
            _roll_back(control, started, first)
            return False
        if all(m.state == READY for m in started) and all(m.state == STOPPED for m in first):
            break
        yield control.sleep(POLL_S)
    for member in unwanted:
        if member not in first:
            control.drain(member)
    return True


def _roll_back(control: Control, started: Sequence[Member], gone: Sequence[Member]) -> None:
    for member in gone:
        if not control.lost & set(member.gpus):
            memory = instance_memory_bytes(member.profile, member.share_pct)
            control.place(
                Instance(llm=member.llm, index=member.index, gpus=member.gpus, share_pct=member.share_pct, memory_bytes=memory)
            )
    for member in started:
        if member.state != STOPPED:
            control.drain(member)
