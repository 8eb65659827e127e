"""What every rendering must be: the golden text, the strict schemas, the plan and nothing but the plan."""

import json
import os
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import kubernetes_validate
import msgspec
import pytest
import yaml
from hypothesis import given, settings

from executor.gateway.config import load_gateway
from executor.manifests import Rendered, RenderOptions, read_plan_config_map, render, to_json, to_yaml
from executor.manifests.options import Target
from executor.manifests.replay import replay_objects
from scepsy.backend import Stream, Workload
from scepsy.capabilities import TARGETS, refusals
from scepsy.errors import Infeasible, InputError
from scepsy.plans import Plan
from scepsy.workload import Arrivals, Call, Run, Trace, TraceSource
from tests.builders import plans
from tests.executor.cluster.schema import structural_fault

GOLDEN = Path(__file__).parent / "golden"
MINORS = ("1.34", "1.35", "1.36", "1.37")
PROFILES, OPTIONS = plans.profiles(), plans.OPTIONS


def options(target: str = "dra", **changes: Any) -> RenderOptions:
    return msgspec.convert({"target": target, "gateway_image": plans.IMAGE, **changes}, RenderOptions)


def full(target: str, plan: Plan | None = None) -> RenderOptions:
    """Every option in use; entries by LLM only for those of ``plan``."""
    named = ["qwen3-8b"] if plan is None or any(a.llm == "qwen3-8b" for a in plan.allocations) else []
    return options(
        target,
        hf_secret="hf",
        api_keys_secret="keys",
        models_claim="models",
        models=dict.fromkeys(named, "/models/qwen"),
        engine_args={llm: ["--enforce-eager"] for llm in named},
        gateway_replicas=2,
    )


def for_target(target: str) -> Plan:
    return plans.one_node() if target == "hami" else plans.two_nodes()


@pytest.mark.parametrize("target", ["dra", "mps", "hami"])
def test_golden(target: str) -> None:
    """After a wanted change: SCEPSY_GOLDEN=write pytest tests/executor/manifests, then read the diff."""
    rendered = render(for_target(target), PROFILES, full(target))
    text = to_yaml(rendered.objects, rendered.options.namespace)
    path = GOLDEN / f"{target}.yaml"
    if os.environ.get("SCEPSY_GOLDEN") == "write":
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("minor", MINORS)
@pytest.mark.parametrize("target", ["dra", "mps", "hami"])
@pytest.mark.parametrize("chosen", [options, full])
def test_every_object_is_valid_under_the_strict_schema_of_every_supported_minor(target: str, minor: str, chosen: Any) -> None:
    assert minor in {".".join(version.split(".")[:2]) for version in kubernetes_validate.utils.all_versions()}
    for each in render(for_target(target), PROFILES, chosen(target)).objects:
        kubernetes_validate.validate(each, minor, strict=True)


@pytest.mark.parametrize("minor", MINORS)
def test_the_replay_job_is_valid_too(minor: str) -> None:
    calls = (Call(id="c", llm="qwen3-8b", input_tokens=5, output_tokens=1),)
    trace = Trace(source=TraceSource(origin="test"), runs=(Run(id="r", workflow="rag", calls=calls),))
    load = Workload(streams=(Stream(trace=trace, arrivals=Arrivals(rate_per_s=1.0)),), runs=1)
    plan = plans.two_nodes()
    for each in replay_objects(plan, render(plan, PROFILES, full("dra", plan)), load, PROFILES, deadline_s=60):
        kubernetes_validate.validate(each, minor, strict=True)


@pytest.mark.parametrize("tensor_parallel", [1, 2, 4, 8])
@pytest.mark.parametrize("target", ["dra", "mps", "hami"])
def test_every_degree_is_what_server_side_apply_can_read(target: str, tensor_parallel: int) -> None:
    """Keyed lists name each key once: a claim, an environment variable, a volume, a mount, a port."""
    for each in render(plans.degree(tensor_parallel, whole=target == "hami"), PROFILES, full(target)).objects:
        assert structural_fault(each) is None


@settings(max_examples=50, deadline=None)
@given(plans.plans())
def test_any_plan_is_what_server_side_apply_can_read(plan: Plan) -> None:
    for each in render(plan, PROFILES, full("dra", plan)).objects:
        assert structural_fault(each) is None


