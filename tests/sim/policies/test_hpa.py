"""The autoscaler's rule by hand, and a whole timeline of instances on a cluster too small for all it wants."""

import pytest

from scepsy.errors import InputError, SimulationError
from scepsy.profile.model import EngineLimits
from scepsy.profile.step import StepModel
from sim.policies.autoscaling.hpa import HpaSettings, desired, hpa
from sim.policies.systems import SYSTEMS
from sim.world.control import DRAINING, PENDING, READY, STARTING, STOPPED
from sim.world.run import simulate
from tests.builders.simulated import NO_SHARE_COST, call, load, plan, profile, profile_set, run, single_calls, trace

STEP = StepModel(base_s=0.010, prefill_s_per_token=0.001, decode_s_per_sequence=0.001)
ONE = EngineLimits(max_num_seqs=1)


@pytest.mark.parametrize(
    ("values", "unready", "wanted"),
    [
        ([5.0, 5.0], 0, 2),  # at the target
        ([5.4, 5.4], 0, 2),  # within 10 %
        ([5.6, 5.6], 0, 3),  # 2 · 1.12 = 2.24
        ([4.0, 5.0], 0, 2),  # exactly 10 % below is still within
        ([2.0, 2.0], 0, 1),
        ([0.0, 0.0], 0, 0),
        ([20.0], 3, 4),  # with three idle ones the mean is 5: nothing to add
        ([40.0], 3, 8),  # mean 10 over 4
        ([], 2, 2),  # nothing ready to measure
        ([1.0, 1.0, 1.0], 1, 1),  # down: only ready ones count
    ],
)
def test_desired(values, unready, wanted):
    assert desired(values, unready, 5.0, 0.1) == wanted


def lives(policy, *, gpus, what, step=STEP, engine=ONE):
    """Simulate under a policy; return the history of every member and the records."""
    one = profile(step=step, engine=engine)
    seen = []

    def spy(control):
        seen.append(control)
        yield from policy(control)

    records = simulate(plan((one, 100, 1), gpus=gpus), what, profiles=profile_set(one, law=NO_SHARE_COST), policies=(spy,))
    return (
        {member.name: [(round(at, 3), state) for at, state in member.history] for member in seen[0].members},
        records,
        seen[0],
    )


def test_a_whole_autoscaled_timeline():
    # 60 calls at once, 15 + 49 · 11 = 554 ms each, one at a time: 26 done at 15 s, 33 wait (target 5): ratio 6.6, want 7,
    # at most 1 + 4
    what = load(trace(*(run([call(5, 50)], f"r{n}", arrival_s=0.0) for n in range(60))))
    history, records, control = lives(hpa(), gpus=8, what=what)
    # cold start 30 + 2 · 7 = 44 s: ready at 59 s, long after the queue is empty at 33.24 s
    assert history["m-0"] == [(0.0, READY)]
    assert [history[f"m-{n}"] for n in range(1, 5)] == [[(15.0, PENDING), (15.0, STARTING)]] * 4
    # at 30 s: 54 done, 5 wait: at the target with 4 coming: nothing more
    assert len(history) == 5
    assert set(records.runs["status"].to_pylist()) == {"completed"}
    assert control.gpu_seconds() == pytest.approx(60 * 0.554 + 4 * (60 * 0.554 - 15))


def test_scaling_down_waits_for_the_stabilisation_window():
    burst = [run([call(5, 50)], f"r{n}", arrival_s=0.0) for n in range(60)]
    late = [run([call(5, 50)], "late", arrival_s=500.0)]
    history, _, _ = lives(hpa(), gpus=8, what=load(trace(*burst, *late)))
    # last want of 5 was at 30 s; the window ends 300 s later, so the first smaller maximum is at the sync at 345 s
    assert history["m-4"][-2:] == [(345.0, DRAINING), (345.0, STOPPED)]
    assert history["m-0"] == [(0.0, READY)]


def test_without_a_free_gpu_instances_stay_pending():
    what = load(trace(*(run([call(5, 50)], f"r{n}", arrival_s=0.0) for n in range(800))))
    history, _, _ = lives(hpa(), gpus=8, what=what)
    placed = [name for name, states in history.items() if any(state == STARTING for _, state in states)]
    pending = [name for name, states in history.items() if states[-1][1] == PENDING]
    assert len(placed) <= 7 + sum(states[-1][1] == STOPPED for states in history.values())
    assert pending


