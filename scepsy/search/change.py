"""From a running plan to a better one: what changes, what it costs, and how far to go with a bound on moved instances.

An instance stays when the new plan has one of the same LLM, served by the same model under the same names, of the same degree
and share on the same GPUs. The clusters may differ: what they have in common are GPUs of one node name, index and type. Every
other instance of the new plan is *started* (cold start: weights are loaded, ``ColdStartLaw``) and every other one of the old
plan *stopped*.
"""

from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass
from math import fsum
from time import perf_counter

import msgspec
import numpy as np

from scepsy.cluster import Cluster, Gpu
from scepsy.errors import Infeasible, InputError
from scepsy.llm import Served
from scepsy.place.hierarchical import Placement, layout, pack_around
from scepsy.plans import Allocation, Instance, Plan
from scepsy.profile.model import ProfileSet
from scepsy.profile.served import served_by
from scepsy.search.assemble import accepts, assemble, evaluate, objective_of
from scepsy.search.explain import find
from scepsy.search.goals import plan_exact
from scepsy.search.problem import Problem
from scepsy.search.space import Options, Space, build_space

Shape = tuple[str, int, tuple[Gpu, ...]]
"""(LLM, share, GPUs) of an instance: equal shapes need no restart, unless the LLM got another model."""


@dataclass(frozen=True)
class ModelChange:
    """An LLM that another model serves from now on, or whose instances answer to other names."""

    llm: str
    before: Served
    after: Served

    @property
    def what(self) -> str:
        """What changes, in words."""
        return "other names" if _model(self.before) == _model(self.after) else "another model"


@dataclass(frozen=True)
class AllocationChange:
    """What one LLM had and gets; None where it had or gets nothing."""

    llm: str
    before: Allocation | None
    after: Allocation | None


@dataclass(frozen=True)
class PlanDiff:
    """What lies between two plans."""

    allocations: tuple[AllocationChange, ...]
    """LLMs whose allocation differs, by name."""
    kept: tuple[str, ...]
    """Instances of the new plan that run on as they are, by their new name."""
    started: tuple[Instance, ...]
    stopped: tuple[Instance, ...]
    latency_before_s: dict[str, float]
    latency_after_s: dict[str, float]
    cold_start_s: float = 0.0
    """Seconds until the slowest started instance answers; instances of one GPU start one after another."""
    cold_start_gpu_s: float = 0.0
    """GPU seconds spent starting."""
    models: tuple[ModelChange, ...] = ()
    """LLMs that get another model, or other names: all their instances start anew."""
    models_known: bool = True
    """Whether both plans say which models serve them; where one does not, a swapped model is not seen."""

    @property
    def empty(self) -> bool:
        """Whether nothing has to be started or stopped."""
        return not self.started and not self.stopped


def shape(instance: Instance) -> Shape:
    """What makes two instances interchangeable."""
    return (instance.llm, instance.share_pct, tuple(sorted(instance.gpus)))


def diff(before: Plan, after: Plan, profiles: ProfileSet | None = None) -> PlanDiff:
    """Compare two plans; with profiles, cold-start costs too. Raises ``KeyError`` when a started LLM has no profile."""
    swapped = swapped_models(before.models, after.models)
    staying = able_to_stay(before, after.cluster, {change.llm for change in swapped})
    running = Counter(shape(instance) for instance in staying)
    kept, started = [], []
    for instance in after.instances:
        if running[shape(instance)] > 0:
            running[shape(instance)] -= 1
            kept.append(instance.name)
        else:
            started.append(instance)
    stopped = [instance for instance in before.instances if instance not in staying]
    for instance in staying:
        if running[shape(instance)] > 0:
            running[shape(instance)] -= 1
            stopped.append(instance)
    old = {allocation.llm: allocation for allocation in before.allocations}
    new = {allocation.llm: allocation for allocation in after.allocations}
    changes = tuple(
        AllocationChange(llm, old.get(llm), new.get(llm)) for llm in sorted({*old, *new}) if old.get(llm) != new.get(llm)
    )
    seconds = {i.name: profiles.cold_start.seconds(profiles.llm(i.llm).parameters) for i in started} if profiles else {}
    per_gpu: dict[Gpu, float] = {}
    for instance in started:
        for gpu in instance.gpus:
            per_gpu[gpu] = per_gpu.get(gpu, 0.0) + seconds.get(instance.name, 0.0)
    return PlanDiff(
        allocations=changes,
        kept=tuple(kept),
        started=tuple(started),
        stopped=tuple(stopped),
        latency_before_s={e.workflow: e.latency_s for e in before.expected},
        latency_after_s={e.workflow: e.latency_s for e in after.expected},
        cold_start_s=max(per_gpu.values(), default=0.0),
        cold_start_gpu_s=fsum(seconds.get(i.name, 0.0) * len(i.gpus) for i in started),
        models=swapped,
        models_known=bool(before.models and after.models),
    )


