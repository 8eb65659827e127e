"""The compute budget of a GPU: what instances on it finish together is never more than the whole GPU could."""

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scepsy.profile.model import EngineLimits
from scepsy.profile.step import StepModel
from sim.engine.budget import Promise, earliest_end, worked_off
from sim.world.run import simulate
from tests.builders.simulated import LAW, load, plan, profile, profile_set, run, single_calls, trace
from tests.builders.simulated import call as one_call
from tests.sim import reference
from tests.sim.engine.test_exactness import cases

BATCHES_OF_ONE = EngineLimits(max_num_seqs=1, prefix_caching=False)


@st.composite
def starts(draw: st.DrawFn) -> list[tuple[int, int, int, int]]:
    """(instance, ticks after the former start, floor, work): whoever is still at it when its turn comes is skipped."""
    one = st.tuples(st.integers(0, 9), st.integers(0, 40), st.integers(1, 60), st.integers(1, 60))
    return draw(st.lists(one, min_size=1, max_size=40))


def play(moves: list[tuple[int, int, int, int]]) -> list[tuple[int, int, int, int]]:
    """(start, floor, end, work) of the iterations that the moves start on one GPU."""
    now, promises, until, done = 0, list[Promise](), dict[int, int](), []
    for instance, gap, length, work in moves:
        promises, now = worked_off(promises, gap), now + gap
        if until.get(instance, 0) > now:
            continue
        end = earliest_end(now, now + length, work, promises)
        promises = sorted([*promises, (end, instance, work)])
        until[instance] = end
        done.append((now, now + length, end, work))
    return done


@settings(max_examples=500, deadline=None)
@given(starts())
def test_in_no_interval_is_more_finished_than_the_gpu_could_do(moves: list[tuple[int, int, int, int]]) -> None:
    done = play(moves)
    for first, last in itertools.product({s for s, *_ in done}, {end for _, _, end, _ in done}):
        assert sum(work for s, _, end, work in done if first <= s and end <= last) <= max(0, last - first)


@settings(max_examples=500, deadline=None)
@given(starts())
def test_no_end_could_be_earlier(moves: list[tuple[int, int, int, int]]) -> None:
    now, gpu, until = 0, reference.Compute(), dict[int, int]()
    promises = list[Promise]()
    for instance, gap, length, work in moves:
        promises, now = worked_off(promises, gap), now + gap
        gpu.work_until(now)
        if until.get(instance, 0) > now:
            continue
        end = earliest_end(now, now + length, work, promises)
        assert gpu.can_end_at(end, work)
        assert end == now + length or not gpu.can_end_at(end - 1, work)
        gpu.owed.append([end, work])
        promises = sorted([*promises, (end, instance, work)])
        until[instance] = end


@settings(max_examples=200, deadline=None)
@given(cases())
def test_the_engine_keeps_every_gpus_budget(case: tuple) -> None:
    specs, places, interference, jobs, _ = case
    engines = reference.run(specs, places, interference, jobs)
    for gpu in {gpu for place in places for gpu in place}:
        done = [item for engine, place in zip(engines, places, strict=True) if gpu in place for item in engine.done if item[2]]
        for first, last in itertools.product({s for s, _, _ in done}, {end for _, end, _ in done}):
            assert sum(work for s, end, work in done if first <= s and end <= last) <= max(0, last - first)


def prompts_per_s(share_pct: int, replicas: int, step: StepModel, tokens: int = 600, count: int = 400) -> float:
    """Prompts per second of instances that share one GPU, all prompts there from the start."""
    one = profile(step=step, engine=BATCHES_OF_ONE, weight_bytes=10**9)
    what = trace(*(run([one_call(tokens, 1)], id=f"r{n}", arrival_s=0.0) for n in range(count)))
    records = simulate(plan((one, share_pct, replicas), gpus=1), load(what), profiles=profile_set(one, law=LAW))
    return count / float(records.meta["simulated_s"])


