"""Latency against cost over GPU types and counts: a plan for each, what it costs, and which no other beats in both."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import fsum

import msgspec

from scepsy.cluster import Cluster
from scepsy.cost import Cost, cost_of
from scepsy.errors import Infeasible
from scepsy.plans import Plan
from scepsy.search.frontier import FrontierPoint, frontier
from scepsy.search.goals import least_latency
from scepsy.search.problem import Problem

MAX_PLANS_PER_CLUSTER = 24
"""Plans searched for each cluster: every count up to so many GPUs, else as many counts spread evenly."""


@dataclass(frozen=True)
class Offer:
    """At most so many GPUs of one cluster, and what they bring."""

    gpu_type: str
    """The type, or all of them joined by ``+`` where the cluster mixes several."""
    gpus: int
    point: FrontierPoint
    """The relaxed optimum: bounds that no plan beats under the planner's sum over LLMs."""
    plan: Plan | None
    """The plan with the lowest latency there; None where the rates cannot be met, and between the counts that were searched."""
    latency_s: float | None
    """The plan's mean latency over workflows, weighted as the planner weights them; None without a plan."""
    cost: Cost | None
    searched: bool = False
    """Whether a plan was looked for."""
    on_pareto: bool = False
    """Whether no other offer costs less (or the same) and has a lower (or the same) latency."""


def side_by_side(clusters: Sequence[Cluster]) -> Cluster:
    """One cluster with the nodes of several, for curves on all of their GPU types; of one cluster, itself."""
    if len(clusters) == 1:
        return clusters[0]
    types = {gpu.name: gpu for cluster in clusters for gpu in cluster.gpu_types}
    nodes = tuple(
        msgspec.structs.replace(node, name=f"{cluster.name}-{node.name}") for cluster in clusters for node in cluster.nodes
    )
    return Cluster(name="+".join(cluster.name for cluster in clusters), gpu_types=tuple(types.values()), nodes=nodes)


def offers(
    problem: Problem, clusters: Sequence[Cluster], *, done: Callable[[], None] = lambda: None
) -> tuple[tuple[Offer, ...], Mapping[str, str]]:
    """An offer for each cluster and number of its GPUs, and why clusters were left out, by GPU type.

    ``problem`` must hold the curves of every cluster's GPU types. ``done`` is called after each cluster.
    """
    found: list[Offer] = []
    left_out: dict[str, str] = {}
    for cluster in clusters:
        here = replace(problem, cluster=cluster)
        name = "+".join(sorted({node.gpu_type for node in cluster.nodes}))
        try:
            points = frontier(here)
        except Infeasible as error:
            left_out[name] = str(error)
        else:
            wanted = _counts([point.gpus for point in points if point.latency_s is not None])
            found += [_offer(here, name, point, point.gpus in wanted) for point in points]
        done()
    return _marked(found), left_out


def _counts(feasible: Sequence[int]) -> set[int]:
    """Which counts get a plan: all, or ``MAX_PLANS_PER_CLUSTER`` of them with the first and the last."""
    if len(feasible) <= MAX_PLANS_PER_CLUSTER:
        return set(feasible)
    last = len(feasible) - 1
    return {feasible[round(step * last / (MAX_PLANS_PER_CLUSTER - 1))] for step in range(MAX_PLANS_PER_CLUSTER)}


def _offer(problem: Problem, name: str, point: FrontierPoint, wanted: bool) -> Offer:
    plan = None
    if wanted:
        goal = replace(problem.goal, kind="latency", max_gpus=point.gpus)
        try:
            plan = least_latency(replace(problem, goal=goal))
        except Infeasible:
            plan = None
    if plan is None:
        return Offer(name, point.gpus, point, None, None, None, searched=wanted)
    weights = problem.normal_weights
    latency = fsum(weight * each.latency_s for weight, each in zip(weights, plan.expected, strict=True))
    return Offer(name, point.gpus, point, plan, latency, cost_of(plan), searched=True)


def _marked(found: Sequence[Offer]) -> tuple[Offer, ...]:
    """The offers, those on the Pareto line marked; of equal ones the first."""
    priced = [
        (offer.cost.usd_per_hour, offer.latency_s, number)
        for number, offer in enumerate(found)
        if offer.cost is not None and offer.cost.usd_per_hour is not None and offer.latency_s is not None
    ]
    best, line = float("inf"), set()
    for _, latency, number in sorted(priced):
        if latency < best:
            best = latency
            line.add(number)
    return tuple(replace(offer, on_pareto=number in line) for number, offer in enumerate(found))
