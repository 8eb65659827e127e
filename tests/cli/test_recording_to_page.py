"""From a recording of another tool to statistics, a plan on eight H100s, a simulation and a page: four commands."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from scepsy.cli import app

FIXTURES = Path(__file__).parents[1] / "importers" / "fixtures"

MAVERICK = "meta-llama/Llama-4-Maverick-17B-128E-Instruct-FP8"
"""The open weights of the model that the OpenHands runs call, in the precision that eight GPUs of 80 GB hold."""


def scepsy(*arguments: object) -> dict[str, object]:
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    assert (result.exit_code, result.exception) == (0, None), result.stderr
    found = json.loads(result.stdout)
    assert isinstance(found, dict)
    return found


def four_commands(recording: Path, folder: Path, serve: list[str], rate_per_s: float) -> dict[str, dict[str, object]]:
    """What the four commands say."""
    trace, plan, page = folder / "t.jsonl", folder / "t.plan.yaml", folder / "t.html"
    mapped = [word for one in serve for word in ("--as", one)]
    said = {
        "import": scepsy("trace", "import", recording, "-o", trace, "--stats"),
        "plan": scepsy("plan", "-t", trace, "--rate", rate_per_s, "--gpus", 8, "--gpu-type", "H100-80G", *mapped, "-o", plan),
        "simulate": scepsy("simulate", plan, "--runs", 60),
        "report": scepsy("report", plan, "-o", page),
    }
    assert "<html" in page.read_text()
    return said


@pytest.mark.parametrize(("name", "serve"), [("openhands", ["org/served-model=llama-3.1-8b"]), ("langfuse", None)])
def test_from_a_recording_to_a_page(tmp_path, name, serve):
    recording = sorted((FIXTURES / name).glob("*"))[0]
    if serve is None:
        llms = scepsy("trace", "import", recording, "-o", tmp_path / "look.jsonl")["llms"]
        assert isinstance(llms, dict)
        serve = [f"{llm}={'bge-large-en-v1.5' if 'embed' in llm else 'llama-3.1-8b'}" for llm in llms]
    else:
        serve = [*serve, "proxy/agent-llm=llama-3.1-8b"]
    said = four_commands(recording, tmp_path, serve, 2.0)
    statistics = said["import"]["statistics"]
    assert isinstance(statistics, dict)
    assert list(statistics["workflows"])
    assert said["simulate"]


@pytest.mark.data
@pytest.mark.parametrize(
    ("recording", "serve", "rate_per_s"),
    [
        pytest.param("openhands_multiswe.jsonl", [f"meta-llama/llama-4-maverick={MAVERICK}"], 0.05, marks=pytest.mark.slow),
        ("langfuse/langgraph-python-2025-08-22.trace.json", ["gpt-4o-2024-08-06=Qwen/Qwen3-30B-A3B"], 2.0),
    ],
    ids=["openhands", "langfuse"],
)
def test_from_a_real_recording_to_a_page(scepsy_data, tmp_path, recording, serve, rate_per_s):
    known = {row["name"] for row in scepsy("model", "list")["models"]}
    if missing := [one for one in serve if one.rpartition("=")[2].rpartition("/")[2].lower() not in known]:
        pytest.skip(f"not in the catalogue: {missing}")
    said = four_commands(scepsy_data / "agent_traces" / recording, tmp_path, serve, rate_per_s)
    assert said["import"]["calls"] in (56, 2)
