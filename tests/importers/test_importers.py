"""Importers on small files in the foreign schemas, written for the purpose: every trap, every repair, every refusal."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scepsy.errors import InputError
from scepsy.importers.registry import IMPORTERS, find_importer
from scepsy.importers.threads import Observed, parents_by_time, user_turns


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


# tau2 ---------------------------------------------------------------------------------------------------------------


def tau2_file(**changes: Any) -> dict[str, Any]:
    def message(role: str, second: float, usage: tuple[int, int] | None) -> dict[str, Any]:
        tokens = None if usage is None else {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
        return {"role": role, "content": "…", "timestamp": f"2025-08-01T10:00:{second:09.6f}", "usage": tokens}

    simulation = {
        "id": "s1",
        "task_id": "1",
        "start_time": "2025-08-01T10:00:00.000000",
        "end_time": "2025-08-01T10:00:09.500000",
        "messages": [
            message("assistant", 0.25, None),  # the greeting
            message("user", 1.25, (450, 51)),
            message("assistant", 3.25, (3346, 37)),
            {"role": "tool", "timestamp": "2025-08-01T10:00:03.750000", "requestor": "assistant"},
            message("assistant", 5.0, (3400, 0)),
            message("user", 9.0, (600, 3)),
        ],
    }
    return {
        "timestamp": "x",
        "info": {
            "agent_info": {"llm": "gpt-4.1"},
            "user_info": {"llm": "gpt-4.1"},
            "environment_info": {"domain_name": "airline"},
        },
        "simulations": [simulation | changes],
    }


def test_tau2_the_whole_timeline(tmp_path):
    trace = IMPORTERS["tau2"]([write(tmp_path / "f.json", tau2_file())])
    (run,) = trace.runs
    assert (run.id, run.workflow, run.arrival_s, run.tail_s) == ("s1", "tau2-airline", 0.0, 0.5)
    assert [(c.llm, c.input_tokens, c.output_tokens, c.parents, c.gap_s, c.start_s, c.end_s) for c in run.calls] == [
        ("user:gpt-4.1", 450, 51, (), 0.25, 0.25, 1.25),
        ("agent:gpt-4.1", 3346, 37, ("c0",), 0.0, 1.25, 3.25),
        ("agent:gpt-4.1", 3400, 1, ("c1",), 0.5, 3.75, 5.0),  # half a second of tools
        ("user:gpt-4.1", 600, 3, ("c2",), 0.0, 5.0, 9.0),
    ]
    assert "calls without output tokens, counted as one token: 1" in trace.source.notes


def test_tau2_arrivals_are_relative_to_the_first_of_all_files(tmp_path):
    early = write(tmp_path / "a.json", tau2_file())
    late = write(
        tmp_path / "b.json",
        tau2_file(id="s2", start_time="2025-08-01T09:59:00.000000"),
    )
    runs = IMPORTERS["tau2"]([early, late], {"workflow": "support"}).runs
    assert [(run.id, run.arrival_s, run.workflow) for run in runs] == [("s1", 60.0, "support"), ("s2", 0.0, "support")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start_time": "yesterday"}, "simulations[0].start_time is a text of 9 characters: must be a time"),
        ({"messages": [{"role": "user", "timestamp": "2025-08-01T10:00:01", "usage": {"prompt_tokens": -4, "completion_tokens": 1}}]},  # noqa: E501
         "simulations[0].messages[0].usage.prompt_tokens is -4: must be a whole number from 0 to 2**31"),
        ({"messages": [{"role": "user", "timestamp": "2025-08-01T10:00:01", "usage": {"prompt_tokens": 4}}]},
         "simulations[0].messages[0].usage.completion_tokens is missing: must be given"),
        ({"messages": 3}, "simulations[0].messages is no list: must be one"),
        ({"messages": []}, "holds no run: must hold at least one"),
    ],
)  # fmt: skip
def test_tau2_refusals(tmp_path, changes, message):
    with pytest.raises(InputError) as caught:
        IMPORTERS["tau2"]([write(tmp_path / "f.json", tau2_file(**changes))])
    assert message in str(caught.value)


def test_tau2_twice_the_same_simulation(tmp_path):
    """One file twice is read once; the same run from another file is kept once; another run of that id is told apart."""
    path = write(tmp_path / "f.json", tau2_file())
    trace = IMPORTERS["tau2"]([path, path])
    assert len(trace.runs) == 1
    assert "files given twice, read once: 1" in trace.source.notes
    again = write(tmp_path / "g.json", tau2_file() | {"timestamp": "y"})
    other = write(tmp_path / "h.json", tau2_file(end_time="2025-08-01T10:00:10.500000"))
    trace = IMPORTERS["tau2"]([path, again, other])
    assert [run.id for run in trace] == ["s1", "s1~2"]
    assert "calls given twice, kept once: 4" in trace.source.notes


# kv-cache-tester, flat ----------------------------------------------------------------------------------------------


def flat(
    t: float, model: str, length: int, hashes: list[int], stop: str, api_time: float | None, **more: Any
) -> dict[str, Any]:
    return {
        "t": t, "type": "s", "model": model, "in": length, "out": 5, "hash_ids": hashes, "stop": stop, "api_time": api_time,
        "think_time": 0.0, "input_types": ["text"], "output_types": [],
    } | more  # fmt: skip


FLAT = {
    "id": "s", "models": ["big", "small"], "block_size": 64, "hash_id_scope": "global", "tool_tokens": 0, "system_tokens": 0,
    "requests": [
        flat(10.0, "big", 640, [1, 2, 3], "tool_use", 4.0),  # the main thread: 10-14
        flat(14.5, "big", 704, [1, 2, 3, 4], "tool_use", 5.0),  # continues it: 14.5-19.5
        flat(14.6, "small", 128, [9, 8], "tool_use", 1.0),  # another model: spawned by the last finished tool call
        flat(16.0, "small", 192, [9, 8, 7], "end_turn", 1.0),  # continues the small thread
        flat(19.4, "big", 900, [1, 2, 3, 4, 5], "end_turn", 2.0),  # begins 0.1 s before its parent's end: a rounded clock
        flat(60.0, "big", 1000, [1, 2, 3, 4, 5, 6], "end_turn", 1.0),  # the user came back
    ],
}  # fmt: skip


def test_flat_sessions_parents_are_inferred_and_counted(tmp_path):
    trace = IMPORTERS["kv-cache-tester"]([write(tmp_path / "s.json", FLAT)], {"split": "sessions"})
    (run,) = trace.runs
    assert [(c.id, c.parents) for c in run.calls] == [
        ("c0", ()), ("c1", ("c0",)), ("c2", ("c0",)), ("c3", ("c2",)), ("c4", ("c1",)), ("c5", ("c4",)),
    ]  # fmt: skip
    assert [c.start_s for c in run.calls[:3]] == pytest.approx([0.0, 4.5, 4.6])
    assert [c.end_s for c in run.calls[:3]] == pytest.approx([4.0, 9.5, 5.6])
    assert [c.gap_s for c in run.calls] == pytest.approx([0.0, 0.5, 0.6, 0.4, 0.0, 38.6])
    assert trace.prefix_block_tokens == 64
    assert run.calls[1].prefix_hashes == (1, 2, 3, 4)
    assert "parents inferred: same thread (shared prompt prefix): 4" in trace.source.notes
    assert "parents inferred: spawned by the last finished tool call: 1" in trace.source.notes


def test_flat_sessions_are_cut_where_the_user_takes_over(tmp_path):
    trace = IMPORTERS["kv-cache-tester"]([write(tmp_path / "s.json", FLAT)])
    assert [(run.id, run.session, len(run.calls)) for run in trace] == [("s-0", "s", 5), ("s-1", "s", 1)]
    assert trace.runs[1].calls[0].parents == ()
    assert trace.runs[1].calls[0].gap_s == 0.0


def test_a_turn_does_not_end_while_the_main_thread_uses_tools():
    def call(index: int, start: float, end: float, length: int, stop: str) -> Observed:
        return Observed(index=index, llm="m", start_s=start, end_s=end, input_tokens=length, output_tokens=1, stop=stop)

    # a short side call ends its turn; the long main call is in the middle of its own
    calls = [
        call(0, 0, 5, 1000, "tool_use"),
        call(1, 1, 6, 50, "end_turn"),
        call(2, 30, 31, 1100, "end_turn"),
        call(3, 40, 41, 1200, "tool_use"),
    ]
    assert [[c.index for c in turn] for turn in user_turns(calls, 600)] == [[0, 1, 2], [3]]
    assert [[c.index for c in turn] for turn in user_turns(calls, 20)] == [[0, 1], [2], [3]]


def test_flat_sessions_repairs_are_counted(tmp_path):
    session = FLAT | {"requests": [flat(0, "m", 0, [5, 6, 7], "end_turn", 1.0), flat(5, "m", 64, [5, 6], "end_turn", None)]}
    trace = IMPORTERS["kv-cache-tester"]([write(tmp_path / "s.json", session)])
    assert [c.input_tokens for run in trace for c in run.calls] == [1, 64]
    assert [c.prefix_hashes for run in trace for c in run.calls] == [(), (5,)]  # no prefix is longer than its prompt
    notes = " | ".join(trace.source.notes)
    assert "calls without input or output tokens, counted as one token: 1" in notes
    assert "calls without api_time, counted as 0 s: 1" in notes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"requests": [flat(0, "m", -3, [], "end_turn", 1.0)]}, "requests[0].in is -3: must be a whole number from 0 to 2**31"),
        (
            {"requests": [flat(0, "m", 3, [], "end_turn", -1.0)]},
            "requests[0].api_time is -1.0: must be a duration from 0 to 1e+09 s",
        ),
        ({"requests": [{"type": "s"}]}, "requests[0].t is missing: must be given"),
        ({"hash_id_scope": "galaxy"}, "hash_id_scope is neither: must be one of global, local"),
        ({"block_size": 0}, "block_size is 0: must be >= 1"),
        ({"requests": []}, "holds no run: must hold at least one"),
    ],
)
def test_flat_sessions_refusals(tmp_path, change, message):
    with pytest.raises(InputError) as caught:
        IMPORTERS["kv-cache-tester"]([write(tmp_path / "s.json", FLAT | change)])
    assert message in str(caught.value)


# kv-cache-tester, nested ----------------------------------------------------------------------------------------------


def nested(t: float, hashes: list[int], api_time: float, model: str = "big", stop: str = "tool_use") -> dict[str, Any]:
    return flat(t, model, 640, hashes, stop, api_time, type="n")


NESTED = {
    "id": "n", "block_size": 64, "hash_id_scope": "local",
    "requests": [
        nested(0.0, [1], 10.0),  # c0: 0-10, spawns the sub-agent
        {  # t is its completion: it ran from 10.5 to 40.5
            "t": 40.5, "type": "subagent", "agent_id": "a", "duration_ms": 30000, "status": "completed",
            "requests": [nested(0.0, [7], 5.0, "small"), nested(8.0, [7, 8], 20.0, "small")],  # c1: 10.5-15.5, c2: 18.5-38.5
        },
        nested(12.0, [1, 2], 3.0),  # c3: did not wait for the sub-agent
        nested(41.0, [1, 2, 3], 2.0, stop="end_turn"),  # c4: waited for it
    ],
}  # fmt: skip


def test_nested_sessions_fork_and_join(tmp_path):
    (run,) = IMPORTERS["kv-cache-tester"]([write(tmp_path / "n.json", NESTED)], {"split": "sessions"}).runs
    calls = {c.id: c for c in run.calls}
    assert {name: c.parents for name, c in calls.items()} == {
        "c0": (), "c1": ("c0",), "c2": ("c1",), "c3": ("c0",), "c4": ("c2", "c3"),
    }  # fmt: skip
    assert [calls[f"c{i}"].start_s for i in range(5)] == [0.0, 10.5, 18.5, 12.0, 41.0]
    assert [calls[f"c{i}"].gap_s for i in range(5)] == [0.0, 0.5, 3.0, 2.0, 2.5]
    assert [c.id for c in run.calls] == ["c0", "c1", "c3", "c2", "c4"]  # by start, parents first


def test_local_block_ids_stay_apart_between_sessions(tmp_path):
    paths = [write(tmp_path / f"{name}.json", NESTED | {"id": name}) for name in ("n1", "n2")]
    trace = IMPORTERS["kv-cache-tester"](paths, {"split": "sessions"})
    one, two = ({block for c in run.calls for block in c.prefix_hashes} for run in trace)
    assert len(one) == len(two) == 5
    assert not one & two


def test_a_sub_agent_without_duration_ran_as_long_as_its_calls(tmp_path):
    session = json.loads(json.dumps(NESTED))
    del session["requests"][1]["duration_ms"]
    (run,) = IMPORTERS["kv-cache-tester"]([write(tmp_path / "n.json", session)], {"split": "sessions"}).runs
    assert {c.id: c.start_s for c in run.calls}["c1"] == 40.5 - 28.0


# azure, mooncake --------------------------------------------------------------------------------------------------------


def test_azure_rows_are_runs(tmp_path):
    text = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,0\n"
    trace = IMPORTERS["azure"]([write(tmp_path / "a.csv", text)], {"llm": "llama-3.1-8b"})
    assert [(run.id, run.arrival_s) for run in trace] == [("r0", 0.0), ("r1", pytest.approx(4.314579))]
    assert [(c.llm, c.input_tokens, c.output_tokens, c.start_s) for run in trace for c in run.calls] == [
        ("llama-3.1-8b", 374, 44, None), ("llama-3.1-8b", 396, 1, None),
    ]  # fmt: skip
    assert "calls without output tokens, counted as one token: 1" in trace.source.notes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty: must hold a document"),
        ("TIMESTAMP,GeneratedTokens\n", "line 1: column ContextTokens is missing"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n", "holds no run"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,374\n", "line 2: a row has 2 columns: must have 3"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,-3,4\n", "line 2: ContextTokens is '-3': must be a whole number"),  # noqa: E501
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,0,4\n", "line 2: input_tokens is 0: must be >= 1"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,nan,4\n", "line 2: ContextTokens is 'nan'"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\nnoon,3,4\n", "line 2: TIMESTAMP is 'noon': must be an ISO 8601 time"),
    ],
)  # fmt: skip
def test_azure_refusals(tmp_path, text, message):
    with pytest.raises(InputError) as caught:
        IMPORTERS["azure"]([write(tmp_path / "a.csv", text)])
    assert message in str(caught.value)


def test_one_absurd_row_is_dropped_and_counted(tmp_path):
    text = (
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,3,4\n2023-11-16 18:15:45,3,4\n2023-11-16 18:15:47,x,4\n"
    )
    trace = IMPORTERS["azure"]([write(tmp_path / "a.csv", text)])
    assert len(trace.runs) == 1
    assert "left out: TIMESTAMP is before the first row's: must not be (sort the rows): 1" in trace.source.notes
    assert "left out: ContextTokens is 'x': must be a whole number >= 0: 1" in trace.source.notes


def test_mooncake_lines_are_runs(tmp_path):
    text = (
        '{"timestamp": 0, "input_length": 1100, "output_length": 52, "hash_ids": [46, 47, 2353]}\n'
        '{"timestamp": 1500, "input_length": 600, "output_length": 3, "hash_ids": [46, 99]}\n'
    )
    trace = IMPORTERS["mooncake"]([write(tmp_path / "m.jsonl", text)])
    assert trace.prefix_block_tokens == 512
    assert [(run.arrival_s, run.calls[0].prefix_hashes) for run in trace] == [(0.0, (46, 47)), (1.5, (46,))]


# OpenAI-style logs --------------------------------------------------------------------------------------------------------


def log(start: float, end: float, **more: Any) -> dict[str, Any]:
    row = {
        "start_time": start, "end_time": end, "request": {"model": "m"},
        "response": {"usage": {"prompt_tokens": 10, "completion_tokens": 5}},
    }  # fmt: skip
    return row | more


def logs(tmp_path: Path, *rows: dict[str, Any]) -> Path:
    return write(tmp_path / "log.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def test_logs_are_grouped_into_runs_wherever_the_id_is(tmp_path):
    trace = IMPORTERS["openai-jsonl"](
        [
            logs(
                tmp_path,
                log(100.0, 101.0, run_id="a", workflow="w"),
                log(100.5, 102.0, headers={"X-Run-Id": "b", "x-session-id": "talk"}),
                log(102.0, 103.0, request={"model": "n", "metadata": {"run_id": "a"}}),
                log(104.0, 105.0),
            )
        ]
    )
    assert [(run.id, run.workflow, run.session, run.arrival_s, len(run.calls)) for run in trace] == [
        ("a", "w", "", 0.0, 2), ("b", "openai-log", "talk", 0.5, 1), ("log.jsonl:4", "openai-log", "", 4.0, 1),
    ]  # fmt: skip
    assert [(c.llm, c.parents, c.gap_s) for c in trace.runs[0].calls] == [("m", (), 0.0), ("n", ("c0",), 1.0)]


def test_logs_with_iso_times_durations_kinds_and_other_usage_names(tmp_path):
    rows = [
        log(0, 0, start_time="2025-01-01T00:00:00Z", end_time=None, duration_ms=250, path="/v1/embeddings",
            response={"usage": {"prompt_tokens": 7}}, run_id="r"),
        log(0, 0, start_time="2025-01-01T01:00:01+01:00", end_time=None, duration_s=2.0, run_id="r",
            response={"model": "x", "usage": {"input_tokens": 9, "output_tokens": 4}}, request={}),
        log(5.0, 6.0, response=None, run_id="r"),
    ]  # fmt: skip
    trace = IMPORTERS["openai-jsonl"]([logs(tmp_path, *rows)])
    first, second = trace.runs[0].calls
    assert (first.kind, first.input_tokens, first.output_tokens, first.end_s) == ("embed", 7, 0, 0.25)
    assert (second.llm, second.kind, second.input_tokens, second.output_tokens, second.start_s) == ("x", "generate", 9, 4, 1.0)
    assert "left out: failed calls: 1" in trace.source.notes


def test_logs_that_name_parents_are_taken_at_their_word(tmp_path):
    rows = [log(0, 5, id="a", run_id="r"), log(1, 2, id="b", run_id="r"), log(6, 7, id="c", run_id="r", parents=["b"])]
    rows.append(log(8, 9, id="d", run_id="r", parents=["c", "gone"]))
    trace = IMPORTERS["openai-jsonl"]([logs(tmp_path, *rows)])
    (run,) = trace.runs
    assert [(c.id, c.parents, c.gap_s) for c in run.calls] == [
        ("c0", (), 0.0), ("c1", (), 1.0), ("c2", ("c1",), 4.0), ("c3", ("c2",), 1.0),
    ]  # fmt: skip
    assert "recorded dependencies on calls that are not there, left out: 1" in trace.source.notes


def test_logs_whose_parents_form_a_circle_are_cut_there(tmp_path):
    rows = [log(0, 5, id="a", run_id="r", parents=["b"]), log(6, 7, id="b", run_id="r", parents=["a"])]
    trace = IMPORTERS["openai-jsonl"]([logs(tmp_path, *rows)])
    assert [c.parents for c in trace.runs[0].calls] == [(), ("c0",)]
    assert "recorded dependencies that form a circle, cut: 1" in trace.source.notes


def test_logs_without_usage_are_estimated_from_their_text(tmp_path):
    said = {"request": {"model": "m", "messages": [{"role": "user", "content": "x" * 396}]}}
    trace = IMPORTERS["openai-jsonl"](
        [logs(tmp_path, log(0, 1, **said, response={"choices": [{"message": {"content": "y" * 80}}]}))]
    )
    (call,) = trace.runs[0].calls
    assert (call.input_tokens, call.output_tokens) == (100, 20)
    assert "estimated: input from its text, 4 bytes a token and output from its text, 4 bytes a token: 1" in trace.source.notes


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (log(2.0, 1.0), "calls that end before they begin"),
        (log(2.0, 3.0, request={}), "line 1: start_time or request.model is missing: must be given"),
        (log(2.0, 3.0, start_time="noon"), "line 1: start_time is a text of 4 characters: must be a time"),
        (log(2.0, 3.0, start_time=1e25), "line 1: start_time is 1e+25: must be a time"),
        (log(2.0, 3.0, response={"usage": {"prompt_tokens": -1, "completion_tokens": 3}}), "line 1: prompt_tokens is -1: must be"),  # noqa: E501
        (log(2.0, 3.0, response={"usage": {"prompt_tokens": "many"}}), "line 1: prompt_tokens is a text of 4 characters"),
        (log(2.0, 3.0, response=None), "holds no run"),
    ],
)  # fmt: skip
def test_logs_refusals(tmp_path, row, message):
    with pytest.raises(InputError) as caught:
        IMPORTERS["openai-jsonl"]([logs(tmp_path, row)])
    assert message in str(caught.value)


def test_parents_by_time_of_a_fork_and_join():
    def call(index: int, start: float, end: float) -> Observed:
        return Observed(index=index, llm="m", start_s=start, end_s=end, input_tokens=1, output_tokens=1)

    calls = [call(0, 0, 1), call(1, 1, 3), call(2, 1, 4), call(3, 4, 5), call(4, 4.5, 6)]
    parents_by_time(calls)
    assert [c.parents for c in calls] == [(), (0,), (0,), (1, 2), (1, 2)]


# every format -----------------------------------------------------------------------------------------------------------


def test_unknown_formats_and_options_are_refused(tmp_path):
    with pytest.raises(InputError, match="did you mean tau2"):
        find_importer("tau3")
    with pytest.raises(InputError, match=r"option 'speed' is unknown: must be one of this format's \(workflow\)"):
        IMPORTERS["tau2"]([tmp_path / "x"], {"speed": "1"})
    path = write(tmp_path / "x", FLAT)
    with pytest.raises(InputError, match="option split is 'days': must be one of turns, sessions"):
        IMPORTERS["kv-cache-tester"]([path], {"split": "days"})
    with pytest.raises(InputError, match="option max_idle_s is '-1': must be a number > 0"):
        IMPORTERS["kv-cache-tester"]([path], {"max_idle_s": "-1"})
    with pytest.raises(InputError, match="no file is given"):
        IMPORTERS["azure"]([])


SAMPLES = {
    "tau2": json.dumps(tau2_file()),
    "kv-cache-tester": json.dumps(NESTED),
    "azure": "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n",
    "mooncake": '{"timestamp": 0, "input_length": 1100, "output_length": 52, "hash_ids": [46, 47, 2353]}\n',
    "openai-jsonl": json.dumps(log(1.0, 2.0, run_id="r")) + "\n",
}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.parametrize("name", list(SAMPLES))
def test_damaged_files_are_imported_or_refused_never_a_traceback(tmp_path, name, data):
    content = bytearray(SAMPLES[name].encode())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content)))
        until = min(len(content), at + data.draw(st.integers(0, 8)))
        piece = st.binary(max_size=6) | st.sampled_from(
            [b"-1", b"1e308", b"1e999", b"null", b"[", b"}", b"NaN", b"\xff", b"\n", b'"', b","]
        )
        content[at:until] = data.draw(piece)
    path = tmp_path / "f"
    path.write_bytes(bytes(content))
    with contextlib.suppress(InputError):
        IMPORTERS[name]([path])


@pytest.mark.parametrize("name", [name for name in SAMPLES if name in IMPORTERS])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"[" * 100_000, b"null", b"3"], ids=range(5))
def test_what_is_no_such_file_is_refused(tmp_path, name, content):
    path = tmp_path / "f"
    path.write_bytes(content)
    with pytest.raises(InputError):
        IMPORTERS[name]([path])
    with pytest.raises(InputError, match="does not exist"):
        IMPORTERS[name]([tmp_path / "none"])
    with pytest.raises(InputError, match="is a folder without data"):
        IMPORTERS[name]([tmp_path])