ONLY_WORK = StepModel(base_s=0.0, prefill_s_per_token=1e-4)
HALF_BASE = StepModel(base_s=0.06, prefill_s_per_token=1e-4)


@pytest.mark.usefixtures("on_both_engines")
@pytest.mark.parametrize(("share_pct", "replicas"), [(50, 2), (25, 4), (10, 10)])
def test_however_a_gpu_is_divided_it_does_the_same_prompt_work(share_pct: int, replicas: int) -> None:
    # without a base, k = 0.69 would give ten instances at 10 % 1.39 times the whole GPU's prompts
    whole = prompts_per_s(100, 1, ONLY_WORK)
    assert prompts_per_s(share_pct, replicas, ONLY_WORK) == pytest.approx(whole, rel=0.03)
    assert prompts_per_s(share_pct, replicas, ONLY_WORK) <= whole * (1 + 1e-9)


@pytest.mark.usefixtures("on_both_engines")
def test_the_base_overlaps_and_no_more_than_the_base() -> None:
    # half of a step is launches and host time: two instances fill each other's gaps, ten fill the GPU
    whole, work_alone = prompts_per_s(100, 1, HALF_BASE), 1 / (600 * 1e-4)
    two, ten = prompts_per_s(50, 2, HALF_BASE), prompts_per_s(10, 10, HALF_BASE)
    assert whole == pytest.approx(1 / 0.12, rel=1e-6)
    assert two == pytest.approx(2 / (0.12 * 1.69), rel=0.01)  # below the budget: as the share law says
    assert ten <= work_alone
    assert ten > 1.25 * whole


@pytest.mark.usefixtures("on_both_engines")
def test_instances_that_start_together_are_held_up_one_after_the_other() -> None:
    # three prompts of 60 ms at once on three shares of 30 % (alone 60 · 2.61 = 156.6 ms): the third cannot end before 180 ms
    one = profile(step=ONLY_WORK, engine=BATCHES_OF_ONE, weight_bytes=10**9)
    what = trace(*(run([one_call(600, 1)], id=f"r{n}", arrival_s=0.0) for n in range(3)))
    records = simulate(plan((one, 30, 3), gpus=1), load(what), profiles=profile_set(one, law=LAW))
    assert sorted(records.calls["end_s"].to_pylist()) == pytest.approx([0.1566, 0.1566, 0.18])


@pytest.mark.usefixtures("on_both_engines")
def test_a_short_prompt_does_not_wait_for_a_long_one() -> None:
    one = profile(step=ONLY_WORK, engine=BATCHES_OF_ONE, weight_bytes=10**9)
    what = trace(
        run([one_call(8000, 1)], id="long", arrival_s=0.0), run([one_call(600, 1)], id="short", arrival_s=0.1)
    )  # 0.8 s and 0.06 s of work
    records = simulate(plan((one, 50, 2), gpus=1), load(what), profiles=profile_set(one, law=LAW))
    assert min(records.calls["end_s"].to_pylist()) == pytest.approx(0.1 + 0.06 * 1.69)


@pytest.mark.usefixtures("on_both_engines")
@pytest.mark.parametrize("seed", range(3))
def test_prompt_work_of_a_shared_gpu_never_exceeds_its_time(seed: int) -> None:
    step = StepModel(base_s=2e-3, prefill_s_per_token=1e-4, decode_s_per_sequence=1e-4)
    one = profile(step=step, engine=EngineLimits(max_num_seqs=8, prefix_caching=False), weight_bytes=10**9)
    what = single_calls(400, input_mean=800, output_mean=4, seed=seed)
    records = simulate(plan((one, 10, 10), gpus=1), load(what, 40.0, seed=seed), profiles=profile_set(one, law=LAW))
    tokens = sum(item["prefill_tokens"] for item in json.loads(records.meta["instances"]))
    assert 0.8 < tokens * 1e-4 / float(records.meta["simulated_s"]) <= 1.0
