"""Importers of agent sessions on small files written for the purpose: calls, times, who waited for whom, what is said."""

import json
from pathlib import Path
from typing import Any

import pytest

from scepsy.errors import InputError
from scepsy.importers.detect import find_format
from scepsy.importers.inputs import gather
from scepsy.importers.registry import IMPORTERS
from scepsy.importers.tally import Tally
from scepsy.importers.threads import Observed, parents_by_time
from scepsy.workload import Run

FIXTURES = Path(__file__).parent / "fixtures"

NAMES = (
    "openhands", "swe-agent", "claude-code", "codex", "tracelab", "inference-perf", "semantic-router", "agentic-mooncake",
    "mooncake-sessions", "dynamo-trace", "qwen-bailian", "burstgpt", "vllm-bench", "guidellm", "aiperf",
)  # fmt: skip


def fixture(name: str) -> Path:
    (path,) = (FIXTURES / name).glob("sample.*")
    return path


def records(name: str) -> list[Any]:
    return [json.loads(line) for line in fixture(name).read_text().splitlines()]


def imported(name: str, *paths: Path, **options: str) -> tuple[list[Run], Tally]:
    stream = IMPORTERS[name].stream(paths or [fixture(name)], options)
    return list(stream.runs), stream.tally


def lengths(run: Run) -> list[tuple[int, int]]:
    return [(call.input_tokens, call.output_tokens) for call in run.calls]


def times(run: Run) -> list[tuple[float, float]]:
    return [(round(call.start_s or 0.0, 3), round(call.end_s or 0.0, 3)) for call in run.calls]


def parents(run: Run) -> list[tuple[str, ...]]:
    return [call.parents for call in run.calls]


def rows(path: Path, *items: Any) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return path


@pytest.mark.parametrize("name", NAMES)
def test_each_is_found_by_itself(name):
    assert find_format(gather([fixture(name)], Tally()), IMPORTERS).format == name


def test_openhands_times_come_from_history_and_latencies():
    (one, two), tally = imported("openhands")
    assert (one.id, one.arrival_s, one.tail_s, two.arrival_s) == ("repo__1", 0.0, 1.0, 1.0)
    assert {call.llm for call in one.calls} == {"org/served-model"}  # what the responses name, not the proxy's name for it
    assert lengths(one) == [(1000, 50), (1300, 60), (1500, 70)]
    assert times(one) == [(1.0, 4.0), (6.5, 9.0), (11.5, 15.0)]
    assert parents(one) == [(), ("c0",), ("c1",)]
    assert one.calls[1].prefix_hashes[:7] == one.calls[0].prefix_hashes  # a history that only grows
    assert (tally.cached_tokens, tally.tool_s) == (900, 2.5)
    assert tally.dropped == {"calls with a latency and no token counts": 1}
    assert tally.facts == {"milliseconds in calls with a latency and no token counts": 1250}
    assert two.calls[0].end_s == 2.0  # its response is in no event: placed by its latency
    assert tally.counts == {"calls that no event of the history shows, placed after the call before them": 1}


