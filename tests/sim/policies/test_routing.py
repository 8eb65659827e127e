"""Routers and queue orders."""

from collections import Counter

import pytest

from scepsy.errors import SimulationError
from scepsy.profile.model import EngineLimits
from scepsy.profile.step import StepModel
from sim.engine.queue import OrderedQueue, Queue
from sim.engine.request import Request
from sim.policies.orders import QUEUE_ORDERS
from sim.policies.routers import ROUTERS
from sim.world.run import simulate
from tests.builders.simulated import call, load, plan, profile, profile_set, run, single_calls, trace


class Stub:
    """As much of a replica as a router looks at."""

    changed = None

    def __init__(self, number, outstanding=0, kv=0.0, weight=100):
        self.number, self.outstanding, self.name = number, outstanding, f"m-{number}"
        self.kv, self.spec = kv, type("Spec", (), {"weight": weight})

    def kv_load(self):
        return self.kv

    def take(self, change=1):
        self.outstanding += change
        if self.changed:
            self.changed(self)


def made(name, *stubs):
    router = ROUTERS[name]("m", 1)
    for stub in stubs:
        router.add(stub)
    return router


def chosen(router, count, session="", take=False):
    found = []
    for _ in range(count):
        stub = router(Request(None, 0, 1, 1, [], 0), session)
        found.append(stub.number)
        if take:
            stub.take()
    return found


def test_round_robin_takes_turns():
    assert chosen(made("round-robin", Stub(0), Stub(1), Stub(2)), 7) == [0, 1, 2, 0, 1, 2, 0]


def test_least_outstanding_breaks_ties_by_number():
    router = made("least-outstanding", Stub(0, 1), Stub(1), Stub(2))
    assert chosen(router, 5, take=True) == [1, 2, 0, 1, 2]


def test_least_outstanding_equals_looking_at_every_instance():
    stubs = [Stub(number) for number in range(37)]
    router = made("least-outstanding", *stubs)
    state = 12345
    for _ in range(5000):
        state = (1103515245 * state + 12345) % 2**31
        assert chosen(router, 1) == [min(stubs, key=lambda s: (s.outstanding, s.number)).number]
        stub = stubs[state % 37]
        stub.take(-1 if stub.outstanding and state % 3 else 1)
    router.remove(stubs[0])
    stubs[0].take(-stubs[0].outstanding)
    assert chosen(router, 1) == [min(stubs[1:], key=lambda s: (s.outstanding, s.number)).number]


def test_least_kv_load():
    assert chosen(made("least-kv-load", Stub(0, kv=0.5), Stub(1, kv=0.2), Stub(2, kv=0.2)), 1) == [1]


def test_weighted_by_share_is_smooth_and_in_proportion():
    found = chosen(made("weighted-by-share", Stub(0, weight=100), Stub(1, weight=50)), 6)
    assert found == [0, 1, 0, 0, 1, 0]


def test_power_of_two_prefers_the_less_loaded():
    found = Counter(chosen(made("power-of-two", Stub(0, 9), Stub(1), Stub(2)), 300))
    assert found[0] == 0
    assert abs(found[1] - found[2]) < 150


@pytest.mark.parametrize("name", ["affinity", "hash-affinity"])
def test_affinity_keeps_sessions_together_and_spreads_them(name):
    stubs = [Stub(number) for number in range(4)]
    router = made(name, *stubs)
    homes = {}
    for number in range(400):
        session = f"s{number % 40}"
        home = chosen(router, 1, session, take=True)[0]
        assert homes.setdefault(session, home) == home
    assert len(set(homes.values())) == 4
    router.remove(stubs[0])
    moved = {session: chosen(router, 1, session)[0] for session in homes}
    assert 0 not in moved.values()
    assert all(moved[session] == home for session, home in homes.items() if home)


@pytest.mark.parametrize("name", sorted(ROUTERS))
def test_a_router_without_instances_raises(name):
    with pytest.raises(SimulationError, match="router of m has 0 instances"):
        made(name)(Request(None, 0, 1, 1, [], 0), "")


@pytest.mark.parametrize("engine", ["simpy", "auto"])
@pytest.mark.parametrize("name", sorted(ROUTERS))
def test_every_router_serves_every_call(name, engine):
    one = profile()
    records = simulate(
        plan((one, 100, 3)),
        load(single_calls(200), 10.0, runs=300, seed=2),
        profiles=profile_set(one),
        router=name,
        engine=engine,
    )
    assert set(records.runs["status"].to_pylist()) == {"completed"}
    assert len(set(records.calls["instance"].to_pylist())) == 3


class Asker:
    def __init__(self, served=0, remaining=0):
        self.id, self.served_tokens, self.remaining_tokens = "r", served, remaining


def test_orders():
    fcfs, srw, plas = Queue(), OrderedQueue(QUEUE_ORDERS["shortest-remaining"]), OrderedQueue(QUEUE_ORDERS["plas"])
    calls = [
        Request(Asker(served, remaining), 0, 10, 1, [], 0) for served, remaining in ((5000, 10), (0, 30), (900, 20), (1000, 5))
    ]
    for queue in (fcfs, srw, plas):
        same_head = [queue.push(each) for each in calls]
        assert same_head[0] is False
        assert len(queue) == 4
        assert queue.input_tokens == 40
    assert [calls.index(fcfs.take()) for _ in calls] == [0, 1, 2, 3]
    assert [calls.index(srw.take()) for _ in calls] == [3, 0, 2, 1]
    assert [calls.index(plas.take()) for _ in calls] == [1, 2, 3, 0]  # below 1,024 tokens of service: in order of arrival


def test_preempted_calls_go_first_in_every_order():
    for queue in (Queue(), OrderedQueue(QUEUE_ORDERS["shortest-remaining"])):
        first, second, new = (Request(Asker(0, n), 0, 1, 1, [], 0) for n in (3, 2, 1))
        queue.push(new)
        queue.push_front(first)
        queue.push_front(second)
        assert [queue.take(), queue.take(), queue.take()] == [second, first, new]


@pytest.mark.usefixtures("on_both_engines")
def test_short_runs_overtake_under_least_attained_service():
    one = profile(step=StepModel(base_s=0.01, prefill_s_per_token=1e-5), engine=EngineLimits(max_num_seqs=1))
    chain = [call(500, 600, id=f"c{n}", parents=(f"c{n - 1}",) if n else ()) for n in range(6)]
    short = [run([call(50, 20)], f"s{n}", arrival_s=20.0 + n / 10) for n in range(5)]
    what = load(trace(*(run(chain, f"l{n}", arrival_s=0.0) for n in range(3)), *short))
    ends = {}
    for order in ("fcfs", "plas", "shortest-remaining"):
        rows = simulate(plan((one, 100, 1)), what, profiles=profile_set(one), queue_order=order).runs.to_pylist()
        ends[order] = sum(row["end_s"] - row["arrival_s"] for row in rows if row["template"].startswith("s")) / 5
    assert ends["plas"] < 0.8 * ends["fcfs"]
    assert ends["shortest-remaining"] < 0.8 * ends["fcfs"]
