"""Independent per-LLM optimum: each LLM by itself, without the workflow's view.

Each LLM gets the fewest whole GPUs that carry its own rate. Spare GPUs then go where they lower the LLMs' own latencies most:
the split is the one of least total own latency, by the exact knapsack over GPUs. An LLM's *own latency* is what its endpoint
shows: the mean of one call. Not in view are how many calls a run makes, which of them overlap, and what waits for them.
That is the difference to Scepsy. A GPU that lowers no latency stays idle.

``plan_by_rate`` hands out the leftovers by arrival rate, as some descriptions have it. A small model that is called often
gets most of the cluster then.
"""

from dataclasses import dataclass
from time import perf_counter

import numpy as np

from scepsy.baselines.whole_gpus import best_inside, finish, why_short
from scepsy.errors import Infeasible
from scepsy.plans import Plan
from scepsy.predictors.aggregate import Floats, read_replicas
from scepsy.search.infeasible import not_enough_gpus
from scepsy.search.knapsack import Items, backtrack, solve
from scepsy.search.problem import Problem
from scepsy.search.space import Options, Space, build_space


@dataclass(frozen=True)
class Whole:
    """The whole-GPU side of a search space: one GPU type, the LLMs' options, the fewest GPUs each needs."""

    space: Space
    gpu_type: int
    gpus: int
    per_gpu: int
    least: tuple[int, ...]
    """Fewest whole GPUs that carry each LLM's rate."""


def plan_independent(problem: Problem) -> Plan:
    """The least total of the LLMs' own latencies over all splits of the GPUs. Raises ``Infeasible``."""
    started = perf_counter()
    whole = whole_gpus(problem)
    items = []
    for options in whole.space.llms:
        fit = (options.share_pct == 100) & (options.gpu_type == whole.gpu_type)
        own = np.where(fit, own_latency_s(whole.space, options), np.inf)
        items.append(Items(np.zeros(len(options), dtype=np.int64), options.units // whole.per_gpu, own))
    choices = backtrack(items, solve(items, (whole.gpus,)), (whole.gpus,))
    assert choices is not None  # the LLMs' least GPUs fit
    return finish(problem, "independent", whole.space, choices, started)


def plan_independent_shares(problem: Problem) -> Plan:
    """The same with any share of a GPU: the least total of own latencies that packs. Raises ``Infeasible``.

    Shares make it a knapsack that may not pack. Then the budget is lowered unit by unit until its optimum does. No published
    system does this. It tells what sharing brings apart from what the workflow's view brings.
    """
    started = perf_counter()
    space = build_space(problem)
    items = [Items(options.gpu_type, options.units, own_latency_s(space, options)) for options in space.llms]
    tables = solve(items, space.budgets)
    main = int(np.argmax(space.budgets))
    tried: set[tuple[int, ...]] = set()
    why: Infeasible | None = None
    for budget in range(space.budgets[main], 0, -1):
        budgets = tuple(budget if axis == main else most for axis, most in enumerate(space.budgets))
        choices = backtrack(items, tables, budgets)
        if choices is None:
            break
        if choices in tried:
            continue
        tried.add(choices)
        try:
            return finish(problem, "independent-shares", space, choices, started)
        except Infeasible as error:
            why = error
    raise why or not_enough_gpus(problem, space, sum(space.gpus_of))


def plan_by_rate(problem: Problem) -> Plan:
    """The smallest allocation per LLM, leftovers by arrival rate. Raises ``Infeasible``."""
    started = perf_counter()
    whole = whole_gpus(problem)
    loads = [options.load_per_s for options in whole.space.llms]
    counts = hand_out(list(whole.least), loads, whole.gpus - sum(whole.least))
    choices = [
        best_inside(options, count, whole.gpu_type, whole.per_gpu)
        for options, count in zip(whole.space.llms, counts, strict=True)
    ]
    chosen = tuple(choice for choice in choices if choice is not None)
    return finish(problem, "independent-by-rate", whole.space, chosen, started)


def whole_gpus(problem: Problem) -> Whole:
    """What every LLM needs by itself. Raises ``Infeasible`` when one or all together need more GPUs than there are."""
    space = build_space(problem, keep_all=True)
    main = int(np.argmax(space.budgets))
    gpus, per_gpu = space.gpus_of[main], 100 // space.unit_pct
    least = []
    for options in space.llms:
        fit = (options.share_pct == 100) & (options.gpu_type == main) & np.isfinite(options.cost_s)
        if not fit.any():
            raise Infeasible(why_short(options, gpus, main, space))
        least.append(int(options.units[fit].min()) // per_gpu)
    if sum(least) > gpus:
        worst = int(np.argmax(least))
        raise Infeasible(
            f"planner independent: the LLMs need {sum(least)} whole GPUs by themselves, {gpus} there are; "
            f"{space.llms[worst].llm} alone needs {least[worst]}"
        )
    return Whole(space=space, gpu_type=main, gpus=gpus, per_gpu=per_gpu, least=tuple(least))


def own_latency_s(space: Space, options: Options) -> Floats:
    """Mean seconds of one call of the LLM under each of its options, over the workflows that call it; shape (options,).

    Infinite where the option does not carry the load.
    """
    problem = space.problem
    own = np.zeros(len(options))
    callers = [
        (use, rate * use.calls_per_run(options.llm))
        for use, rate in zip(problem.uses, problem.rates_per_s, strict=True)
        if use.calls_per_run(options.llm) > 0
    ]
    kinds = np.stack([options.gpu_type, options.tensor_parallel, options.share_pct], axis=1)
    for kind in np.unique(kinds, axis=0):
        mine = np.flatnonzero((kinds == kind).all(axis=1))
        gpu_type, degree, share = space.gpu_types[int(kind[0])], int(kind[1]), int(kind[2])
        curves = problem.index.by_workflow(options.llm, gpu_type, degree, share)
        for use, calls_per_s in callers:
            seconds = read_replicas(curves[use.workflow], "mean_s", options.replicas[mine], options.load_per_s)
            own[mine] += seconds * (calls_per_s / options.load_per_s)
    return np.where(np.isfinite(options.cost_s), own, np.inf)


def hand_out(counts: list[int], loads: list[float], spare: int) -> list[int]:
    """Give ``spare`` GPUs one by one to the LLM with the most load per GPU (ties: the first).

    >>> hand_out([1, 1], [9.0, 3.0], 2)
    [3, 1]
    """
    counts = list(counts)
    for _ in range(spare):
        counts[max(range(len(counts)), key=lambda m: (loads[m] / counts[m], -m))] += 1
    return counts


__all__ = ["hand_out", "own_latency_s", "plan_by_rate", "plan_independent", "plan_independent_shares"]
