"""What is refused before anything changes: one line, a remedy, exit 4."""

import importlib.util
import json
import re
import socket
from importlib.resources import files
from pathlib import Path
from typing import Any

import kubernetes_validate
import msgspec
import pytest
import yaml
from typer.testing import CliRunner

from executor.cluster.api import Api, Patience
from executor.cluster.apply import apply
from executor.cluster.delete import delete
from executor.cluster.diff import diff
from executor.cluster.discover import discover
from executor.cluster.preflight import grants
from executor.cluster.status import status
from executor.cluster.waits import WaitLimits
from executor.manifests import RenderOptions, render
from executor.manifests.names import labels
from scepsy.cli import app
from scepsy.errors import BackendError
from scepsy.files.plan import save_plan
from scepsy.files.profiles import save_profiles
from tests.builders import plans
from tests.executor.cluster.double import NAMESPACE, Double
from tests.executor.cluster.lab import QUICK, DoubleLab

PROFILES, OPTIONS = plans.profiles(), plans.OPTIONS
IMAGE = ("--gateway-image", plans.IMAGE)


def options(**changes: Any) -> RenderOptions:
    return msgspec.convert({"gateway_image": plans.IMAGE, **changes}, RenderOptions)


def refused(double: Double, message: str, chosen: RenderOptions | None = None, plan: Any = None) -> None:
    """Applying fails with one line that matches, and nothing of ours is there afterwards."""
    made = render(plan or plans.two_nodes(), PROFILES, chosen or options())
    with pytest.raises(BackendError, match=message) as caught:
        apply(double.api(), made, limits=QUICK)
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)
    assert [key for key in double.store.objects if key[1]] == [], "something was changed"


def test_too_old(double: Double) -> None:
    double.server.minor = "33+"
    refused(double, r"runs Kubernetes 1\.33: must be >= 1\.34")


def test_without_dynamic_resource_allocation(double: Double) -> None:
    double.server.missing = {"resource.k8s.io"}
    refused(double, r"does not serve resource\.k8s\.io/v1: enable dynamic resource allocation .* or use --target mps")


def test_without_the_driver(double: Double) -> None:
    double.store.remove(("deviceclasses", "", "gpu.nvidia.com"))
    refused(double, r"no DeviceClass gpu\.nvidia\.com: install the NVIDIA DRA driver")


def test_without_the_crd(double: Double) -> None:
    double.server.missing = {"inference.networking.k8s.io"}
    refused(double, r"no InferencePool .*: install the Gateway API inference extension's CRDs", options(endpoint_picker="epp"))


def test_a_device_that_is_not_there(double: Double) -> None:
    double.store.remove(("resourceslices", "", "n2-gpu.nvidia.com"))
    refused(double, r"GPU GPU-n2-0 of node n2, which instance embedder-0 needs, is not published")


def test_another_cluster(double: Double) -> None:
    other = plans.plan(plans.cluster(plans.node("m9", 1)), plans.instance("embedder", 0, "m9", (0,), 50))
    refused(double, r"node m9 is not in the cluster .*there are: n1, n2\): is this the right cluster\?", plan=other)


def test_a_node_that_takes_nothing(double: Double) -> None:
    double.store.change(("nodes", "", "n1"), lambda o: o.update(spec={"unschedulable": True}))
    refused(double, r"node n1 is cordoned: kubectl uncordon n1")


def test_a_node_that_is_not_ready(double: Double) -> None:
    double.store.change(("nodes", "", "n2"), lambda o: o["status"].update(conditions=[{"type": "Ready", "status": "Unknown"}]))
    refused(double, r"node n2 is not ready \(Ready is Unknown\)")


def test_without_the_namespace(double: Double) -> None:
    double.store.remove(("namespaces", "", NAMESPACE))
    refused(double, r"namespace scepsy is not in cluster .*: create the namespace")


def test_a_feature_gate_that_admission_misses(double: Double) -> None:
    """The driver's webhook refuses sharing while its gate is off; a dry run meets that before anything is stored."""

    def admit(obj: Any) -> str:
        shares = obj["kind"] == "ResourceClaim" and "config" in obj["spec"]["devices"]
        return "admission webhook denied: feature gate MPSSupport is disabled" if shares else ""

    double.server.refuse = admit
    refused(double, r"refuses PATCH .*resourceclaims.*422.*MPSSupport is disabled")


