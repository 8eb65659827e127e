"""Other placements of a plan, which nothing that runs is in the way of."""

from dataclasses import replace

import msgspec
import pytest

from scepsy.plans import Plan
from scepsy.search import PLANNERS
from scepsy.search.aside import aside, evicted
from scepsy.search.change import diff
from scepsy.search.problem import Problem
from scepsy.search.random_problems import Size, random_problem


def two(seed: int, load: float = 0.15) -> tuple[Problem, Plan, Plan]:
    """A problem, a plan that runs and one that is wanted."""
    problem = random_problem(Size(llms=3, nodes=1, gpus_per_node=8, load=load, share_unit_pct=20), seed)
    few = msgspec.structs.replace(problem.cluster.nodes[0], gpus=3)
    on_three = replace(problem, cluster=msgspec.structs.replace(problem.cluster, nodes=(few,)))
    running, wanted = (
        msgspec.structs.replace(PLANNERS[name](on_three), cluster=problem.cluster) for name in ("equal", "exact")
    )
    return problem, running, wanted


@pytest.mark.parametrize("seed", range(6))
def test_nothing_has_to_stop_before_what_is_new_serves(seed: int) -> None:
    problem, running, wanted = two(seed)
    found = aside(problem, wanted, running)
    if not evicted(diff(running, wanted)):
        assert found == []
        return
    assert found, "five GPUs are free"
    for plan in found:
        assert not evicted(diff(running, plan))
        assert plan.allocations == wanted.allocations
        assert max(plan.gpu_shares.values()) <= 100
        both: dict[object, int] = dict(running.gpu_shares)
        for instance in diff(running, plan).started:
            for gpu in instance.gpus:
                both[gpu] = both.get(gpu, 0) + instance.share_pct
        assert max(both.values()) <= 100, "old and new instances have room beside each other"
    assert len(found[0].gpu_shares) <= len(wanted.gpu_shares) + 1


def test_the_goal_bounds_what_is_touched_during_the_move() -> None:
    problem, running, wanted = two(0)
    [first, *_] = aside(problem, wanted, running)
    both = len(set(running.gpu_shares) | set(first.gpu_shares))
    for most, any_left in ((both, True), (both - 1, False)):
        bound = replace(problem, goal=replace(problem.goal, max_gpus=most))
        assert (first.placement in [plan.placement for plan in aside(bound, wanted, running)]) is any_left
