"""llm-d's variant autoscaler and Dynamo's planner by hand: their rules, and whole timelines of instances."""

from collections.abc import Generator
from typing import Any

import pytest
import simpy

from scepsy.profile.model import EngineLimits
from scepsy.profile.step import StepModel
from sim.policies.autoscaling.dynamo import DynamoSettings, decode_tokens_per_s, dynamo, prefill_s, replicas
from sim.policies.autoscaling.wva import Need, WvaSettings, arbitrated, saturation, wva
from sim.world.control import PENDING, READY, STARTING, STOPPED, Control
from sim.world.run import simulate
from tests.builders.simulated import NO_SHARE_COST, call, load, plan, profile, profile_set, run, trace
from tests.sim.policies.test_hpa import lives

STEP = StepModel(base_s=0.010, prefill_s_per_token=0.001, decode_s_per_sequence=0.001)
MANY = profile(step=STEP)
TWO_HUNDRED = load(trace(*(run([call(5, 50)], f"r{n}", arrival_s=0.0) for n in range(200))))
"""One at a time on one instance: 15 + 49 * 11 = 554 ms each, 110.8 s in all."""


@pytest.mark.parametrize(
    ("kv", "queue", "need"),
    [
        ([0.70, 0.75], [2, 3], Need(1, safe=False)),  # spare kv 0.075 < 0.1
        ([0.50, 0.60], [2, 3], Need(1, safe=False)),  # spare queue 2.5 < 3
        ([0.90, 0.10], [0, 0], Need(0, safe=False)),  # one saturated, one has room: nothing to do, and one is left
        ([0.90], [0], Need(1, safe=False)),  # all saturated
        ([0.30, 0.30], [0, 0], Need(-1, safe=True)),  # 0.6 on one leaves 0.2
        ([0.36, 0.36], [0, 0], Need(0, safe=False)),  # 0.72 on one leaves 0.08
        ([0.1, 0.1], [1, 1.5], Need(0, safe=False)),  # 2.5 waiting on one leaves 2.5 < 3
        ([], [], Need(0, safe=False)),
    ],
)
def test_saturation(kv: list[float], queue: list[float], need: Need) -> None:
    assert saturation(kv, queue, WvaSettings()) == need


def test_the_published_table_of_arbitration() -> None:
    # (need, target of three instances) -> wanted, row by row of the documentation
    assert arbitrated(3, Need(1, safe=False), 2) == 3  # capacity veto
    assert arbitrated(3, Need(0, safe=False), 2) == 3  # safety block
    assert arbitrated(3, Need(1, safe=False), 3) == 4  # capacity-driven
    assert arbitrated(3, Need(0, safe=False), 5) == 5  # target-driven
    assert arbitrated(3, Need(-1, safe=True), 2) == 2  # approved
    assert arbitrated(1, Need(-1, safe=True), None) == 1  # never none


def test_a_whole_timeline_of_the_variant_autoscaler() -> None:
    history, _, _ = lives(wva(), gpus=2, what=TWO_HUNDRED)
    # Its four looks until 60 s saw more than 5 waiting, so one is added. Cold start 30 + 2 * 7 = 44 s: ready at 104 s.
    assert history == {"m-0": [(0.0, READY)], "m-1": [(60.0, PENDING), (60.0, STARTING), (104.0, READY)]}


def test_the_limiter_asks_for_no_instance_without_a_gpu() -> None:
    one = profile(step=STEP, engine=EngineLimits(max_num_seqs=1))
    full = plan((one, 100, 8))  # the node's eight GPUs
    what = load(trace(*(run([call(5, 50)], f"r{n}", arrival_s=0.0) for n in range(1600))))
    seen: list[Control] = []

    def spy(control: Control) -> Generator[simpy.Event, Any, None]:
        seen.append(control)
        yield from wva()(control)

    simulate(full, what, profiles=profile_set(one, law=NO_SHARE_COST), policies=(spy,))
    assert [member.history for member in seen[0].members[8:]] == [[(60.0, PENDING), (60.0, STOPPED)]]


def test_a_latency_target_asks_for_what_arrives_over_what_one_carries() -> None:
    # 200 calls arrive in the first minute, 3.33 per second; one instance is said to carry 1: four are wanted at once.
    settings = WvaSettings(rates_per_s={"m": 1.0})
    history, _, _ = lives(wva(settings), gpus=8, what=TWO_HUNDRED)
    assert sorted(history) == ["m-0", "m-1", "m-2", "m-3"]
    assert history["m-3"] == [(60.0, PENDING), (60.0, STARTING), (104.0, READY)]


def test_dynamos_replicas_add_the_time_of_prompts_and_of_decoding() -> None:
    settings = DynamoSettings(itl_s=0.0505)
    assert prefill_s(MANY, 100) == pytest.approx(0.110)
    assert decode_tokens_per_s(MANY, 125, 0.0505) == pytest.approx(40 / 0.050)  # a batch of 40 takes 50 ms, one of 41 too long
    assert decode_tokens_per_s(profile(step=STEP, engine=EngineLimits(max_num_seqs=10)), 125, 0.0505) == pytest.approx(500)
    assert decode_tokens_per_s(MANY, 125, 0.001) == pytest.approx(1 / 0.011)  # the target cannot be met: one call at a time
    # 10/s: 1.1 engines prefill, 10 * 50 / 800 = 0.625 decode.
    assert replicas(MANY, 10, 100, 50, 1.0, settings) == 2
    assert replicas(MANY, 10, 100, 50, 7.0, settings) == 2  # queueing does not add prefill
    assert replicas(MANY, 10, 100, 50, 0.3, settings) == 1  # cached prefixes do spare it: 0.33 + 0.625
    assert replicas(MANY, 10, 100, 0, 1.0, settings) == 2  # a pooling model
    assert replicas(MANY, 0, 100, 50, 1.0, settings) == 1


def test_a_whole_timeline_of_dynamos_planner() -> None:
    # 20 calls/s of 5 + 50 tokens: 20 * 0.015 + 20 * 50 / 800 = 1.55 engines.
    what = load(trace(*(run([call(5, 50)], f"r{n}", arrival_s=n / 20) for n in range(4800))))
    settings = DynamoSettings(itl_s=0.0505)
    history, _, _ = lives(dynamo(lambda llm: MANY, settings), gpus=4, what=what, engine=EngineLimits())
    assert history == {"m-0": [(0.0, READY)], "m-1": [(180.0, PENDING), (180.0, STARTING), (224.0, READY)]}
