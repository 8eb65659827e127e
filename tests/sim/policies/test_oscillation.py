"""What autoscaling each LLM by itself does to a pipeline: at a constant load the second stage's pods rise and fall."""

from collections.abc import Generator
from itertools import pairwise
from typing import Any

import simpy

from scepsy.backend import Stream, Workload
from scepsy.workload import Arrivals, Trace, TraceSource
from sim.policies.autoscaling.hpa import HpaSettings, hpa
from sim.world.control import READY, Control
from sim.world.run import simulate
from tests.builders.by_hand import call, profiles, run
from tests.sim.policies.test_ayo import plan


def pods(rate_per_s: float, minutes: float) -> list[tuple[int, int]]:
    """Ready pods of both stages every 15 s; a call takes 0.3 s of its pod, so ``0.3 · rate`` pods of each are just enough."""
    trace = Trace(source=TraceSource(origin="test"), runs=(run("r", call("a", "m"), call("b", "k", parents=["a"])),))
    seen: list[tuple[int, int]] = []

    def watch(control: Control) -> Generator[simpy.Event, Any, None]:
        while True:
            yield control.sleep(15.0)
            seen.append((len(control.of("m", READY)), len(control.of("k", READY))))

    load = Workload(
        streams=(Stream(trace=trace, arrivals=Arrivals(rate_per_s=rate_per_s)),), horizon_s=60 * minutes, drain_s=0.0
    )
    settings = HpaSettings(stabilisation_s=60.0)
    simulate(plan({"m": 1, "k": 1}), load, profiles=profiles(["m", "k"], prefill_s=0.003), policies=[hpa(settings), watch])
    return seen


def test_independent_autoscalers_oscillate_on_a_dependent_pipeline() -> None:
    seen = pods(rate_per_s=8.0, minutes=30)
    second = [k for _, k in seen]
    moves = [b - a for a, b in pairwise(second) if b != a]
    turns = sum(a * b < 0 for a, b in pairwise(moves))
    # 2.4 pods of each stage are enough throughout. The first stage's queue hides the second's load, then floods it.
    assert max(second) >= 5
    assert turns >= 3