def swapped_models(before: Sequence[Served], after: Sequence[Served]) -> tuple[ModelChange, ...]:
    """LLMs of both sides that different models serve, or one model in different precision or under other names: an engine
    learns its model's names when it starts."""
    old = {served.llm: served for served in before}
    return tuple(
        ModelChange(served.llm, old[served.llm], served)
        for served in after
        if served.llm in old and _identity(old[served.llm]) != _identity(served)
    )


def _model(served: Served) -> tuple[str, str]:
    return (served.hub_id or served.model, served.quantisation)


def _identity(served: Served) -> tuple[tuple[str, str], tuple[str, ...]]:
    return (_model(served), served.also)


def able_to_stay(running: Plan, cluster: Cluster, swapped: Container[str]) -> list[Instance]:
    """The running instances that another plan for ``cluster`` may keep: their GPUs are there, and their model is the same."""
    same = common_gpus(running.cluster, cluster)
    return [i for i in running.instances if i.llm not in swapped and same.issuperset(i.gpus)]


def common_gpus(one: Cluster, other: Cluster) -> set[Gpu]:
    """GPUs that two clusters have in common: same node name, index and type, and same UUID where both know it."""
    there = set(other.gpus)
    return {gpu for gpu in one.gpus if gpu in there and _alike(gpu, one, other)}


def _alike(gpu: Gpu, one: Cluster, other: Cluster) -> bool:
    if one.type_of(gpu).name != other.type_of(gpu).name:
        return False
    uuids = [cluster.node(gpu.node).gpu_uuids for cluster in (one, other)]
    return not all(uuids) or uuids[0][gpu.index] == uuids[1][gpu.index]


def plan_change(problem: Problem, running: Plan, max_started: int) -> Plan:
    """The best plan found that starts at most ``max_started`` instances beyond the running ones.

    Two ways are tried. The exact plan, placed so that it keeps as many running instances as it can. And a local search from
    the running plan: one LLM's option is exchanged at a time, everything else stays on its GPUs, and the exchange with the
    lowest predicted latency is taken, until none helps or the bound is used up. Where the running plan no longer carries
    the rates, exchanges that lower the highest utilisation come first. Raises ``Infeasible`` when nothing within the bound
    carries the rates, ``InputError`` when the running plan's cluster and this one have no GPU in common. The cluster may
    have grown or shrunk since: running instances stay where their GPUs are still there.
    """
    if max_started < 0:
        raise InputError(f"max_started is {max_started}: must be >= 0")
    if not common_gpus(running.cluster, problem.cluster):
        raise InputError(
            f"the running plan is for cluster {running.cluster.name!r}, which has no GPU in common with "
            f"{problem.cluster.name!r} (node, index and type): leave out --from, nothing can run on"
        )
    started = perf_counter()
    found: list[tuple[float, Plan]] = []
    try:
        best = keep_instances(problem, plan_exact(problem), running)
        if len(diff(running, best).started) <= max_started:
            found.append((objective_of(problem, best), best))
    except Infeasible as error:
        reason = str(error)
    else:
        reason = f"the exact plan starts {len(diff(running, best).started)} instances"
    local = _Local(problem, running, max_started).run(started)
    if local is not None:
        found.append((objective_of(problem, local), local))
    if not found:
        raise Infeasible(f"no plan that starts at most {max_started} instances carries the target rates ({reason})")
    return min(found, key=lambda pair: pair[0])[1]


def keep_instances(problem: Problem, plan: Plan, running: Plan) -> Plan:
    """The same allocations, placed again around the running instances that they still want; unchanged when that does not
    pack."""
    slots = _stay(plan.allocations, running, problem)
    placement = pack_around(layout(problem.cluster), plan.allocations, slots)
    if placement is None:
        return plan
    moved = assemble(problem, plan.planner, plan.allocations, placement, perf_counter())
    if len(diff(running, moved).started) >= len(diff(running, plan).started):
        return plan
    outlook = evaluate(problem, plan.allocations, placement)
    return moved if accepts(problem, outlook) else plan


def _staying(running: Plan, problem: Problem) -> list[Instance]:
    wanted = served_by(problem.profiles, {llm.llm: None for use in problem.uses for llm in use.llms})
    swapped = {change.llm for change in swapped_models(running.models, wanted)}
    return able_to_stay(running, problem.cluster, swapped)


