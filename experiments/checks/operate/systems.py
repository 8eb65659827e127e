"""The systems that are compared: policies on the same first plan."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import simpy

from experiments.checks.operate.scenarios import WORKFLOW, Part, Scenario
from scepsy.api.inputs import load_cluster, profiles_of
from scepsy.api.live import LivePlanner
from scepsy.api.program import plan as plan_for
from scepsy.api.settle import settle
from scepsy.backend import Stream
from scepsy.cluster import Gpu
from scepsy.files.cache import cache_dir
from scepsy.operate.controller import Finding, Load
from scepsy.operate.decision import Answer, Outlook, decide
from scepsy.operate.settings import Settings
from scepsy.operate.window import Estimate
from scepsy.plans import Plan
from scepsy.profile.model import ProfileSet
from scepsy.search.problem import Goal
from scepsy.steady.verdict import UNSTABLE
from scepsy.workload import Arrivals
from sim.policies.adaptive import Log, adaptive, switch_to
from sim.policies.systems import SYSTEMS
from sim.world.control import Control, Policy
from sim.world.run import simulate

GPUS = 8
LIMIT_S = 12.0
"""Of the percentile of latency."""
RULES = ("static", "oracle", "hpa-load", "keda", "adaptive")
PERCENTILE = 95
HEADROOM = 1.1
"""The oracle has plans made for so many times the true rate, since predictions err, and simulates them at the true rate."""
ORACLE_RUNS = 2000
"""Of each of its simulations."""
JUST_AFTER_S = 0.001


@dataclass(frozen=True)
class Bench:
    """What all systems have in common in one scenario."""

    scenario: Scenario
    start: Plan
    profiles: ProfileSet
    planner: LivePlanner
    lost: Gpu

    def policies(self, system: str, log: Log) -> tuple[Policy, ...]:
        """The system's policy, and the loss of a GPU where there is one."""
        planner = self.planner
        if system == "oracle":
            rule: tuple[Policy, ...] = (Oracle(self.scenario, self.start, planner).policy(log),)
        elif system == "adaptive":
            references = planner.references(self.start)
            rule = (adaptive(self.start, references, planner.settings, planner.replan, planner.validate, log),)
        else:
            rule = SYSTEMS[system]
        return (self.loss, *rule) if self.scenario.loses_a_gpu else rule

    def loss(self, control: Control) -> Generator[simpy.Event, Any, None]:
        """The GPU goes when the second part begins."""
        yield control.sleep(self.scenario.changes_s[0])
        control.lose(self.lost)
        yield from idle(control)


def idle(control: Control) -> Generator[simpy.Event, Any, None]:
    """Do nothing until the end."""
    while True:
        yield control.sleep(600.0)


def bench_of(scenario: Scenario) -> Bench:
    """Plan for the first part: the fewest GPUs within the limit."""
    first, settings = scenario.parts[0], Settings(goal="gpus", limits_s={WORKFLOW: LIMIT_S}, percentile=PERCENTILE)
    cluster = load_cluster(GPUS)
    llms = dict.fromkeys(llm for part in scenario.parts for llm in part.trace.llms)
    profiles = profiles_of({llm: llm for llm in llms}, cluster)
    goal = Goal(kind="gpus", limits_s=settings.limits_s, percentile=settings.percentile)
    start = plan_for(first.trace, rate_per_s=first.rate_per_s, cluster=cluster, profiles=profiles, goal=goal)
    planner = LivePlanner({WORKFLOW: first.trace}, profiles, settings, cache_dir=cache_dir())
    busiest = max(start.gpu_shares, key=lambda gpu: (sum(gpu in i.gpus for i in start.instances), gpu))
    return Bench(scenario, start, profiles, planner, busiest)


@dataclass(frozen=True)
class Oracle:
    """Knows each new load when it begins.

    It asks the same planner for plans, judges each of them and the running one by a long simulation of the new load instead
    of a prediction, and switches with the same drains and cold starts. It need not wait between two switches, and any gain
    over the horizon that is more than the cost is enough. What a move costs is predicted, as for the controller, and a load
    is taken to last as long.
    """

    scenario: Scenario
    start: Plan
    planner: LivePlanner

    def policy(self, log: Log) -> Policy:
        """As a policy."""

        def policy(control: Control) -> Generator[simpy.Event, Any, None]:
            running = self.start
            for at_s, part in zip(self.scenario.changes_s, self.scenario.parts[1:], strict=True):
                yield control.sleep(max(0.0, at_s + JUST_AFTER_S - control.now_s))
                wanted = self.choice(running, part, sorted(control.lost))
                if wanted is None:
                    continue
                begun_s = control.now_s
                if (yield from switch_to(control, wanted)):
                    running = wanted
                    log.switches.append((begun_s, control.now_s))
                else:
                    log.rollbacks.append((begun_s, control.now_s))
            yield from idle(control)

        return policy

    def choice(self, running: Plan, part: Part, lost: Sequence[Gpu]) -> Plan | None:
        """The plan to switch to; None: stay."""
        crippled = any(gpu in lost for instance in running.instances for gpu in instance.gpus)
        answer = self.simulated(running, part, lost, crippled=crippled)
        eager = msgspec.structs.replace(self.planner.settings, min_between_s=0.0, least_gain_pct=0.0, margin=1.0)
        found = decide(eager, answer, now_s=0.0, last_switch_s=None, frozen=False, lost=crippled)
        return answer.candidates[found.candidate].plan if found.act == "switch" and found.candidate is not None else None

    def simulated(self, running: Plan, part: Part, lost: Sequence[Gpu], *, crippled: bool) -> Answer:
        """What the planner knows, with simulated latencies."""
        answer = self.planner.replan(running, self.finding(part, lost, crippled=crippled))
        candidates = tuple(
            msgspec.structs.replace(each, outlook=self.judged(each.outlook, each.plan, part)) for each in answer.candidates
        )
        before = answer.running if crippled else self.judged(answer.running, running, part)
        return msgspec.structs.replace(answer, running=before, candidates=candidates)

    def judged(self, outlook: Outlook, plan: Plan, part: Part) -> Outlook:
        """The outlook with what a simulation of the load says. One that would not keep up stays as predicted."""
        streams = [Stream(trace=part.trace, arrivals=Arrivals(rate_per_s=part.rate_per_s), order="shuffled")]
        backend = partial(simulate, plan, profiles=self.planner.profiles)
        found = settle(backend, streams, seed=self.planner.seed, runs=ORACLE_RUNS).by_workflow[WORKFLOW]
        if outlook.utilisation >= 1 or found.verdict == UNSTABLE:
            return msgspec.structs.replace(outlook, meets=False)
        mean_s, limited_s = found.latency.value, found.quantile(PERCENTILE).value
        return msgspec.structs.replace(
            outlook,
            latency_s={WORKFLOW: mean_s},
            limited_s={WORKFLOW: limited_s},
            in_system=part.rate_per_s * mean_s,
            meets=limited_s <= LIMIT_S,
        )

    def finding(self, part: Part, lost: Sequence[Gpu], *, crippled: bool) -> Finding:
        """The truth, as the planner wants it."""
        load = Load(
            workflow=WORKFLOW,
            rate_per_s=Estimate(value=part.rate_per_s),
            planned_rate_per_s=HEADROOM * part.rate_per_s,
            runs=None if part.trace is self.scenario.parts[0].trace else part.trace.runs,
            begun_s=0.0,
        )
        return Finding(kind="drift", drifts=(), loads=(load,), lost=tuple(lost), crippled=crippled)
