"""A cluster that others use too: other writers, quotas, Pod Security, admission, kubectl, nodes with two names."""

import re
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from executor.cluster import lease
from executor.cluster.apply import apply
from executor.cluster.connect import client_factory
from executor.cluster.delete import delete
from executor.cluster.discover import discover
from executor.cluster.status import recorded, status
from executor.cluster.waits import Event, NotReady, WaitLimits
from executor.manifests import render, to_yaml
from scepsy.errors import BackendError
from tests.builders import plans
from tests.executor.cluster.controllers import ready
from tests.executor.cluster.double import NAMESPACE, Double
from tests.executor.cluster.lab import QUICK, DoubleLab, everything, placement, planned

PROFILES, OPTIONS = plans.profiles(), plans.OPTIONS


def limits(**changes: Any) -> WaitLimits:
    return WaitLimits(**{**vars(QUICK), **changes})


# Two writers at once.


def test_of_two_applies_at_once_one_is_refused_and_no_gpu_is_overfilled(double: Double) -> None:
    """The first is still waiting for its engines when the second comes: it must write nothing."""
    gate = threading.Event()
    double.server.controllers.verdict = lambda pod: ready(pod) if gate.is_set() else None
    first = threading.Thread(
        target=apply,
        args=(double.api(), render(plans.two_nodes(), PROFILES, OPTIONS)),
        kwargs={"limits": limits(lease_s=0.9)},
    )
    first.start()
    while not list(double.store.items("deployments")):
        time.sleep(0.01)
    held_by = next(held["spec"]["holderIdentity"] for _, held in double.store.items("leases"))
    with pytest.raises(BackendError, match=r"is being changed by .*: wait until that ends") as caught:
        apply(double.api(), render(plans.one_node(), PROFILES, OPTIONS), limits=limits(lease_s=5.0))
    assert held_by in str(caught.value)
    gate.set()
    double.later(0.0, double.server.controllers.settle)
    first.join(60)
    assert placement(DoubleLab(double)) == planned(plans.two_nodes())
    assert list(double.store.items("leases")) == []


def other_holder(double: Double, holder: str, duration_s: int = 1) -> None:
    spec = {"holderIdentity": holder, "leaseDurationSeconds": duration_s}
    double.store.put("leases", NAMESPACE, {"metadata": {"name": "scepsy-writer"}, "spec": spec})


def test_a_holder_elsewhere_that_is_silent_is_waited_for_once(double: Double) -> None:
    other_holder(double, "elsewhere/boot/1/2.00/x")
    events: list[Event] = []
    apply(double.api(), render(plans.two_nodes(), PROFILES, OPTIONS), limits=limits(lease_s=0.5), on_event=events.append)
    assert [e.name for e in events if e.what == "waiting for another writer"] == ["elsewhere/boot/1/2.00/x"]


def test_a_holder_of_this_host_whose_process_is_gone_is_not_waited_for(double: Double) -> None:
    host, boot, pid, _, mark = lease.identity().split("/")
    other_holder(double, f"{host}/{boot}/{pid}/0.00/{mark}", duration_s=600)  # the number lives, as another process
    apply(double.api(), render(plans.two_nodes(), PROFILES, OPTIONS), limits=QUICK)


def test_a_writer_that_lost_its_lease_writes_nothing_more(double: Double) -> None:
    taken: list[int] = []

    def note(event: Event) -> None:
        if event.what == "started" and not taken:
            other_holder(double, "elsewhere/boot/1/2.00/x")
            taken.append(len(double.server.seen))

    with pytest.raises(lease.LeaseLost, match=r"another apply or delete took over"):
        apply(double.api(), render(plans.two_nodes(), PROFILES, OPTIONS), limits=limits(lease_s=0.0), on_event=note)
    assert [c for c in double.server.seen[taken[0] :] if c.verb in ("patch", "delete") and c.plural != "leases"] == []


# Quotas and Pod Security.


def quota(double: Double, **hard: str) -> None:
    spec = {"hard": {name.replace("_", "/", 1) if name.startswith("count") else name: value for name, value in hard.items()}}
    double.store.put("resourcequotas", NAMESPACE, {"metadata": {"name": "team"}, "spec": spec, "status": {}})
    double.server.controllers.quota_refusal("")


