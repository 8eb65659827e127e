"""``scepsy model``: list, show, add, and models found by what people call them."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from scepsy.cli import app

COUNTS = json.loads((Path(__file__).parents[1] / "models" / "transformers_counts.json").read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def _own_catalogue(tmp_path, monkeypatch):
    monkeypatch.setenv("SCEPSY_MODELS", str(tmp_path / "models"))


def run(*arguments):
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.stdout, result.stderr


def folder_with(path, config):
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    return path


@pytest.mark.parametrize("name", ["openai/gpt-oss-120b", "gpt-oss-120b", "OpenAI/GPT-OSS-120B"])
def test_show_by_any_name(name):
    code, out, _ = run("model", "show", name, "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["name"], found["family"], found["parameters"]) == ("gpt-oss-120b", "gpt_oss", 116829156672)
    assert {"active_parameters", "weight_bytes", "kv_bytes_per_token", "context_tokens", "source"} <= set(found)
    assert found["smallest_gpus"]["H100-80G"] == 1


def test_show_a_folder_and_a_file(tmp_path):
    folder = folder_with(tmp_path / "mine", COUNTS["qwen3_moe"]["config"])
    for argument in (folder, folder / "config.json"):
        code, out, _ = run("model", "show", str(argument), "--json")
        assert code == 0
        assert json.loads(out)["parameters"] == COUNTS["qwen3_moe"]["parameters"]
        assert json.loads(out)["name"] == "mine"


def test_an_unknown_family_exits_2_with_its_name(tmp_path):
    folder = folder_with(tmp_path / "new", {**COUNTS["llama"]["config"], "model_type": "brand_new"})
    code, out, err = run("model", "show", str(folder), "--json")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "'brand_new'" in err
    assert "scepsy model add" in err


def test_an_unknown_name_is_answered_with_the_nearest():
    code, _, err = run("model", "show", "qwen3-30b")
    assert code == 2
    assert "qwen3-30b-a3b" in err


def test_add_from_a_config_and_from_numbers(tmp_path):
    folder = folder_with(tmp_path / "mine", COUNTS["llama"]["config"])
    assert run("model", "add", str(folder), "--name", "org/mine")[0] == 0
    code, out, _ = run("model", "show", "org/mine", "--json")
    assert code == 0
    assert json.loads(out)["parameters"] == COUNTS["llama"]["parameters"]
    numbers = ("--name", "odd", "--parameters", "7e9", "--kv-bytes-per-token", "1000", "--context", "4096")
    assert run("model", "add", *numbers)[0] == 0
    assert json.loads(run("model", "show", "odd", "--json")[1])["weight_bytes"] == 14_000_000_000
    assert "odd" in run("model", "list")[1]


@pytest.mark.parametrize(
    "wrong",
    [("--parameters", "nan"), ("--parameters", "-1"), ("--context", "0"), ("--name", "../x"), ("--parameters", "1e400")],
)
def test_add_refuses_numbers_that_cannot_be(tmp_path, wrong):
    numbers = {"--name": "odd", "--parameters": "7e9", "--kv-bytes-per-token": "1000", "--context": "4096"} | dict([wrong])
    code, _, err = run("model", "add", *(item for pair in numbers.items() for item in pair))
    assert code == 2
    assert err.count("\n") == 1
    assert not (tmp_path / "models").exists()


def test_a_damaged_file_of_the_own_catalogue_is_named(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "bad.json").write_text("{")
    code, _, err = run("model", "show", "gpt-oss-120b")
    assert code == 2
    assert "bad.json" in err


def test_list_fits():
    everything = json.loads(run("model", "list", "--json")[1])["models"]
    small = json.loads(run("model", "list", "--fits", "RTX-4090", "--json")[1])["models"]
    assert len(everything) >= 80
    assert all(row["source"] for row in everything)
    assert 0 < len(small) < len(everything)
    assert max(row["weight_bytes"] for row in small) < 25e9
