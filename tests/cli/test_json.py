"""What ``--json`` prints is published: each command has a schema, the committed files are those, and real output keeps them."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
import typer.main
import yaml
from typer.core import TyperGroup
from typer.testing import CliRunner

from scepsy.cli import app
from scepsy.cli.schemas import file_of, schemas
from scepsy.files.plan import save_plan
from scepsy.files.profiles import save_profiles
from tests.builders import plans
from tests.cli.test_profiling import written
from tests.executor.cluster.double import serve
from tests.sim.recorded.test_validate import engine_run, folder

COMMITTED = Path(__file__).parents[2] / "docs" / "schemas" / "commands"

PROMISED = {
    "trace stats": {
        "workflows.*.": "runs calls latency_s stable warnings llms",
        "workflows.*.latency_s.": "mean cv p50 p95",
        "workflows.*.llms.*.": "calls_per_run parallelism share input_tokens output_tokens",
        "workflows.*.llms.*.share.": "mean cv low high",
        "workflows.*.llms.*.input_tokens.": "mean p50 p95",
        "workflows.*.llms.*.output_tokens.": "mean p50 p95",
    },
    "trace import": {
        "": "format runs calls input_tokens output_tokens llms estimated_calls dropped_calls warnings",
        "llms.*.": "calls input_tokens output_tokens",
    },
    "plan": {
        "": "planner rate_per_s latency_s throughput_per_s gpus search_s optimal bound_latency_s allocations placement "
        "fragmentation_pct",
        "allocations.*.": "share_pct tensor_parallel replicas",
        "placement.*.": "llm instance node gpus share_pct",
    },
    "predict": {"": "latency_s throughput_per_s by_llm predictor", "latency_s.": "mean p50 p95 p99"},
    "simulate": {
        "": "runs calls latency_s throughput_per_s simulated_s wall_s calls_per_wall_s engine stable settled offered_per_s",
        "runs.": "issued completed rejected unfinished",
        "calls.": "issued completed rejected unfinished",
        "latency_s.": "mean mean_half_width p50 p95 p99",
        "workflows.*.": "stable settled offered_per_s throughput_per_s latency_s",
        "workflows.*.latency_s.": "mean mean_half_width p50 p95 p99",
    },
    "compare": {"rows.*.": "planner workflow rate_per_s seed source latency_mean_s latency_p95_s throughput_per_s"},
    "profile validate": {
        "runs.*.": "name source requests latency_mean_err_pct latency_p95_err_pct tpot_mean_err_pct ttft_mean_err_pct"
    },
    "validate": {"": "ok checks", "checks.*.": "name limit value ok"},
    "model show": {
        "": "name family parameters active_parameters weight_bytes kv_bytes_per_token context_tokens source",
    },
}
"""Fields that were promised to scripts (`*`: of each). A schema that no longer requires one breaks a promise."""

NOT_RUN_HERE = {
    "experiment run": "measures the machine's speed and profiles every workload of an experiment: minutes",
}
"""Commands whose document no test of this file makes, and why."""

RUNS = [
    ("trace stats", "chat.jsonl", 0),
    ("trace list", "", 0),
    ("trace generate", "chat -n 2 -o two.jsonl", 0),
    ("trace export", "otel chat.jsonl -o again.otlp.jsonl", 0),
    ("trace import", "chat.otlp.jsonl -o back.jsonl --stats", 0),
    ("profile show", "llama-3.1-8b", 0),
    ("profile check", "", 0),
    ("profile fit", "--aegaeon steps.json", 0),
    ("profile import", "vllm-bench bench.json --llm llama-3.1-8b -o profiles", 0),
    ("profile validate", "engine-run", 0),
    ("model list", "", 0),
    ("model show", "llama-3.1-8b", 0),
    ("model show", "openai/gpt-oss-120b", 0),
    ("model add", "--name mine --parameters 1e9 --kv-bytes-per-token 4096 --context 8192", 0),
    ("plan", "-t both.jsonl -t chat.jsonl --rate 0.3 --rate 0.3 --gpus 2 --suggest-models", 0),
    ("predict", "chat.plan.yaml", 0),
    ("predict", "chat.plan.yaml --predictor critical-path", 0),
    ("predict", "both.plan.yaml", 0),
    ("frontier", "-t chat.jsonl --rate 0.5 --gpus 2", 0),
    ("frontier", "-t chat.jsonl --rate 1e5 --gpus 2", 0),
    ("frontier", "-t chat.jsonl --rate 0.5 --gpus 1 --gpu-type A100-80G --gpu-type L4", 0),
    ("plan", "-t chat.jsonl --rate 0.5 --gpus 2 --goal cost --max-latency 20", 0),
    ("plan", "-t chat.jsonl --rates day.csv --gpus 2 --goal gpus --max-latency 60", 0),
    ("explore", "-t chat.jsonl --rate 0.5 --gpus 2 -o explore.html", 0),
    ("admit", "-t chat.jsonl --rate 0.5 --gpus 2", 0),
    ("admit", "-t chat.jsonl --rate 1e5 --gpus 2", 3),
    ("changes", "chat.plan.yaml both.plan.yaml", 0),
    ("simulate", "chat.plan.yaml -n 30", 0),
    ("simulate", "both.plan.yaml -n 30", 0),
    ("validate", "chat.plan.yaml -n 30 --max-latency 100 --max-p95 0.001 --min-throughput 0.1", 1),
    ("doctor", "", 0),
    ("report", "chat.plan.yaml -n 20 --jobs 1 -o chat.html", 0),
    ("compare", "chat.plan.yaml --runs 20", 0),
    ("compare", "chat.plan.yaml other.plan.yaml --runs 200", 0),
    ("experiment list", "", 0),
    ("experiment report", f"-r {Path(__file__).parents[2] / 'paper_figures' / 'data'} -o evaluation.html", 0),
    ("figures", "--only tab_01_workflows -o figures", 0),
]
RUN_BY_THEIR_OWN_TESTS = {
    "plan",
    "demo",
    "gateway",
    "profile run",
    "render",
    "diff",
    "apply",
    "wait",
    "status",
    "delete",
    "discover",
    "operate",
}


def commands(group: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from commands(command, f"{path}{name} ")
        else:
            yield f"{path}{name}", command


def test_every_command_that_prints_json_has_a_schema_and_no_schema_lacks_its_command() -> None:
    with_json = {
        name for name, command in commands(typer.main.get_command(app)) if any("--json" in p.opts for p in command.params)
    }
    assert with_json == set(schemas())


def test_every_schema_meets_real_output_or_says_why_not() -> None:
    run = {command for command, _, _ in RUNS} | RUN_BY_THEIR_OWN_TESTS
    assert set(schemas()) == run | set(NOT_RUN_HERE)
    assert not run & set(NOT_RUN_HERE)


def test_the_committed_files_are_up_to_date() -> None:
    committed = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in COMMITTED.iterdir()}
    made = {file_of(command): json.loads(msgspec.json.encode(schema)) for command, schema in schemas().items()}
    assert committed == made, "run: python -m scepsy.cli.schemas docs/schemas/commands"


@pytest.mark.parametrize("command", schemas())
def test_schemas_are_schemas(command: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schemas()[command])


def required(shape: Any, path: str = "") -> set[str]:
    """Every field that a shape demands, as a dotted path; of several documents, the fields of the first."""
    if "anyOf" in shape:
        return required(shape["anyOf"][0], path)
    found = set()
    for name in shape.get("required", ()):
        found |= {f"{path}{name}", *required(shape["properties"][name], f"{path}{name}.")}
    for key in ("items", "additionalProperties"):
        if key in shape:
            found |= required(shape[key], f"{path}*.")
    return found


@pytest.mark.parametrize("command", PROMISED)
def test_promised_fields_stay(command: str) -> None:
    wanted = {f"{inside}{name}" for inside, names in PROMISED[command].items() for name in names.split()}
    assert wanted <= required(schemas()[command])


def said(command: str, words: str = "", code: int = 0) -> Any:
    """The command's document, which keeps its schema; and a document that lacks a required field does not."""
    result = CliRunner().invoke(app, [*command.split(), *words.split(), "--json"])
    assert result.exit_code == code, result.stderr
    document = json.loads(result.stdout)
    schema = schemas()[command]
    jsonschema.validate(document, schema)
    for part in schema.get("anyOf", [schema]):
        if set(part["required"]) <= set(document):
            for name in part["required"]:
                renamed = {f"{key}_" if key == name else key: value for key, value in document.items()}
                with pytest.raises(jsonschema.ValidationError):
                    jsonschema.validate(renamed, schema)
    return document


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with small traces, plans and recordings; the commands are run in it."""
    made = tmp_path_factory.mktemp("case")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        patch.setenv("SCEPSY_MODELS", str(made / "models"))
        said("trace generate", "chat -n 20 -o chat.jsonl")
        # A second workflow of the same calls: one more profile of curves would be most of this file's time.
        Path("both.jsonl").write_text(Path("chat.jsonl").read_text().replace('"workflow":"chat"', '"workflow":"talk"'))
        said("trace export", "otel chat.jsonl -o chat.otlp.jsonl")
        Path("day.csv").write_text("time,rate_per_s\n00:00,0.2\n12:00,0.5\n")
        said("plan", "-t chat.jsonl --rate 0.5 --gpus 2 -o chat.plan.yaml --explain")
        said("plan", "-t chat.jsonl --rate 0.5 --gpus 2 --pin llama-3.1-8b=1:100:2 -o other.plan.yaml")
        said("plan", "-t chat.jsonl --rate 0.3 -t both.jsonl --rate 0.3 --gpus 2 -o both.plan.yaml")
        Path("bench.json").write_text(written("vllm-bench", [(100 + 20 * n, 0.02 + 1e-5 * n) for n in range(40)]))
        steps = {f"{tokens},{batch}": [0.01 + 1e-5 * tokens * batch, 0.02 + 1e-4 * batch] for tokens in (64, 256, 1024)
                 for batch in (1, 4, 16)}  # fmt: skip
        Path("steps.json").write_text(json.dumps({"made": steps}))
        folder(made / "engine-run", engine_run(count=60))
        yield made


@pytest.mark.parametrize(("command", "words", "code"), RUNS)
def test_real_output_keeps_its_schema(case: Path, command: str, words: str, code: int) -> None:
    said(command, words, code)


def test_a_plan_and_what_another_number_of_workflows_changes_in_it(case: Path) -> None:
    planned = said("plan", "-t chat.jsonl --rate 0.5 --gpus 2")
    assert list(planned["allocations"]) == ["llama-3.1-8b"]
    assert planned["rate_per_s"] == 0.5
    both = said("plan", "-t chat.jsonl --rate 0.3 -t both.jsonl --rate 0.3 --gpus 2")
    assert both["rate_per_s"] == {"chat": 0.3, "talk": 0.3}


def test_deploying_on_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_profiles(tmp_path / "p.yaml", plans.profiles())
    save_plan(tmp_path / "x.plan.yaml", msgspec.structs.replace(plans.two_nodes(), profiles="p.yaml"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    said("render", "x.plan.yaml --gateway-image x:1")
    said("render", "x.plan.yaml --gateway-image x:1 --kustomize base")
    with serve(plans.two_nodes().cluster) as double:
        kubeconfig = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": double.url}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
        }
        Path("kubeconfig").write_text(yaml.safe_dump(kubeconfig))
        assert said("status", code=1)["state"] == "absent"
        assert said("diff", "x.plan.yaml --gateway-image x:1", code=1)["differences"]
        for where in ("client", "server"):
            assert said("apply", f"x.plan.yaml --no-validate --gateway-image x:1 --dry-run {where}")["objects"]
        assert said("apply", "x.plan.yaml --no-validate --gateway-image x:1")["started"] == 6
        assert said("status")["state"] == "serving"
        assert said("status", "--no-metrics")["instances"][0]["load"] is None
        assert said("wait")["serving"] == 6
        assert said("discover")["nodes"][0]["gpu_uuids"]
        assert said("delete")["deleted"] > 0


def test_deploying_on_this_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from executor.local import deployment

    save_profiles(tmp_path / "p.yaml", plans.profiles())
    save_plan(tmp_path / "x.plan.yaml", msgspec.structs.replace(plans.one_node(), profiles="p.yaml"))
    row = {"instance": "embedder-0", "phase": "healthy", "url": "http://127.0.0.1:1", "restarts": 0, "problem": ""}
    state = {"phase": "healthy", "gateway": "http://127.0.0.1:2", "instances": [row], "notes": [], "problem": ""}
    monkeypatch.setattr(deployment, "apply", lambda *args: None)
    monkeypatch.setattr(deployment, "status", lambda folder: state)
    monkeypatch.setattr(deployment, "delete", lambda folder, force: True)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    said("apply", "x.plan.yaml --no-validate --target local")
    said("status", "--target local")
    said("delete", "--target local")


def test_where_the_gateway_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from executor.gateway import serve as serving

    def run(path: Path, settings: Any, announce: Callable[[str], None]) -> None:
        announce("http://127.0.0.1:8080")

    monkeypatch.setattr(serving, "run", run)
    (tmp_path / "gateway.yaml").write_text(GATEWAY)
    assert said("gateway", f"--config {tmp_path / 'gateway.yaml'}")["llms"] == ["small"]


GATEWAY = """format: scepsy.gateway
version: 1
endpoints:
- {llm: small, name: small-0, url: "http://127.0.0.1:1"}
"""


def test_what_engines_on_this_host_were_measured_at(case: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scepsy.api import engine_profiles
    from scepsy.profile.catalogue import builtin_profiles

    known = builtin_profiles(["llama-3.1-8b"], ["A100-80G"], degrees=(1,))
    fitted = engine_profiles.Fitted(
        llm="llama-3.1-8b", tensor_parallel=1, share_pct=100, step=known.profiles[0].step, residual_pct=1.0,
        held_out={"latency_mean_err_pct": None}, capacity_per_s=2.0,
    )  # fmt: skip
    monkeypatch.setattr(engine_profiles, "profile_trace", lambda *args, **options: (known, [fitted]))
    counts = json.loads((Path(__file__).parents[1] / "models" / "transformers_counts.json").read_text(encoding="utf-8"))
    Path("model").mkdir()
    Path("model/config.json").write_text(json.dumps(counts["llama"]["config"]))
    [row] = said("profile run", "-t chat.jsonl --model llama-3.1-8b=model -o measured")["measured"]
    assert row["capacity_per_s"] == 2.0
