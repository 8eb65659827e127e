"""From an OpenTelemetry file to a plan with SLO, cost and manifests: at most six commands, no file edited by hand."""

import json
import re
import shlex
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from typer.testing import CliRunner

from scepsy.cli import app
from scepsy.files.plan import load_plan
from scepsy.files.trace import load_trace

DOCS = Path(__file__).parents[2] / "docs"
WAY = ("trace import", "plan", "validate", "report", "render")
SERVED = {
    "gpt-4o": "Qwen/Qwen3-30B-A3B",
    "gpt-4o-mini": "meta-llama/Llama-3.1-8B-Instruct",
    "claude-haiku-4-5": "Qwen/Qwen3-4B",
    "text-embedding-3-small": "BAAI/bge-large-en-v1.5",
    "rerank-v3.5": "BAAI/bge-reranker-large",
}


def commands() -> list[list[str]]:
    """The tutorial's commands of the way through, as words."""
    blocks = re.findall(
        r"^```sh\n(.*?)^```$", (DOCS / "tutorial.md").read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    found = [shlex.split(line)[1:] for line in lines if line.startswith("scepsy ")]
    return [words for words in found if " ".join(words[: 2 if words[0] == "trace" else 1]) in WAY]


def test_five_llms_named_as_people_name_them_become_a_checked_priced_plan_and_manifests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(DOCS / "samples" / "support.otlp.jsonl.gz", tmp_path)
    way = commands()
    assert len(way) == len(WAY) <= 6
    said = {}
    for words in way:
        kept, target = (words[: words.index(">")], words[-1]) if ">" in words else (words, None)
        if kept[0] == "plan":
            kept = [*kept, "--json"]
        result = CliRunner().invoke(app, kept)
        assert result.exit_code == 0, (kept, result.stderr)
        said[kept[0]] = result.stdout
        if target is not None:
            Path(target).write_text(result.stdout)
    assert set(load_trace("support.jsonl").llms) == set(SERVED)
    plan, document = load_plan("support.plan.yaml"), json.loads(said["plan"])
    assert {served.llm: served.hub_id for served in plan.models} == SERVED
    assert plan.slo is not None
    assert plan.slo.limits_latency
    assert document["cost"]["usd_per_hour"] > 0
    assert document["cost"]["usd_per_1000_runs"] > 0
    junit = ElementTree.parse("slo.junit.xml").getroot()
    assert (int(junit.get("tests") or 0) >= 4, junit.get("failures")) == (True, "0")
    assert "The SLO is kept" in Path("support.html").read_text(encoding="utf-8")
    loaded = {}
    for each in yaml.safe_load_all(Path("support.manifests.yaml").read_text()):
        for container in each.get("spec", {}).get("template", {}).get("spec", {}).get("containers", ()):
            if container["name"] == "vllm":
                args = container["args"]
                loaded[args[args.index("--served-model-name") + 1]] = args[args.index("--model") + 1]
    assert loaded == SERVED
