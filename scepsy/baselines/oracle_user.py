"""What a user who could try everything would configure: every split of whole GPUs among the LLMs, ranked by the predictor."""

import itertools
from collections.abc import Iterator
from math import comb, fsum
from time import perf_counter

import numpy as np

from scepsy.baselines.whole_gpus import best_inside, finish
from scepsy.errors import Infeasible
from scepsy.plans import Plan
from scepsy.search.problem import Problem
from scepsy.search.space import build_space

MOST_SPLITS = 50_000
"""Beyond this many the question is not one that any user could try."""


def whole_gpu_splits(gpus: int, llms: int) -> Iterator[tuple[int, ...]]:
    """Every way to give each LLM at least one of the GPUs, all of them given.

    >>> list(whole_gpu_splits(4, 2))
    [(1, 3), (2, 2), (3, 1)]
    """
    for cuts in itertools.combinations(range(1, gpus), llms - 1):
        yield tuple(b - a for a, b in zip((0, *cuts), (*cuts, gpus), strict=True))


def best_splits(problem: Problem, count: int) -> list[Plan]:
    """The ``count`` best whole-GPU splits by the predictor, best first; each LLM uses its GPUs as suits it best.

    Raises ``Infeasible`` when there are fewer GPUs than LLMs, more than ``MOST_SPLITS`` splits, or none carries the load.
    """
    started = perf_counter()
    space = build_space(problem, keep_all=True)
    main = int(np.argmax(space.budgets))
    gpus, llms, per_gpu = space.gpus_of[main], len(space.llms), 100 // space.unit_pct
    if gpus < llms:
        raise Infeasible(f"planner oracle-user gives every LLM a whole GPU: {llms} LLMs, {gpus} GPUs")
    if comb(gpus - 1, llms - 1) > MOST_SPLITS:
        raise Infeasible(
            f"planner oracle-user tries every split: {gpus} GPUs among {llms} LLMs have {comb(gpus - 1, llms - 1)}, "
            f"more than {MOST_SPLITS}"
        )
    best = [[best_inside(options, n, main, per_gpu) for n in range(1, gpus + 1)] for options in space.llms]
    ranked = []
    for split in whole_gpu_splits(gpus, llms):
        choices = [best[m][n - 1] for m, n in enumerate(split)]
        if all(choice is not None for choice in choices):
            chosen = tuple(int(choice) for choice in choices if choice is not None)
            cost = fsum(float(options.cost_s[choice]) for options, choice in zip(space.llms, chosen, strict=True))
            ranked.append((cost, chosen))
    plans: list[Plan] = []
    for _, chosen in sorted(set(ranked)):
        if len(plans) == count:
            break
        try:
            plans.append(finish(problem, "oracle-user", space, chosen, started))
        except Infeasible:
            continue
    if not plans:
        raise Infeasible(
            f"planner oracle-user: none of {len(ranked)} whole-GPU splits of {gpus} GPUs carries the load and packs"
        )
    return plans
