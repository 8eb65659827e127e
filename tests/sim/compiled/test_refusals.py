"""What the compiled core does not model: refused in one line, or left to the SimPy engine, and the records say which ran."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

import msgspec
import pytest

from scepsy.errors import InputError, SimulationError
from scepsy.profile.model import EngineLimits
from scepsy.profile.step import StepModel
from sim.compiled import engine, machine, routing
from sim.compiled.engine import MOST_TENANTS
from sim.policies.orders import QUEUE_ORDERS
from sim.policies.routers import ROUTERS
from sim.policies.routers import plas as plas_router
from sim.policies.routers.builtin import RoundRobin
from sim.world.run import simulate
from sim.world.timeline import Timeline
from tests.builders.simulated import LAW, QWEN_7B_H100, call, load, plan, profile, profile_set, run, trace

pytest.importorskip("numba")


def some_runs(**fields):
    return trace(*(run([call(20, 3, id="a"), call(9, 2, id="b", parents=("a",))], id=f"r{n}", **fields) for n in range(4)))


def a_case(one=None, *, share=100, replicas=1, gpus=None, what=None):
    one = one or profile()
    profiles = profile_set(one, law=LAW)
    return partial(simulate, plan((one, share, replicas), gpus=gpus), load(what or some_runs(), 5.0, runs=6), profiles=profiles)


class FromElsewhere(RoundRobin):
    """Even one that only inherits."""


async_scheduling = profile(engine=EngineLimits(async_scheduling=True))
experts = profile(step=msgspec.structs.replace(QWEN_7B_H100, experts_s=0.01, expert_part=0.25))
tiny = profile(weight_bytes=10**6, kv_bytes_per_token=1000, engine=EngineLimits(activation_bytes=0))


def idle(control):
    yield control.sleep(1.0)


REFUSED = {
    "asynchronous scheduling": (lambda: a_case(async_scheduling), "instances schedule asynchronously"),
    "mixture of experts": (lambda: a_case(experts), "a mixture of experts reads other weights with each batch"),
    "router ayo": (lambda: partial(a_case(), router="ayo"), "router 'ayo' is not one of its own"),
    "router from elsewhere": (lambda: partial(a_case(), router="mine"), "router 'mine' is not one of its own"),
    "order topology": (lambda: partial(a_case(), queue_order="topology"), "queue order 'topology' is not one of its own"),
    "order from elsewhere": (lambda: partial(a_case(), queue_order="mine"), "queue order 'mine' is not one of its own"),
    "policies": (lambda: partial(a_case(), policies=(idle,)), "policies act on the cluster while it runs"),
    "timeline": (lambda: partial(a_case(), timeline=Timeline()), "a timeline watches every iteration"),
    "63 instances on a GPU": (
        lambda: a_case(tiny, share=1, replicas=MOST_TENANTS + 1, gpus=1),
        f"more than {MOST_TENANTS} instances share a GPU",
    ),
    "session called like a run": (lambda: a_case(what=some_runs(session="w-2")), "session 'w-2' is called like a run"),
}


@pytest.fixture(autouse=True)
def from_elsewhere(monkeypatch):
    monkeypatch.setitem(ROUTERS, "mine", FromElsewhere)
    monkeypatch.setitem(QUEUE_ORDERS, "mine", lambda request: (float(request.input_tokens),))


@pytest.mark.parametrize("what", REFUSED)
def test_refused_in_one_line_or_left_to_simpy(what):
    make, why = REFUSED[what]
    with pytest.raises(InputError) as refused:
        make()(engine="compiled")
    assert str(refused.value) == f"engine is 'compiled', which does not model this case: {why} (use 'simpy' or 'auto')"
    auto, simpy = make()(engine="auto"), make()(engine="simpy")
    assert auto.meta["engine"] == simpy.meta["engine"] == "simpy"
    assert auto.calls.equals(simpy.calls)
    assert auto.meta == simpy.meta


def test_what_it_models_runs_compiled_and_says_so():
    plain = a_case(tiny, share=1, replicas=MOST_TENANTS, gpus=1)
    compiled, auto, simpy = (plain(engine=name) for name in ("compiled", "auto", "simpy"))
    assert compiled.meta["engine"] == auto.meta["engine"] == "compiled"
    assert compiled.calls.equals(simpy.calls)
    assert auto.calls.equals(simpy.calls)
    assert compiled.meta == simpy.meta | {"engine": "compiled"}


def test_an_unknown_engine_is_answered_with_the_known_ones():
    with pytest.raises(InputError, match="engine is 'numba': must be one of auto, simpy, compiled"):
        a_case()(engine="numba")


def test_a_span_too_long_to_count_is_refused_or_done_again_with_simpy():
    slow = profile(step=StepModel(base_s=1.0, prefill_s_per_token=1e-4), engine=EngineLimits())
    case = a_case(slow, what=trace(run([call(5, 5000)])))
    with pytest.raises(SimulationError, match=r"m-0 decodes for 4612 s from .* cannot count that far \(use engine 'simpy'\)"):
        case(engine="compiled")
    auto, simpy = case(engine="auto"), case(engine="simpy")
    assert auto.meta["engine"] == "simpy"
    assert auto.calls.equals(simpy.calls)
    assert auto.calls.num_rows == 6
    rows = []
    with pytest.raises(machine.TooLong):  # rows may have gone out: they cannot be taken back
        case(engine="auto", sink=lambda table, batch: rows.append(table))


def test_without_numba_everything_but_compiled_works():
    script = """if True:
        import sys
        sys.modules["numba"] = sys.modules["llvmlite"] = None
        from scepsy.errors import InputError
        from sim.world.run import simulate
        from tests.builders.simulated import load, plan, profile, profile_set, single_calls
        one = profile()
        case = plan((one, 100, 2)), load(single_calls(20), 5.0)
        auto, simpy = (simulate(*case, profiles=profile_set(one), engine=name) for name in ("auto", "simpy"))
        assert auto.calls.equals(simpy.calls) and auto.calls.num_rows == 20
        print(auto.meta["engine"], simpy.meta["engine"])
        try:
            simulate(*case, profiles=profile_set(one), engine="compiled")
        except InputError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "simpy simpy",
        "engine is 'compiled', which does not model this case: numba is not installed (pip install numba) "
        "(use 'simpy' or 'auto')",
    ]


def test_a_numba_that_does_not_load_is_said_in_one_line(monkeypatch):
    def broken(name):
        raise ImportError("Numba needs NumPy 2.5 or less. Got NumPy 2.9.\nSee the manual.")

    monkeypatch.setattr("sim.compiled.import_module", broken)
    with pytest.raises(InputError) as refused:
        a_case()(engine="compiled")
    assert "numba does not load: Numba needs NumPy 2.5 or less. Got NumPy 2.9. (use" in str(refused.value)
    assert a_case()(engine="auto").meta["engine"] == "simpy"


def test_the_copy_of_the_plas_routers_limit_is_the_limit():
    assert routing.SHORT_TOKENS == plas_router.SHORT_TOKENS


def test_every_registered_router_and_order_is_known_or_refused_by_name():
    """A new one must be thought of here: it is refused until the core has it."""
    assert {name for name in ROUTERS if engine.router_number(name) is None} == {"ayo", "mine"}
    assert {name for name in QUEUE_ORDERS if engine.queue_number(name) is None} == {"topology", "mine"}
