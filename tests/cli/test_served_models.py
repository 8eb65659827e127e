"""Which model serves a name of the trace: said once with --as, kept in the plan, used by all that follows."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from typer.testing import CliRunner

from scepsy.cli import app
from scepsy.cluster import Cluster, Node
from scepsy.files.cluster import save_cluster
from scepsy.files.plan import load_plan
from scepsy.profile.catalogue import gpu_type

PLAN = "plan -t two.jsonl --rate 0.5 -c own.yaml --as our-assistant=Qwen/Qwen3-8B --as our-reviewer=qwen3-4b"


def run(line: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, line.split())
    return result.exit_code, result.stdout, result.stderr


def document(line: str) -> Any:
    code, out, err = run(f"{line} --json")
    assert code == 0, err
    return json.loads(out)


@pytest.fixture(scope="module", autouse=True)
def _case(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("served"))
        gpu = gpu_type("H100-80G")
        node = Node(name="gpu-1", gpu_type=gpu.name, gpus=2, gpu_uuids=("GPU-a", "GPU-b"))
        save_cluster("own.yaml", Cluster(name="own", gpu_types=(gpu,), nodes=(node,)))
        made = run("trace generate reflection -n 20 --llm writer=our-assistant --llm critic=our-reviewer -o two.jsonl")
        assert made[0] == 0, made
        assert run(f"{PLAN} -o two.plan.yaml")[0] == 0
        yield


def test_the_plan_names_traffic_model_hub_id_and_precision() -> None:
    assert list(msgspec.to_builtins(load_plan("two.plan.yaml").models)) == [
        {"llm": "our-assistant", "model": "qwen3-8b", "hub_id": "Qwen/Qwen3-8B", "quantisation": "bfloat16"},
        {"llm": "our-reviewer", "model": "qwen3-4b", "hub_id": "Qwen/Qwen3-4B", "quantisation": "bfloat16"},
    ]
    assert document(PLAN)["models"]["our-reviewer"] == {
        "model": "qwen3-4b",
        "hub_id": "Qwen/Qwen3-4B",
        "quantisation": "bfloat16",
    }
    assert "Qwen/Qwen3-8B" in run(PLAN)[1]


def test_render_deploys_the_models_of_the_plan() -> None:
    code, out, err = run("render two.plan.yaml --gateway-image registry.example/scepsy:1")
    assert code == 0, err
    args = [
        container["args"]
        for each in yaml.safe_load_all(out)
        if each["kind"] == "Deployment"
        for container in each["spec"]["template"]["spec"]["containers"]
        if container["name"] == "vllm"
    ]
    pairs = {(a[a.index("--served-model-name") + 1], a[a.index("--model") + 1]) for a in args}
    assert pairs == {("our-assistant", "Qwen/Qwen3-8B"), ("our-reviewer", "Qwen/Qwen3-4B")}


def test_render_takes_a_model_and_an_image_on_its_command_line() -> None:
    code, _, err = run("render two.plan.yaml")
    assert (code, "--gateway-image IMAGE" in err) == (2, True)
    code, out, err = run("render two.plan.yaml --gateway-image x:1 --as our-reviewer=/models/own")
    assert (code, "/models/own" in out) == (0, True), err
    code, _, err = run("render two.plan.yaml --gateway-image x:1 --as our-reviwer=/models/own")
    assert (code, "no LLM of the plan" in err, err.count("\n")) == (2, True, 1)


def test_two_names_of_one_model_say_that_they_do_not_share_instances() -> None:
    both = PLAN.replace("qwen3-4b", "Qwen/Qwen3-8B")
    assert any(
        "our-assistant and our-reviewer are one model (qwen3-8b), each on instances of its own" in note
        for note in document(both)["assumptions"]
    )
    assert not any("are one model" in note for note in document(PLAN)["assumptions"])


def test_a_model_without_a_hub_id_is_said_by_the_plan_and_asked_for_before_deploying(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCEPSY_MODELS", str(tmp_path / "models"))
        added = (
            "model add --name house-4b --parameters 4e9 --weight-bytes 8000000000 --kv-bytes-per-token 147456 --context 40960"
        )
        assert run(added)[0] == 0
        line = f"{PLAN.replace('qwen3-4b', 'house-4b')} -o {tmp_path}/house.plan.yaml"
        said = document(line)
        assert said["models"]["our-reviewer"]["hub_id"] is None
        assert any("our-reviewer (house-4b)" in note and "--as" in note for note in said["assumptions"])
        code, _, err = run(f"render {tmp_path}/house.plan.yaml --gateway-image x:1")
        assert (code, "house-4b" in err, err.count("\n")) == (2, True, 1)
        assert run(f"render {tmp_path}/house.plan.yaml --gateway-image x:1 --as our-reviewer=own/house-4b")[0] == 0


def test_a_plan_written_before_models_were_kept_still_loads() -> None:
    text = yaml.safe_load(Path("two.plan.yaml").read_text())
    del text["models"]
    Path("old.plan.yaml").write_text(yaml.safe_dump(text))
    assert load_plan("old.plan.yaml").models == ()
    code, out, err = run("render old.plan.yaml --gateway-image x:1")
    assert (code, "Qwen/Qwen3-8B" in out) == (0, True), err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "our-reviewer=bge-large-en-v1.5",
            "LLM 'our-reviewer': its calls generate text, but its model bge-large-en-v1.5 can only embed",
        ),
        ("our-reviewer=bge-reranker-large", "its model bge-reranker-large can only rerank"),
        (
            "our-reviewer=llama-2-7b",
            "LLM 'our-reviewer': its longest call has 5000 tokens, but its model llama-2-7b takes 4096",
        ),
    ],
)
def test_a_model_of_the_wrong_kind_or_length_is_refused_early(given: str, message: str) -> None:
    text = Path("two.jsonl").read_text().splitlines()
    run_ = json.loads(text[1])
    reviewed = next(call for call in run_["calls"] if call["llm"] == "our-reviewer")
    reviewed["input_tokens"] = 5000 - reviewed["output_tokens"]
    Path("long.jsonl").write_text("\n".join([text[0], json.dumps(run_), *text[2:]]) + "\n")
    code, _, err = run(PLAN.replace("two.jsonl", "long.jsonl").replace("our-reviewer=qwen3-4b", given))
    assert (code, message in err, err.count("\n")) == (2, True, 1), err


def test_a_chunk_longer_than_a_reranker_takes_is_refused_in_one_line() -> None:
    assert run("trace generate rag-rerank -n 10 -o rag.jsonl")[0] == 0
    text = Path("rag.jsonl").read_text().splitlines()
    run_ = json.loads(text[1])
    call = next(call for call in run_["calls"] if call.get("kind") == "rerank")
    call["input_tokens"] = 700
    call.pop("prefix_hashes", None)
    Path("chunks.jsonl").write_text("\n".join([text[0], json.dumps(run_), *text[2:]]) + "\n")
    code, _, err = run("plan -t chunks.jsonl --rate 1 --gpus 4")
    assert (code, err.count("\n")) == (2, 1), err
    assert "its longest call has 700 tokens, but its model bge-reranker-large takes 512" in err


def test_a_swapped_model_is_a_change_and_can_be_planned_for() -> None:
    swapped = PLAN.replace("our-reviewer=qwen3-4b", "our-reviewer=llama-3.2-3b")
    assert run(f"{swapped} -o swapped.plan.yaml")[0] == 0
    found = document("changes two.plan.yaml swapped.plan.yaml")
    assert found["models"] == [{"llm": "our-reviewer", "before": "qwen3-4b (bfloat16)", "after": "llama-3.2-3b (bfloat16)"}]
    assert any(name.startswith("our-reviewer") for name in found["started"])
    assert "our-reviewer: another model: qwen3-4b" in run("changes two.plan.yaml swapped.plan.yaml")[1]
    code, _, err = run(f"{swapped} --from two.plan.yaml --max-started 1 -o next.plan.yaml")
    assert code in (0, 3), err
    if code == 0:
        assert len(document("changes two.plan.yaml next.plan.yaml")["started"]) <= 1
    else:
        assert "starts at most 1 instances" in err


def test_a_running_plan_grows_with_its_cluster() -> None:
    line = PLAN.replace("-c own.yaml", "--gpu-type H100-80G")
    assert run(f"{line} --gpus 2 -o two-gpus.plan.yaml")[0] == 0
    assert run(f"{line} --gpus 4 --from two-gpus.plan.yaml --max-started 2 -o four.plan.yaml")[0] == 0
    found = document("changes two-gpus.plan.yaml four.plan.yaml")
    assert len(found["started"]) <= 2
    assert len(load_plan("four.plan.yaml").cluster.gpus) == 4
    before, after = (load_plan(f"{name}.plan.yaml").expected[0].latency_s for name in ("two-gpus", "four"))
    assert after <= before
