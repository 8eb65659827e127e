"""Autellix's queue order with its promotion of starved calls, by hand: 10 ms per iteration, 1 ms per prompt token and per
decoding sequence."""

from dataclasses import dataclass

import pytest

from scepsy.profile.model import EngineLimits
from scepsy.profile.share import ContentionLaw
from sim.engine.clock import ARRIVAL, TICKS_PER_S, Kernel
from sim.engine.gpu import GpuState
from sim.engine.queue import OrderedQueue
from sim.engine.replica import Replica
from sim.engine.request import Request
from sim.policies.orders import QUEUE_ORDERS
from sim.policies.orders.plas import Plas
from sim.recorded.replay import one_replica
from tests.builders.simulated import call, run
from tests.sim.engine.test_replica import STEP, table

MS = TICKS_PER_S // 1000


@dataclass
class Caller:
    """A run with a past."""

    served_tokens: int = 0
    served_ticks: int = 0
    waited_ticks: int = 0
    id: str = "r"
    remaining_tokens: int = 0

    def call_ended(self, request: Request) -> None:
        """Nothing follows."""


def test_levels_double():
    order = Plas(first_level_tokens=10)
    served = [0, 9, 10, 19, 20, 39, 40, 80]
    assert [order(Request(Caller(tokens), 0, 1, 1, [], 0)) for tokens in served] == [(x,) for x in (0, 0, 1, 1, 2, 2, 3, 4)]


def test_promotion_is_due_when_wait_over_service_reaches_beta():
    order = Plas(first_level_tokens=10, beta=2.0)
    assert order.promotes_at(Request(Caller(10, 30, 25), 0, 1, 1, [], 100)) == 100 + 2 * 30 - 25
    assert order.promotes_at(Request(Caller(10, 30, 90), 0, 1, 1, [], 100)) == 100  # its run has waited long enough already
    assert order.promotes_at(Request(Caller(9, 30, 90), 0, 1, 1, [], 100)) is None  # is in the first level


@pytest.mark.parametrize(("beta", "start"), [(0.5, 70), (1.0, 70), (2.0, 90), (3.0, 130), (1e9, 130)])
def test_a_starved_call_overtakes_the_younger_calls_of_new_runs(monkeypatch, beta, start):
    # One call at a time. The first call of a: 19 + 11 = 30 ms of service, 11 tokens: its second call, issued at 30, is of the
    # second level and due for promotion at 30 + 30·β. The new runs' calls take 20 ms each: at 30 and 50 those that came
    # before it, then, until it is promoted, those that came after it, the last of them at 110.
    monkeypatch.setitem(QUEUE_ORDERS, "plas-test", Plas(first_level_tokens=10, beta=beta))
    chain = run([call(9, 2, id="c0"), call(4, 1, id="c1", parents=("c0",))], "a", arrival_s=0.0)
    new = [run([call(10, 1)], f"b{n}", arrival_s=at) for n, at in enumerate((0.005, 0.006, 0.040, 0.065, 0.075))]
    rows, _ = table([chain, *new], engine=EngineLimits(max_num_seqs=1), queue_order="plas-test")
    assert rows[("w-0", "c0")] == (0, 0, 19, 30)
    assert rows[("w-0", "c1")] == (30, start, start + 14, start + 14)
    starts = sorted(row[1] for (name, _), row in rows.items() if name != "w-0")
    assert starts == [at + 14 * (at >= start) for at in (30, 50, 70, 90, 110)]


def test_a_promotion_cuts_the_span_that_runs():
    # 4 blocks of 16. d: prompt until 26, then decodes alone, 11 ms each. Small and big came meanwhile: big is of the first
    # level and never fits beside d, small waits behind it until its promotion at 60, and joins at the next border, 70, for
    # 10 + 10 + 1.
    env = Kernel()
    spec = one_replica(env, STEP, EngineLimits(), 4).spec
    queue = OrderedQueue(Plas(first_level_tokens=10, beta=1.0))
    replica = Replica(env, 0, spec, [GpuState("g", ContentionLaw(interference=0.0))], queue)
    d = Request(Caller(), 0, 16, 33, [], 0)
    small = Request(Caller(served_tokens=10, served_ticks=50 * MS, waited_ticks=10 * MS), 0, 10, 1, [], 20 * MS)
    big = Request(Caller(), 0, 60, 1, [], 21 * MS)
    for request in (d, small, big):
        env.alarm(request.issued, ARRIVAL, lambda _, request=request: replica.submit(request))
    env.run()
    assert (small.scheduled, small.end) == (70 * MS, 91 * MS)
    assert d.end == (91 + 27 * 11) * MS  # 4 of its 32 decode iterations before, 1 with small
    assert (big.scheduled, big.end) == (d.end, d.end + 70 * MS)
    assert len(queue) == 0


def test_what_was_promoted_or_left_is_not_promoted_again():
    queue = OrderedQueue(Plas(first_level_tokens=10))
    old, older, new = (Request(Caller(tokens), 0, 1, 1, [], 0) for tokens in (15, 45, 0))
    for request in (old, older, new):
        queue.push(request)
    assert queue.peek() is new
    assert queue.promote(older) is False
    assert queue.promote(older) is True
    assert list(queue) == [older, new, old]
    assert [len(queue), queue.take(), queue.take(), queue.take(), len(queue)] == [3, older, new, old, 0]
    assert queue.promote(old) is True
    assert len(queue) == 0