def test_openhands_without_metrics_takes_tokens_from_the_responses(tmp_path):
    one = records("openhands")[0]
    one["metrics"] = {"accumulated_cost": 0.5}
    for n, event in enumerate(one["history"]):
        if "tool_call_metadata" in event:
            event["tool_call_metadata"]["model_response"]["usage"] = {"prompt_tokens": 100 + n // 2, "completion_tokens": 7}
    path = rows(tmp_path / "o.jsonl", one)
    assert find_format(gather([path], Tally()), IMPORTERS).format == "openhands"
    (run,), tally = imported("openhands", path)
    assert (lengths(run), times(run)) == ([(101, 7), (102, 7), (103, 7)], [(0.5, 4.0), (6.0, 9.0), (9.5, 15.0)])
    assert tally.facts["calls without a latency, begun at the event before them"] == 3


def test_openhands_attempts_are_runs_and_the_same_one_again_is_not(tmp_path):
    one = records("openhands")[0]
    later = json.loads(json.dumps(one).replace("2025-05-01T10", "2025-05-01T11"))
    runs, tally = imported("openhands", rows(tmp_path / "o.jsonl", one, one, later))
    assert [run.id for run in runs] == ["repo__1", "repo__1~2"]
    assert tally.duplicates == 3


def test_swe_agent_shares_recorded_totals_out_by_text():
    (run,), tally = imported("swe-agent")
    assert [sum(side) for side in zip(*lengths(run), strict=True)] == [300, 40]
    assert run.calls[1].input_tokens > run.calls[0].input_tokens
    assert [call.gap_s for call in run.calls] == [0.0, 0.5]
    assert (run.tail_s, tally.tool_s, run.calls[0].start_s, run.arrival_s) == (1.25, 1.75, None, None)
    assert run.calls[0].llm == "claude-sonnet-4"
    assert tally.estimated == {"recorded totals shared out by length of text": 2}
    assert run.calls[1].prefix_hashes[:3] == run.calls[0].prefix_hashes[:3]


def test_swe_agent_attempts_follow_one_another_and_totals_may_be_missing(tmp_path):
    document = json.loads(fixture("swe-agent").read_text())
    attempt = {key: document[key] for key in ("trajectory", "history")} | {"info": {}}
    path = rows(tmp_path / "x.traj", {"attempts": [attempt, attempt], "info": {}})
    (run,), tally = imported("swe-agent", path)
    assert len(run.calls) == 4
    assert run.calls[2].parents == ("c1",)
    assert tally.estimated == {"from its text, 4 bytes a token": 4}
    assert "the model is not recorded: it is called llm (else: --set llm=NAME)" in tally.warnings


def test_claude_code_blocks_are_one_call_and_sub_agents_fork_and_join():
    (first, second), tally = imported("claude-code")
    assert lengths(first) == [(1510, 80), (1605, 40), (703, 30), (753, 20), (1664, 25)]
    assert times(first) == [(0.0, 4.0), (6.0, 8.0), (8.5, 10.0), (10.5, 12.0), (12.5, 15.0)]
    assert parents(first) == [(), ("c0",), ("c1",), ("c2",), ("c1", "c3")]
    assert (second.id, second.arrival_s, lengths(second), first.session) == (
        f"{first.session}-1",
        40.0,
        [(1757, 33)],
        second.session,
    )
    assert tally.cached_tokens == 1000 + 1500 + 700 + 1600 + 1660
    assert tally.tool_s == 2.0 + 4.5 + 0.5
    assert tally.facts == {
        "calls whose lines have no stop reason: their output may be counted in part": 1,
        "messages that the program made itself (errors), left out": 1,
    }
    (whole,), _ = imported("claude-code", split="sessions")
    assert whole.calls[5].parents == ("c4",)
    assert whole.calls[5].gap_s == 25.0


def test_claude_code_replies_that_were_counted_when_they_began_are_estimated(tmp_path):
    lines = records("claude-code")
    for line in lines:
        if line["type"] == "assistant":
            line["message"] |= {"stop_reason": None, "usage": line["message"]["usage"] | {"output_tokens": 1}}
            line["message"]["content"] = [{"type": "text", "text": "x" * 400}]
    (first, _), tally = imported("claude-code", rows(tmp_path / "x.jsonl", *lines))
    assert [call.output_tokens for call in first.calls] == [300, 100, 100, 100, 100]  # three lines, then one each
    assert tally.estimated == {"output from its text, 4 bytes a token": 6}


def test_claude_code_a_line_with_an_absurd_count_leaves_no_half_of_a_message(tmp_path):
    lines = records("claude-code")
    only = next(line for line in lines if line.get("uuid") == "a4")
    only["message"]["usage"]["cache_creation_input_tokens"] = []
    runs, tally = imported("claude-code", rows(tmp_path / "x.jsonl", *lines))
    whole, _ = imported("claude-code")
    assert sum(len(run.calls) for run in runs) == sum(len(run.calls) for run in whole) - 1
    assert any("cache_creation_input_tokens" in reason for reason in tally.lines)


def test_claude_code_threads_go_through_lines_of_every_kind(tmp_path):
    lines = records("claude-code")
    for line in lines:
        if line.get("uuid") == "u2":
            line["type"] = "progress"
    runs, _ = imported("claude-code", rows(tmp_path / "x.jsonl", *lines))
    assert [len(run.calls) for run in runs] == [5, 1]
    assert parents(runs[0])[1] == ("c0",)


def test_claude_code_resumed_sessions_and_sub_agents_in_their_own_files(tmp_path):
    lines = records("claude-code")
    main = rows(tmp_path / "main.jsonl", *(line for line in lines if not line.get("agentId")))
    agent = rows(tmp_path / "agent-ag1.jsonl", *(line for line in lines if line.get("agentId")))
    resumed = rows(tmp_path / "resumed.jsonl", *(line | {"sessionId": "other"} for line in lines[:6]))
    assert imported("claude-code", main, agent)[0] == imported("claude-code")[0]
    runs, tally = imported("claude-code", main, agent, resumed)
    assert sum(len(run.calls) for run in runs) == 6
    assert tally.facts["lines given twice (a resumed session's history, or a file again), taken once"] == 5


def test_claude_code_old_sub_agents_without_a_name_are_told_by_time(tmp_path):
    lines = [{key: value for key, value in line.items() if key != "agentId"} for line in records("claude-code")]
    for line in lines:
        line.pop("toolUseResult", None)
    runs, tally = imported("claude-code", rows(tmp_path / "old.jsonl", *lines))
    assert parents(runs[0]) == [(), ("c0",), ("c1",), ("c2",), ("c1", "c3")]
    assert tally.confidences == [1.0, 0.5]


def test_codex_counts_a_call_when_the_total_moves():
    (first, second), tally = imported("codex")
    assert lengths(first) == [(900, 60), (1000, 30)]
    assert times(first) == [(0.0, 3.0), (5.0, 7.0)]
    assert parents(first) == [(), ("c0",)]
    assert (second.id, second.arrival_s, lengths(second), times(second)) == ("sess-1-1", 29.0, [(1200, 45)], [(0.0, 3.0)])
    assert (tally.cached_tokens, tally.tool_s, first.calls[0].llm) == (1500, 2.0, "gpt-5.4")


def test_codex_without_totals_or_without_last_usage(tmp_path):
    lines = records("codex")
    for line in lines:
        (line["payload"].get("info") or {}).pop("last_token_usage", None)
    runs, _ = imported("codex", rows(tmp_path / "rollout-a.jsonl", *lines))
    assert [lengths(run) for run in runs] == [[(900, 60), (1000, 30)], [(1200, 45)]]
    lines = records("codex")
    for line in lines:
        (line["payload"].get("info") or {}).pop("total_token_usage", None)
    runs, _ = imported("codex", rows(tmp_path / "rollout-b.jsonl", *lines))
    assert [lengths(run) for run in runs] == [[(900, 60), (1000, 30)], [(1200, 45)]]


def test_codex_versions_that_write_what_a_call_gave_out_after_its_tokens(tmp_path):
    lines = records("codex")
    later: list[Any] = []
    outputs: list[Any] = []
    for line in lines:
        kind, payload = line["type"], line["payload"]
        given_out = kind == "response_item" and (
            payload["type"] in ("reasoning", "function_call") or payload.get("role") == "assistant"
        )
        if given_out:
            outputs.append(line)
            continue
        later.append(line)
        if payload.get("info") and outputs:
            later += [output | {"timestamp": line["timestamp"]} for output in outputs]
            outputs.clear()
    runs, tally = imported("codex", rows(tmp_path / "a.jsonl", *later))
    assert [lengths(run) for run in runs] == [[(900, 60), (1000, 30)], [(1200, 45)]]
    assert [times(run) for run in runs] == [[(0.0, 3.1), (5.0, 7.1)], [(0.0, 3.1)]]
    assert tally.tool_s == pytest.approx(1.9)


def test_codex_forks_begin_with_a_copy(tmp_path):
    lines = records("codex")
    fork = json.loads(json.dumps(lines))
    fork[0]["payload"] |= {"id": "sess-2", "forked_from_id": "sess-1"}
    usage = {
        "last_token_usage": {"input_tokens": 1300, "cached_input_tokens": 1200, "output_tokens": 9},
        "total_token_usage": {"input_tokens": 4400, "cached_input_tokens": 2700, "output_tokens": 144},
    }
    for second, kind, payload in (
        (0, "event_msg", {"type": "user_message"}),
        (2, "response_item", {"type": "message", "role": "assistant"}),
        (3, "event_msg", {"type": "token_count", "info": usage}),
    ):
        fork.append({"timestamp": f"2026-03-01T11:00:0{second}Z", "type": kind, "payload": payload})
    runs, tally = imported("codex", rows(tmp_path / "a.jsonl", *lines), rows(tmp_path / "b.jsonl", *fork))
    assert [lengths(run) for run in runs] == [[(900, 60), (1000, 30)], [(1200, 45)], [(1300, 9)]]
    assert (tally.duplicates, tally.tool_s) == (3, 2.0)


def test_tracelab_rounds_wait_for_the_calls_whose_tools_they_were_given():
    (first, second), tally = imported("tracelab")
    assert (lengths(first), times(first), parents(first)) == ([(1000, 50), (1400, 70)], [(0.0, 3.0), (7.0, 9.0)], [(), ("c0",)])
    assert (second.id, second.session, second.arrival_s, lengths(second)) == ("claude:s1-1", "claude:s1", 30.0, [(1600, 20)])
    assert (tally.cached_tokens, tally.tool_s) == (2400, 5.0)
    assert second.calls[0].prefix_hashes[:10] == first.calls[1].prefix_hashes  # a session's turns share their history


def test_inference_perf_matches_texts_and_estimates_tokens():
    (run,), tally = imported("inference-perf")
    assert parents(run) == [(), ("c0",), ("c0",), ("c1", "c2"), ("c3",)]
    assert tally.estimated == {"input from its text, 4 bytes a token and output from its text, 4 bytes a token": 5}
    assert tally.confidences == [5.0, pytest.approx(4 * 0.95 + 0.9)]
    assert run.calls[1].prefix_hashes[0] == run.calls[0].prefix_hashes[0] == run.calls[3].prefix_hashes[0]
    assert run.session == "se1"


def test_inference_perf_recorded_counts_are_taken(tmp_path):
    document = json.loads(fixture("inference-perf").read_text())
    for span in document["spans"]:
        span["attributes"] |= {"gen_ai.usage.prompt_tokens": 77, "gen_ai.usage.completion_tokens": 7}
    path = tmp_path / "x.json"
    path.write_text(json.dumps(document))
    (run,), tally = imported("inference-perf", path)
    assert lengths(run) == [(77, 7)] * 5
    assert not tally.estimated


def test_dynamo_threads_fork_and_join_and_carry_their_blocks():
    (run,), tally = imported("dynamo-trace")
    assert (run.id, run.workflow, lengths(run)) == ("run-42", "deep_research", [(130, 16), (64, 8), (200, 20)])
    assert parents(run) == [(), ("c0",), ("c1",)]
    assert times(run) == [(0.0, 1.0), (1.6, 2.6), (3.0, 4.0)]
    assert run.calls[0].prefix_hashes == (14879255164371896291 & (2**63 - 1), 5)
    assert run.calls[2].prefix_hashes[:2] == run.calls[0].prefix_hashes
    assert (tally.cached_tokens, round(tally.tool_s or 0.0, 3)) == (128, 0.4)


@pytest.mark.parametrize(
    "names",
    [
        ("session_id", "trajectory_id", "parent_trajectory_id", "session_type_id"),
        (None, "session_id", "parent_session_id", "x"),
    ],
)
def test_dynamo_ids_of_every_version(tmp_path, names):
    run_id, thread, parent, kind = names
    lines = records("dynamo-trace")
    for line in lines:
        context = line["event"]["agent_context"]
        line["event"]["agent_context"] = {
            new: context[old]
            for new, old in (
                (run_id, "workflow_id"),
                (thread, "program_id"),
                (parent, "parent_program_id"),
                (kind, "workflow_type_id"),
            )
            if new and old in context
        }
    (run,), _ = imported("dynamo-trace", rows(tmp_path / "x.jsonl", *(line["event"] for line in lines)))
    assert parents(run) == [(), ("c0",), ("c1",)]
    assert run.id == ("run-42" if run_id else "plan")


def test_parents_by_time_is_the_same_as_looking_at_every_pair():
    import random

    random.seed(3)
    for _ in range(200):
        spans = [sorted((random.randint(0, 9), random.randint(0, 9))) for _ in range(random.randint(1, 9))]
        calls = [Observed(n, "m", float(a), float(b), 1, 1) for n, (a, b) in enumerate(spans)]
        parents_by_time(calls)
        for call in calls:
            ended = [other for other in calls if other.end_s <= call.start_s and other.index != call.index]
            latest = max((other.start_s for other in ended), default=0.0)
            assert call.parents == tuple(o.index for o in ended if o.end_s > latest or o.start_s == latest)


def test_a_bare_list_of_simulations_names_models_in_its_messages(tmp_path):
    def message(role: str, second: int, model: str | None) -> dict[str, Any]:
        usage = {"prompt_tokens": 100 + second, "completion_tokens": 9} if model else None
        return {"role": role, "content": "CANARY", "timestamp": f"2025-08-01T10:00:{second:02}", "usage": usage,
                "raw_data": {"model": model} if model else None}  # fmt: skip

    messages = [message("assistant", 0, None), message("user", 2, "u-model"), message("assistant", 5, "a-model")]
    clock = {"start_time": "2025-08-01T10:00:00", "end_time": "2025-08-01T10:00:09"}
    simulation = {"id": "s", "task_id": "1", "messages": messages} | clock
    path = tmp_path / "simulations.json"
    path.write_text(json.dumps([simulation, simulation | {"id": "t", "start_time": "2025-08-01T09:59:58"}]))
    assert find_format(gather([path], Tally()), IMPORTERS).format == "tau2"
    runs, tally = imported("tau2", path)
    assert [[call.llm for call in run.calls] for run in runs] == [["user:u-model", "agent:a-model"]] * 2
    assert [(run.workflow, run.arrival_s) for run in runs] == [("tau2", 2.0), ("tau2", 0.0)]
    assert times(runs[0]) == [(0.0, 2.0), (2.0, 5.0)]
    assert not tally.dropped
    assert not tally.warnings


def session(name: str, block_size: int, ids: list[int], **more: Any) -> dict[str, Any]:
    call = {"t": 1.0, "type": "s", "model": "m", "in": 4 * block_size, "out": 5, "hash_ids": ids, "api_time": 2.0, "ttft": 0.2}
    return {"id": name, "models": ["m"], "block_size": block_size, "hash_id_scope": "local", "requests": [call]} | more


def test_sessions_of_several_per_file_and_of_any_block_size(tmp_path):
    path = rows(
        tmp_path / "traces.jsonl",
        session("a", 16, [3, 4, 5, 6]),
        session("b", 16, [3, 4, 5, 6]),
        session("c", 32, [1, 2, 3, 4], hash_id_scope="global"),
        session("d", 24, [1, 2, 3, 4]),
    )
    assert find_format(gather([path], Tally()), IMPORTERS).format == "kv-cache-tester"
    stream = IMPORTERS["kv-cache-tester"].stream([path], {"split": "sessions"})
    assert stream.prefix_block_tokens == 16
    assert [run.calls[0].prefix_hashes for run in stream.runs] == [(1, 2, 3, 4), (5, 6, 7, 8), (2, 3, 4, 5, 6, 7, 8, 9), ()]
    assert stream.tally.counts["prompts hashed in blocks that do not fit 16 tokens, taken as sharing nothing"] == 1


def test_sub_agents_on_the_clock_of_their_session(tmp_path):
    def call(t: float) -> dict[str, Any]:
        return {"t": t, "type": "n", "model": "m", "in": 640, "out": 5, "hash_ids": [1], "api_time": 2.0}

    inner = {"t": 105.0, "type": "subagent", "agent_id": "a", "duration_ms": 9000, "requests": [call(105.5), call(110.0)]}
    path = rows(tmp_path / "x.jsonl", session("s", 64, [], requests=[call(100.0), inner, call(115.0)]))
    ((run,), _) = imported("kv-cache-tester", path, split="sessions")
    assert [call.start_s for call in run.calls] == [0.0, 5.5, 10.0, 15.0]
    assert parents(run) == [(), ("c0",), ("c1",), ("c0", "c2")]


def test_what_no_importer_can_use_is_refused_in_one_line(tmp_path):
    for name, broken in {
        "openhands": {"instance_id": "x", "metrics": {"token_usages": []}, "history": []},
        "swe-agent": {"trajectory": [], "info": {}},
        "codex": {"timestamp": "2026-03-01T10:00:00Z", "type": "session_meta", "payload": {"id": "s"}},
        "tracelab": {"session_id": "s", "round_id": "r", "model": "m", "input_tokens_total": 3, "timing_events": []},
        "vllm-bench": {"input_lens": [], "output_lens": [], "ttfts": [], "itls": []},
        "dynamo-trace": {"schema": "dynamo.other.v9"},
    }.items():
        with pytest.raises(InputError, match=r"holds no run: must hold at least one \(first reason: .+\)$") as caught:
            imported(name, rows(tmp_path / f"{name}.jsonl", broken))
        assert "\n" not in str(caught.value)