@pytest.mark.parametrize("system", sorted(SYSTEMS))
def test_every_system_completes_everything(system):
    one = profile()
    records = simulate(
        plan((one, 50, 1), gpus=8),
        load(single_calls(200), 6.0, runs=600, seed=1),
        profiles=profile_set(one),
        policies=SYSTEMS[system],
    )
    assert set(records.runs["status"].to_pylist()) == {"completed"}
    assert set(records.calls["status"].to_pylist()) == {"completed"}


def test_a_failed_instance_loses_its_work_and_comes_back():
    def policy(control):
        yield control.sleep(0.100)
        control.fail(control.of("m")[0], restart_s=2.0)
        yield control.sleep(1e9)

    history, records, _ = lives(policy, gpus=1, what=load(trace(run([call(5, 50)], arrival_s=0.0))))
    assert history["m-0"] == [(0.0, READY), (0.1, STARTING), (2.1, READY)]
    assert records.runs["end_s"].to_pylist() == [pytest.approx(2.1 + 0.554)]


def test_calls_of_a_failed_instance_go_to_the_others():
    one = profile(step=STEP)

    def policy(control):
        yield control.sleep(0.100)
        control.fail(control.of("m")[0])
        yield control.sleep(1e9)

    runs = [run([call(5, 50)], f"r{n}", arrival_s=0.0) for n in range(2)]
    records = simulate(
        plan((one, 100, 2)), load(trace(*runs)), profiles=profile_set(one, law=NO_SHARE_COST), policies=(policy,)
    )
    assert set(records.calls["instance"].to_pylist()) == {"m-1"}
    assert set(records.runs["status"].to_pylist()) == {"completed"}


def test_draining_serves_what_it_has_and_takes_no_more():
    def policy(control):
        yield control.sleep(0.100)
        first = control.of("m")[0]
        control.start("m", start_s=0.0)
        control.drain(first)
        assert first.state == DRAINING
        yield control.sleep(1e9)

    what = load(trace(run([call(5, 50)], "a", arrival_s=0.0), run([call(5, 2)], "b", arrival_s=0.2)))
    history, records, _ = lives(policy, gpus=8, what=what)
    assert history["m-0"] == [(0.0, READY), (0.1, DRAINING), (0.554, STOPPED)]
    assert dict(zip(records.calls["run"].to_pylist(), records.calls["instance"].to_pylist(), strict=True)) == {
        "w-0": "m-0",
        "w-1": "m-1",
    }


def test_switching_the_model_of_an_instance():
    a, b = profile("a", step=STEP), profile("b", step=STEP)

    def policy(control):
        yield control.sleep(1.0)
        control.switch(control.of("a")[0], "b", switch_s=0.5)
        control.drain(control.of("b")[0])
        yield control.sleep(1e9)

    runs = [run([call(5, 2, llm="a")], "a", arrival_s=0.0), run([call(5, 2, llm="b")], "b", arrival_s=1.2)]
    records = simulate(
        plan((a, 100, 1), (b, 100, 1), gpus=2),
        load(trace(*runs)),
        profiles=profile_set(a, b, law=NO_SHARE_COST),
        policies=(policy,),
    )
    rows = {row["llm"]: row for row in records.calls.to_pylist()}
    assert rows["b"]["instance"] == "b-1"
    assert rows["b"]["scheduled_s"] == pytest.approx(1.5)


def test_a_policy_that_leaves_calls_without_an_instance_stalls_loudly():
    def policy(control):
        control.start("m", share_pct=101)  # fits no GPU: it stays pending for ever
        control.drain(control.of("m", READY)[0])
        while True:
            yield control.sleep(3600.0)

    what = load(trace(run([call(5, 2)], "a", arrival_s=1.0)))
    with pytest.raises(
        SimulationError, match=r"stalled at 9\d{4}\.0+ s: 1 of 1 runs are open, 1 calls in flight \(1 without an instance\)"
    ):
        lives(policy, gpus=1, what=what)


def test_acting_on_a_stopped_instance_is_refused():
    def policy(control):
        member = control.start("m", start_s=0.0)
        control.drain(member)
        with pytest.raises(InputError, match="is stopped: must be ready or draining to fail"):
            control.fail(member)
        with pytest.raises(SimulationError, match="time goes backwards"):
            control.sleep(-1.0)
        yield control.sleep(1e9)

    lives(policy, gpus=8, what=load(trace(run([call(5, 2)], arrival_s=0.0))))


def test_settings_by_llm():
    assert HpaSettings(max_replicas={"m": 3}).most("m") == 3
