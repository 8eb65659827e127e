"""What every planner is asked, and the one signature they all have."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import fsum
from typing import Literal

from scepsy.capabilities import TARGETS, Capabilities
from scepsy.cluster import Cluster
from scepsy.errors import InputError
from scepsy.plans import Plan, Target
from scepsy.predictors.aggregate import CurveIndex, CurveKey
from scepsy.predictors.critical_path import RunModel
from scepsy.profile.curve import Curve
from scepsy.profile.model import ProfileSet
from scepsy.search.choices import Choices
from scepsy.slo import Slo
from scepsy.stats.use import WorkflowUse
from scepsy.workload import Run

__all__ = ["CurveKey", "Goal", "Planner", "Problem"]


@dataclass(frozen=True)
class Goal:
    """What is optimised, the target rates being met in every case but ``rate``.

    latency: lowest weighted mean latency. gpus: fewest GPUs within the latency limits. cost: least cost per hour within
    the latency limits.
    rate: largest factor on all target rates together.
    """

    kind: Literal["latency", "gpus", "cost", "rate"] = "latency"
    limits_s: Mapping[str, float] = field(default_factory=dict)
    """Latency limit by workflow, seconds; workflows without one are unlimited."""
    percentile: float | None = None
    """Which percentile the limits bound (e.g. 95); None: the mean. Percentiles need ``Problem.runs``."""
    slo: Slo | None = None
    """Latency limits by workflow and statistic, which the critical path's latencies must keep. The exact planner obeys them."""
    max_gpus: int | None = None
    """Touch at most this many GPUs; None: the whole cluster."""


@dataclass(frozen=True)
class Problem:
    """One planning question: carry these workflows at these rates on this cluster, knowing these profiles."""

    cluster: Cluster
    profiles: ProfileSet
    targets: tuple[Target, ...]
    uses: tuple[WorkflowUse, ...]
    """One per target, in the same order."""
    curves: Mapping[CurveKey, Curve]
    share_unit_pct: int = 10
    """Shares are multiples of this, except on GPU types with fixed partitions."""
    assumptions: tuple[str, ...] = field(default=())
    goal: Goal = field(default_factory=Goal)
    capabilities: Capabilities = TARGETS["dra"]
    """What the target that will run the plan can enforce; a plan never asks for more."""
    weights: tuple[float, ...] = ()
    """Weight of each workflow's latency in the objective, one per target; empty: its rate, so that every request counts
    the same."""
    longest_call_tokens: Mapping[str, int] = field(default_factory=dict)
    """Prompt + output tokens of each LLM's longest traced call: what a KV cache must hold at least."""
    max_utilisation: float = 0.95
    """A plan is accepted while no instance is loaded beyond this part of its saturated throughput. Nearer to 1 the queue's
    length is set by the length of the experiment, not by the load."""
    runs: Mapping[str, tuple[Run, ...]] = field(default_factory=dict)
    """Traced runs by workflow, for the critical path; may be empty."""
    choices: Choices = field(default_factory=Choices)
    """What is fixed or forbidden beforehand. Only the exact planner obeys it."""

    def __post_init__(self) -> None:
        if not self.targets:
            raise InputError("targets is empty: give at least one workflow and its rate")
        if len(self.uses) != len(self.targets):
            raise InputError(f"uses has {len(self.uses)} entries for {len(self.targets)} targets: give one for each")
        names = [target.workflow for target in self.targets]
        if len(set(names)) != len(names):
            raise InputError(f"targets are {', '.join(names)}: give each workflow once")
        for target, use in zip(self.targets, self.uses, strict=True):
            if target.workflow != use.workflow:
                raise InputError(
                    f"uses holds {use.workflow!r} where targets hold {target.workflow!r}: give them in the same order"
                )
            if target.arrivals.rate_per_s is None:
                raise InputError(f"target {target.workflow}: arrivals.rate_per_s is not given: planning needs a rate")
        if self.weights and (len(self.weights) != len(names) or min(self.weights) < 0 or fsum(self.weights) <= 0):
            raise InputError(f"weights is {self.weights}: must be {len(names)} numbers >= 0, not all 0")
        if not 0 < self.max_utilisation <= 1:
            raise InputError(f"max_utilisation is {self.max_utilisation}: must be in (0, 1]")
        if not 1 <= self.share_unit_pct <= 100:
            raise InputError(f"share_unit_pct is {self.share_unit_pct}: must be 1 to 100")
        for name, limit in self.goal.limits_s.items():
            if name not in names:
                raise InputError(f"goal.limits_s names {name!r}: must be one of {', '.join(names)}")
            if not limit > 0:
                raise InputError(f"goal.limits_s[{name!r}] is {limit}: must be > 0")

    @property
    def rates_per_s(self) -> tuple[float, ...]:
        """Target rate of each workflow, runs per second."""
        return tuple(float(target.arrivals.rate_per_s or 0.0) for target in self.targets)

    @property
    def normal_weights(self) -> tuple[float, ...]:
        """Weights that sum to 1."""
        weights = self.weights or self.rates_per_s
        return tuple(weight / fsum(weights) for weight in weights)

    @cached_property
    def run_models(self) -> dict[str, RunModel] | None:
        """The traced runs, compiled for the critical path; None when a workflow's are missing."""
        if any(target.workflow not in self.runs for target in self.targets):
            return None
        return {target.workflow: _compiled(self.runs[target.workflow]) for target in self.targets}

    @cached_property
    def has_regressions(self) -> bool:
        """Whether every curve has the columns that the critical path reads."""
        return all(curve.call_base_s for curve in self.curves.values())

    @cached_property
    def index(self) -> CurveIndex:
        """The curves, indexed for reading."""
        return CurveIndex(self.curves.values())


_models: dict[int, tuple[tuple[Run, ...], RunModel]] = {}
"""Compiled runs by identity, the runs held beside them so that the identity stays theirs; the last few."""
_KEPT = 32


def _compiled(runs: tuple[Run, ...]) -> RunModel:
    """Problems that differ in rate or cluster share their runs: compile them once."""
    found = _models.get(id(runs))
    if found is None or found[0] is not runs:
        while len(_models) >= _KEPT:
            del _models[next(iter(_models))]
        found = _models[id(runs)] = (runs, RunModel(runs))
    return found[1]


Planner = Callable[[Problem], Plan]
"""Raises ``Infeasible`` naming the LLM or the resource that binds, and by how much. Deterministic."""


def subset(problem: Problem, numbers: list[int]) -> Problem:
    """The problem with only these targets, in this order."""
    kept = [problem.targets[n] for n in numbers]
    names = {target.workflow for target in kept}
    limits = {name: limit for name, limit in problem.goal.limits_s.items() if name in names}
    weights = tuple(problem.weights[n] for n in numbers) if problem.weights else ()
    kind = problem.goal.kind if limits or problem.goal.kind == "rate" else "latency"
    return replace(
        problem,
        targets=tuple(kept),
        uses=tuple(problem.uses[n] for n in numbers),
        weights=weights if fsum(weights) > 0 else (),
        goal=replace(problem.goal, kind=kind, limits_s=limits),
    )
