"""Exports: what each format can hold comes back through the importer that it names; what it cannot hold is said."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from scepsy.cli import app
from scepsy.files.exports.registry import EXPORTERS
from scepsy.files.trace import load_trace, save_trace
from scepsy.importers.registry import find_importer
from scepsy.workload import Call, Run, Trace, TraceSource


def call(id_: str, given: int, made: int, begin: float, end: float, *parents: str, **more: Any) -> Call:
    return Call(id=id_, llm="m", input_tokens=given, output_tokens=made, start_s=begin, end_s=end, parents=parents, **more)


FORK = Run(
    id="fork", workflow="w", arrival_s=0.0, tail_s=0.5,
    calls=(
        call("a", 100, 20, 0.25, 1.0, gap_s=0.25),
        call("b", 150, 30, 1.5, 2.5, "a", gap_s=0.5),
        call("c", 140, 25, 1.25, 3.0, "a", gap_s=0.25),
        call("d", 400, 10, 3.125, 4.0, "b", "c", gap_s=0.125),
    ),
)  # fmt: skip
CHAIN = Run(
    id="chain", workflow="w", arrival_s=10.0,
    calls=(call("a", 1000, 40, 0.0, 1.0), call("b", 1100, 50, 1.5, 2.0, "a", gap_s=0.5), call("c", 1600, 9, 2.0, 3.0, "b")),
)  # fmt: skip
POOL = Run(
    id="pool", workflow="w", arrival_s=20.0,
    calls=(
        Call(id="e", llm="emb", kind="embed", input_tokens=12, start_s=0.0, end_s=0.125),
        call("a", 50, 5, 0.25, 1.0, "e", gap_s=0.125),
    ),
)  # fmt: skip


def traced(tmp_path: Path, *runs: Run, block_tokens: int = 0) -> Path:
    path = tmp_path / "t.jsonl"
    save_trace(path, Trace(source=TraceSource(origin="test"), runs=runs, prefix_block_tokens=block_tokens))
    return path


def export(name: str, trace: Path, out: Path, *more: str) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["trace", "export", name, str(trace), "-o", str(out), "--json", *more])
    assert result.exit_code == 0, result.stderr
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def import_back(name: str, out: Path, **options: str) -> Trace:
    words = EXPORTERS[name].imports_as.split()
    options |= dict(word.split("=") for word in words if "=" in word)
    return find_importer(words[1])([out], options)


def shape(run: Run) -> list[tuple[Any, ...]]:
    """Calls by begin and length: tokens, times since the run's arrival, gaps, and parents as places in this list."""
    order = sorted(run.calls, key=lambda c: (c.start_s or 0.0, c.input_tokens))
    place = {c.id: index for index, c in enumerate(order)}
    return [
        (c.kind, c.llm, c.input_tokens, c.output_tokens, c.start_s and round(c.start_s, 6), c.end_s and round(c.end_s, 6),
         round(c.gap_s, 6), tuple(sorted(place[parent] for parent in c.parents)))
        for c in order
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["otel", "openinference"])
def test_spans_hold_everything_but_ids_and_prefixes(tmp_path, name):
    said = export(name, traced(tmp_path, FORK, CHAIN, POOL), tmp_path / "out")
    assert (said["runs"], said["calls"], said["lost"]) == (3, 9, [])
    back = import_back(name, tmp_path / "out")
    assert [shape(run) for run in back] == [shape(run) for run in (FORK, CHAIN, POOL)]
    assert [(run.arrival_s, run.tail_s) for run in back] == [(0.0, 0.5), (10.0, 0.0), (20.0, 0.0)]


