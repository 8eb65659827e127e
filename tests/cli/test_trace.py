"""``scepsy trace``: what is printed, what is written, what it answers to bad input."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from scepsy.cli import app
from scepsy.files.trace import load_trace


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["trace", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def beam(tmp_path: Path) -> Path:
    path = tmp_path / "beam.jsonl"
    assert run("generate", "beam-search", "-n", 30, "--seed", 5, "-o", path)[0] == 0
    return path


def test_generate_writes_a_trace_and_says_what_is_assumed(tmp_path):
    path = tmp_path / "t.jsonl.gz"
    code, out, _ = run("generate", "debate", "-n", 4, "--seed", 2, "--llm", "large=llama-3.1-70b", "-o", path)
    assert code == 0
    assert "4 runs of debate, 24 calls, seed 2" in out
    assert "assumed: answers log-normal" in out
    trace = load_trace(path)
    assert set(trace.llms) == {"llama-3.1-70b", "llama-3.2-3b"}
    assert trace.source.seed == 2


def test_generate_json(tmp_path):
    code, out, _ = run("generate", "reflection", "-n", 3, "-o", tmp_path / "t.jsonl", "--json")
    assert code == 0
    assert json.loads(out) == {"trace": str(tmp_path / "t.jsonl"), "workflow": "reflection", "runs": 3, "calls": 12, "seed": 0}


def test_stats_json_is_what_scripts_rely_on(beam):
    code, out, _ = run("stats", beam, "--json")
    assert code == 0
    workflow = json.loads(out)["workflows"]["beam-search"]
    assert (workflow["runs"], workflow["stable"]) == (30, True)
    assert set(workflow["llms"]) == {"llama-3.2-1b", "prm-8b"}
    assert workflow["tool_s"] == 0.0


def test_stats_text_says_it_in_tables_and_words(beam):
    code, out, _ = run("stats", beam)
    assert code == 0
    for text in (
        "beam-search: 30 runs",
        "llama-3.2-1b",
        "prm-8b",
        "shares are stable",
        "rest on nominal service times",
        "assumed: prompt of 400",
    ):
        assert text in " ".join(out.split())


def test_stats_leaves_out_small_runs(beam):
    code, out, _ = run("stats", beam, "--json", "--min-calls", 40)
    assert code == 0
    assert 0 < json.loads(out)["workflows"]["beam-search"]["runs"] < 30
    code, _, err = run("stats", beam, "--min-llms", 3)
    assert code == 2
    assert "no run has 1 calls and 3 LLMs: must be at least one" in err


def test_import_renames_llms_and_passes_options(tmp_path):
    csv = tmp_path / "a.csv"
    csv.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,374,0\n2023-11-16 18:15:47,5,6\n")
    code, out, _ = run("import", "azure", csv, "--set", "llm=x", "--llm", "x=llama-3.1-8b", "-o", tmp_path / "t.jsonl")
    assert code == 0
    assert "2 runs, 2 calls" in out
    assert "calls without output tokens, counted as one token: 1" in out
    assert load_trace(tmp_path / "t.jsonl").llms == ("llama-3.1-8b",)
    code, out, _ = run("import", "azure", csv, "-o", tmp_path / "t.jsonl", "--json")
    assert json.loads(out)["counts"] == {"calls without output tokens, counted as one token": 1}


def test_list():
    code, out, _ = run("list", "--json")
    assert code == 0
    document = json.loads(out)
    assert document["workflows"]["beam-search"]["roles"] == {"generator": "llama-3.2-1b", "prm": "prm-8b"}
    assert "tau2" in document["formats"]
    code, out, _ = run("list")
    assert code == 0
    assert "kv-cache-tester" in out


@pytest.mark.parametrize("name", ["import", "generate", "stats", "list"])
def test_help_has_an_example(name):
    code, out, _ = run(name, "--help")
    assert code == 0
    assert "Example: scepsy trace" in " ".join(out.split()).replace("`", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("stats", "none.jsonl"), "none.jsonl: does not exist: must be a readable file"),
        (("stats", "."), ".: is a directory: must be a file"),
        (("generate", "chit", "-o", "x.jsonl"), "workflow is 'chit': must be one of"),
        (("generate", "chat", "-n", "0", "-o", "x.jsonl"), "runs is 0: must be >= 1"),
        (("generate", "chat", "--llm", "agent", "-o", "x.jsonl"), "--llm is 'agent': must be NAME=VALUE"),
        (("generate", "chat", "-o", "none/x.jsonl"), "none/x.jsonl: cannot be written: No such file or directory"),
        (("import", "tau3", "f.json", "-o", "x.jsonl"), "format is 'tau3': must be one of"),
        (("import", "tau2", "f.json", "-o", "x.jsonl"), "f.json: does not exist"),
        (("import", "tau2", "f.json", "--set", "speed=1", "-o", "x.jsonl"), "option 'speed' is unknown"),
    ],
)
def test_bad_input_is_one_line_exit_2_and_no_file(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("scepsy: ")
    assert err.count("\n") == 1
    assert message in err
    assert list(tmp_path.iterdir()) == []


def test_same_seed_same_bytes_in_any_folder(tmp_path):
    for name in ("a", "b"):
        run("generate", "rag-rerank", "-n", 10, "--seed", 3, "-o", tmp_path / f"{name}.jsonl")
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
