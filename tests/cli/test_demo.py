"""``scepsy demo`` as a user runs it, on one small workflow: what it prints, what it leaves, what it refuses."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from typer.testing import CliRunner

from scepsy.api import demo, demo_page
from scepsy.cli import app
from scepsy.cli.schemas import schemas
from scepsy.cluster import Cluster, Node
from scepsy.files.cluster import save_cluster
from scepsy.files.plan import load_plan
from scepsy.profile.catalogue import gpu_type

PLANNERS, LOADS = ("exact", "equal"), (0.3, 0.7)


@pytest.fixture(autouse=True)
def _small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs, a trace of one LLM, two planners, two loads and short replays: seconds instead of minutes."""
    monkeypatch.chdir(tmp_path)
    for name, value in {"WORKFLOWS": (), "PLANNERS": PLANNERS, "LOADS": LOADS, "LEAST_RUNS": 30, "MOST_CALLS": 300}.items():
        monkeypatch.setattr(demo, name, value)
        if hasattr(demo_page, name):
            monkeypatch.setattr(demo_page, name, value)
    gpu = gpu_type("A100-80G")
    node = Node(name="n0", gpu_type=gpu.name, gpus=2)
    save_cluster(Path("two.yaml"), Cluster(name="two", gpu_types=(gpu,), nodes=(node,)))
    assert run("trace", "generate", "chat", "-n", "20", "-o", "chat.jsonl").exit_code == 0


def run(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


def test_it_compares_the_planners_and_leaves_a_page_and_plans_that_can_be_simulated() -> None:
    words = ("demo", "-t", "chat.jsonl", "-c", "two.yaml", "--jobs", "1", "-o", "out")
    result = run(*words, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    jsonschema.validate(found, schemas()["demo"])
    points = {(row["planner"], row["load"], row["source"]) for row in found["rows"]}
    assert {(planner, load, "predicted") for planner in PLANNERS for load in LOADS} <= points
    assert ("exact", 0.3, "simulated") in points
    assert 0 <= found["predictions_within_15_pct"] <= found["predictions_checked"]
    page = Path(found["report"]).read_text(encoding="utf-8")
    assert "chat" in page
    assert "<html" in page
    plan = load_plan("out/chat.exact.plan.yaml")
    assert plan.planner == "exact"
    again = run("simulate", "out/chat.exact.plan.yaml", "-n", "20", "--json")
    assert again.exit_code == 0, again.stderr
    shown = run(*words)
    assert shown.exit_code == 0, shown.stderr
    assert "chat on two" in shown.stdout
    assert f"of {found['predictions_checked']} predictions" in shown.stdout
    assert "Report: out/report.html" in shown.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--seeds", "0"), "--seeds is 0: must be >= 1"),
        (("--as", "llama-3.1-8b"), "--as is 'llama-3.1-8b': must be NAME=MODEL"),
        (("-c", "nowhere"), "--cluster is 'nowhere': must be a cluster file or a preset"),
    ],
)
def test_bad_input_is_one_line(words: tuple[str, ...], message: str) -> None:
    result = run("demo", "-t", "chat.jsonl", *words)
    assert (result.exit_code, message in " ".join(result.stderr.split())) == (2, True)
