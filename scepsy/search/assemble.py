"""From chosen options and slots to a plan: instances with their memory, expectations, and what was proved."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from time import perf_counter

from scepsy.place.hierarchical import Placement
from scepsy.plans import Allocation, Expectation, Instance, Plan
from scepsy.predictors import critical_path
from scepsy.predictors.aggregate import call_rates_per_s, capacity_of, predict
from scepsy.predictors.contention import expected_slowdowns
from scepsy.predictors.critical_path import Latencies
from scepsy.profile.model import instance_memory_bytes
from scepsy.profile.served import served_by
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
    slowdown: Mapping[str, float]
    """Expected slow-down by neighbours, by LLM."""
    objective_s: float
    """Weighted mean latency: what the planners minimise."""


def evaluate(
    problem: Problem, allocations: Sequence[Allocation], placement: Placement | None, *, factor: float = 1.0
) -> Outlook:
    """Predict every workflow at ``factor`` times its target rate; with a placement, neighbours on a GPU slow each other."""
    rates = [rate * factor for rate in problem.rates_per_s]
    slowdown: Mapping[str, float] = {}
    saturated: Mapping[str, float] = {}
    if placement is not None:
        slowdown = expected_slowdowns(problem.uses, rates, problem.index, problem.profiles, allocations, placement)
        saturated = slowdown
        if max(slowdown.values()) > 1.0:
            saturated = expected_slowdowns(
                problem.uses, rates, problem.index, problem.profiles, allocations, placement, saturated=True
            )
    expected = predict(problem.uses, rates, problem.index, allocations, slowdown=slowdown, saturated_slowdown=saturated)
    loads = call_rates_per_s(problem.uses, rates)
    used = {a.llm: loads[a.llm] * saturated.get(a.llm, 1.0) / capacity_of(problem.index, a, problem.uses) for a in allocations}
    objective = fsum(weight * e.latency_s for weight, e in zip(problem.normal_weights, expected, strict=True))
    return Outlook(expected=expected, utilisation=used, slowdown=slowdown, objective_s=objective)


def latencies_of(
    problem: Problem, allocations: Sequence[Allocation], outlook: Outlook, *, factor: float = 1.0
) -> tuple[Latencies, ...] | None:
    """The critical path's latencies; None when the problem has no runs, or its curves no regressions."""
    models = problem.run_models
    if models is None or not problem.has_regressions:
        return None
    rates = [rate * factor for rate in problem.rates_per_s]
    return critical_path.predict(models, problem.uses, rates, problem.index, allocations, slowdown=outlook.slowdown)


def with_latencies(expected: tuple[Expectation, ...], walked: tuple[Latencies, ...] | None) -> tuple[Expectation, ...]:
    """Expectations with the critical path's means in place of the aggregate's."""
    if walked is None:
        return expected
    return tuple(
        Expectation(workflow=e.workflow, latency_s=found.mean_s, throughput_per_s=e.throughput_per_s)
        for e, found in zip(expected, walked, strict=True)
    )


def accepts(problem: Problem, outlook: Outlook) -> bool:
    """Whether no LLM is loaded beyond ``max_utilisation``, and every mean-latency limit of the goal holds."""
    if max(outlook.utilisation.values()) > problem.max_utilisation * (1 + 1e-9):
        return False
    if problem.goal.percentile is not None:
        return True
    limits = problem.goal.limits_s
    return all(e.latency_s <= limits.get(e.workflow, float("inf")) for e in outlook.expected)


def objective_of(problem: Problem, plan: Plan) -> float:
    """The aggregate's weighted latency of a plan on its GPUs at the problem's rates."""
    return evaluate(problem, plan.allocations, plan.placement).objective_s


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
    """Build the plan. ``started`` is the ``perf_counter()`` at which planning began.

    Latencies are the critical path's where the problem knows the traced runs, else the aggregate's.
    """
    proof = proof or Proof()
    outlook = evaluate(problem, allocations, placement, factor=factor)
    walked = latencies_of(problem, allocations, outlook, factor=factor)
    return Plan(
        planner=planner,
        cluster=problem.cluster,
        targets=problem.targets,
        allocations=tuple(allocations),
        instances=instances(problem, allocations, placement),
        expected=with_latencies(outlook.expected, walked),
        predictor="aggregate" if walked is None else "critical-path",
        models=served_by(problem.profiles, [a.llm for a in allocations]),
        slo=problem.goal.slo,
        share_unit_pct=problem.share_unit_pct,
        objective_s=outlook.objective_s,
        search_s=perf_counter() - started,
        optimal=proof.optimal,
        bound_latency_s=proof.bound_latency_s,
        assumptions=problem.assumptions,
    )
