"""What platform engineers add: placement options, policies for others, monitoring, Kustomize and Argo CD."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from typer.testing import CliRunner

from executor.gateway.metrics import Metrics
from executor.gateway.pool import InstancePool
from executor.manifests import RenderOptions, render
from executor.manifests.kustomize import SYNC_OPTIONS, SYNC_WAVE, kustomize_base
from executor.manifests.monitoring import dashboard
from scepsy.cli import app
from scepsy.errors import Infeasible, InputError
from scepsy.files.plan import save_plan
from scepsy.files.profiles import save_profiles
from tests.builders import plans
from tests.executor.cluster.schema import structural_fault
from tests.executor.cluster.stored import respelt

PROFILES = plans.profiles()
PINNED = "registry.example/vllm@sha256:" + "0" * 64


def options(**changes: Any) -> RenderOptions:
    return msgspec.convert({"gateway_image": plans.IMAGE, **changes}, RenderOptions)


EVERYTHING: dict[str, Any] = {
    "engine_image": PINNED,
    "gateway_image": PINNED,
    "cache_claim": "cache",
    "recording_claim": "recordings",
    "models_host_path": "/srv/models",
    "hf_secret": "hf",
    "tolerations": [{"key": "team", "operator": "Equal", "value": "ml", "effect": "NoSchedule"}],
    "node_selector": {"pool": "cpu"},
    "priority_class": "serving",
    "endpoint_picker": "epp",
    "calls_from": [{"namespace": {"kubernetes.io/metadata.name": "envoy"}}],
    "metrics_from": [{"namespace": {"kubernetes.io/metadata.name": "monitoring"}, "pods": {"app": "prometheus"}}],
    "pod_monitor": True,
    "dashboard": True,
}


@pytest.mark.parametrize("target", ["dra", "mps", "hami"])
def test_every_option_is_what_the_schemas_allow(target: str) -> None:
    plan = plans.one_node() if target == "hami" else plans.two_nodes()
    made = render(plan, PROFILES, options(target=target, **EVERYTHING))
    kinds = {obj["kind"] for obj in made.objects}
    assert {"PodMonitor", "InferencePool"} <= kinds
    assert [(obj["kind"], structural_fault(obj)) for obj in made.objects if structural_fault(obj)] == []


@pytest.mark.parametrize("target", ["dra", "mps", "hami"])
@pytest.mark.parametrize("changes", [{}, EVERYTHING, {"gateway_replicas": 2, "api_keys_secret": "keys", "models_claim": "m"}])
def test_a_server_stores_what_is_rendered_as_it_is_spelt(target: str, changes: dict[str, Any]) -> None:
    """Else Argo CD, Flux and ``kubectl diff`` would see a difference for ever."""
    plan = plans.one_node() if target == "hami" else plans.two_nodes()
    made = render(plan, PROFILES, options(target=target, **changes))
    assert [(obj["kind"], found) for obj in made.objects if (found := respelt(obj))] == []


def test_the_gateway_records_into_its_claim_and_nowhere_else() -> None:
    for claim, wanted in (("recordings", {"path": "/recordings/calls.jsonl"}), ("", None)):
        made = list(render(plans.two_nodes(), PROFILES, options(recording_claim=claim)).objects)
        config = next(o for o in made if o["kind"] == "ConfigMap" and "gateway.yaml" in o.get("data", {}))
        recording = json.loads(config["data"]["gateway.yaml"]).get("recording")
        assert (recording and {"path": recording["path"]}) == wanted
        gateway = next(o for o in made if o["kind"] == "Deployment" and o["metadata"]["name"] == "scepsy-gateway")
        pod = gateway["spec"]["template"]["spec"]
        claims = [v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if "persistentVolumeClaim" in v]
        assert claims == ([claim] if claim else [])
        [mounts] = [c["volumeMounts"] for c in pod["containers"]]
        assert any(m["mountPath"] == "/recordings" and not m.get("readOnly") for m in mounts) is bool(claim)


def test_one_recording_has_one_writer() -> None:
    with pytest.raises(ValueError, match="gateway_replicas is 2: must be 1 where recording_claim is given"):
        RenderOptions(gateway_image="x", gateway_replicas=2, recording_claim="recordings")


def test_what_a_server_would_spell_otherwise_is_noticed() -> None:
    made = list(render(plans.two_nodes(), PROFILES, options()).objects)
    engine = next(o for o in made if o["kind"] == "Deployment" and o["metadata"]["labels"].get("scepsy.dev/engine"))
    claim = next(o for o in made if o["kind"] == "ResourceClaim")
    policy = next(o for o in made if o["kind"] == "NetworkPolicy" and "ports" in o["spec"]["ingress"][0])
    pod = engine["spec"]["template"]["spec"]
    pod["containers"][0]["resources"]["requests"] = {"cpu": "1000m", "memory": "2048Mi"}
    pod["imagePullSecrets"] = []
    del claim["spec"]["devices"]["requests"][0]["exactly"]["count"]
    del policy["spec"]["ingress"][0]["ports"][0]["protocol"]
    container = ".spec.template.spec.containers[0].resources.requests"
    assert respelt(engine) == [
        f"{container}.cpu: '1000m' is stored as '1'",
        f"{container}.memory: '2048Mi' is stored as '2Gi'",
        ".spec.template.spec.imagePullSecrets: [] is stored as None",
    ]
    assert respelt(claim) == [".spec.devices.requests[0].exactly.count: None is stored as 1"]
    assert respelt(policy) == [".spec.ingress[0].ports[0].protocol: None is stored as 'TCP'"]


def test_options_reach_every_engine() -> None:
    made = render(plans.two_nodes(), PROFILES, options(**EVERYTHING))
    for engine in made.engines:
        spec = engine.deployment["spec"]["template"]["spec"]
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        assert volumes["models"]["hostPath"] == {"path": "/srv/models", "type": "Directory"}
        assert volumes["scratch"]["persistentVolumeClaim"] == {"claimName": "cache"}
        assert spec["tolerations"][1:] == [{"key": "team", "operator": "Equal", "value": "ml", "effect": "NoSchedule"}]
        assert spec["priorityClassName"] == "serving"
    gateway = next(obj for obj in made.gateway if obj["kind"] == "Deployment")
    assert gateway["spec"]["template"]["spec"]["nodeSelector"] == {"pool": "cpu"}
    assert (made.notes, made.unpinned) == ((), ())


def test_a_schema_that_a_picker_without_a_port_would_not_pass() -> None:
    pool = next(o for o in render(plans.two_nodes(), PROFILES, options(**EVERYTHING)).objects if o["kind"] == "InferencePool")
    broken = {**pool, "spec": {**pool["spec"], "endpointPickerRef": {"name": "epp"}}}
    assert structural_fault(broken) is not None
    assert structural_fault({**pool, "spec": {**pool["spec"], "targetPort": 8000}}) is not None


def ingress(chosen: RenderOptions, name: str) -> list[Any]:
    found = [o for o in render(plans.two_nodes(), PROFILES, chosen).objects if o["kind"] == "NetworkPolicy"]
    [policy] = [o for o in found if o["metadata"]["name"] == name]
    return [peer for rule in policy["spec"]["ingress"] for peer in rule["from"]]


def test_prometheus_and_the_picker_get_through() -> None:
    peers = ingress(options(**EVERYTHING), "scepsy-engine")
    assert {"podSelector": {"matchLabels": {"inferencepool": "epp"}}} in peers
    assert {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "envoy"}}} in peers
    prometheus = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}},
        "podSelector": {"matchLabels": {"app": "prometheus"}},
    }
    assert prometheus in peers
    assert prometheus in ingress(options(**EVERYTHING), "scepsy-gateway")
    assert len(ingress(options(), "scepsy-engine")) == 1


def test_what_stays_shut_out_is_said() -> None:
    made = render(plans.two_nodes(), PROFILES, options(endpoint_picker="epp", pod_monitor=True))
    notes = made.notes
    assert any("until calls_from names them" in note for note in notes)
    assert any("until metrics_from names it" in note for note in notes)
    assert made.unpinned == ("vllm/vllm-openai:v0.32.0", "scepsy/gateway:0.1.0")


def test_two_places_for_models_are_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="models_host_path is '/a': must be empty where models_claim is given"):
        options(models_claim="models", models_host_path="/a")


def test_a_second_worker_on_a_shared_gpu_is_refused() -> None:
    """The memory cap of MPS holds for each process: two data-parallel ranks on one GPU would have it twice."""
    twice = options(engine_args={"reranker": ["--data-parallel-size=2"]})
    with pytest.raises(
        InputError, match=r"engine_args of reranker has --data-parallel-size=2: must not be used on shared GPUs"
    ):
        render(plans.two_nodes(), PROFILES, twice)


def test_gpus_cut_by_mig_are_refused() -> None:
    plan = plans.two_nodes()
    cut = msgspec.structs.replace(plans.A100, partitions_pct=(40, 50, 30, 100))
    plan = msgspec.structs.replace(plan, cluster=msgspec.structs.replace(plan.cluster, gpu_types=(cut,)))
    with pytest.raises(Infeasible, match=r"target dra cannot run instance qwen3-8b-0: node n1 has GPUs cut by MIG"):
        render(plan, PROFILES, plans.OPTIONS)


def test_the_dashboard_asks_for_metrics_that_exist() -> None:
    """Names against the gateway's own registry, and against the list of vLLM's metrics that the project relies on."""
    metrics = Metrics()
    known = {family.name for family in metrics.registry.collect()}
    assert metrics.render(InstancePool(()), 0, 0)
    text = json.dumps(dashboard(options(release="rag", namespace="prod")))
    asked = set(re.findall(r"scepsy_gateway_\w+", text))
    assert asked
    assert {re.sub(r"_(total|bucket)$", "", name) for name in asked} <= known
    vllm = Path("docs/kubernetes.md").read_text()
    assert all(f"`{name}`" in vllm for name in set(re.findall(r"vllm:\w+", text)))
    assert "$RELEASE" not in text
    assert "prod" in text


def test_the_dashboard_is_laid_out_and_every_query_can_be_read() -> None:
    promql = pytest.importorskip("promql_parser", reason="the extra 'dev' has it")
    panels = dashboard(options())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        for target in panel["targets"]:
            promql.parse(target["expr"])


def test_the_dashboard_shows_its_own_release_alone() -> None:
    """Two releases share a namespace, and two gateways count the same instances."""
    queries = [target["expr"] for panel in dashboard(options(release="rag"))["panels"] for target in panel["targets"]]
    for query in queries:
        asked = re.findall(r"(scepsy_gateway|vllm:)\w+\{([^}]*)\}", query)
        assert asked, query
        for whose, labels in asked:
            assert f'pod=~"rag-{"gateway-" if whose == "scepsy_gateway" else ""}.*"' in labels, query
    [up] = [query for query in queries if "instance_up" in query]
    assert "max by (llm, exported_instance)" in up


def test_a_base_is_deterministic_and_whole() -> None:
    made = render(plans.two_nodes(), PROFILES, options(**EVERYTHING))
    first, second = kustomize_base(made), kustomize_base(render(plans.two_nodes(), PROFILES, options(**EVERYTHING)))
    assert first == second
    kustomization = yaml.safe_load(first["kustomization.yaml"])
    listed = [doc for name in kustomization["resources"] for doc in yaml.safe_load_all(first[name])]
    assert {(d["kind"], d["metadata"]["name"]) for d in listed} == {(o["kind"], o["metadata"]["name"]) for o in made.objects}
    assert kustomization["images"] == [{"name": "registry.example/vllm", "digest": "sha256:" + "0" * 64}]
    [record] = yaml.safe_load_all(first["plan.yaml"])
    assert record["metadata"]["annotations"][SYNC_OPTIONS] == "ServerSideApply=true"
    waves = {d["metadata"]["name"]: int(d["metadata"]["annotations"].get(SYNC_WAVE, "0")) for d in listed}
    by_name = {engine.name: engine for engine in made.engines}
    for engine in made.engines:
        assert waves[engine.name] > max([0, *(waves[name] for name in engine.after if name in by_name)])


def kustomize() -> list[str]:
    """The command that builds a kustomization: Kustomize's own, or the one within kubectl; empty where there is neither."""
    alone = os.environ.get("KUSTOMIZE") or shutil.which("kustomize")
    return [alone, "build"] if alone else [tool, "kustomize"] if (tool := shutil.which("kubectl")) else []


