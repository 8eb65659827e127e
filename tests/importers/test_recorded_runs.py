"""Runs and dependencies of recordings without run ids, repeated requests, and what must not be merged."""

import time

import msgspec
import pytest

from experiments.checks import recording_accuracy as accuracy
from scepsy.importers.recorded.dependencies import infer_edges
from scepsy.importers.recorded.grouping import assign_runs
from scepsy.importers.recorded.reader import load_recording
from scepsy.importers.recorded.record import CallRecord, SourceCall
from scepsy.importers.recorded.trace import to_trace
from scepsy.rng import stream


def call(name, start_s, end_s, *, sources=(), rung="none", **fields):
    defaults = {"run": f"call-{name}", "workflow": "w", "outcome": "completed", "input_tokens": 10, "output_tokens": 5,
                "llm": "m", "endpoint": "chat/completions", "kind": "generate", "can_be_source": True}  # fmt: skip
    found = tuple(SourceCall(call=source, contained_pct=100) for source in sources)
    return CallRecord(id=name, session="s", rung=rung, start_s=start_s, end_s=end_s, sources=found, **(defaults | fields))


GOALS = {"verbatim": (0.95, 0.9), "json": (0.85, 0.85), "cut": (0.85, 0.85), "summarised": (0.85, 0.85)}


@pytest.mark.parametrize("program", accuracy.PROGRAMS)
def test_unmodified_programs_are_recorded_as_they_are(program):
    """The table of docs/engines.md has all styles and numbers of runs in flight; this is its first column."""
    found = accuracy.score(*accuracy.play([program], "verbatim", header=False, in_flight=8, runs=16, seed=20))
    precision, recall = GOALS["verbatim"]
    assert found.right >= precision * found.inferred
    assert found.right >= recall * found.true


@pytest.mark.slow
@pytest.mark.parametrize("program", accuracy.PROGRAMS)
@pytest.mark.parametrize("style", accuracy.STYLES)
@pytest.mark.parametrize("in_flight", [5, 20])
def test_unmodified_programs_meet_the_goals_in_every_style(program, style, in_flight):
    results = [
        accuracy.score(*accuracy.play([program], style, header=False, in_flight=in_flight, runs=40, seed=seed))
        for seed in range(30, 34)
    ]
    precision, recall = GOALS[style]
    assert sum(one.right for one in results) >= precision * sum(one.inferred for one in results)
    assert sum(one.right for one in results) >= recall * sum(one.true for one in results)


def test_calls_without_a_run_id_are_grouped_and_the_trace_says_how():
    calls = [call("a", 0, 1), call("b", 0.2, 1.2), call("c", 2, 3, sources=["a"]), call("d", 2.1, 3, sources=["b"])]
    trace = to_trace(calls, "test")
    assert [[one.parents for one in run.calls] for run in trace.runs] == [[(), ("c0",)], [(), ("c0",)]]
    assert "4 calls without a run id grouped into 2 runs: first or content (2 calls), alone (2 calls)" in trace.source.notes


def test_calls_that_name_a_run_are_left_as_they_are():
    calls = [call("a", 0, 1, rung="header", run="x"), call("b", 2, 3, rung="header", run="y", sources=["a"])]
    assert assign_runs(calls).run_of == {}


def test_isolated_runs_that_were_not_alone_are_told_apart_and_warned_about():
    both = {"rung": "isolated", "run": "i-1"}
    calls = [call("a", 0, 1, **both), call("b", 0.5, 1.5, **both), call("c", 1.1, 2, sources=["a"], **both),
             call("d", 1.6, 3, sources=["b"], **both)]  # fmt: skip
    trace = to_trace(calls, "test")
    assert len(trace.runs) == 2
    assert any(note.startswith("WARNING: 1 isolated recordings had several runs in flight") for note in trace.source.notes)
    alone = to_trace(calls[::2], "test")
    assert (len(alone.runs), [note for note in alone.source.notes if "WARNING" in note]) == (1, [])