def test_without_the_runtime_class(double: Double) -> None:
    double.store.remove(("runtimeclasses", "", "nvidia"))
    refused(double, r"no RuntimeClass nvidia: install the NVIDIA container toolkit", options(target="mps"))


def test_without_hami(double: Double) -> None:
    double.store.change(("nodes", "", "n2"), lambda o: o["metadata"].update(annotations={}))
    refused(double, r"GPU GPU-n2-0 of node n2 is not registered with HAMi", options(target="hami"), plan=plans.one_node())


@pytest.mark.parametrize("grant", sorted((g for g in grants("scepsy-deployer") if not g.subresource), key=str), ids=str)
def test_every_verb_that_may_be_missing(double: Double, grant: Any) -> None:
    """Either it is needed, then its lack is said before anything changes, or it is not, then apply works without it."""
    double.server.forbidden = {f"{grant.verb} {grant.resource}"}
    needless = {"inferencepools", "podmonitors", "runtimeclasses"}
    if (grant.resource in needless and grant.verb != "list") or grant.resource == "runtimeclasses":
        assert apply(double.api(), render(plans.two_nodes(), PROFILES, OPTIONS), limits=QUICK).started == 6
    else:
        refused(double, rf"forbids `{re.escape(str(grant))}`.*: bind the roles of executor/cluster/rbac\.yaml")


def test_nobody_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        api = Double(None, url).api(patience=Patience(first_s=0.01, longest_s=0.05, total_s=0.2))  # type: ignore[arg-type]
        with pytest.raises(BackendError, match=rf"cluster {url} does not answer: .*refused.*check the address"):
            status(api, "scepsy")


def test_something_else_answers(double: Double) -> None:
    double.server.missing = {""}
    double.server["get /version"] << {"hello": "world"}
    api = double.api()
    api.get_path = lambda *args, **kwargs: {"hello": "world"}  # type: ignore[method-assign]
    with pytest.raises(BackendError, match=r"is no Kubernetes API server"):
        apply(api, render(plans.two_nodes(), PROFILES, OPTIONS), limits=QUICK)


def test_a_token_that_has_expired_is_read_again(double: Double) -> None:
    double.server.token = "new"
    double.token = "old"

    def connect() -> Any:
        client = double.client()
        double.token = "new"  # what the kubeconfig's plugin gives from now on
        return client

    api = Api(connect, NAMESPACE, patience=Patience(first_s=0.001))
    assert apply(api, render(plans.two_nodes(), PROFILES, OPTIONS), limits=QUICK).started == 6
    double.server.token = "other"
    with pytest.raises(BackendError, match=r"rejects the credentials \(401\).*: log in again"):
        status(double.api(), "scepsy")


def test_the_verbs_in_use_are_exactly_those_granted(double: Double) -> None:
    """Everything the commands do, and every failure path that sends something else, against what rbac.yaml lists."""
    lab = DoubleLab(double)
    double.server.used.clear()
    pool = lab.options(endpoint_picker="epp", gateway_replicas=2, pod_monitor=True)
    apply(double.api(), render(plans.two_nodes(), PROFILES, pool), limits=QUICK)
    list(diff(double.api(), render(plans.one_node(), PROFILES, OPTIONS)))
    status(double.api(), "scepsy")
    apply(double.api(), render(plans.one_node(), PROFILES, lab.options(target="mps")), limits=QUICK)
    discover(double.api(), {"A100-80G": plans.A100}, types={"NVIDIA A100-SXM4-80GB": "A100-80G"})
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "left", "labels": labels("scepsy", "replay", "replay")},
    }
    double.store.put("jobs", NAMESPACE, {**job, "spec": {"template": {"spec": {"containers": []}}}})
    delete(double.api(), "scepsy", limits=QUICK)
    everyone_may = {"selfsubjectaccessreviews", "selfsubjectrulesreviews"}  # system:basic-user
    used = {grant for grant in double.server.used if grant.resource not in everyone_may}
    assert used == grants("scepsy-deployer")


@pytest.mark.parametrize("minor", ["1.34", "1.35", "1.36", "1.37"])
def test_the_roles_are_valid(minor: str) -> None:
    for document in yaml.safe_load_all(files("executor.cluster").joinpath("rbac.yaml").read_text()):
        kubernetes_validate.validate(document, minor, strict=True)