@pytest.mark.skipif(not kustomize(), reason="neither kustomize nor kubectl is installed")
def test_kustomize_builds_the_base_and_an_overlay(tmp_path: Path) -> None:
    made = render(plans.two_nodes(), PROFILES, plans.OPTIONS)
    (tmp_path / "base").mkdir()
    for name, text in kustomize_base(made).items():
        (tmp_path / "base" / name).write_text(text)
    (tmp_path / "over").mkdir()
    toleration = {"op": "add", "path": "/spec/template/spec/tolerations/-", "value": {"key": "team", "operator": "Exists"}}
    overlay = {
        "resources": ["../base"],
        "images": [{"name": "vllm/vllm-openai", "digest": "sha256:" + "1" * 64}],
        "patches": [
            {
                "target": {"kind": "Deployment", "labelSelector": "app.kubernetes.io/component=engine"},
                "patch": yaml.safe_dump([toleration]),
            }
        ],
    }
    (tmp_path / "over" / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    built = subprocess.run([*kustomize(), str(tmp_path / "over")], capture_output=True, text=True, check=True)
    documents = list(yaml.safe_load_all(built.stdout))
    assert len(documents) == len(list(made.objects))
    engines = [d for d in documents if d["metadata"].get("labels", {}).get("app.kubernetes.io/component") == "engine"]
    for each in (d for d in engines if d["kind"] == "Deployment"):
        spec = each["spec"]["template"]["spec"]
        assert spec["containers"][0]["image"] == "vllm/vllm-openai@sha256:" + "1" * 64
        assert {"key": "team", "operator": "Exists"} in spec["tolerations"]


def test_the_command_writes_the_base(tmp_path: Path) -> None:
    save_profiles(tmp_path / "p.yaml", PROFILES)
    save_plan(tmp_path / "x.plan.yaml", msgspec.structs.replace(plans.two_nodes(), profiles="p.yaml"))
    words = [str(tmp_path / "x.plan.yaml"), "--gateway-image", plans.IMAGE, "--kustomize", str(tmp_path / "base")]
    done = CliRunner().invoke(app, ["render", *words])
    assert done.exit_code == 0, done.stderr
    assert sorted(p.name for p in (tmp_path / "base").iterdir()) == [
        "base.yaml",
        "devices.yaml",
        "engines.yaml",
        "gateway.yaml",
        "kustomization.yaml",
        "plan.yaml",
    ]
