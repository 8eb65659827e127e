"""Independent per-LLM optimum: each LLM by itself, without the workflow's view.

Each LLM gets the fewest whole GPUs that carry its own rate, then leftover GPUs are handed out one by one in proportion to
call rates;
with its GPUs each takes its own lowest latency.
"""

from time import perf_counter

import numpy as np

from scepsy.baselines.whole_gpus import best_inside, finish, why_short
from scepsy.errors import Infeasible
from scepsy.plans import Plan
from scepsy.search.problem import Problem
from scepsy.search.space import build_space


def plan_independent(problem: Problem) -> Plan:
    """The smallest allocation per LLM, leftovers by arrival rate. Raises ``Infeasible``."""
    started = perf_counter()
    space = build_space(problem, keep_all=True)
    main = int(np.argmax(space.budgets))
    gpus, per_gpu = space.gpus_of[main], 100 // space.unit_pct
    least = []
    for options in space.llms:
        whole = (options.share_pct == 100) & (options.gpu_type == main) & np.isfinite(options.cost_s)
        if not whole.any():
            raise Infeasible(why_short(options, gpus, main, space))
        least.append(int(options.units[whole].min()) // per_gpu)
    if sum(least) > gpus:
        worst = int(np.argmax(least))
        raise Infeasible(
            f"planner independent: the LLMs need {sum(least)} whole GPUs by themselves, {gpus} there are; "
            f"{space.llms[worst].llm} alone needs {least[worst]}"
        )
    counts = hand_out(least, [options.load_per_s for options in space.llms], gpus - sum(least))
    choices = [best_inside(options, count, main, per_gpu) for options, count in zip(space.llms, counts, strict=True)]
    return finish(problem, "independent", space, tuple(choice for choice in choices if choice is not None), started)


def hand_out(counts: list[int], loads: list[float], spare: int) -> list[int]:
    """Give ``spare`` GPUs one by one to the LLM with the most load per GPU (ties: the first).

    >>> hand_out([1, 1], [9.0, 3.0], 2)
    [3, 1]
    """
    counts = list(counts)
    for _ in range(spare):
        counts[max(range(len(counts)), key=lambda m: (loads[m] / counts[m], -m))] += 1
    return counts
