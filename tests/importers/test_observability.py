"""Exports of tracing tools: what each fixture holds, call by call, and what real exports sum up to."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from scepsy.cli import app
from scepsy.importers.registry import IMPORTERS
from scepsy.workload import Run
from tests.importers.samples import FOLDER


def only_run(name: str, file: str, **options: str) -> Run:
    (run,) = IMPORTERS[name]([FOLDER / name / file], options).runs
    return run


def import_json(path: Path, out: Path, *more: str) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["trace", "import", str(path), "-o", str(out), "--json", *more])
    assert result.exit_code == 0, result.stderr
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def seen(run: Run) -> list[tuple[Any, ...]]:
    return [
        (c.input_tokens, c.output_tokens, c.parents, round(c.start_s or 0, 3), None if c.end_s is None else round(c.end_s, 3))
        for c in run.calls
    ]


@pytest.mark.parametrize("file", ["page.json", "blob.jsonl", "api.json"])
def test_langfuse_with_every_trap(file):
    """A wrapper, input without cached tokens, hidden reasoning, a failure made again, an end only by latency, no counts."""
    run = only_run("langfuse", file)
    assert (run.workflow, run.session) == ("support-agent", "" if file == "api.json" else "talk-1")
    assert seen(run) == [
        (120, 40, (), 0.3, 2.0),  # not its wrapper's 500
        (160, 30, ("c0",), 4.0, 6.5),  # 20 and 140 from the cache
        (200, 200, ("c0",), 4.0, 7.0),  # total 400: 150 of hidden reasoning
        (260, 10, ("c1", "c2"), 7.6, 8.8),  # latency 1200 ms or 1.2 s
        (12, 0, ("c3",), 8.8, 8.9),
        (5, 6, ("c4",), 8.9, 9.0),  # 17 bytes of input, 22 of output
    ]
    assert [call.kind for call in run.calls][-2] == "embed"


@pytest.mark.parametrize("file", ["runs.jsonl", "nested.json", "api.json"])
def test_langsmith_runs(file):
    run = only_run("langsmith", file)
    assert (run.workflow, run.session, {call.llm for call in run.calls}) == ("agent", "th-1", {"gpt-4o"})
    assert seen(run) == [
        (230, 40, (), 0.5, 2.0),
        (200, 20, ("c0",), 3.5, 5.0),  # the run's own counts
        (300, 50, ("c0",), 3.5, 6.0),  # what the provider said
        (5, 7, ("c1", "c2"), 6.6, 9.0),  # estimated
    ]
    assert run.tail_s == pytest.approx(1.0)


@pytest.mark.parametrize("file", ["trace3.json", "trace2.jsonl"])
def test_mlflow_traces(file):
    run = only_run("mlflow", file)
    assert (run.workflow, [call.llm for call in run.calls]) == (
        "agent",
        ["gpt-4o-mini", "gpt-4o-mini", "text-embedding-3-small"],
    )
    assert seen(run) == [(310, 42, (), 0.5, 3.0), (400, 60, ("c0",), 4.0, 8.0), (9, 0, ("c1",), 8.0, 8.5)]


def test_litellm_payloads():
    trace = IMPORTERS["litellm"]([FOLDER / "litellm" / "payloads.jsonl"])
    first, alone = trace.runs
    assert [c[:3] for c in seen(first)] == [
        (100, 20, ()), (140, 25, ("c0",)), (150, 30, ("c0",)), (210, 45, ("c1", "c2")), (11, 0, ("c3",)),
    ]  # fmt: skip
    assert [c[:3] for c in seen(alone)] == [(70, 12, ())]
    named = IMPORTERS["litellm"]([FOLDER / "litellm" / "payloads.jsonl"], {"name": "group"})
    assert named.llms == ("default-gpt-4o-mini", "default-text-embedding-3-small")


@pytest.mark.parametrize("file", ["request.json", "collector.jsonl", "protobuf.json"])
def test_otlp_in_its_three_forms(file):
    run = only_run("otel", file)
    assert (run.workflow, run.arrival_s) == ("planner", 0.0)
    assert seen(run) == [(120, 30, (), 0.5, 2.0), (180, 40, ("c0",), 3.25, 5.0), (210, 55, ("c1",), 5.75, 8.5)]
    assert [call.gap_s for call in run.calls] == pytest.approx([0.5, 1.25, 0.75], abs=1e-6)  # the run begins with its root


@pytest.mark.parametrize("file", ["api.json", "nested.jsonl", "console.json"])
def test_span_lists(file):
    assert seen(only_run("phoenix", file)) == [(100, 10, (), 1.0, 2.0), (150, 20, ("c0",), 2.5, 4.0)]


def test_the_summary_that_scripts_rely_on(tmp_path):
    found = import_json(FOLDER / "langfuse" / "page.json", tmp_path / "t.jsonl")
    assert (found["format"], found["runs"], found["calls"], found["input_tokens"], found["output_tokens"]) == (
        "langfuse",
        1,
        6,
        757,
        286,
    )
    assert found["llms"] == {
        "gpt-4o-mini": {"calls": 5, "input_tokens": 745, "output_tokens": 286},
        "text-embedding-3-small": {"calls": 1, "input_tokens": 12, "output_tokens": 0},
    }
    assert (found["estimated_calls"], found["dropped_calls"], found["retries"], found["tool_s"]) == (1, 1, 1, 2.0)
    assert (found["cached_input_tokens"], found["overlapping_calls"], found["dependencies_inferred"]) == (236, 1, 6)
    assert any(text.startswith("left out: failed calls") for text in found["warnings"])
    header = json.loads((tmp_path / "t.jsonl").read_text().splitlines()[0])
    assert header["source"]["notes"] == found["warnings"]  # said where the numbers stand, too


@pytest.mark.parametrize(
    ("file", "what"), [("langfuse/page.json", "failed calls: 1"), ("langsmith/runs.jsonl", "without an end")]
)
def test_strict_refuses_what_was_guessed_or_lost(tmp_path, file, what):
    result = CliRunner().invoke(app, ["trace", "import", str(FOLDER / file), "--strict", "-o", str(tmp_path / "t.jsonl")])
    assert result.exit_code == 2
    assert what in result.stderr
    assert list(tmp_path.iterdir()) == []
    import_json(FOLDER / "phoenix" / "api.json", tmp_path / "t.jsonl", "--strict")


LANGFUSE_SUMS = {
    "agno-2025-06-11": (2, 826, 245),
    "autogen-2025-06-06": (1, 41, 3),
    "beeai-2025-08-01": (3, 5542, 3),
    "claude-agent-2025-12-22": (4, 34, 232),
    "crewai-2025-07-11": (1, 190, 164),
    "google-adk-2025-08-28": (2, 67, 9),
    "langgraph-python-2025-08-22": (2, 168, 66),
    "openai-agents-2025-09-30": (2, 140, 44),
    "pydantic-ai-tools-2025-12-04": (4, 1315, 209),
    "vercel-aisdk-2025-11-17": (1, 62, 85),
    "vertex-ai-2025-08-01": (1, 5, 2018),
}


@pytest.mark.data
@pytest.mark.parametrize("name", LANGFUSE_SUMS)
def test_exports_of_real_frameworks(scepsy_data, tmp_path, name):
    found = import_json(scepsy_data / "agent_traces" / "langfuse" / f"{name}.trace.json", tmp_path / "t.jsonl")
    assert (found["calls"], found["input_tokens"], found["output_tokens"]) == LANGFUSE_SUMS[name]
    if name.startswith("beeai"):  # no output counts, and two observations without anything
        assert (found["estimated_calls"], found["dropped_calls"], found["overlapping_calls"]) == (3, 2, 2)
    if name.startswith("vertex"):
        assert list(found["llms"]) == ["gemini-2.5-flash"]  # not the path of the project that it belongs to
    if name.startswith("claude"):
        assert any("input without cached tokens?" in text for text in found["warnings"])
        assert found["overlapping_calls"] == 1


@pytest.mark.data
def test_a_folder_of_real_exports_is_one_import(scepsy_data, tmp_path):
    found = import_json(scepsy_data / "agent_traces" / "langfuse", tmp_path / "t.jsonl")
    sums = [sum(column) for column in zip(*LANGFUSE_SUMS.values(), strict=True)]
    assert [found["runs"], found["calls"], found["input_tokens"], found["output_tokens"]] == [11, *sums]


def test_a_run_of_very_many_calls_does_not_take_the_square_of_their_number(tmp_path):
    """20,000 calls under one span, half of them failed and made again: seconds, not minutes."""
    spans = []
    for number in range(20_000):
        begin = 1_780_000_000_000_000_000 + number * 1_000_000_000
        said = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m", "gen_ai.usage.input_tokens": 5}
        said["gen_ai.usage.output_tokens"] = 2
        spans.append(
            {
                "traceId": "t", "spanId": f"s{number}", "parentSpanId": "root", "name": "chat m",
                "startTimeUnixNano": str(begin), "endTimeUnixNano": str(begin + 500_000_000), "attributes": [
                    {"key": key, "value": {"stringValue": value}} for key, value in said.items()
                ], "status": {"code": 2 * (number % 2)},
            }
        )  # fmt: skip
    root = spans[0] | {"spanId": "root", "parentSpanId": "", "attributes": [], "status": {}}
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [root, *spans]}]}]}))
    begin_s = time.process_time()
    imported = IMPORTERS["otel"].stream([path])
    (run,) = imported.runs
    assert time.process_time() - begin_s < 20
    assert (len(run.calls), run.calls[-1].parents, imported.tally.retries) == (10_000, ("c9998",), 9_999)
