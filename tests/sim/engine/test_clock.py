"""The kernel's own loop does what SimPy's does, and its alarms take their place among SimPy's events."""

import pytest
import simpy
from simpy.core import EmptySchedule

from sim.engine.clock import ARRIVAL, SCHEDULE, STEP_END, Kernel


def story(env: simpy.Environment) -> list[object]:
    """Timeouts, events, conditions, an interrupt and a failure that somebody expects; what happened, in order."""
    seen: list[object] = []
    bell = env.event()

    def worker(name, delay):
        for turn in range(3):
            yield env.timeout(delay)
            seen.append((env.now, name, turn))
        if name == "b":
            bell.succeed("ring")
        return name

    def waiter():
        seen.append((env.now, "heard", (yield bell)))
        got = yield env.any_of([env.timeout(5, "late"), env.timeout(2, "early")])
        seen.append((env.now, sorted(got.values())))
        sleeper = env.process(sleep())
        yield env.timeout(1)
        sleeper.interrupt("up")
        seen.append((env.now, "slept", (yield sleeper)))
        broken = env.event()
        broken.fail(KeyError("broken"))
        try:
            yield broken
        except KeyError as error:
            seen.append((env.now, error.args))

    def sleep():
        try:
            yield env.timeout(100)
        except simpy.Interrupt as interrupt:
            return interrupt.cause

    workers = [env.process(worker("a", 2)), env.process(worker("b", 3))]
    env.process(waiter())
    seen.append(list(env.run(until=env.all_of(workers)).values()))
    seen.append((env.now, env.run(until=workers[0])))  # processed already: its value, at once
    env.run(until=12)
    seen.append(env.now)
    env.run()
    seen.append((env.now, env.peek()))
    return seen


def test_processes_see_the_same_story_as_under_simpy():
    assert story(Kernel()) == story(simpy.Environment())


def test_alarms_ring_by_time_then_priority_then_as_set():
    env, seen = Kernel(), []
    numbers = {}

    def ring(name):
        return lambda number: seen.append((env.now, name, number == numbers[name], env.busy_now()))

    for name, delay, priority in [
        ("wake", 5, SCHEDULE),
        ("step 1", 5, STEP_END + 1),
        ("step 0", 5, STEP_END),
        ("arrival", 5, ARRIVAL),
        ("second", 5, ARRIVAL),
        ("soon", 4, SCHEDULE),
    ]:
        numbers[name] = env.alarm(delay, priority, ring(name))
    env.timeout(5).callbacks.append(lambda _: seen.append((env.now, "event")))
    env.run()
    assert seen == [
        (4, "soon", True, False),
        (5, "arrival", True, True),
        (5, "second", True, True),
        (5, "event"),
        (5, "step 0", True, True),
        (5, "step 1", True, True),
        (5, "wake", True, False),
    ]


def test_a_failure_that_nobody_expects_is_raised():
    env = Kernel()
    env.event().fail(KeyError("broken"))
    with pytest.raises(KeyError, match="broken"):
        env.run()


def test_callbacks_behind_the_one_that_stops_the_run_come_when_it_goes_on():
    env, heard = Kernel(), []
    until = env.timeout(3)
    env.alarm(1, ARRIVAL, lambda _: [][0])
    with pytest.raises(IndexError):  # an error ends the run, and the run can go on
        env.run(until=until)
    until.callbacks.append(lambda _: heard.append(env.now))
    env.run(until=4)
    assert (env.now, heard) == (3, [])
    env.run(until=5)
    assert heard == [3]


def test_ends_without_events():
    env = Kernel()
    with pytest.raises(EmptySchedule):
        env.step()
    with pytest.raises(RuntimeError, match="nothing is left"):
        env.run(until=env.event())
    with pytest.raises(ValueError, match="must be later"):
        env.run(until=0)
    env.alarm(7, ARRIVAL, lambda _: None)
    env.step()
    assert env.now == 7