def _stay(allocations: Sequence[Allocation], running: Plan, problem: Problem) -> Placement:
    """Slots of the running instances that an allocation could keep, no more than its replicas."""
    kept: Placement = {}
    staying = _staying(running, problem)
    for a in allocations:
        mine = [
            i.gpus
            for i in staying
            if i.llm == a.llm
            and i.share_pct == a.share_pct
            and i.tensor_parallel == a.tensor_parallel
            and running.cluster.type_of(i.gpus[0]).name == a.gpu_type
        ]
        kept[a.llm] = tuple(mine[: a.replicas])
    return kept


def _touched(placement: Placement) -> int:
    return len({gpu for slots in placement.values() for slot in slots for gpu in slot})


class _Local:
    """Local search from the running plan."""

    def __init__(self, problem: Problem, running: Plan, max_started: int) -> None:
        self.problem, self.running, self.max_started = problem, running, max_started
        self.space: Space = build_space(problem, keep_all=True)
        self.where = layout(problem.cluster)
        self.most_gpus = problem.goal.max_gpus

    def run(self, started: float) -> Plan | None:
        """Exchange options until none helps; None when no plan within the bound is accepted."""
        current = tuple(self._begin(options) for options in self.space.llms)
        placement = pack_around(self.where, current, _stay(current, self.running, self.problem))
        if placement is None:
            return None
        within = self._started(current, placement) <= self.max_started  # not so after a swapped model, or on fewer GPUs
        rank = self._rank(current, placement) if within else (float("inf"), 0.0)
        while True:
            step = self._best_exchange(current)
            if step is None or step[0] >= rank:
                break
            rank, current, placement = step
        if rank[0] > 0 or (self.most_gpus is not None and _touched(placement) > self.most_gpus):
            return None
        plan = assemble(self.problem, "exact", current, placement, started)
        return msgspec.structs.replace(plan, planner="change")

    def _begin(self, options: Options) -> Allocation:
        """What an LLM has, or the option of the most similar size where that is none (another model, a new LLM)."""
        now = next((a for a in self.running.allocations if a.llm == options.llm), None)
        if now is not None and find(options, now, self.space) is not None:
            return now
        units = now.gpu_pct / self.space.unit_pct if now is not None else 0.0
        gap = np.abs(options.units - units) + np.where(np.isfinite(options.cost_s), 0.0, 1e9)
        return options.allocation(int(gap.argmin()), self.space.gpu_types)

    def _rank(self, allocations: tuple[Allocation, ...], placement: Placement) -> tuple[float, float]:
        """Overload first (0 when accepted), then latency."""
        outlook = evaluate(self.problem, allocations, placement)
        if accepts(self.problem, outlook):
            return (0.0, outlook.objective_s)
        return (max(outlook.utilisation.values()), 0.0)

    def _best_exchange(
        self, current: tuple[Allocation, ...]
    ) -> tuple[tuple[float, float], tuple[Allocation, ...], Placement] | None:
        best = None
        for options in self.space.llms:
            place = next(n for n, a in enumerate(current) if a.llm == options.llm)
            for option in self._promising(options, current[place]):
                allocations = (*current[:place], option, *current[place + 1 :])
                placement = pack_around(self.where, allocations, _stay(allocations, self.running, self.problem))
                if placement is None or self._started(allocations, placement) > self.max_started:
                    continue
                if self.most_gpus is not None and _touched(placement) > self.most_gpus:
                    continue
                candidate = (self._rank(allocations, placement), allocations, placement)
                if best is None or candidate[0] < best[0]:
                    best = candidate
        return best

    def _promising(self, options: Options, now: Allocation) -> list[Allocation]:
        """Other replica counts of the same type, and for each type the count nearest to the same units."""
        found = []
        units = now.gpu_pct // self.space.unit_pct
        nearest: dict[tuple[int, int, int], tuple[int, int]] = {}
        for n in range(len(options)):
            kind = (int(options.gpu_type[n]), int(options.share_pct[n]), int(options.tensor_parallel[n]))
            same = kind == (self.space.gpu_types.index(now.gpu_type), now.share_pct, now.tensor_parallel)
            if same and abs(int(options.replicas[n]) - now.replicas) <= self.max_started:
                found.append(n)
            gap = abs(int(options.units[n]) - units)
            if kind not in nearest or gap < nearest[kind][0]:
                nearest[kind] = (gap, n)
        found.extend(n for _, n in nearest.values())
        made = [options.allocation(n, self.space.gpu_types) for n in dict.fromkeys(found)]
        return [a for a in made if a != now]

    def _started(self, allocations: tuple[Allocation, ...], placement: Placement) -> int:
        running = Counter(shape(instance) for instance in _staying(self.running, self.problem))
        new = Counter((a.llm, a.share_pct, tuple(sorted(slot))) for a in allocations for slot in placement[a.llm])
        return (new - running).total()
