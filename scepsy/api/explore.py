"""Plans and curves computed beforehand over GPU types, numbers of GPUs and rates, for a page that answers what-if at once."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any

from scepsy.cluster import Cluster
from scepsy.cost import price_of
from scepsy.errors import Infeasible
from scepsy.plans import Plan
from scepsy.progress import Progress, no_progress
from scepsy.search.assemble import evaluate, latencies_of
from scepsy.search.goals import at_factor, least_latency
from scepsy.search.problem import Problem
from scepsy.search.space import build_space

FACTORS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0)
"""Rates for which plans are made, as factors on the target rates."""
PERCENTILES = ("mean", "p95", "p99")


@dataclass
class Explored:
    """Everything that the page shows. Latencies are predictions (critical path), None where an LLM would be overloaded."""

    workflows: list[dict[str, Any]]
    """Name and target rate of each."""
    factors: list[float]
    types: list[dict[str, Any]]
    """Name, price per GPU-hour and its source, TDP, and the counts planned for."""
    llms: list[str]
    plans: list[dict[str, Any]] = field(default_factory=list)
    """Distinct plans: allocations, the shares on each GPU, and latencies by workflow, statistic and factor."""
    chosen: dict[str, dict[str, list[int | None]]] = field(default_factory=dict)
    """Number of the plan by GPU type, number of GPUs and (in order) factor; None where the rate cannot be met."""
    left_out: dict[str, str] = field(default_factory=dict)
    """GPU types that cannot serve at all, and why."""


def explore(
    problem: Problem,
    clusters: Sequence[Sequence[Cluster]],
    factors: Sequence[float] = FACTORS,
    progress: Progress = no_progress,
) -> Explored:
    """Plan for every cluster at every factor on the target rates. ``clusters``: by GPU type, of ascending numbers of GPUs.

    ``problem`` must hold the curves of all their types.
    """
    llms = list(dict.fromkeys(llm.llm for use in problem.uses for llm in use.llms))
    workflows = [{"name": t.workflow, "rate_per_s": t.arrivals.rate_per_s} for t in problem.targets]
    found = Explored(workflows=workflows, factors=list(factors), types=[], llms=llms)
    known: dict[Any, int] = {}
    for row in clusters:
        kind = row[0].gpu_types[0]
        try:
            build_space(replace(problem, cluster=row[-1]), keep_all=True)
        except Infeasible as error:
            found.left_out[kind.name] = str(error)
            continue
        numbers: dict[str, list[int | None]] = {}
        for cluster in row:
            here = replace(problem, cluster=cluster)
            numbers[str(len(cluster.gpus))] = [_planned(at_factor(here, factor), here, found, known) for factor in factors]
            progress()
        found.chosen[kind.name] = numbers
        found.types.append(
            {
                "name": kind.name,
                "usd_per_hour": price_of(kind),
                "price_source": kind.price,
                "tdp_w": kind.tdp_w or None,
                "counts": [len(cluster.gpus) for cluster in row],
            }
        )
    return found


def _planned(asked: Problem, here: Problem, found: Explored, known: dict[Any, int]) -> int | None:
    """The number of the best plan for ``asked``, added to what was found unless it is there already."""
    try:
        plan = least_latency(asked)
    except Infeasible:
        return None
    key = (plan.cluster.name, plan.allocations, tuple(plan.instances))
    if key not in known:
        known[key] = len(found.plans)
        found.plans.append(_document(plan, here, found))
    return known[key]


def _document(plan: Plan, here: Problem, found: Explored) -> dict[str, Any]:
    number = {llm: index for index, llm in enumerate(found.llms)}
    places = {gpu: index for index, gpu in enumerate(plan.cluster.gpus)}
    boxes = [
        [places[gpu], number[i.llm], i.share_pct, i.index, i.tensor_parallel] for i in plan.instances for gpu in i.gpus
    ]  # GPU, LLM, share, instance, degree
    return {
        "allocations": [[number[a.llm], a.tensor_parallel, a.share_pct, a.replicas] for a in plan.allocations],
        "gpus": len(plan.gpu_shares),
        "boxes": boxes,
        "optimal": plan.optimal,
        "latency_s": _curves(plan, here, found.factors),
    }


def _curves(plan: Plan, here: Problem, factors: Sequence[float]) -> list[dict[str, list[float | None]]]:
    """Of each workflow: mean, p95 and p99 (s) at every factor; None where an LLM is loaded beyond the limit."""
    rows: list[dict[str, list[float | None]]] = [{name: [] for name in PERCENTILES} for _ in here.targets]
    for factor in factors:
        there = at_factor(here, factor)
        outlook = evaluate(there, plan.allocations, plan.placement)
        kept = max(outlook.utilisation.values()) <= here.max_utilisation * (1 + 1e-9)
        walked = latencies_of(there, plan.allocations, outlook) if kept else None
        for index, row in enumerate(rows):
            mean = outlook.expected[index].latency_s
            values = (mean, None, None) if walked is None else (walked[index].mean_s, walked[index].p95_s, walked[index].p99_s)
            for name, value in zip(PERCENTILES, values, strict=True):
                row[name].append(round(value, 4) if kept and value is not None and isfinite(value) else None)
    return rows
