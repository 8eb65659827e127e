"""The controller as a policy: instances where a plan has them, lost GPUs, switches in the executor's order, the same core."""

import msgspec
import pytest

from scepsy.cluster import Gpu
from scepsy.operate.controller import Finding
from scepsy.operate.decision import Answer, Candidate, Move, Outlook
from scepsy.operate.reference import planned_for
from scepsy.operate.settings import Settings
from scepsy.plans import Plan
from scepsy.records import COMPLETED
from scepsy.workload import Piece
from sim.policies.adaptive import Log, adaptive, switch_to
from sim.world.control import DRAINING, PENDING, READY, STARTING, STOPPED
from sim.world.run import simulate
from tests.builders.simulated import call, load, plan, profile, profile_set, run, trace

ONE = profile("m")
PROFILES = profile_set(ONE, profile("other"))


def small(replicas: int = 2, gpus: int = 4) -> Plan:
    return plan((ONE, 100, replicas), gpus=gpus)


def on(which: Plan, *gpus: int) -> Plan:
    """The plan with instances of m on these GPUs, one each."""
    first = which.instances[0]
    instances = tuple(msgspec.structs.replace(first, index=n, gpus=(Gpu(node="n0", index=gpu),)) for n, gpu in enumerate(gpus))
    allocation = msgspec.structs.replace(which.allocations[0], replicas=len(gpus))
    return msgspec.structs.replace(which, allocations=(allocation,), instances=instances)


def traced(runs: int = 400, tokens: int = 20):
    return trace(*(run([call(100, tokens)], id=f"r{n}") for n in range(runs)))


def go(which: Plan, policy, *, rate: float = 2.0, runs: int = 400):
    return simulate(which, load(traced(runs), rate, runs=runs), profiles=PROFILES, policies=(policy,))


# ---- the control surface ---------------------------------------------------------------------------------------------


def test_an_instance_is_placed_where_the_plan_has_it_and_waits_for_room() -> None:
    start = on(small(), 0, 1)
    seen = {}

    def policy(control):
        yield control.sleep(1)
        free = control.place(on(start, 3).instances[0], start_s=5.0)
        waits = control.place(on(start, 1).instances[0], start_s=5.0)
        seen["at once"] = (free.state, free.gpus, waits.state, waits.gpus)
        yield control.sleep(10)
        control.drain(next(m for m in control.of("m", READY) if m.gpus == (Gpu(node="n0", index=1),)))
        yield control.sleep(60)
        seen["later"] = (free.state, waits.state, waits.gpus)
        while True:
            yield control.sleep(60)

    found = go(start, policy)
    assert seen["at once"] == (STARTING, (Gpu(node="n0", index=3),), PENDING, ())
    assert seen["later"] == (READY, READY, (Gpu(node="n0", index=1),))
    assert set(found.runs["status"].to_pylist()) == {COMPLETED}


def test_a_lost_gpu_takes_its_instance_and_no_run() -> None:
    start = on(small(), 0, 1)
    states = []

    def policy(control):
        yield control.sleep(20)
        control.lose(Gpu(node="n0", index=0))
        states.append([member.state for member in control.members])
        late = control.place(on(start, 0).instances[0], start_s=1.0)
        yield control.sleep(30)
        states.append(late.state)
        control.lose(Gpu(node="n0", index=1))  # nobody is left: calls wait
        yield control.sleep(10)
        control.place(on(start, 2).instances[0], start_s=1.0)
        while True:
            yield control.sleep(60)

    found = go(start, policy)
    assert states == [[STOPPED, READY], PENDING]
    assert set(found.runs["status"].to_pylist()) == {COMPLETED}


def test_a_switch_keeps_what_both_want_and_takes_turns_on_a_gpu() -> None:
    start = on(small(), 0, 1)
    order = []

    def policy(control):
        yield control.sleep(10)
        before = {member.gpus[0].index: member for member in control.members}
        yield from switch_to(control, on(start, 1, 2))
        order.append(
            (before[1].state, before[0].state in (DRAINING, STOPPED), [m.gpus[0].index for m in control.of("m", READY)])
        )
        order.append(control.now_s >= 10 + control.cold_start_s("m"))
        while True:
            yield control.sleep(60)

    found = go(start, policy)
    assert order == [(READY, True, [1, 2]), True]
    assert set(found.runs["status"].to_pylist()) == {COMPLETED}


def test_an_llm_whose_only_gpu_is_needed_is_started_elsewhere_and_its_calls_wait() -> None:
    both = plan((ONE, 100, 1), (profile("other"), 100, 1), gpus=2)
    swapped = msgspec.structs.replace(
        both,
        instances=tuple(
            msgspec.structs.replace(instance, gpus=(Gpu(node="n0", index=1 - instance.gpus[0].index),))
            for instance in both.instances
        ),
    )  # fmt: skip

    def policy(control):
        yield control.sleep(10)
        yield from switch_to(control, swapped)
        assert {m.llm: m.gpus[0].index for m in control.members if m.state == READY} == {"m": 1, "other": 0}
        while True:
            yield control.sleep(60)

    runs = trace(*(run([call(100, 20), call(50, 5, id="d", llm="other", parents=("c",))], id=f"r{n}") for n in range(300)))
    found = simulate(both, load(runs, 2.0), profiles=PROFILES, policies=(policy,))
    assert set(found.runs["status"].to_pylist()) == {COMPLETED}


