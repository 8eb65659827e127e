"""Borders that made-up loads seldom meet: neighbours that switch at one instant, and a run served exactly a level of PLAS."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scepsy.backend import Stream, Workload
from scepsy.profile.share import ContentionLaw
from scepsy.workload import Arrivals
from tests.builders.simulated import call, run, trace
from tests.sim.compiled.both import Case, check
from tests.sim.compiled.test_long_runs import spec

pytest.importorskip("llvmlite")


@pytest.mark.parametrize("neighbours", [2, 3])
@pytest.mark.parametrize("outputs", [2, 9])
def test_neighbours_switch_at_one_instant(neighbours, outputs):
    """Equal calls reach equal instances together, again and again; a later one is longer, and so meets them while they stop."""
    runs = []
    for wave in range(6):
        for place in range(neighbours):
            longer = 3 * (place == neighbours - 1 and wave % 2)
            runs.append(run([call(20, outputs + longer)], id=f"r{wave}-{place}", arrival_s=60.0 * (wave // 2)))
    workload = Workload(streams=(Stream(trace=trace(*runs), arrivals=Arrivals(kind="trace")),), runs=len(runs))
    specs = [spec(number) for number in range(neighbours)]
    case = Case(specs, [[0]] * neighbours, ContentionLaw(interference=0.4), workload, "round-robin")
    found = check(case)
    first = found.calls.to_pandas().groupby("instance").first_token_s.min()
    assert first.nunique() == 1, "they must begin together"


@pytest.mark.parametrize("first", [1023, 1024, 1025])
def test_a_run_that_was_served_exactly_the_first_level_is_promoted(first):
    """PLAS: a second call of a run that has just left the first level waits behind others until it is promoted."""
    rounds = [
        run([call(first - 3, 3, id="a"), call(30, 2, id="b", parents=("a",))], id=f"r{n}", arrival_s=n) for n in range(30)
    ]
    news = [run([call(60, 40)], id=f"n{n}", arrival_s=1.7 * n) for n in range(60)]
    workload = Workload(streams=(Stream(trace=trace(*rounds, *news), arrivals=Arrivals(kind="trace")),), runs=90)
    one = replace(spec(), kv_blocks=100, context_limit=2000)
    check(Case([one], [[0]], ContentionLaw(interference=0.4), workload, "round-robin", "plas"))