def test_mooncake_holds_single_calls_at_their_times(tmp_path):
    said = export("mooncake", traced(tmp_path, FORK, CHAIN, POOL), tmp_path / "out")
    assert (said["runs"], said["calls"]) == (3, 8)
    assert said["lost"] == [
        "calls that generate nothing (embeddings, reranking), left out: 1",
        "runs whose calls wait for each other, written as calls at fixed times: 3",
        "the name of the LLM is left out (m)",
    ]
    back = import_back("mooncake", tmp_path / "out", llm="m")
    calls = [(run.arrival_s, run.calls[0].input_tokens, run.calls[0].output_tokens) for run in back]
    assert calls == [
        (0.25, 100, 20), (1.25, 140, 25), (1.5, 150, 30), (3.125, 400, 10), (10.0, 1000, 40), (11.5, 1100, 50), (12.0, 1600, 9),
        (20.25, 50, 5),
    ]  # fmt: skip


def test_dynamos_rows_hold_who_waits_for_whom(tmp_path):
    said = export("agentic-mooncake", traced(tmp_path, FORK, CHAIN, POOL), tmp_path / "out")
    assert said["calls"] == 8
    back = import_back("agentic-mooncake", tmp_path / "out")
    for before, after in zip((FORK, CHAIN), back, strict=False):
        kept = [(c.input_tokens, c.output_tokens, c.gap_s, len(c.parents)) for c in before.calls]
        gaps = [(c.input_tokens, c.output_tokens, round(c.gap_s, 6), len(c.parents)) for c in after.calls]
        assert [row[:2] + row[3:] for row in gaps] == [row[:2] + row[3:] for row in kept]
        assert gaps[1:] == kept[1:]  # the first one's gap is in its time
    assert len(back.runs[2].calls) == 1  # what waited for the embedding now waits for nothing
    assert back.llms == ("m",)


def test_aiperf_holds_conversations_and_single_calls(tmp_path):
    said = export("aiperf", traced(tmp_path, FORK, CHAIN), tmp_path / "out")
    rows = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert rows[4:] == [
        {"session_id": "chain", "timestamp": 10000, "input_length": 1000, "output_length": 40},
        {"session_id": "chain", "delay": 500, "input_length": 60, "output_length": 50},
        {"session_id": "chain", "delay": 0, "input_length": 450, "output_length": 9},
    ]
    assert said["lost"][0].startswith("runs that are no conversation (calls side by side, or other prompts)")
    back = import_back("aiperf", tmp_path / "out")
    chain = back.runs[-1]
    assert [(c.input_tokens, c.output_tokens, c.gap_s, c.parents) for c in chain.calls] == [
        (1000, 40, 0.0, ()), (1100, 50, 0.5, ("c0",)), (1600, 9, 0.0, ("c1",)),
    ]  # fmt: skip
    assert chain.arrival_s == 10.0
    assert sorted((run.arrival_s, run.calls[0].input_tokens) for run in back.runs[:-1]) == [
        (0.25, 100), (1.25, 140), (1.5, 150), (3.125, 400),
    ]  # fmt: skip


def test_inference_perf_gets_filler_that_shows_who_waited_for_whom(tmp_path):
    said = export("inference-perf", traced(tmp_path, FORK, CHAIN), tmp_path / "out")
    assert (said["runs"], said["calls"], said["lost"]) == (2, 7, [])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["000000.json", "000001.json"]
    (fork, chain) = import_back("inference-perf", tmp_path / "out").runs
    assert [row[2:6] + row[7:] for row in shape(fork)] == [
        (100, 20, 0.0, 0.75, ()), (140, 25, 1.0, 2.75, (0,)), (150, 30, 1.25, 2.25, (0,)), (400, 10, 2.875, 3.75, (1, 2)),
    ]  # fmt: skip
    assert [row[2:] for row in shape(chain)] == [row[2:] for row in shape(CHAIN)]
    document = json.loads((tmp_path / "out" / "000001.json").read_text())
    last = json.loads(document["spans"][-1]["attributes"]["gen_ai.input.messages"])
    assert [message["role"] for message in last] == ["user", "assistant", "user", "assistant", "user"]
    # filler has about four bytes a token, as that tool counts where nothing is said
    assert sum(len(message["content"]) for message in last) == pytest.approx(4 * 1600, rel=0.01)


