"""Whatever is wrong with the input: one clear line on stderr, the right exit code, and nothing half-written."""

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from scepsy.cli import app
from scepsy.files.trace import save_trace
from scepsy.generate import generate


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def lines(tmp_path: Path) -> list[dict[str, Any]]:
    """A small good trace as its lines, to be damaged."""
    path = tmp_path / "good.jsonl"
    save_trace(path, generate("rag-rerank", runs=3, seed=1))
    return [json.loads(line) for line in path.read_text().splitlines()]


def written(folder: Path, lines: list[dict[str, Any]]) -> Path:
    path = folder / "trace.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def plan(trace: Path, folder: Path, *options: str, rate: str = "1") -> tuple[int, str]:
    out = folder / "out"
    out.mkdir(exist_ok=True)
    result = CliRunner().invoke(app, ["plan", "-t", str(trace), "--rate", rate, "-o", str(out / "x.plan.yaml"), *options])
    assert list(out.iterdir()) == [], "nothing may be left behind"
    assert result.stdout == ""
    # A slow machine says how far it is. That is no part of the answer.
    return result.exit_code, re.sub(r"(?m)^[\w ]+: \d+( of \d+)?, \d+ s\n", "", result.stderr)


def negative_tokens(lines: list[dict[str, Any]]) -> None:
    lines[1]["calls"][0]["input_tokens"] = -5


def unknown_field(lines: list[dict[str, Any]]) -> None:
    lines[2]["calls"][0]["prompt"] = "hello"


def cyclic_parents(lines: list[dict[str, Any]]) -> None:
    first, second = lines[1]["calls"][0], lines[1]["calls"][1]
    first["parents"] = [second["id"]]


def duplicate_ids(lines: list[dict[str, Any]]) -> None:
    lines[2]["id"] = lines[1]["id"]


def not_a_number(lines: list[dict[str, Any]]) -> None:
    lines[1]["calls"][0]["gap_s"] = float("nan")


def no_runs(lines: list[dict[str, Any]]) -> None:
    del lines[1:]


def no_calls(lines: list[dict[str, Any]]) -> None:
    lines[1]["calls"] = []


def wrong_version(lines: list[dict[str, Any]]) -> None:
    lines[0]["version"] = 99


DAMAGES: list[tuple[Callable[[list[dict[str, Any]]], None], str]] = [
    (negative_tokens, "input_tokens"),
    (unknown_field, "prompt"),
    (cyclic_parents, "cycle"),
    (duplicate_ids, "unique"),
    (not_a_number, ""),
    (no_runs, "run"),
    (no_calls, "calls"),
    (wrong_version, "version"),
]


@pytest.mark.parametrize(("damage", "word"), DAMAGES, ids=[damage.__name__ for damage, _ in DAMAGES])
def test_damaged_trace(
    damage: Callable[[list[dict[str, Any]]], None], word: str, lines: list[dict[str, Any]], tmp_path: Path
) -> None:
    damage(lines)
    code, error = plan(written(tmp_path, lines), tmp_path)
    assert code == 2
    assert error.count("\n") == 1
    assert "trace.jsonl" in error
    assert word in error


def test_truncated_trace(lines: list[dict[str, Any]], tmp_path: Path) -> None:
    path = written(tmp_path, lines)
    path.write_text(path.read_text()[:-40])
    code, error = plan(path, tmp_path)
    assert (code, error.count("\n")) == (2, 1)
    packed = tmp_path / "trace.jsonl.gz"
    packed.write_bytes(gzip.compress(json.dumps(lines[0]).encode() * 50)[:-9])
    code, error = plan(packed, tmp_path)
    assert (code, error.count("\n")) == (2, 1)


def test_missing_trace(tmp_path: Path) -> None:
    code, error = plan(tmp_path / "nowhere.jsonl", tmp_path)
    assert (code, error.count("\n")) == (2, 1)
    assert "nowhere.jsonl" in error


@pytest.mark.parametrize("rate", ["0", "-1", "nan", "inf"])
def test_rate_must_be_positive(rate: str, lines: list[dict[str, Any]], tmp_path: Path) -> None:
    code, error = plan(written(tmp_path, lines), tmp_path, rate=rate)
    assert (code, error.count("\n")) == (2, 1)
    assert "--rate" in error


def test_llm_without_profile(lines: list[dict[str, Any]], tmp_path: Path) -> None:
    for line in lines[1:]:
        for call in line["calls"]:
            call["llm"] = call["llm"].replace("llama-2-7b", "my-model")
    code, error = plan(written(tmp_path, lines), tmp_path)
    assert (code, error.count("\n")) == (2, 1)
    assert "my-model" in error
    assert "--as" in error


def test_model_larger_than_the_cluster_says_what_binds(lines: list[dict[str, Any]], tmp_path: Path) -> None:
    """70 B weights need two A100-80G; with one there is no plan: infeasible (3), naming the LLM and the bytes."""
    code, error = plan(written(tmp_path, lines), tmp_path, "--as", "llama-2-7b=llama-3.1-70b", "--gpus", "1")
    assert (code, error.count("\n")) == (3, 1), error
    assert "llama-2-7b" in error


def test_impossible_rate_says_what_binds(lines: list[dict[str, Any]], tmp_path: Path) -> None:
    code, error = plan(written(tmp_path, lines), tmp_path, "--gpus", "4", rate="10000")
    assert (code, error.count("\n")) == (3, 1), error
    assert any(name in error for name in ("llama-2-7b", "GPU"))


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--planner", "best"], "exact"),
        (["--cluster", "9x9"], "2x8-h100"),
        (["--cluster", "2x8-h100", "--gpus", "4"], "--gpus"),
        (["--gpus", "0"], "--gpus"),
        (["--gpus", "1000000000000"], "--gpus is 1000000000000: must be 1 to 100000"),
        (["--gpus", "4", "--gpu-type", "GTX"], "A100-80G"),
        (["--share-unit", "0"], "--share-unit"),
        (["--arrivals", "gamma:0"], "--arrivals"),
        (["--goal", "happiness"], "--goal"),
        (["--as", "nothing"], "--as"),
        (["--rate", "2"], "--rate"),
    ],
)
def test_wrong_options(options: list[str], word: str, lines: list[dict[str, Any]], tmp_path: Path) -> None:
    code, error = plan(written(tmp_path, lines), tmp_path, *options)
    assert (code, error.count("\n")) == (2, 1)
    assert word in error


@pytest.mark.parametrize("verb", ["predict", "simulate", "validate"])
def test_plan_files_are_checked(verb: str, tmp_path: Path) -> None:
    path = tmp_path / "x.plan.yaml"
    path.write_text("format: scepsy.plan\nversion: 1\nplanner: exact\nshares: 3\n")
    result = CliRunner().invoke(app, [verb, str(path)])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "x.plan.yaml" in result.stderr