def test_the_schemas_are_strict_enough_to_notice_a_typo() -> None:
    claim = json.loads(json.dumps(render(plans.two_nodes(), PROFILES, OPTIONS).holders[0]))
    claim["spec"]["devices"]["requests"][0]["exactly"]["selector"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(claim, "1.36", strict=True)


def devices_of(rendered: Rendered) -> dict[str, list[str]]:
    """UUIDs that each engine's pod is given and makes visible, resolved from the manifests alone."""
    claims = {c["metadata"]["name"]: c["spec"]["devices"]["requests"] for c in rendered.holders}
    found: dict[str, list[str]] = {}
    for each in rendered.engines:
        spec = each.deployment["spec"]["template"]["spec"]
        claim = claims[spec["resourceClaims"][0]["resourceClaimName"]]
        [entry] = spec["containers"][0]["resources"]["claims"]
        given = {
            re.findall(r"'([^']*)'$", r["exactly"]["selectors"][0]["cel"]["expression"])[0]
            for r in claim
            if entry.get("request", r["name"]) == r["name"]
        }
        visible = env(each.deployment)["CUDA_VISIBLE_DEVICES"].split(",")
        assert set(visible) <= given
        found[each.instance] = visible
    return found


def env(deployment: dict[str, Any]) -> dict[str, str]:
    return {e["name"]: e.get("value", "") for e in deployment["spec"]["template"]["spec"]["containers"][0]["env"]}


@settings(max_examples=150)
@given(plans.plans())
def test_manifests_are_the_plan(plan: Plan) -> None:
    """Each instance exactly once, on its GPUs; shares and memory within each GPU; domains on one node; TP over NVLink."""
    rendered = render(plan, PROFILES, OPTIONS)
    assert sorted(e.instance for e in rendered.engines) == sorted(i.name for i in plan.instances)
    assert len({e.name for e in rendered.engines}) == len(plan.instances)
    devices = devices_of(rendered)
    held = Counter(
        re.findall(r"'([^']*)'$", r["exactly"]["selectors"][0]["cel"]["expression"])[0]
        for claim in rendered.holders
        for r in claim["spec"]["devices"]["requests"]
    )
    assert max(held.values()) == 1, "two claims want one device"
    node_of = {u: n.name for n in plan.cluster.nodes for u in n.gpu_uuids}
    for claim in rendered.holders:
        names = [r["exactly"]["selectors"][0]["cel"]["expression"] for r in claim["spec"]["devices"]["requests"]]
        assert len({node_of[re.findall(r"'([^']*)'$", name)[0]] for name in names}) == 1
    nvlink = {plans.uuid(g.node, g.index): number for number, d in enumerate(plan.cluster.nvlink_domains()) for g in d}
    share: Counter[str] = Counter()
    memory: Counter[str] = Counter()
    by_name = {i.name: i for i in plan.instances}
    for each in rendered.engines:
        planned = by_name[each.instance]
        uuids = [plans.uuid(g.node, g.index) for g in planned.gpus]
        spec = each.deployment["spec"]["template"]["spec"]
        assert each.deployment["spec"]["replicas"] == 1
        assert spec["nodeSelector"] == {"kubernetes.io/hostname": planned.gpus[0].node}
        assert devices[each.instance] == uuids
        assert len({nvlink[u] for u in uuids}) == 1
        seen = env(each.deployment)
        assert seen["CUDA_VISIBLE_DEVICES"].split(",") == uuids
        pct = int(seen.get("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "100"))
        assert pct == planned.share_pct
        limits = seen.get("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", "")
        for ordinal, uuid in enumerate(uuids):
            share[uuid] += pct
            if limits:
                memory[uuid] += int(limits.split(",")[ordinal].split("=")[1].rstrip("M")) * 2**20
    assert all(pct <= 100 for pct in share.values())
    assert all(bytes_ <= plans.A100.memory_bytes for bytes_ in memory.values())


@settings(max_examples=40)
@given(plans.plans())
def test_names_follow_from_content_alone(plan: Plan) -> None:
    first, second = render(plan, PROFILES, OPTIONS), render(plan, PROFILES, OPTIONS)
    assert list(first.objects) == list(second.objects)
    turned = msgspec.structs.replace(plan, search_s=12.5)
    assert render(turned, PROFILES, OPTIONS).plan_hash == first.plan_hash
    names = [(o["kind"], o["metadata"]["name"]) for o in first.objects]
    assert len(set(names)) == len(names)
    for each in first.objects:
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", each["metadata"]["name"])
        assert len(each["metadata"]["name"]) <= 63
        assert each["metadata"]["labels"]["scepsy.dev/plan"] == first.plan_hash
        assert all(len(value) <= 63 for value in each["metadata"]["labels"].values())


def test_what_two_plans_share_has_one_name() -> None:
    before, after = render(plans.two_nodes(), PROFILES, OPTIONS), render(plans.one_node(), PROFILES, OPTIONS)
    kept = {e.name for e in before.engines} & {e.name for e in after.engines}
    assert {e.instance for e in after.engines if e.name in kept} == {"Meta/Llama-3.1-0", "embedder-0", "embedder-1"}
    assert before.plan_hash != after.plan_hash


@pytest.mark.parametrize("target", ["dra", "hami"])
def test_pods_meet_the_restricted_pod_security_standard(target: str) -> None:
    for each in render(for_target(target), PROFILES, full(target)).objects:
        if each["kind"] != "Deployment":
            continue
        spec = each["spec"]["template"]["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] == 10001
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        allowed = {"emptyDir", "configMap", "secret", "persistentVolumeClaim"}
        assert all(set(volume) - {"name"} <= allowed for volume in spec["volumes"])
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            written = {m["mountPath"] for m in container["volumeMounts"] if not m.get("readOnly")}
            for variable in ("HOME", "HF_HOME", "VLLM_CACHE_ROOT", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"):
                path = next((e["value"] for e in container.get("env", []) if e["name"] == variable), "/tmp")
                assert any(path.startswith(place) for place in written), f"{variable} is {path}, which cannot be written"


def test_secrets_are_only_referred_to() -> None:
    text = to_json(render(plans.two_nodes(), PROFILES, full("dra")).objects, "scepsy")
    assert not [o for o in json.loads(text)["items"] if o["kind"] == "Secret"]
    assert '"secretKeyRef"' in text
    assert '"secretName": "keys"' in text


def test_a_budget_only_for_what_can_move() -> None:
    """An engine is pinned to its node: a budget would only keep `kubectl drain` from ever ending."""
    rendered = render(plans.two_nodes(), PROFILES, full("dra"))
    budgets = [o for o in rendered.objects if o["kind"] == "PodDisruptionBudget"]
    assert [o["metadata"]["name"] for o in budgets] == ["scepsy-gateway"]
    assert budgets[0]["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    assert not [o for o in render(plans.two_nodes(), PROFILES, OPTIONS).objects if o["kind"] == "PodDisruptionBudget"]


def test_only_the_gateway_may_reach_an_engine() -> None:
    policies = {
        o["metadata"]["name"]: o for o in render(plans.two_nodes(), PROFILES, OPTIONS).objects if o["kind"] == "NetworkPolicy"
    }
    policy = policies["scepsy-engine"]
    assert policy["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "engine"
    [rule] = policy["spec"]["ingress"]
    assert [peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for peer in rule["from"]] == ["gateway"]


def test_a_gateway_without_keys_is_fenced_into_its_namespace() -> None:
    def fence(chosen: RenderOptions) -> list[Any]:
        found = [o for o in render(plans.two_nodes(), PROFILES, chosen).objects if o["metadata"]["name"] == "scepsy-gateway"]
        return [o["spec"]["ingress"] for o in found if o["kind"] == "NetworkPolicy"]

    assert fence(options()) == [[{"from": [{"podSelector": {}}]}]]
    assert fence(options(api_keys_secret="keys")) == []


def test_the_gateway_reads_its_configuration(tmp_path: Path) -> None:
    rendered = render(plans.two_nodes(), PROFILES, full("dra"))
    path = tmp_path / "gateway.yaml"
    path.write_text(rendered.gateway_config["data"]["gateway.yaml"])
    config = load_gateway(path)
    assert [(e.llm, e.share_pct) for e in config.endpoints] == [(i.llm, i.share_pct) for i in plans.two_nodes().instances]
    pods = {e.deployment["spec"]["template"]["spec"]["hostname"] for e in rendered.engines}
    services = {o["metadata"]["name"] for o in rendered.objects if o["kind"] == "Service"}
    for endpoint in config.endpoints:
        host, service, namespace, rest = endpoint.url.removeprefix("http://").split(".", 3)
        assert (host in pods, service in services, namespace, rest) == (True, True, "scepsy", "svc:8000")


def test_inference_pool_only_on_request() -> None:
    kinds = Counter(o["kind"] for o in render(plans.two_nodes(), PROFILES, options(endpoint_picker="epp")).objects)
    assert kinds["InferencePool"] == 4
    assert "InferencePool" not in Counter(o["kind"] for o in render(plans.two_nodes(), PROFILES, OPTIONS).objects)


def test_the_plan_record_gives_back_what_was_rendered() -> None:
    chosen = full("dra")
    rendered = render(plans.two_nodes(), PROFILES, chosen)
    plan, profiles, back = read_plan_config_map(rendered.plan["data"])
    assert list(render(plan, profiles, back).objects) == list(rendered.objects)
    with pytest.raises(InputError, match="not readable"):
        read_plan_config_map({"plan.json": "{}"})


def test_a_gpu_without_neighbours_gets_no_daemon() -> None:
    rendered = render(plans.two_nodes(), PROFILES, OPTIONS)
    config = {c["metadata"]["annotations"]["scepsy.dev/gpus"]: "config" in c["spec"]["devices"] for c in rendered.holders}
    assert config == {"n1/GPU-n1-0,n1/GPU-n1-1": True, "n1/GPU-n1-2": False, "n2/GPU-n2-0": True}
    alone = next(e for e in rendered.engines if e.instance == "Meta/Llama-3.1-0")
    assert "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE" not in env(alone.deployment)


def test_what_a_target_cannot_do_is_refused() -> None:
    assert set(TARGETS) == {*Target.__args__, "local"}  # type: ignore[attr-defined]
    with pytest.raises(Infeasible, match=r"target hami cannot run instance qwen3-8b-0: tensor parallelism 2 on shared GPUs"):
        render(plans.two_nodes(), PROFILES, options("hami"))
    assert refusals(plans.two_nodes(), "dra") == ()
    assert "not isolated" in refusals(plans.two_nodes(), "dra", isolated=True)[0]


def test_what_hami_does_not_limit_is_said() -> None:
    assert "not kernels replayed from CUDA graphs" in render(plans.one_node(), PROFILES, options("hami")).notes[0]
    assert "CUDA graphs" not in " ".join(render(plans.one_node(), PROFILES, OPTIONS).notes)


def test_unknown_devices_and_profiles_are_named() -> None:
    bare = plans.plan(
        plans.cluster(msgspec.structs.replace(plans.node("n1", 1), gpu_uuids=())), plans.instance("qwen3-8b", 0, "n1", (0,), 50)
    )
    with pytest.raises(InputError, match=r"node n1: gpu_uuids is empty: .*scepsy discover"):
        render(bare, PROFILES, OPTIONS)
    none = msgspec.structs.replace(PROFILES, profiles=PROFILES.profiles[-1:])
    with pytest.raises(InputError, match=r"none for LLM qwen3-8b on a100-80g at TP 2"):
        render(plans.two_nodes(), none, OPTIONS)


def test_too_many_pods_for_a_claim() -> None:
    crowd = plans.plan(
        plans.cluster(plans.node("n1", 3)),
        *(plans.instance("embedder", i, "n1", (i % 3,), 1) for i in range(257)),
        plans.instance("qwen3-8b", 0, "n1", (0, 1, 2), 10),
    )
    with pytest.raises(InputError, match="258 instances share the domain of n1/0: a claim serves at most 256 pods"):
        render(crowd, PROFILES, OPTIONS)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kustomize_takes_the_output(tmp_path: Path) -> None:
    rendered = render(plans.two_nodes(), PROFILES, OPTIONS)
    (tmp_path / "plan.yaml").write_text(to_yaml(rendered.objects, "scepsy"))
    (tmp_path / "kustomization.yaml").write_text("resources: [plan.yaml]\nlabels: [{pairs: {team: a}}]\n")
    built = subprocess.run(["kubectl", "kustomize", str(tmp_path)], capture_output=True, text=True, check=True)
    documents = list(yaml.safe_load_all(built.stdout))
    assert len(documents) == len(list(rendered.objects))
    assert all(d["metadata"]["labels"]["team"] == "a" for d in documents)
