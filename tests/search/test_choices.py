"""Pins and bans: what the user fixes stays, what is forbidden does not come, and the rest is still the best."""

from dataclasses import replace

import pytest

from scepsy.errors import Infeasible, InputError
from scepsy.search import Problem
from scepsy.search.assemble import objective_of
from scepsy.search.choices import Ban, Choices, Pin, read_ban, read_pin
from scepsy.search.goals import plan_exact
from scepsy.search.random_problems import Size, random_problem
from scepsy.search.space import build_space


def small(seed: int, load: float = 0.2) -> Problem:
    return random_problem(Size(llms=3, nodes=1, gpus_per_node=4, load=load, share_unit_pct=20), seed)


def pins_of(plan) -> tuple[Pin, ...]:
    return tuple(Pin(a.llm, a.tensor_parallel, a.share_pct, a.replicas) for a in plan.allocations)


@pytest.mark.parametrize("seed", range(4))
def test_pinning_the_best_changes_nothing(seed: int) -> None:
    problem = small(seed)
    best = plan_exact(problem)
    pins = pins_of(best)
    for chosen in (pins[:1], pins[1:], pins):
        again = plan_exact(replace(problem, choices=Choices(pins=chosen)))
        assert objective_of(problem, again) == pytest.approx(objective_of(problem, best), rel=1e-9)
        if chosen == pins:
            assert again.allocations == best.allocations


@pytest.mark.parametrize("seed", range(4))
def test_every_option_can_be_pinned_and_is_kept_and_none_beats_the_search(seed: int) -> None:
    problem = small(seed)
    free = objective_of(problem, plan_exact(problem))
    options = build_space(problem).llms[0]
    for number in range(0, len(options), max(1, len(options) // 6)):
        wanted = Pin(options.llm, *(int(x[number]) for x in (options.tensor_parallel, options.share_pct, options.replicas)))
        try:
            plan = plan_exact(replace(problem, choices=Choices(pins=(wanted,))))
        except Infeasible:
            continue
        assert wanted in pins_of(plan)
        assert objective_of(problem, plan) >= free * (1 - 1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_what_is_excluded_does_not_come(seed: int) -> None:
    problem = small(seed)
    best = plan_exact(problem)
    first = best.allocations[0]
    for ban in (Ban(first.llm, first.tensor_parallel), Ban(first.llm, first.tensor_parallel, first.share_pct)):
        try:
            plan = plan_exact(replace(problem, choices=Choices(bans=(ban,))))
        except Infeasible:
            continue
        assert Choices(bans=(ban,)).allow_all(plan.allocations)
        assert objective_of(problem, plan) >= objective_of(problem, best) * (1 - 1e-9)


def test_a_pin_that_does_not_fit_or_not_carry_says_so_in_numbers() -> None:
    problem = small(0)
    llm = build_space(problem).llms[0].llm
    with pytest.raises(Infeasible, match=rf"LLM {llm}: --pin {llm}=1:100:9 takes 9 GPUs of 4"):
        plan_exact(replace(problem, choices=Choices(pins=(Pin(llm, 1, 100, 9),))))
    with pytest.raises(Infeasible, match=r"no instance type that was profiled and fits here \(TP:share that fit: 1:20, "):
        plan_exact(replace(problem, choices=Choices(pins=(Pin(llm, 1, 37, 1),))))
    every = tuple(Ban(llm, degree) for degree in (1, 2, 4, 8))
    with pytest.raises(Infeasible, match="--exclude leaves no instance type"):
        plan_exact(replace(problem, choices=Choices(bans=every)))


def test_a_pin_that_cannot_carry_its_load_says_how_far_it_is_off() -> None:
    problem = small(0, load=0.8)
    for options in build_space(problem).llms:
        pin = Pin(options.llm, 1, 20, 1)
        space = build_space(problem, keep_all=True)
        mine = next(o for o in space.llms if o.llm == options.llm)
        here = (mine.tensor_parallel == 1) & (mine.share_pct == 20) & (mine.replicas == 1)
        if here.any() and mine.capacity_per_s[here][0] * problem.max_utilisation < mine.load_per_s:
            with pytest.raises(Infeasible, match=rf"load .* exceeds the .* calls/s that --pin {options.llm}=1:20:1 carries"):
                plan_exact(replace(problem, choices=Choices(pins=(pin,))))
            return
    pytest.fail("no LLM of this problem overloads its smallest instance: choose another")


@pytest.mark.parametrize("text", ["m=2:100", "m=2:100:3:4", "x=2:100:3", "m=0:100:1", "m=1:0:1", "m=1:101:1", "m=1:100:0", "m"])
def test_pins_that_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="--pin is"):
        read_pin(text, ["m", "n"])


def test_pins_and_bans_are_read() -> None:
    assert read_pin("a=b=2:50%:3", ["a=b"]) == Pin("a=b", 2, 50, 3)
    assert read_ban("m=4", ["m"]) == Ban("m", 4)
    assert read_ban("m=4:50", ["m"]) == Ban("m", 4, 50)
    assert read_ban("n0", ["m"]) is None
