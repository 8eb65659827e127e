"""What a user would configure: equal GPUs per LLM, or GPUs in proportion to parameters. Whole GPUs, no workflow in view.

Given its GPUs, each LLM takes the tensor-parallel degree and replicas of lowest latency at its own load: a careful user's
choice, and a generous reading of "user-specified".
"""

from collections.abc import Sequence
from math import fsum
from time import perf_counter

import numpy as np

from scepsy.errors import Infeasible
from scepsy.place.hierarchical import layout, pack
from scepsy.plans import Plan
from scepsy.search.assemble import assemble, evaluate
from scepsy.search.problem import Problem
from scepsy.search.space import Options, Space, build_space


def plan_equal(problem: Problem) -> Plan:
    """Equal GPUs for every LLM, the remainder to the first ones by name of arrival in the workflows. Raises ``Infeasible``."""
    return _plan(problem, "equal", [1.0] * _llm_count(problem))


def plan_proportional(problem: Problem) -> Plan:
    """GPUs in proportion to parameters, at least one each. Raises ``Infeasible``."""
    names = list(dict.fromkeys(llm.llm for use in problem.uses for llm in use.llms))
    return _plan(problem, "proportional", [problem.profiles.llm(name).parameters for name in names])


def split(gpus: int, weights: Sequence[float]) -> list[int]:
    """One GPU each, the rest in proportion to ``weights`` by the largest remainder (ties: the first).

    >>> split(16, [8.0, 1.0, 0.3])
    [12, 2, 2]
    >>> split(5, [1.0, 1.0])
    [3, 2]
    """
    spare = gpus - len(weights)
    exact = [spare * weight / fsum(weights) for weight in weights]
    counts = [1 + int(part) for part in exact]
    by_remainder = sorted(range(len(weights)), key=lambda m: (-(exact[m] - int(exact[m])), m))
    for m in by_remainder[: gpus - sum(counts)]:
        counts[m] += 1
    return counts


def best_inside(options: Options, gpus: int, gpu_type: int, units_per_gpu: int) -> int | None:
    """The option of least cost on at most ``gpus`` whole GPUs; None when none carries the load.

    A GPU that helps nobody stays idle: three GPUs hold one group of two where that is faster than three of one. Ties go to more
    GPUs, then to the lower degree.
    """
    whole = (options.share_pct == 100) & (options.gpu_type == gpu_type) & (options.units <= gpus * units_per_gpu)
    mine = np.flatnonzero(whole & np.isfinite(options.cost_s))
    if len(mine) == 0:
        return None
    return int(mine[np.lexsort((options.tensor_parallel[mine], -options.units[mine], options.cost_s[mine]))[0]])


def why_short(options: Options, gpus: int, gpu_type: int, space: Space) -> str:
    """One line on an LLM that its GPUs cannot carry."""
    whole = (options.share_pct == 100) & (options.gpu_type == gpu_type)
    here = whole & (options.units * space.unit_pct <= gpus * 100)
    limit = space.problem.max_utilisation * float(options.capacity_per_s[here].max(initial=0.0))
    return (
        f"LLM {options.llm}: load {options.load_per_s:.4g} calls/s exceeds the {limit:.4g} calls/s of its {gpus} GPUs "
        f"({options.load_per_s / limit if limit else float('inf'):.2f} times)"
    )


def _llm_count(problem: Problem) -> int:
    return len({llm.llm for use in problem.uses for llm in use.llms})


def _plan(problem: Problem, planner: str, weights: Sequence[float]) -> Plan:
    started = perf_counter()
    space = build_space(problem, keep_all=True)
    main = int(np.argmax(space.budgets))
    gpus = space.gpus_of[main]
    if gpus < len(space.llms):
        raise Infeasible(f"planner {planner} gives every LLM a whole GPU: {len(space.llms)} LLMs, {gpus} GPUs of one type")
    choices = []
    for options, count in zip(space.llms, split(gpus, weights), strict=True):
        choice = best_inside(options, count, main, 100 // space.unit_pct)
        if choice is None:
            raise Infeasible(why_short(options, count, main, space))
        choices.append(choice)
    return finish(problem, planner, space, tuple(choices), started)


def finish(problem: Problem, planner: str, space: Space, choices: tuple[int, ...], started: float) -> Plan:
    """Place a whole-GPU choice and build the plan. Raises ``Infeasible`` when its groups do not fit the NVLink domains or
    its limits."""
    allocations = space.allocations(choices)
    placement = pack(layout(problem.cluster), allocations)
    if placement is None:
        largest = max(allocations, key=lambda a: (a.tensor_parallel, a.llm))
        raise Infeasible(
            f"planner {planner}: {largest.replicas} groups of {largest.tensor_parallel} GPUs for {largest.llm} do not fit the "
            "NVLink domains beside the other LLMs"
        )
    limits = problem.goal.limits_s if problem.goal.percentile is None else {}
    for e in evaluate(problem, allocations, placement).expected:
        if e.latency_s > limits.get(e.workflow, float("inf")):
            raise Infeasible(f"workflow {e.workflow}: {e.latency_s:.4g} s exceeds its limit of {limits[e.workflow]:.4g} s")
    return assemble(problem, planner, allocations, placement, started)