def test_prefix_blocks_of_another_size_are_sampled(tmp_path):
    blocks = tuple(range(100, 180))
    run = Run(id="r", workflow="w", calls=(call("a", 1300, 5, 0.0, 1.0, prefix_hashes=blocks),), arrival_s=0.0)
    export("mooncake", traced(tmp_path, run, block_tokens=16), tmp_path / "out")
    assert json.loads((tmp_path / "out").read_text())["hash_ids"] == [131, 163]  # the 32nd and the 64th
    said = export("mooncake", traced(tmp_path, run, block_tokens=48), tmp_path / "out")
    assert said["lost"][0].startswith("prompts whose blocks of 48 tokens do not fit into ones of 512")


def test_only_one_llm(tmp_path):
    said = export("mooncake", traced(tmp_path, POOL), tmp_path / "out", "--only", "m")
    assert (said["runs"], said["calls"], said["lost"]) == (1, 1, ["the name of the LLM is left out (m)"])
    result = CliRunner().invoke(
        app, ["trace", "export", "mooncake", str(tmp_path / "t.jsonl"), "-o", str(tmp_path / "x"), "--only", "z"]
    )
    assert (result.exit_code, (tmp_path / "x").exists()) == (2, False)
    assert "--only is 'z': no run" in result.stderr


def test_nothing_is_written_on_failure(tmp_path):
    cut = traced(tmp_path, FORK, CHAIN)
    cut.write_bytes(cut.read_bytes()[:-40])
    for name in EXPORTERS:
        result = CliRunner().invoke(app, ["trace", "export", name, str(cut), "-o", str(tmp_path / "out")])
        assert result.exit_code == 2
        assert sorted(path.name for path in tmp_path.iterdir()) == ["t.jsonl"]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    result = CliRunner().invoke(
        app, ["trace", "export", "inference-perf", str(traced(tmp_path, FORK)), "-o", str(tmp_path / "out")]
    )
    assert result.exit_code == 2
    assert "must be a new or an empty folder" in result.stderr
    assert (tmp_path / "out" / "mine").exists()


@st.composite
def random_run(draw: st.DrawFn) -> Run:
    """A run on a clock of ms: every call starts after its parents ended, gaps are what lies between."""
    calls: list[Call] = []
    for number in range(draw(st.integers(1, 6))):
        parents = draw(st.lists(st.sampled_from(calls), max_size=2, unique=True)) if calls else []
        gap = draw(st.integers(0, 3000))
        begin = max((round((parent.end_s or 0.0) * 1000) for parent in parents), default=0) + gap
        end = begin + draw(st.integers(1, 5000))
        calls.append(
            Call(
                id=f"c{number}", llm=draw(st.sampled_from(["m", "n"])), input_tokens=draw(st.integers(1, 5000)),
                output_tokens=draw(st.integers(1, 500)), parents=tuple(parent.id for parent in parents),
                gap_s=gap / 1000, start_s=begin / 1000, end_s=end / 1000,
            )
        )  # fmt: skip
    return Run(id="r", workflow="w", calls=tuple(calls), arrival_s=0.0)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(run=random_run())
@pytest.mark.parametrize("name", ["otel", "openinference", "agentic-mooncake"])
def test_round_trips_of_random_runs(tmp_path, name, run):
    export(name, traced(tmp_path, run), tmp_path / "out")
    back = import_back(name, tmp_path / "out")
    calls = sum(len(one.calls) for one in back)
    assert calls == len(run.calls)
    tokens = sorted((c.llm, c.input_tokens, c.output_tokens, len(c.parents)) for one in back for c in one.calls)
    assert tokens == sorted((c.llm, c.input_tokens, c.output_tokens, len(set(c.parents))) for c in run.calls)
    if name != "agentic-mooncake":
        (one,) = back.runs
        assert sorted(shape(one)) == sorted(shape(run))
        assert load_trace(traced(tmp_path, one)).runs == (one,)
