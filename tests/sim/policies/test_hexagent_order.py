"""HexAGenT-like order: least slack to the run's horizon first."""

import pytest

from scepsy.dag import nominal_s
from scepsy.profile.model import EngineLimits
from scepsy.profile.step import StepModel
from sim.policies.orders.hexagent import Hexagent, revealed_s
from sim.world.run import simulate
from tests.builders.simulated import NO_SHARE_COST, call, load, plan, profile, profile_set, run, trace

ONE = profile(
    step=StepModel(base_s=0.010, prefill_s_per_token=0.001, decode_s_per_sequence=0.001), engine=EngineLimits(max_num_seqs=1)
)


def test_a_graph_is_revealed_along_ancestors() -> None:
    first, second = call(10, 5, id="a"), call(10, 7, id="b", parents=("a",), gap_s=0.5)
    aside = call(10, 100, id="c")
    shown = revealed_s(run([first, second, aside]))
    assert shown == pytest.approx([nominal_s(first), nominal_s(first) + 0.5 + nominal_s(second), nominal_s(aside)])


def ends(order: str) -> dict[str, float]:
    busy = run([call(10, 50)], "busy", arrival_s=0.0)
    long = run([call(10, 100)], "long", arrival_s=0.1)
    short = run([call(10, 10)], "short", arrival_s=0.2)
    records = simulate(
        plan((ONE, 100, 1)), load(trace(busy, long, short)), profiles=profile_set(ONE, law=NO_SHARE_COST), queue_order=order
    )
    return {row["template"]: row["end_s"] for row in records.runs.to_pylist()}


def test_the_run_with_least_slack_goes_first() -> None:
    # busy: 0.020 + 49 * 0.011 = 0.559. Then one of: long 0.020 + 99 * 0.011 = 1.109, short 0.119.
    # Latest starts at twice the standalone time: long 0.1 + 1.21, short 0.2 + 0.13: short first.
    assert ends("fcfs") == pytest.approx({"busy": 0.559, "long": 1.668, "short": 1.787})
    assert ends("hexagent") == pytest.approx({"busy": 0.559, "short": 0.678, "long": 1.787})


def test_an_old_run_is_not_passed_for_ever() -> None:
    """The key grows with the arrival: a short call that arrives late enough waits for a long one."""

    class Fake:
        node = 0

        def __init__(self, arrival: int, out: int) -> None:
            self.caller = type("A", (), {"arrival": arrival, "walk": type("W", (), {"run": run([call(10, out)])})()})()

    order, second = Hexagent(), 10**15
    assert order(Fake(0, 100)) < order(Fake(2 * second, 10))  # type: ignore[arg-type]
    assert order(Fake(0, 100)) > order(Fake(second, 10))  # type: ignore[arg-type]
