"""The paper's planner with the paper's formula: ``L_w(λ) = Σ_m L_m(λ·n_m)·n_m / p_m``, and the outer loop over workflows.

Two things differ from ``hierarchical``, which runs the paper's search on the measured busy seconds:

1. An option costs ``L_m · n_m / p_m`` with the mean call latency from the curve and n_m, p_m as the trace has them.
2. Workflows that share no LLM are divided by an outer loop: every split of the GPUs among them, each planned by itself on its
   part, splits that starve one dropped, the split of least total kept (paper, section on search). Workflows that share an
   LLM are one pipeline here: the paper is silent on them.

Where the paper is silent it is as ``hierarchical``: the same shares, the same order by latency share, the same limit on load
(``max_utilisation``), the same placement.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from math import comb
from time import perf_counter

import numpy as np

from scepsy.errors import Infeasible
from scepsy.place.hierarchical import layout, pack
from scepsy.plans import Plan
from scepsy.predictors.aggregate import Floats, Integers, read_replicas
from scepsy.search.assemble import accepts, assemble, evaluate
from scepsy.search.hierarchical import MAX_DIVISIONS_PLACED, choose_inside, divide, latency_share_key
from scepsy.search.infeasible import not_enough_gpus
from scepsy.search.problem import Problem
from scepsy.search.space import Options, Space, build_space

MOST_SPLITS = 200_000
"""Splits of the GPUs among workflows that are looked at; beyond, only every second GPU, and so on."""


def plan_paper(problem: Problem) -> Plan:
    """Plan as the paper does, by its formula. Raises ``Infeasible``."""
    started = perf_counter()
    space = build_space(problem, keep_all=True)
    main = int(np.argmax(space.budgets))
    priced = [by_formula(space, options) for options in space.llms]
    pipelines = [Pipeline(space, priced, members, main) for members in apart(problem, space)]
    where = layout(problem.cluster)
    tried = 0
    for choices in candidates(pipelines, space.gpus_of[main], len(space.llms)):
        tried += 1
        allocations = space.allocations(choices)
        placement = pack(where, allocations)
        if placement is not None and accepts(problem, evaluate(problem, allocations, placement)):
            return assemble(problem, "paper", allocations, placement, started)
    if tried == 0:
        raise not_enough_gpus(problem, build_space(problem), sum(space.gpus_of))
    raise Infeasible(
        f"none of the {tried} best divisions of {sum(space.gpus_of)} GPUs by the paper's formula packs and carries the rates: "
        "lower the rate, add GPUs or use the exact planner"
    )


def by_formula(space: Space, options: Options) -> Options:
    """The options with ``L_m · n_m / p_m`` as their seconds per run. Infinite where the load is not carried."""
    problem = space.problem
    seconds = np.zeros_like(options.busy_s)
    kinds = np.stack([options.gpu_type, options.tensor_parallel, options.share_pct], axis=1)
    for kind in np.unique(kinds, axis=0):
        mine = np.flatnonzero((kinds == kind).all(axis=1))
        gpu_type, degree, share = space.gpu_types[int(kind[0])], int(kind[1]), int(kind[2])
        curves = problem.index.by_workflow(options.llm, gpu_type, degree, share)
        for number, use in enumerate(problem.uses):
            llm = next((each for each in use.llms if each.llm == options.llm), None)
            if llm is not None:
                call_s = read_replicas(curves[use.workflow], "mean_s", options.replicas[mine], options.load_per_s)
                seconds[number, mine] = call_s * llm.calls_per_run / llm.parallelism
    seconds[:, ~np.isfinite(options.cost_s)] = np.inf
    cost = np.full(len(options), np.inf)
    fine = np.isfinite(seconds).all(axis=0)
    cost[fine] = np.asarray(problem.normal_weights) @ seconds[:, fine]
    return replace(options, busy_s=seconds, cost_s=cost)


def apart(problem: Problem, space: Space) -> list[list[int]]:
    """The LLMs' numbers by pipeline: workflows that share an LLM, directly or through others, are one.

    In the order of the workflows.
    """
    number = {options.llm: m for m, options in enumerate(space.llms)}
    groups: list[set[int]] = []
    for use in problem.uses:
        mine = {number[llm.llm] for llm in use.llms}
        touching = [group for group in groups if group & mine]
        groups = [group for group in groups if not group & mine] + [mine.union(*touching)]
    return [sorted(group) for group in sorted(groups, key=min)]


class Pipeline:
    """One pipeline's divisions, best first."""

    def __init__(self, space: Space, priced: Sequence[Options], members: list[int], gpu_type: int) -> None:
        tables = {m: choose_inside(priced[m], gpu_type, space.budgets[gpu_type]) for m in members}
        order = sorted(members, key=lambda m: (latency_share_key(priced[m], gpu_type), priced[m].llm))
        per_gpu = 100 // space.unit_pct
        costs = [tables[m][0] for m in order]
        divisions, cost = divide(costs, space.budgets[gpu_type], per_gpu)
        if len(divisions) == 0:  # as in ``hierarchical``: the order cannot be kept
            divisions, cost = divide(costs, space.budgets[gpu_type], per_gpu, ordered=False)
        rank = np.argsort(cost, kind="stable")
        self.divisions: Integers = divisions[rank]
        self.cost: Floats = cost[rank]
        self.gpus: Integers = -(-self.divisions.sum(axis=1) // per_gpu)
        """Whole GPUs that each division needs."""
        self._order, self._tables = order, tables

    def choices(self, row: int) -> dict[int, int]:
        """Option number by LLM number."""
        return {m: int(self._tables[m][1][self.divisions[row, column]]) for column, m in enumerate(self._order)}

    def best_on(self, gpus: int) -> int | None:
        """The best division on so many GPUs; None: starved."""
        fits = np.flatnonzero(self.gpus <= gpus)
        return int(fits[0]) if len(fits) else None


def candidates(pipelines: Sequence[Pipeline], gpus: int, llms: int) -> Iterator[tuple[int, ...]]:
    """Choices for all LLMs, best first, at most ``MAX_DIVISIONS_PLACED``."""
    rows: list[tuple[int, ...]]
    if len(pipelines) == 1:
        rows = [(row,) for row in range(min(MAX_DIVISIONS_PLACED, len(pipelines[0].cost)))]
    else:
        rows = sorted(
            {
                tuple(row for row in best if row is not None)
                for split in splits(gpus, len(pipelines))
                if None not in (best := [one.best_on(part) for one, part in zip(pipelines, split, strict=True)])
            },
            key=lambda picked: (float(np.sum([one.cost[row] for one, row in zip(pipelines, picked, strict=True)])), picked),
        )[:MAX_DIVISIONS_PLACED]
    for picked in rows:
        chosen: dict[int, int] = {}
        for one, row in zip(pipelines, picked, strict=True):
            chosen |= one.choices(row)
        yield tuple(chosen[m] for m in range(llms))


def splits(gpus: int, parts: int) -> Iterator[tuple[int, ...]]:
    """Every way to divide all GPUs among the parts, one at least for each.

    In steps of more than one GPU where there would be more than ``MOST_SPLITS``.

    >>> list(splits(4, 2))
    [(1, 3), (2, 2), (3, 1)]
    """
    step = 1
    while comb(gpus // step + parts, parts - 1) > MOST_SPLITS:
        step += 1
    for front in product(range(1, gpus, step), repeat=parts - 1):
        if sum(front) < gpus:
            yield (*front, gpus - sum(front))
