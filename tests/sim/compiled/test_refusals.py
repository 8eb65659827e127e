"""What the compiled core does not model: refused in one line, or left to the SimPy engine, and the records say which ran."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

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
from tests.builders.simulated import LAW, call, load, plan, profile, profile_set, run, trace

pytest.importorskip("llvmlite")


def some_runs(**fields):
    return trace(*(run([call(20, 3, id="a"), call(9, 2, id="b", parents=("a",))], id=f"r{n}", **fields) for n in range(4)))


def a_case(one=None, *, share=100, replicas=1, gpus=None, what=None):
    one = one or profile()
    profiles = profile_set(one, law=LAW)
    return partial(simulate, plan((one, share, replicas), gpus=gpus), load(what or some_runs(), 5.0, runs=6), profiles=profiles)


class FromElsewhere(RoundRobin):
    """Even one that only inherits."""


tiny = profile(weight_bytes=10**6, kv_bytes_per_token=1000, engine=EngineLimits(activation_bytes=0))


def idle(control):
    yield control.sleep(1.0)


REFUSED = {
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
    assert auto.meta == simpy.meta | {"engine_why": why}


def test_what_it_models_runs_compiled_and_says_so():
    plain = a_case(tiny, share=1, replicas=MOST_TENANTS, gpus=1)
    compiled, auto, simpy = (plain(engine=name) for name in ("compiled", "auto", "simpy"))
    assert compiled.meta["engine"] == auto.meta["engine"] == "compiled"
    assert compiled.calls.equals(simpy.calls)
    assert auto.calls.equals(simpy.calls)
    assert compiled.meta == simpy.meta | {"engine": "compiled"}
    assert auto.meta == compiled.meta | {"engine_why": "it models this case"}


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
    assert "decodes for 4612 s" in auto.meta["engine_why"]
    assert auto.calls.equals(simpy.calls)
    assert auto.calls.num_rows == 6
    rows = []  # they cannot be taken back, so the case is left to SimPy at once
    streamed = case(engine="auto", sink=lambda table, batch: rows.append(batch.num_rows))
    assert (streamed.meta["engine"], sum(rows)) == ("simpy", 12)
    assert streamed.meta["engine_why"] == "an instance might decode for 4612 s without anything to decide"
    with pytest.raises(machine.TooLong):
        case(engine="compiled", sink=lambda table, batch: None)


def test_without_the_compiler_everything_but_compiled_works():
    script = """if True:
        import sys
        sys.modules["llvmlite"] = None
        from scepsy.errors import InputError
        from sim.world.run import simulate
        from tests.builders.simulated import load, plan, profile, profile_set, single_calls
        one = profile()
        case = plan((one, 100, 2)), load(single_calls(20), 5.0)
        auto, simpy = (simulate(*case, profiles=profile_set(one), engine=name) for name in ("auto", "simpy"))
        assert auto.calls.equals(simpy.calls) and auto.calls.num_rows == 20
        print(auto.meta["engine"], simpy.meta["engine"], auto.meta["engine_why"])
        try:
            simulate(*case, profiles=profile_set(one), engine="compiled")
        except InputError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "simpy simpy llvmlite is not installed (pip install llvmlite)",
        "engine is 'compiled', which does not model this case: llvmlite is not installed (pip install llvmlite) "
        "(use 'simpy' or 'auto')",
    ]


def test_a_compiler_that_does_not_load_is_said_in_one_line(monkeypatch):
    def broken(name):
        raise OSError("Could not find/load shared object file\n Error was: libz.so.1")

    monkeypatch.setattr("sim.compiled.import_module", broken)
    with pytest.raises(InputError) as refused:
        a_case()(engine="compiled")
    assert "llvmlite does not load: Could not find/load shared object file (use" in str(refused.value)
    assert a_case()(engine="auto").meta["engine"] == "simpy"


def test_the_copy_of_the_plas_routers_limit_is_the_limit():
    assert routing.SHORT_TOKENS == plas_router.SHORT_TOKENS


def test_every_registered_router_and_order_is_known_or_refused_by_name():
    """A new one must be thought of here: it is refused until the core has it."""
    assert {name for name in ROUTERS if engine.router_number(name) is None} == {"ayo", "mine"}
    assert {name for name in QUEUE_ORDERS if engine.queue_number(name) is None} == {"hexagent", "topology", "mine"}