# On the command line.


@pytest.fixture
def plan_file(tmp_path: Path, double: Double, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A plan file, and a KUBECONFIG that points to the double."""
    save_profiles(tmp_path / "p.yaml", PROFILES)
    save_plan(tmp_path / "x.plan.yaml", msgspec.structs.replace(plans.two_nodes(), profiles="p.yaml"))
    kubeconfig = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": double.url}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
    }
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(kubeconfig))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    return tmp_path / "x.plan.yaml"


def run(*args: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(args))
    return result.exit_code, result.stdout, result.stderr


def test_the_commands_end_to_end(double: Double, plan_file: Path, tmp_path: Path) -> None:
    plan = str(plan_file)
    code, out, _ = run("render", plan, *IMAGE, "-o", "json")
    assert (code, len(json.loads(out)["items"])) == (0, 21)
    assert run("diff", plan, *IMAGE)[0] == 1
    code, out, _ = run("apply", plan, *IMAGE, "--no-validate", "--dry-run", "server", "--json")
    assert code == 0
    assert not [key for key in double.store.objects if key[1]]
    code, out, err = run("apply", plan, *IMAGE, "--no-validate", "--json")
    assert (code, json.loads(out)["started"]) == (0, 6), err
    assert err.count("serving: ") == 6
    assert run("diff", plan, *IMAGE)[:2] == (0, "")
    code, out, _ = run("status", "--json")
    assert (code, json.loads(out)["state"]) == (0, "serving")
    assert "qwen3-8b-0" in run("status")[1]
    assert run("wait", "--json")[0] == 0
    code, out, err = run("discover", "-o", str(tmp_path / "c.yaml"), "--json")
    assert code == 0, err
    assert json.loads(out)["nodes"][0]["gpu_uuids"][0] == "GPU-n1-0"
    code, out, _ = run("delete", "--json")
    assert (code, json.loads(out)["deleted"] > 20) == (0, True)
    assert run("status")[0] == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["apply", "PLAN", *IMAGE, "--no-validate", "--context", "nope"],
            4,
            "no usable cluster configuration: .*set KUBECONFIG",
        ),
        (["render", "PLAN", "--target", "k3s"], 2, "--target is 'k3s': must be one of dra, mps, hami, local"),
        (["render", "PLAN", "--target", "hami"], 3, "target hami cannot run instance qwen3-8b-0"),
        (["render", "PLAN", "--release", "Not_OK"], 2, "release is 'Not_OK': must be a DNS label"),
        (["apply", "PLAN"], 2, r"targets\[0\].trace is empty"),
        (["apply", "PLAN", "--dry-run", "maybe"], 2, "--dry-run is 'maybe': must be client or server"),
        (["wait"], 4, "release scepsy is not in namespace scepsy"),
        (["discover", "--topology", "n1"], 2, "--topology is 'n1': must be KEY=VALUE"),
        (["apply", "PLAN", *IMAGE, "--no-validate", "--namespace", "nope"], 4, "create the namespace"),
    ],
)
def test_one_line_and_the_exit_code(plan_file: Path, arguments: list[str], code: int, message: str) -> None:
    found, out, err = run(*(str(plan_file) if a == "PLAN" else a for a in arguments))
    assert (found, out) == (code, ""), err
    assert len(err.splitlines()) == 1
    assert re.search(message, err), err


def test_without_the_client(plan_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for command in (
        ["apply", str(plan_file), *IMAGE, "--no-validate"],
        ["status"],
        ["delete"],
        ["wait"],
        ["discover"],
        ["diff", str(plan_file), *IMAGE],
    ):
        code, _, err = run(*command)
        assert (code, err) == (2, "scepsy: the Kubernetes client is not installed: pip install 'scepsy[k8s]'\n")
    assert run("render", str(plan_file), *IMAGE)[0] == 0


def test_limits_are_kept(double: Double) -> None:
    double.server.controllers.verdict = lambda pod: None
    with pytest.raises(BackendError, match=r"instance .* on n\d does not serve after [01] s: it is still loading"):
        apply(
            double.api(),
            render(plans.two_nodes(), PROFILES, OPTIONS),
            limits=WaitLimits(**{**vars(QUICK), "start_s": 0.3, "tick_s": 0.2}),
        )
