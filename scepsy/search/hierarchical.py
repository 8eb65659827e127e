"""The paper's heuristic search: GPU shares first, then tensor parallelism and replicas inside each share.

1. Every way to divide the GPU units among the LLMs in which an LLM with a larger latency share never gets less, each getting at
   least what its weights, KV cache and load need (paper, section on search; the split is contiguous, so an LLM's units are
   one whole number).
2. Inside its units an LLM takes replicas first, until the rate is met; the rest goes to tensor parallelism as far as that cuts
   its latency. No GPU of the share may stay idle, so share · t · r is exactly the units.
3. The best divisions are placed in turn until one packs.

Where the divisions are too many (large clusters), the step is coarsened until at most ``MAX_DIVISIONS`` remain. Latency is the
measured busy seconds, and all LLMs of several workflows are divided together: ``paper`` has the paper's own formula and its
outer loop over workflows.
"""

from math import comb, factorial
from time import perf_counter

import numpy as np

from scepsy.errors import Infeasible
from scepsy.place.hierarchical import layout, pack
from scepsy.plans import Plan
from scepsy.predictors.aggregate import Floats, Integers
from scepsy.search.assemble import accepts, assemble, evaluate
from scepsy.search.infeasible import not_enough_gpus
from scepsy.search.problem import Problem
from scepsy.search.space import Options, build_space

MAX_DIVISIONS = 300_000
MAX_DIVISIONS_PLACED = 200
"""Divisions that are placed, best first, before giving up."""


def plan_hierarchical(problem: Problem) -> Plan:
    """Plan as the paper does. Raises ``Infeasible``."""
    started = perf_counter()
    space = build_space(problem, keep_all=True)
    main = int(np.argmax(space.budgets))
    tables = [choose_inside(options, main, space.budgets[main]) for options in space.llms]
    order = sorted(range(len(tables)), key=lambda m: (latency_share_key(space.llms[m], main), space.llms[m].llm))
    costs, per_gpu = [tables[m][0] for m in order], 100 // space.unit_pct
    divisions, cost = divide(costs, space.budgets[main], per_gpu)
    if len(divisions) == 0:  # a fast LLM with a heavy load needs more than a slow one: the order cannot be kept
        divisions, cost = divide(costs, space.budgets[main], per_gpu, ordered=False)
    if len(divisions) == 0:
        raise not_enough_gpus(problem, build_space(problem), sum(space.gpus_of))
    where = layout(problem.cluster)
    for row in np.argsort(cost, kind="stable")[:MAX_DIVISIONS_PLACED]:
        choices = [0] * len(order)
        for column, m in enumerate(order):
            choices[m] = int(tables[m][1][divisions[row, column]])
        allocations = space.allocations(tuple(choices))
        placement = pack(where, allocations)
        if placement is not None and accepts(problem, evaluate(problem, allocations, placement)):
            return assemble(problem, "hierarchical", allocations, placement, started)
    raise Infeasible(
        f"none of the {min(len(divisions), MAX_DIVISIONS_PLACED)} best divisions of {sum(space.gpus_of)} GPUs packs "
        "and carries the rates: "
        "lower the rate, add GPUs or use the exact planner"
    )


def latency_share_key(options: Options, gpu_type: int) -> float:
    """Minus the LLM's part of the latency when unconstrained, so that the largest comes first; unloaded options count."""
    mine = (options.gpu_type == gpu_type) & np.isfinite(options.cost_s)
    whole = mine & (options.share_pct == 100) & (options.tensor_parallel == 1)
    pick = whole if whole.any() else mine
    return -float(options.cost_s[pick].min()) if pick.any() else 0.0


def choose_inside(options: Options, gpu_type: int, budget: int) -> tuple[Floats, Integers]:
    """For every number of units: the cost of the option the rule chooses, and its number (cost infinite: no option).

    Rule: among the options that use exactly these units and carry the rate, the one of least latency; of equal ones the one
    with more replicas. That is where "replicas until the rate is met, the rest to TP as far as it cuts latency" ends.
    """
    cost = np.full(budget + 1, np.inf)
    choice = np.zeros(budget + 1, dtype=np.int64)
    mine = np.flatnonzero((options.gpu_type == gpu_type) & np.isfinite(options.cost_s) & (options.units <= budget))
    rank = np.lexsort((options.tensor_parallel[mine], options.cost_s[mine], options.units[mine]))
    ordered = mine[rank]
    first = np.concatenate(([True], np.diff(options.units[ordered]) > 0)) if len(ordered) else np.zeros(0, dtype=bool)
    best = ordered[first]
    cost[options.units[best]] = options.cost_s[best]
    choice[options.units[best]] = best
    return cost, choice


def divide(costs: list[Floats], budget: int, units_per_gpu: int, *, ordered: bool = True) -> tuple[Integers, Floats]:
    """Every division of at most ``budget`` units with finite cost, non-increasing if ``ordered``, and its cost.

    Shape (divisions, LLMs) and (divisions,). The step is 1 unit, or coarser above one GPU where there would be too many.
    """
    amounts = _steps(len(costs), budget, units_per_gpu)
    rows = np.zeros((1, 0), dtype=np.int64)
    used = np.zeros(1, dtype=np.int64)
    total = np.zeros(1)
    for m, cost in enumerate(costs):
        finite = amounts[np.isfinite(cost[amounts])]
        if len(finite) == 0:
            return np.zeros((0, len(costs)), dtype=np.int64), np.zeros(0)
        least_rest = sum(int(amounts[np.isfinite(c[amounts])].min(initial=budget + 1)) for c in costs[m + 1 :])
        after = used[:, None] + finite[None, :]
        fine = after <= budget - least_rest
        if m and ordered:
            fine &= finite[None, :] <= rows[:, -1][:, None]
        parent, amount = np.nonzero(fine)
        rows = np.column_stack([rows[parent], finite[amount]])
        used = after[parent, amount]
        total = total[parent] + cost[finite[amount]]
        if len(rows) > MAX_DIVISIONS:
            # Bounded memory: the divisions with the least latency so far go on.
            keep = np.argpartition(total, MAX_DIVISIONS)[:MAX_DIVISIONS]
            keep.sort()
            rows, used, total = rows[keep], used[keep], total[keep]
    return rows, total


def _steps(llms: int, budget: int, units_per_gpu: int) -> Integers:
    step = 1
    while comb(budget // step + llms, llms) / factorial(llms) > MAX_DIVISIONS and step < units_per_gpu * 8:
        step += 1 if step < units_per_gpu else units_per_gpu
    below = np.arange(1, min(units_per_gpu, budget) + 1)
    return np.unique(np.concatenate([below, np.arange(step, budget + 1, step), [budget]])).astype(np.int64)
