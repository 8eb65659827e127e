"""From chosen options and slots to a plan: instances with their memory, expectations, and what was proved."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

from scepsy.place.hierarchical import Placement
from scepsy.plan import Allocation, Expectation, Instance, Plan
from scepsy.predict.aggregate import call_rates_per_s, capacity_of, predict
from scepsy.predict.contention import stretches
from scepsy.profile.model import instance_memory_bytes
from scepsy.search.problem import Problem


@dataclass(frozen=True)
class Proof:
    """What the planner knows about its plan's distance from the best."""

    optimal: bool = False
    bound_latency_s: float | None = None


@dataclass(frozen=True)
class Outlook:
    """What is predicted of allocations on their GPUs."""

    expected: tuple[Expectation, ...]
    utilisation: Mapping[str, float]
    """Load over capacity by LLM, neighbours' slow-down included."""
    objective_s: float
    """Weighted mean latency: what the planners minimise."""


def evaluate(
    problem: Problem, allocations: Sequence[Allocation], placement: Placement | None, *, factor: float = 1.0
) -> Outlook:
    """Predict every workflow at ``factor`` times its target rate; with a placement, neighbours on a GPU slow each other."""
    rates = [rate * factor for rate in problem.rates_per_s]
    pull: Mapping[str, float] = {}
    worst: Mapping[str, float] = {}
    if placement is not None:
        pull = stretches(problem.uses, rates, problem.index, problem.profiles, allocations, placement)
        worst = pull
        if max(pull.values()) > 1.0:
            worst = stretches(problem.uses, rates, problem.index, problem.profiles, allocations, placement, saturated=True)
    expected = predict(problem.uses, rates, problem.index, allocations, stretch=pull, saturated_stretch=worst)
    loads = call_rates_per_s(problem.uses, rates)
    used = {a.llm: loads[a.llm] * worst.get(a.llm, 1.0) / capacity_of(problem.index, a, problem.uses) for a in allocations}
    objective = sum(weight * e.latency_s for weight, e in zip(problem.normal_weights, expected, strict=True))
    return Outlook(expected=expected, utilisation=used, objective_s=objective)


def accepts(problem: Problem, outlook: Outlook) -> bool:
    """Whether no LLM is loaded beyond ``max_utilisation``, and every mean-latency limit of the goal holds."""
    if max(outlook.utilisation.values()) > problem.max_utilisation * (1 + 1e-9):
        return False
    if problem.goal.percentile is not None:
        return True
    limits = problem.goal.limits_s
    return all(e.latency_s <= limits.get(e.workflow, float("inf")) for e in outlook.expected)


def instances(problem: Problem, allocations: Sequence[Allocation], placement: Placement) -> tuple[Instance, ...]:
    """The instances of a placement, numbered by LLM, each with its share's memory."""
    made = []
    for a in allocations:
        memory = instance_memory_bytes(problem.profiles.of(a.llm, a.gpu_type, a.tensor_parallel), a.share_pct)
        for number, slot in enumerate(placement[a.llm]):
            made.append(Instance(llm=a.llm, index=number, gpus=slot, share_pct=a.share_pct, memory_bytes=memory))
    return tuple(made)


def assemble(
    problem: Problem,
    planner: str,
    allocations: Sequence[Allocation],
    placement: Placement,
    started: float,
    proof: Proof | None = None,
    *,
    factor: float = 1.0,
) -> Plan:
    """Build the plan. ``started`` is the ``perf_counter()`` at which planning began."""
    proof = proof or Proof()
    return Plan(
        planner=planner,
        cluster=problem.cluster,
        targets=problem.targets,
        allocations=tuple(allocations),
        instances=instances(problem, allocations, placement),
        expected=evaluate(problem, allocations, placement, factor=factor).expected,
        predictor="aggregate",
        search_s=perf_counter() - started,
        optimal=proof.optimal,
        bound_latency_s=proof.bound_latency_s,
        assumptions=problem.assumptions,
    )
