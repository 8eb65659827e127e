"""Planning for a live load: what the running plan and others would do under it, what a move costs, and both replayed.

This is what ``scepsy.operate.controller.step`` is handed, for the simulator's policy and for the executor's loop.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from math import fsum
from pathlib import Path

import msgspec

from scepsy.api.prepare import Load, prepare
from scepsy.api.settle import Settled, settle
from scepsy.backend import Stream
from scepsy.errors import Infeasible
from scepsy.files.cache import cache_dir
from scepsy.operate.controller import Finding
from scepsy.operate.controller import Load as LiveLoad
from scepsy.operate.decision import Answer, Candidate, Move, Outlook, Simulated
from scepsy.operate.lost import moved, with_instances, without
from scepsy.operate.reference import Reference, planned_for
from scepsy.operate.settings import Settings
from scepsy.plans import Plan
from scepsy.profile.model import ProfileSet
from scepsy.search.aside import aside, evicted
from scepsy.search.assemble import evaluate, latencies_of
from scepsy.search.change import diff, keep_instances, plan_change, shape
from scepsy.search.goals import plan_exact
from scepsy.search.grow import grown
from scepsy.search.problem import Goal, Problem
from scepsy.workload import Arrivals, Run, Trace
from sim.policies.adaptive import adaptive
from sim.world.control import Policy
from sim.world.run import simulate

SLOWEST_PER_S = 1e-6
"""A workflow that nobody runs any more is planned for at this rate."""
FULL = 0.95
"""Part of what a plan carries at which its latency is read where it is offered more."""
PARTS = tuple(0.9**power for power in range(1, 24))
"""Of a load that is too much for the cluster: how much of it is planned for, down to a tenth."""
REPLAYED_RUNS = 400
"""Runs of all workflows together in the replay before a switch."""


@dataclass(frozen=True)
class LivePlanner:
    """Answers for one cluster and its profiles. ``traces`` are what the first plan was made from, by workflow."""

    traces: Mapping[str, Trace]
    profiles: ProfileSet
    settings: Settings
    seed: int = 0
    jobs: int = 1
    cache_dir: Path | None = None
    replayed_runs: int = REPLAYED_RUNS

    def replan(self, running: Plan, finding: Finding) -> Answer:
        """What is predicted of the running plan under the live load, and of the plans that could take its place."""
        try:
            reduced = without(running.cluster, finding.lost)
        except Infeasible as error:
            rates = {load.workflow: load.rate_per_s.value for load in finding.loads}
            return Answer(running=_dead(rates, 0, self.settings), candidates=(), note=str(error))
        here = moved(running, reduced.cluster, reduced.to_left)
        now = self._problem(here, finding.loads, [load.rate_per_s.value for load in finding.loads])
        wanted = _at_rates(now, [load.planned_rate_per_s for load in finding.loads])
        before = outlook_of(now, here, self.settings)
        found, note = self._plans(wanted, here)
        if not found:  # the upper end of what the rates may be is too much: then what they most likely are
            found, note = self._plans(now, here)
        if not found:
            found = self._most(now, here)
        candidates = []
        for plan in found:
            after = outlook_of(now, plan, self.settings)
            whole = moved(plan, running.cluster, reduced.to_whole)
            candidates.append(Candidate(plan=whole, outlook=after, move=move_of(now, here, plan, before, after, self.settings)))
        return Answer(running=before, candidates=tuple(candidates), note=note)

    def validate(self, running: Plan, candidate: Plan, finding: Finding) -> Simulated:
        """Replay the live runs at the live rates on both plans, the same arrivals for both."""
        streams = [
            Stream(trace=self._trace(load), arrivals=Arrivals(rate_per_s=load.rate_per_s.value), order="shuffled")
            for load in finding.loads
            if load.rate_per_s.value > SLOWEST_PER_S
        ]
        if not streams:
            return Simulated(running_s={}, candidate_s={})
        both = [self._replayed(plan, streams) for plan in (running, candidate)]
        limit = self.settings.percentile

        def means(which: int) -> dict[str, float]:
            return {name: one.latency.value for name, one in both[which].by_workflow.items()}

        def limited(which: int) -> dict[str, float]:
            if limit is None:
                return means(which)
            return {name: one.quantile(limit).value for name, one in both[which].by_workflow.items()}

        return Simulated(
            running_s=means(0),
            candidate_s=means(1),
            running_limited_s=limited(0),
            candidate_limited_s=limited(1),
            running_keeps_up=not both[0].grows,
            candidate_keeps_up=not both[1].grows,
            runs=self.replayed_runs,
        )

    def references(self, plan: Plan) -> list[Reference]:
        """What the plan was made for."""
        return [
            planned_for(
                target.workflow,
                self.traces[target.workflow].runs,
                target.arrivals.rate_per_s or 0.0,
                dispersion=max(1.0, target.arrivals.cv**2) if target.arrivals.kind == "gamma" else 1.0,
            )
            for target in plan.targets
        ]

    # ---- inside ----------------------------------------------------------------------------------------------------

    def _replayed(self, plan: Plan, streams: Sequence[Stream]) -> Settled:
        backend = partial(simulate, plan, profiles=self.profiles, engine="auto")
        return settle(backend, streams, seed=self.seed, runs=self.replayed_runs)

    def _plans(self, problem: Problem, running: Plan) -> tuple[list[Plan], str]:
        """The best plans found within the limits on moves: the exact one, the running one with more replicas, and what a few
        exchanges reach."""
        settings, found, notes = self.settings, [], []
        if settings.goal == "gpus":
            try:
                found.append(keep_instances(problem, plan_exact(problem), running))
            except Infeasible as error:
                notes.append(str(error))
        more = grown(problem, running, settings.most_started)
        if more is not None:
            found.append(more)
        latency = replace(problem, goal=replace(problem.goal, kind="latency"))
        for most in dict.fromkeys(min(count, settings.most_started) for count in (settings.most_started, 4, 2)):
            try:
                found.append(plan_change(latency, running, most))
            except Infeasible as error:
                notes.append(str(error))
        if not found:  # the limits cannot be kept: as little latency as can be had
            unlimited = replace(problem, goal=Goal(max_gpus=settings.gpus_to))
            try:
                found.append(plan_change(unlimited, running, settings.most_started))
            except Infeasible as error:
                notes.append(str(error))
        found += [other for plan in found for other in aside(problem, plan, running)]
        unique = {tuple(sorted(map(shape, plan.instances))): plan for plan in reversed(found)}
        return list(reversed(unique.values())), "; ".join(dict.fromkeys(notes))

    def _most(self, problem: Problem, running: Plan) -> list[Plan]:
        """Where nothing carries the load: a plan for the largest part of it that a plan is found for."""
        rates = [target.arrivals.rate_per_s or 0.0 for target in problem.targets]
        bare = replace(problem, goal=Goal(max_gpus=self.settings.gpus_to))
        for part in PARTS:
            asked = _at_rates(bare, [part * rate for rate in rates])
            with suppress(Infeasible):
                return [plan_change(asked, running, self.settings.most_started)]
        return []

    def _problem(self, running: Plan, loads: Sequence[LiveLoad], rates: Sequence[float]) -> Problem:
        settings = self.settings
        goal = Goal(
            kind="gpus" if settings.goal == "gpus" else "latency",
            limits_s=settings.limits_s,
            percentile=settings.percentile,
            max_gpus=settings.gpus_to,
        )
        asked = [
            Load(trace=self._trace(load), arrivals=Arrivals(rate_per_s=max(rate, SLOWEST_PER_S)))
            for load, rate in zip(loads, rates, strict=True)
        ]
        return prepare(
            asked, running.cluster, self.profiles, goal=goal, seed=self.seed, cache_dir=self.cache_dir, jobs=self.jobs
        )

    def _trace(self, load: LiveLoad) -> Trace:
        """The runs that stand for the workflow now. An LLM that they do not call is still planned for: one traced run that
        calls it is added."""
        traced = self.traces[load.workflow]
        if not load.runs:
            return traced
        runs: list[Run] = list(load.runs)
        called = {call.llm for run in runs for call in run.calls}
        for run in traced.runs:
            more = {call.llm for call in run.calls} - called
            if more:
                runs.append(run)
                called |= more
        named = tuple(msgspec.structs.replace(run, id=f"live-{number}") for number, run in enumerate(runs))
        return Trace(source=traced.source, runs=named, prefix_block_tokens=traced.prefix_block_tokens)


def outlook_of(problem: Problem, plan: Plan, settings: Settings) -> Outlook:
    """Predict a plan at the problem's rates. Where it cannot carry them, latency is read at 95 % of what it carries, and
    what piles up over the horizon is counted among the runs in the system."""
    rates = dict(zip((t.workflow for t in problem.targets), problem.rates_per_s, strict=True))
    limits = settings.limits_s
    wanted = {a for use in problem.uses for a in (each.llm for each in use.llms)}
    if wanted - {a.llm for a in plan.allocations}:  # an LLM has no instance: nothing is served
        return _dead(rates, len(plan.gpu_shares), settings)
    whole = evaluate(problem, plan.allocations, plan.placement)
    used = max(whole.utilisation.values())
    factor = min(1.0, FULL / used)
    seen = whole if factor == 1.0 else evaluate(problem, plan.allocations, plan.placement, factor=factor)
    walked = latencies_of(problem, plan.allocations, seen, factor=factor)
    mean = {e.workflow: e.latency_s for e in seen.expected} if walked is None else {w.workflow: w.mean_s for w in walked}
    limited = mean if walked is None else {w.workflow: w.percentile(settings.percentile) for w in walked}
    carried = fsum(rates[name] * factor * mean[name] for name in rates)
    piled = fsum(rates.values()) * (1 - factor) * settings.horizon_s / 2 if used > 1.0 else 0.0
    return Outlook(
        latency_s=mean,
        limited_s=limited,
        throughput_per_s={e.workflow: e.throughput_per_s for e in whole.expected},
        utilisation=used,
        gpus=len(plan.gpu_shares),
        in_system=carried + piled,
        meets=used <= problem.max_utilisation * (1 + 1e-9)
        and all(limited[name] <= limit for name, limit in limits.items() if name in limited),
    )


def _dead(rates: Mapping[str, float], gpus: int, settings: Settings) -> Outlook:
    """What is predicted of a plan that serves nothing: runs pile up over the horizon."""
    endless = dict.fromkeys(rates, settings.horizon_s)
    return Outlook(
        latency_s=endless,
        limited_s=endless,
        throughput_per_s=dict.fromkeys(rates, 0.0),
        utilisation=1e9,
        gpus=gpus,
        in_system=fsum(rates.values()) * settings.horizon_s / 2,
        meets=False,
    )


def move_of(problem: Problem, running: Plan, plan: Plan, before: Outlook, after: Outlook, settings: Settings) -> Move:
    """What a switch costs: instances whose GPUs are needed leave first, so meanwhile fewer serve.

    A fluid approximation: beyond what is served meanwhile runs pile up, and the new plan works them off at its spare rate.
    """
    steps = diff(running, plan, problem.profiles)
    serving = _without(running, {instance.name for instance in evicted(steps)})
    rates = dict(zip((t.workflow for t in problem.targets), problem.rates_per_s, strict=True))
    lasts = steps.cold_start_s + max(before.latency_s.values(), default=0.0) if steps.started else 0.0
    meanwhile = outlook_of(problem, serving, msgspec.structs.replace(settings, horizon_s=max(lasts, 1e-3)))
    total = fsum(rates.values())
    carried = min(1.0, 1.0 / meanwhile.utilisation) if meanwhile.utilisation > 0 else 1.0
    short = total * (1 - carried)
    room = total * (1.0 / after.utilisation - 1.0) if 0 < after.utilisation < 1 else 0.0
    waits = fsum(rates[name] * max(0.0, min(meanwhile.latency_s[name], lasts) - before.latency_s[name]) for name in rates)
    lost = lasts * waits if short <= 0 else 0.5 * short * lasts**2 * (1 + short / room) if room > 0 else 1e12
    return Move(
        started=len(steps.started),
        stopped=len(steps.stopped),
        cold_start_s=steps.cold_start_s,
        gpu_s=steps.cold_start_gpu_s,
        lost_run_s=lost if steps.started or steps.stopped else 0.0,
        meets_meanwhile=not steps.started or meanwhile.meets,
    )


def _without(plan: Plan, names: set[str]) -> Plan:
    return with_instances(plan, plan, [instance for instance in plan.instances if instance.name not in names])


def _at_rates(problem: Problem, rates: Sequence[float]) -> Problem:
    targets = tuple(
        msgspec.structs.replace(target, arrivals=Arrivals(rate_per_s=max(rate, SLOWEST_PER_S)))
        for target, rate in zip(problem.targets, rates, strict=True)
    )
    return replace(problem, targets=targets)


def adaptive_policies(
    plan: Plan, loads: Sequence[Load], profiles: ProfileSet, settings: Settings | None = None
) -> tuple[Policy, ...]:
    """The controller as a policy for a simulation of ``plan``. It takes the plan's own rates for what was planned for."""
    wanted = settings or Settings()
    planner = LivePlanner({load.workflow: load.trace for load in loads}, profiles, wanted, cache_dir=cache_dir())
    return (adaptive(plan, planner.references(plan), wanted, planner.replan, planner.validate),)