@pytest.mark.parametrize(("name", "needed"), [("pods", 7), ("count/deployments.apps", 7), ("requests.cpu", 8)])
def test_a_quota_that_the_plan_does_not_fit_is_said_before_anything_changes(double: Double, name: str, needed: int) -> None:
    """Six engines, one of them over two GPUs, and a gateway. A CPU for each rank and for the gateway."""
    quota(double, **{name: "6"})
    with pytest.raises(
        BackendError, match=rf"ResourceQuota team .* allows 6 {name}, 0 are used .* needs {needed} more .*raise it to {needed}"
    ):
        apply(double.api(), render(plans.two_nodes(), PROFILES, OPTIONS), limits=QUICK)
    assert everything(DoubleLab(double)) == []


def test_a_quota_that_is_full_of_what_goes_first_is_none(double: Double) -> None:
    apply(double.api(), render(plans.two_nodes(), PROFILES, OPTIONS), limits=QUICK)
    quota(double, pods="7")
    apply(double.api(), render(plans.one_node(), PROFILES, OPTIONS), limits=QUICK)
    assert placement(DoubleLab(double)) == planned(plans.one_node())


def test_a_write_that_is_refused_half_way_brings_the_old_plan_back(double: Double) -> None:
    """Whatever the reason: here a quota that shrinks when the switch has begun, which nothing could have foreseen."""
    apply(double.api(), render(plans.two_nodes(), PROFILES, OPTIONS), limits=QUICK)

    def note(event: Event) -> None:
        if event.what == "deleted" and event.name.startswith("deployment/") and not shrunk:
            shrunk.append(event)
            quota(double, **{"count/deployments.apps": str(double.server.controllers._used("deployments"))})
        if event.what == "rolling back":
            double.store.remove(("resourcequotas", NAMESPACE, "team"))

    shrunk: list[Event] = []
    with pytest.raises(BackendError, match=r"exceeded quota: team.*raise the ResourceQuota.*; rolled back to scepsy-plan-"):
        apply(double.api(), render(plans.one_node(), PROFILES, OPTIONS), limits=QUICK, on_event=note)
    assert placement(DoubleLab(double)) == planned(plans.two_nodes())
    assert status(double.api(), "scepsy")["state"] == "serving"


FORBIDDEN = 'violates PodSecurity "restricted:latest": hostPath volumes'


def test_pod_security_is_met_in_the_rehearsal(double: Double) -> None:
    double.server.controllers.admit = lambda pod: FORBIDDEN
    with pytest.raises(BackendError, match=r"refuses POST .*pods \(403\): .*violates PodSecurity.*label the namespace"):
        apply(double.api(), render(plans.two_nodes(), PROFILES, OPTIONS), limits=QUICK)
    assert everything(DoubleLab(double)) == []


def test_pods_that_are_refused_later_are_not_waited_for(double: Double) -> None:
    """The Deployment's ReplicaFailure says why; nobody waits for ``start_s``."""
    double.server.controllers.admit = lambda pod: (
        FORBIDDEN if "hostname" in pod["spec"] and "name" not in pod["metadata"] else ""
    )
    before = time.monotonic()
    with pytest.raises(NotReady, match=r"instance .* does not serve after \d+ s: pods .* violates PodSecurity"):
        apply(double.api(), render(plans.two_nodes(), PROFILES, OPTIONS), limits=limits(start_s=600.0))
    assert time.monotonic() - before < 60
    assert {each["problem"] for each in status(double.api(), "scepsy")["instances"] if "violates" in each["problem"]}


# What others add, and what was applied by others.


def test_tolerations_that_admission_appends_are_no_drift(double: Double) -> None:
    def mutate(obj: Any) -> None:
        if obj["kind"] == "Deployment":
            spec = obj["spec"]["template"]["spec"]
            spec["tolerations"] = [*spec.get("tolerations", []), {"key": "team", "operator": "Exists", "effect": "NoSchedule"}]
            spec["containers"].append({"name": "sidecar", "image": "proxy"})

    double.server.mutate = mutate
    made = render(plans.two_nodes(), PROFILES, OPTIONS)
    apply(double.api(), made, limits=QUICK)
    found = status(double.api(), "scepsy")
    assert (found["state"], found["drift"]) == ("serving", [])
    assert any("spec.template.spec.tolerations has 1 entries that are not ours" in line for line in found["added"])
    assert apply(double.api(), made, limits=QUICK).requests == 0


def test_what_kubectl_applied_is_a_release(double: Double) -> None:
    made = render(plans.two_nodes(), PROFILES, OPTIONS)
    for obj in yaml.safe_load_all(to_yaml(made.objects, NAMESPACE)):
        double.api().apply(obj)
    found = status(double.api(), "scepsy")
    assert (found["state"], found["plan"], found["drift"]) == ("serving", made.plan_hash, [])
    assert recorded(double.api(), "scepsy").plan_hash == made.plan_hash
    apply(double.api(), render(plans.one_node(), PROFILES, OPTIONS), limits=QUICK)
    assert placement(DoubleLab(double)) == planned(plans.one_node())