def test_a_switch_whose_new_gpu_is_lost_is_taken_back() -> None:
    """m must leave GPU 0 for the other LLM, and GPU 2, where it starts, is lost meanwhile: everything is as before."""
    both = plan((ONE, 100, 1), (profile("other"), 100, 1), gpus=3)
    where = {"m": Gpu(node="n0", index=2), "other": Gpu(node="n0", index=0)}
    instances = tuple(msgspec.structs.replace(instance, gpus=(where[instance.llm],)) for instance in both.instances)
    seen = []

    def loss(control):
        yield control.sleep(15)
        control.lose(where["m"])
        while True:
            yield control.sleep(60)

    def policy(control):
        yield control.sleep(10)
        stays = yield from switch_to(control, msgspec.structs.replace(both, instances=instances))
        seen.append((stays, 15 <= control.now_s <= 16))
        yield control.sleep(100)
        seen.append({m.llm: m.gpus[0].index for m in control.members if m.state == READY})
        while True:
            yield control.sleep(60)

    runs = trace(*(run([call(100, 20), call(50, 5, id="d", llm="other", parents=("c",))], id=f"r{n}") for n in range(300)))
    found = simulate(both, load(runs, 2.0), profiles=PROFILES, policies=(policy, loss))
    assert seen == [(False, True), {"m": 0, "other": 1}]
    assert set(found.runs["status"].to_pylist()) == {COMPLETED}


# ---- the policy ------------------------------------------------------------------------------------------------------


def outlook(which: Plan, *, meets: bool) -> Outlook:
    return Outlook(
        latency_s={"w": 1.0}, limited_s={"w": 1.0}, throughput_per_s={"w": 5.0}, utilisation=0.5, gpus=len(which.gpu_shares),
        in_system=4.0 if meets else 40.0, meets=meets,
    )  # fmt: skip


def grow(which: Plan):
    """Planning that knows one answer: twice the instances, for more than 1.5 times the rate."""

    def replan(running: Plan, finding: Finding) -> Answer:
        [now] = finding.loads
        wanted = on(which, *range(4)) if now.rate_per_s.value > 3.0 else on(which, 0, 1)
        move = Move(started=2, stopped=0, cold_start_s=44.0, gpu_s=88.0, lost_run_s=0.0)
        return Answer(
            running=outlook(running, meets=len(running.instances) == len(wanted.instances)),
            candidates=(Candidate(plan=wanted, outlook=outlook(wanted, meets=True), move=move),),
        )

    return replan


@pytest.mark.parametrize("second", [2.0, 6.0])
def test_the_policy_switches_when_the_load_changes_and_only_then(second: float) -> None:
    start, log = on(small(), 0, 1), Log()
    runs = traced(100)
    pieces = (Piece(duration_s=600, rate_per_s=2.0), Piece(duration_s=600, rate_per_s=second))
    workload = load(runs, 2.0, runs=int(600 * (2 + second)) - 50, kind="piecewise", arrivals={"pieces": pieces})
    aim = Settings(look_s=15.0, min_between_s=60.0)
    policy = adaptive(start, [planned_for("w", runs.runs, 2.0)], aim, grow(start), None, log)
    found = simulate(start, workload, profiles=PROFILES, policies=(policy,))
    assert set(found.runs["status"].to_pylist()) == {COMPLETED}
    if second == 2.0:
        assert log.reports == []
    else:
        assert log.reports[0].decision.act == "switch"
        begun, ended = log.switches[0]
        assert 600 < begun < 700
        assert ended - begun >= 44.0


def test_a_lost_gpu_is_replaced() -> None:
    start, log = on(small(), 0, 1), Log()
    runs = traced(100)

    def replan(running: Plan, finding: Finding) -> Answer:
        assert finding.lost == (Gpu(node="n0", index=1),)
        move = Move(started=1, stopped=0, cold_start_s=44.0, gpu_s=44.0, lost_run_s=0.0)
        wanted = on(start, 0, 3)
        return Answer(
            running=outlook(running, meets=False),
            candidates=(Candidate(plan=wanted, outlook=outlook(wanted, meets=True), move=move),),
        )

    def loss(control):
        yield control.sleep(101)
        control.lose(Gpu(node="n0", index=1))
        while True:
            yield control.sleep(60)

    policy = adaptive(start, [planned_for("w", runs.runs, 2.0)], Settings(look_s=10.0), replan, None, log)
    simulate(start, load(runs, 2.0, runs=800), profiles=PROFILES, policies=(policy, loss))
    assert [report.finding.kind for report in log.reports] == ["GPUs lost"]
    assert log.switches[0][0] == pytest.approx(110, abs=1)
