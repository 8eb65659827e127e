"""The Chrome trace: valid, nested, complete; the occupancy table: exact means."""

import json
from itertools import pairwise

import pytest

from scepsy.profile.step import StepModel
from sim.world.run import simulate
from sim.world.timeline import OCCUPANCY_SCHEMA, Timeline
from tests.builders.simulated import NO_SHARE_COST, call, load, plan, profile, profile_set, run, trace

STEP = StepModel(base_s=0.010, prefill_s_per_token=0.001, decode_s_per_sequence=0.001)


def watched(runs, *wanted, gpus=None, **options):
    timeline = Timeline(**options)
    profiles = [item[0] for item in wanted]
    records = simulate(
        plan(*wanted, gpus=gpus), load(trace(*runs)), profiles=profile_set(*profiles, law=NO_SHARE_COST), timeline=timeline
    )
    return timeline, records


def fan_out(arrival_s=0.0, name="r"):
    graph = [
        call(5, 2, id="a"),
        call(5, 3, id="b", parents=("a",), gap_s=0.005),
        call(8, 4, id="c", parents=("a",)),
        call(1, 1, id="d", parents=("b", "c")),
    ]
    return run(graph, name, arrival_s=arrival_s)


def test_the_trace_has_a_track_per_instance_gpu_and_run(tmp_path):
    one = profile(step=STEP)
    timeline, _ = watched([fan_out(), fan_out(0.01, "s")], (one, 50, 2), gpus=1)
    path = tmp_path / "t.json"
    timeline.save(path)
    document = json.loads(path.read_text())
    events = document["traceEvents"]
    names = {(event["pid"], event["args"]["name"]) for event in events if event["ph"] == "M"}
    assert {(1, "instances"), (2, "GPUs"), (3, "runs"), (1, "m-0"), (1, "m-1"), (3, "w-0"), (3, "w-1")} <= names
    assert {event["name"] for event in events if event["ph"] == "C"} >= {"m-0 calls", "m-0 KV %", "m-0 SM %", "n0/0 SM %"}
    shares = {event["args"]["SM"] for event in events if event["ph"] == "C" and event["name"] == "n0/0 SM %"}
    assert shares == {0, 50, 100}


def test_slices_of_a_track_nest_and_arrows_join_parents_and_children():
    one = profile(step=STEP)
    timeline, records = watched([fan_out()], (one, 100, 1))
    events = timeline.trace()["traceEvents"]
    tracks = {}
    for event in events:
        if event["ph"] == "X":
            tracks.setdefault((event["pid"], event["tid"]), []).append((event["ts"], event["ts"] + event["dur"], event["name"]))
    for slices in tracks.values():
        slices.sort()
        for (_, end, _), (begin, _, _) in pairwise(slices):
            assert begin >= end - 1e-6
    calls = [item for (pid, _), slices in tracks.items() if pid == 3 for item in slices if item[2] != "tool"]
    recorded = {row["call"]: (row["issued_s"] * 1e6, row["end_s"] * 1e6) for row in records.calls.to_pylist()}
    assert len(calls) == len(recorded)
    for begin, end, name in calls:
        assert (begin, end) == pytest.approx(recorded[name.split()[0]])
    assert sum(item[2] == "tool" for slices in tracks.values() for item in slices) == 1
    starts = [event for event in events if event["ph"] == "s"]
    ends = {event["id"]: event for event in events if event["ph"] == "f"}
    assert len(starts) == 4  # a→b, a→c, b→d, c→d
    for start in starts:
        assert ends[start["id"]]["ts"] >= start["ts"]
        assert ends[start["id"]]["bp"] == "e"


def test_iterations_on_the_instance_track_are_exactly_its_busy_time():
    one = profile(step=STEP)
    timeline, records = watched([fan_out(), fan_out(0.3, "s")], (one, 100, 1))
    spent = sum(event["dur"] for event in timeline.trace()["traceEvents"] if event["ph"] == "X" and event["pid"] == 1)
    assert spent / 1e6 == pytest.approx(json.loads(records.meta["instances"])[0]["busy_s"])


def test_occupancy_is_the_time_weighted_mean():
    one = profile(step=STEP)
    # one call: busy from 0 to 37 ms; then one from 100 to 137 ms
    timeline, _ = watched([run([call(5, 3)], "a", arrival_s=0.0), run([call(5, 3)], "b", arrival_s=0.1)], (one, 100, 1))
    table = timeline.occupancy(1)
    assert table.schema.equals(OCCUPANCY_SCHEMA)
    row = table.to_pylist()[0]
    assert row["busy"] == pytest.approx(74 / 137)
    assert row["running"] == pytest.approx(74 / 137)
    assert row["waiting"] == 0
    assert len(timeline.occupancy(10)) == 10
    with pytest.raises(ValueError, match="bins is 0"):
        timeline.occupancy(0)


def test_watching_changes_nothing_and_can_be_bounded():
    one = profile(step=STEP)
    runs = [fan_out(0.02 * n, f"r{n}") for n in range(20)]
    _, with_timeline = watched(runs, (one, 100, 2))
    plain = simulate(plan((one, 100, 2)), load(trace(*runs)), profiles=profile_set(one, law=NO_SHARE_COST))
    assert plain.calls.equals(with_timeline.calls)
    short, _ = watched(runs, (one, 100, 2), until_s=0.1)
    assert max(event["ts"] for event in short.trace()["traceEvents"] if event["ph"] == "C") < 0.2e6