def test_the_loop_of_the_guide_applies_every_wave(tmp_path: Path) -> None:
    """The shell line in the guide, run as it stands, on a plan of four waves."""
    crowd = plans.plan(plans.cluster(plans.node("n1", 1)), *(plans.instance("embedder", i, "n1", (0,), 20) for i in range(4)))
    made = render(crowd, PROFILES, OPTIONS)
    (tmp_path / "all.yaml").write_text(to_yaml(made.objects, NAMESPACE))
    [listing] = re.findall(r"for wave in (\$\(.*\)); do", Path("docs/kubernetes.md").read_text())
    found = subprocess.run(["bash", "-c", f"echo {listing}"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["0", "1", "2", "3"]
    assert {engine.wave for engine in made.engines} == {0, 1, 2, 3}


def test_a_node_whose_name_is_not_its_hostname(double: Double) -> None:
    """Providers name nodes by what they like; a node selector compares the label."""
    for name in ("n1", "n2"):
        node = double.store.objects["nodes", "", name]
        double.store.remove(("nodes", "", name))
        double.store.put("nodes", "", {**node, "metadata": {**node["metadata"], "name": f"i-{name}.internal"}})
        double.store.change(
            ("resourceslices", "", f"{name}-gpu.nvidia.com"), lambda o, n=name: o["spec"].update(nodeName=f"i-{n}.internal")
        )
    found = discover(double.api(), {"A100-80G": plans.A100}, types={"NVIDIA A100-SXM4-80GB": "A100-80G"})
    assert [node.name for node in found.nodes] == ["n1", "n2"]
    apply(double.api(), render(plans.two_nodes(), PROFILES, OPTIONS), limits=QUICK)
    assert placement(DoubleLab(double)) == planned(plans.two_nodes())
    nodes = [each["node"] for each in status(double.api(), "scepsy")["instances"]]
    assert all(node["planned"] == node["actual"] for node in nodes)


def test_an_llm_that_nobody_serves_for_a_while_is_named(double: Double) -> None:
    apply(double.api(), render(plans.two_nodes(), PROFILES, OPTIONS), limits=QUICK)
    events: list[Event] = []
    apply(double.api(), render(plans.one_node(), PROFILES, OPTIONS), limits=QUICK, on_event=events.append)
    assert {e.name for e in events if e.what.startswith("no instance until")} == {"qwen3-8b", "reranker"}


# Connections.


NO_CLUSTER = """
apiVersion: v1
kind: Config
current-context: c
contexts: [{name: c, context: {cluster: c, user: u}}]
clusters: [{name: c}]
"""
NO_CONTEXTS = "apiVersion: v1\nkind: Config\ncurrent-context: x\ncontexts: {}\n"


@pytest.mark.parametrize(
    "text", ["{{{", "a: [", "\x00", "- 1\n- 2", "clusters: 3", "", "x" * 9, NO_CONTEXTS, NO_CLUSTER], ids=repr
)
def test_a_broken_kubeconfig_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "config").write_text(text)
    with pytest.raises(BackendError, match=r"no usable cluster configuration: .*config: .*set KUBECONFIG") as caught:
        client_factory(kubeconfig=tmp_path / "config")()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "ask", [lambda api: status(api, "scepsy"), lambda api: recorded(api, "scepsy"), lambda api: delete(api, "scepsy")]
)
def test_a_server_that_is_not_there_is_said_within_seconds(ask: Any) -> None:
    from executor.cluster.api import Api

    api = Api(Double(None, "http://127.0.0.1:9").client, NAMESPACE)  # type: ignore[arg-type]  # the patience of the commands
    before = time.monotonic()
    with pytest.raises(BackendError, match="does not answer"):
        ask(api)
    assert time.monotonic() - before < 15


def test_an_object_that_is_wrong_is_sent_once(double: Double) -> None:
    """Status 500, but about the object: the real server's answer to a keyed list with one key twice."""
    made = render(plans.degree(2), PROFILES, OPTIONS)
    engine = next(e for e in made.engines if e.llm == "qwen3-8b")
    engine.deployment["spec"]["template"]["spec"]["containers"][0]["resources"]["claims"] *= 2
    with pytest.raises(BackendError, match=r'refuses PATCH .* \(500\): .*duplicate entries for key \[name="gpu"\]'):
        double.api().apply(engine.deployment)
    assert len(double.server.seen) == 1