def test_a_repeated_request_is_one_call_of_the_workflow():
    calls = [
        call("a", 0, 1, rung="header", run="r"),
        call("lost", 1.5, 3, rung="header", run="r", sources=["a"]),  # its client had gone
        call("again", 4, 5, rung="header", run="r", sources=["a"], attempt=1, retry_of="lost"),
        call("b", 6, 7, rung="header", run="r", sources=["again"]),
    ]
    trace = to_trace(calls, "test")
    (run,) = trace.runs
    assert [one.parents for one in run.calls] == [(), ("c0",), ("c1",)]
    assert run.calls[1].gap_s == pytest.approx(0.5), "from the first attempt on"
    assert "left out: 1 calls that their client sent again" in trace.source.notes
    failed = [msgspec.structs.replace(one, outcome="failed") if one.id == "lost" else one for one in calls]
    assert [one.gap_s for one in to_trace(failed, "test").runs[0].calls] == [one.gap_s for one in run.calls]


@pytest.mark.parametrize("runs", [6, 40])
def test_runs_that_begin_in_a_burst_do_not_react_to_each_other(runs):
    """Many ends in a short time: some begin comes soon after one of them, and half of a few by chance do."""
    made_up = 0
    for seed in range(60):
        rng = stream(seed, "burst")
        begins_s = rng.uniform(0, runs / 8, runs)
        calls = [call(f"a{i}", at, at + rng.uniform(0.12, 0.2), heads=(1, 2, 3)) for i, at in enumerate(begins_s)]
        calls.append(call("last", runs / 8 + 3, runs / 8 + 4))
        made_up += assign_runs(calls).run_of["a0"] != "call-a0" or len(set(assign_runs(calls).run_of.values())) <= runs
    assert made_up <= 3


@pytest.mark.parametrize("runs", [5, 40])
def test_a_step_that_follows_at_once_is_joined_by_time(runs):
    """No text tells it, but it never comes at another time."""
    rng = stream(0, "steps")
    calls = []
    for i, at in enumerate(rng.uniform(0, runs / 4, runs)):
        end_s = at + rng.uniform(0.5, 1.5)
        calls += [call(f"a{i}", at, end_s, heads=(1, 2, 3)), call(f"b{i}", end_s + 0.005, end_s + 1, heads=(4, 5, 6))]
    found = assign_runs(calls).run_of
    assert sum(found[f"b{i}"] == f"call-a{i}" for i in range(runs)) >= 0.9 * runs, "two that end at once cannot be told apart"


def test_the_recordings_that_once_were_merged():
    """Reactions that chance made up put runs of each into one: 256 of 413 inferred edges were right in the first."""
    for programs, style, seed in ((["branches"], "cut", 32), (list(accuracy.PROGRAMS), "verbatim", 10)):
        found = accuracy.score(*accuracy.play(programs, style, header=False, in_flight=20, runs=40, seed=seed))
        assert found.runs_found == 40
        assert found.right >= 0.95 * max(found.true, found.inferred)


@pytest.mark.parametrize("templates", [1, 20, 0])
def test_grouping_is_near_linear(templates):
    """However many kinds of calls there are; 0: one for every four calls."""
    spent = []
    for count in (1000, 4000):
        kinds = templates or count // 4
        rng = stream(1, "linear")
        calls = [call(f"c{i}", i / 10, i / 10 + rng.uniform(), heads=(1, 2, i % kinds)) for i in range(count)]
        tries = []
        for _ in range(3):
            began_s = time.process_time()
            assign_runs(calls)
            tries.append(time.process_time() - began_s)
        spent.append(min(tries))
    assert spent[1] < 8 * spent[0] + 0.2


@pytest.mark.parametrize("shape", ["chain", "content", "fan-outs"])
def test_inference_is_near_linear(shape):
    def calls(count):
        if shape == "fan-outs":
            return [call(f"c{i}", i // 20 * 2 + i % 20 / 1000, i // 20 * 2 + 1, can_be_source=False) for i in range(count)]
        sources = (lambda i: [f"c{i - 1}"] if i else []) if shape == "content" else (lambda i: [])
        return [call(f"c{i}", float(i), i + 0.9, sources=sources(i)) for i in range(count)]

    spent = []
    for count in (2000, 8000):
        records, tries = calls(count), []
        for _ in range(3):  # the best of three: other work on the machine slows some
            began_s = time.process_time()
            infer_edges(records)
            tries.append(time.process_time() - began_s)
        spent.append(min(tries))
    assert spent[1] < 10 * spent[0] + 0.2


def test_a_recording_holds_no_text(tmp_path):
    world, path = accuracy.play(["rag"], "verbatim", header=False, in_flight=5, runs=5, seed=1)
    recorded = path.read_text()
    assert not any(word in recorded for word in accuracy.WORDS if len(word) > 6)
    assert len(load_recording(path).calls) == len(world.after)
