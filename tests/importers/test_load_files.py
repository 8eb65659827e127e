"""Importers of load files and of load generators' results: units, blocks, chats, and the look-alikes of Mooncake."""

import json
from pathlib import Path
from typing import Any

import pytest

from scepsy.errors import InputError
from scepsy.importers.detect import find_format
from scepsy.importers.inputs import gather
from scepsy.importers.registry import IMPORTERS
from scepsy.importers.tally import Tally
from scepsy.workload import Run

FIXTURES = Path(__file__).parent / "fixtures"

ROW = {"timestamp": 1500, "input_length": 600, "output_length": 5, "hash_ids": [46, 99]}


def fixture(name: str) -> Path:
    (path,) = (FIXTURES / name).glob("sample.*")
    return path


def imported(name: str, *paths: Path, **options: str) -> tuple[list[Run], Tally]:
    stream = IMPORTERS[name].stream(paths or [fixture(name)], options)
    return list(stream.runs), stream.tally


def rows(path: Path, *items: Any) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return path


def test_bailian_is_in_seconds_and_blocks_of_16():
    stream = IMPORTERS["qwen-bailian"].stream([fixture("qwen-bailian")])
    assert stream.prefix_block_tokens == 16
    runs = list(stream.runs)
    assert [(run.arrival_s, run.calls[0].prefix_hashes, run.session[-1], run.workflow) for run in runs] == [
        (0.0, (1, 2), "1", "bailian-text"), (1.5, (1, 9), "2", "bailian-file"), (61.114, (1, 2, 4, 5), "1", "bailian-text"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value", "format_"),
    [
        ("chat_id", 1, "qwen-bailian"), ("session_id", "s", "mooncake-sessions"), ("delay", 3, "mooncake-sessions"),
        ("wait_for", ["r"], "agentic-mooncake"), ("tool_wait_ms", 3, "agentic-mooncake"),
    ],
)  # fmt: skip
def test_relatives_of_mooncake_are_not_misread(tmp_path, field, value, format_):
    path = rows(tmp_path / "x.jsonl", ROW | {field: value})
    with pytest.raises(InputError, match=f"a row has {field}: must be imported as {format_} "):
        imported("mooncake", path)


def test_relatives_of_mooncake_are_found_by_their_fields(tmp_path):
    whole = {"chat_id": 1, "parent_chat_id": -1, "session_id": "s", "request_id": "r", "wait_for": []}
    for keys, format_ in (
        ((), "mooncake"), (("chat_id", "parent_chat_id"), "qwen-bailian"), (("session_id",), "mooncake-sessions"),
        (("session_id", "request_id", "wait_for"), "agentic-mooncake"),
    ):  # fmt: skip
        path = rows(tmp_path / f"{format_}.jsonl", ROW | {key: whole[key] for key in keys})
        assert find_format(gather([path], Tally()), IMPORTERS).format == format_


def test_bailian_rows_without_their_ids_do_not_pass_as_mooncake(tmp_path):
    row = {"timestamp": 61.114, "input_length": 521, "output_length": 132, "hash_ids": list(range(33))}
    path = rows(tmp_path / "x.jsonl", row)
    with pytest.raises(InputError, match="hash_ids has 33 ids for 521 tokens: blocks of 512 tokens are at most 2"):
        imported("mooncake", path)
    (run,), tally = imported("mooncake", path, block_tokens="16", unit="s")
    assert (run.arrival_s, len(run.calls[0].prefix_hashes), tally.warnings) == (61.114, 32, [])
    _, tally = imported("mooncake", path, block_tokens="16")
    assert "timestamps have fractions" in tally.warnings[0]


def test_agentic_rows_wait_for_others_then_for_delay_and_tools():
    (run, other), tally = imported("agentic-mooncake")
    assert (run.id, run.arrival_s, other.arrival_s) == ("r1", 1.0, 5.0)
    assert [(call.id, call.parents, call.gap_s, call.prefix_hashes) for call in run.calls] == [
        ("r1", (), 0.0, (1, 2)), ("r2", ("r1",), 0.25, (9,)), ("r3", ("r1", "r2"), 0.5, (1, 2, 4)),
    ]  # fmt: skip
    assert tally.tool_s == 0.4
    assert "the rows do not say how many tokens a block has: taken as 512" in tally.warnings[0]


def test_agentic_rows_of_version_2(tmp_path):
    def row(name: str, at: float, *dependencies: dict[str, Any]) -> dict[str, Any]:
        sizes = {"input_length": 128, "output_length": 2, "hash_ids": [10, 20], "recorded_api_time_ms": 2}
        ids = {"request_id": name, "play_id": "p", "session_id": "main", "model": "m"}
        return ids | sizes | {"not_before_ms": at, "dependencies": list(dependencies)}

    def after(name: str, trigger: str) -> dict[str, Any]:
        return {"request_id": name, "relation": "sequence", "trigger": trigger, "delay_ms": 20}

    header = {"schema": "dynamo.agentic_mooncake", "version": 2, "block_size": 64, "hash_id_scope": "local"}
    path = rows(
        tmp_path / "x.jsonl", header, row("a", 0), row("b", 50, after("a", "completion")), row("c", 70, after("b", "dispatch")),
    )  # fmt: skip
    assert find_format(gather([path], Tally()), IMPORTERS).format == "agentic-mooncake"
    stream = IMPORTERS["agentic-mooncake"].stream([path])
    assert stream.prefix_block_tokens == 64
    (run,) = stream.runs
    assert [(call.llm, call.parents, call.gap_s) for call in run.calls] == [
        ("m", (), 0.0),
        ("m", ("a",), 0.02),
        ("m", ("a",), 0.04),
    ]
    assert not stream.tally.warnings


def test_agentic_rows_in_a_circle_or_given_twice(tmp_path):
    row = {"request_id": "a", "input_length": 5, "output_length": 5, "wait_for": ["b"]}
    with pytest.raises(InputError, match="wait_for forms a circle: must not"):
        imported("agentic-mooncake", rows(tmp_path / "x.jsonl", row, row | {"request_id": "b", "wait_for": ["a"]}))
    (run,), tally = imported("agentic-mooncake", rows(tmp_path / "y.jsonl", row, row))
    assert (run.calls[0].parents, tally.duplicates) == ((), 1)
    assert tally.counts == {"dependencies on calls that the file does not have, left out": 1}


def test_sessions_of_deltas_add_up_and_are_told_by_their_blocks():
    (one, two), tally = imported("mooncake-sessions")
    assert [(c.input_tokens, c.output_tokens, c.parents, c.gap_s) for c in one.calls] == [
        (1024, 100, (), 0.0),
        (1724, 40, ("c0",), 5.0),
    ]
    assert one.calls[1].prefix_hashes[:2] == one.calls[0].prefix_hashes == (1, 2)
    assert (one.arrival_s, two.arrival_s, len(two.calls)) == (2.0, 2.5, 1)
    assert any(warning.startswith("input_length is taken as that of only what a turn adds") for warning in tally.warnings)


def test_sessions_of_whole_prompts(tmp_path):
    first = {"session_id": "s", "input_length": 1024, "output_length": 100, "hash_ids": [1, 2], "timestamp": 0}
    path = rows(tmp_path / "x.jsonl", first, first | {"input_length": 1700, "hash_ids": [1, 2, 3, 4], "timestamp": 9000})
    (run,), tally = imported("mooncake-sessions", path)
    assert [(call.input_tokens, call.gap_s) for call in run.calls] == [(1024, 0.0), (1700, 9.0)]
    assert tally.counts == {"gaps taken from the difference of timestamps, which includes the call before": 1}
    (run,), _ = imported("mooncake-sessions", path, prompts="delta")
    assert run.calls[1].input_tokens == 1024 + 100 + 1700


def test_sessions_that_do_not_tell_must_be_told(tmp_path):
    turn = {"session_id": "s", "input_length": 100, "output_length": 10, "delay": 5}
    path = rows(tmp_path / "x.jsonl", turn, turn)
    with pytest.raises(InputError, match=r"block ids do not tell: must be said \(--set prompts=full or --set prompts=delta\)"):
        imported("mooncake-sessions", path)
    (run,), _ = imported("mooncake-sessions", path, prompts="full")
    assert [call.input_tokens for call in run.calls] == [100, 100]


def test_burstgpt_failures_are_left_out():
    runs, tally = imported("burstgpt")
    assert [(run.arrival_s, run.workflow, run.calls[0].llm, run.calls[0].input_tokens) for run in runs] == [
        (5.0, "burstgpt-conversation", "ChatGPT", 472), (45.0, "burstgpt-conversation", "ChatGPT", 1087),
        (118.0, "burstgpt-api", "GPT-4", 417),
    ]  # fmt: skip
    assert tally.dropped == {"failed requests (no response tokens)": 1}


def test_azure_of_2024_has_zones(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00.009930+00:00,2162,5\n2024-05-10 00:00:01+00:00,8,9\n"
    )
    assert find_format(gather([path], Tally()), IMPORTERS).format == "azure"
    runs, _ = imported("azure", path)
    assert [run.arrival_s for run in runs] == [0.0, pytest.approx(0.99007)]


def test_semantic_router_keeps_the_chosen_models():
    runs, _ = imported("semantic-router")
    assert [(run.arrival_s, run.calls[0].llm) for run in runs] == [(0.451, "llama8b"), (0.767, "llama70b")]


def test_vllm_bench_requests_have_their_times():
    runs, tally = imported("vllm-bench")
    assert [(run.arrival_s, round(run.calls[0].end_s or 0.0, 3), run.calls[0].llm) for run in runs] == [
        (0.0, 0.2, "meta-llama/Llama-3.1-8B"), (0.5, 0.3, "meta-llama/Llama-3.1-8B"),
    ]  # fmt: skip
    assert tally.dropped == {"failed calls": 1}


def test_vllm_bench_without_start_times_has_lengths_only(tmp_path):
    result = json.loads(fixture("vllm-bench").read_text())
    del result["start_times"]
    runs, tally = imported("vllm-bench", rows(tmp_path / "x.json", result))
    assert [(run.arrival_s, run.calls[0].start_s, run.calls[0].input_tokens) for run in runs] == [
        (None, None, 100),
        (None, None, 200),
    ]
    assert "the requests' times are not recorded: the trace has no arrivals" in tally.warnings


def test_guidellm_benchmarks_are_workflows_and_conversations_runs():
    runs, tally = imported("guidellm")
    assert [(run.id, run.workflow, len(run.calls)) for run in runs] == [
        ("g1", "guidellm-1", 1), ("g2", "guidellm-1", 1), ("2:talk", "guidellm-2", 2),
    ]  # fmt: skip
    assert (runs[2].calls[1].parents, runs[2].calls[1].gap_s, runs[0].calls[0].llm) == (("c0",), 1.5, "served/model")
    assert tally.dropped == {"failed calls": 1}


def test_guidellm_of_older_versions(tmp_path):
    row = {"request_id": "r", "prompt_tokens": 100, "output_tokens": 7, "start_time": 1.7e9, "first_token_time": 1.7e9 + 0.25,
           "last_token_time": 1.7e9 + 1.0, "end_time": 1.7e9 + 1.0}  # fmt: skip
    document = {
        "benchmarks": [{"worker": {"backend_model": "m"}, "requests": {"successful": [row], "errored": [], "incomplete": []}}]
    }
    path = tmp_path / "benchmarks.json"
    path.write_text(json.dumps(document))
    assert find_format(gather([path], Tally()), IMPORTERS).format == "guidellm"
    (run,), _ = imported("guidellm", path)
    assert [(call.llm, call.input_tokens, call.output_tokens, call.end_s) for call in run.calls] == [("m", 100, 7, 1.0)]


def test_aiperf_conversations_warm_up_and_failures():
    runs, tally = imported("aiperf")
    assert [(run.id, [call.input_tokens for call in run.calls]) for run in runs] == [("talk-a", [500, 700]), ("talk-b", [550])]
    assert runs[0].calls[1].parents == ("c0",)
    assert (tally.dropped, tally.facts) == ({"failed calls": 1}, {"warm-up requests, left out": 1})
    assert tally.warnings == ["the model is not recorded: it is called llm (else: --set llm=NAME)"]
