"""The rules of a cluster that others use too, on the double and on a real control plane: the same bodies."""

import os
import threading
import time
from typing import Any

import msgspec
import pytest
import yaml

from executor.cluster.apply import apply
from executor.cluster.delete import delete
from executor.cluster.discover import discover
from executor.cluster.status import status
from executor.cluster.waits import Event, NotReady, WaitLimits
from executor.manifests import RenderOptions, render, to_yaml
from scepsy.errors import BackendError
from tests.builders import plans
from tests.executor.cluster.lab import DoubleLab, Lab, RealLab, everything, placement, planned, pods

PROFILES = plans.profiles()


def quota(lab: Lab, **hard: str) -> None:
    """A quota of the namespace, as soon as the server counts by it."""
    path = f"/api/v1/namespaces/{lab.namespace}/resourcequotas/team"
    body = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "team"}, "spec": {"hard": hard}}
    lab.send("PATCH", f"{path}?fieldManager=scepsy-test&force=true", body, "application/apply-patch+yaml")
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        stored = lab.send("GET", path)
        assert stored is not None
        if stored.get("status", {}).get("hard") == hard or isinstance(lab, DoubleLab):
            return
        time.sleep(0.2)
    raise AssertionError("the quota controller does not count")


def restricted(lab: Lab) -> None:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    lab.send("PATCH", f"/api/v1/namespaces/{lab.namespace}", {"metadata": {"labels": labels}}, "application/merge-patch+json")


def test_a_quota_is_said_before_anything_changes(lab: Lab) -> None:
    quota(lab, pods="6")
    with pytest.raises(BackendError, match=r"ResourceQuota team .* allows 6 pods, 0 are used .* needs 7 more .*raise it to 7"):
        apply(lab.api(), render(lab.fit(plans.two_nodes()), PROFILES, lab.options()), limits=lab.limits)
    assert everything(lab) == []


def test_a_quota_that_fits_exactly_lets_a_switch_through(lab: Lab) -> None:
    before, after = lab.fit(plans.two_nodes()), lab.fit(plans.one_node())
    apply(lab.api(), render(before, PROFILES, lab.options()), limits=lab.limits)
    quota(lab, pods="7")
    apply(lab.api(), render(after, PROFILES, lab.options()), limits=lab.limits)
    assert placement(lab) == planned(after)


def test_a_quota_that_shrinks_half_way_brings_the_old_plan_back(lab: Lab) -> None:
    before, after = lab.fit(plans.two_nodes()), lab.fit(plans.one_node())
    apply(lab.api(), render(before, PROFILES, lab.options()), limits=lab.limits)
    shrunk: list[Event] = []

    def note(event: Event) -> None:
        if event.what == "deleted" and event.name.startswith("deployment/") and not shrunk:
            shrunk.append(event)
            quota(lab, **{"count/deployments.apps": "1"})
        if event.what == "rolling back":
            lab.send("DELETE", f"/api/v1/namespaces/{lab.namespace}/resourcequotas/team")

    with pytest.raises(BackendError, match=r"exceeded quota: team.*raise the ResourceQuota.*; rolled back to scepsy-plan-"):
        apply(lab.api(), render(after, PROFILES, lab.options()), limits=lab.limits, on_event=note)
    assert placement(lab) == planned(before)
    assert status(lab.api(), "scepsy", metrics=False)["state"] == "serving"


def test_pod_security_refuses_host_directories_in_the_rehearsal(lab: Lab) -> None:
    restricted(lab)
    made = render(lab.fit(plans.two_nodes()), PROFILES, lab.options(target="mps"))
    with pytest.raises(
        BackendError, match=r"violates PodSecurity .*: label the namespace with a Pod Security level that allows it"
    ):
        apply(lab.api(), made, limits=lab.limits)
    assert everything(lab) == []
    apply(lab.api(), render(lab.fit(plans.two_nodes()), PROFILES, lab.options()), limits=lab.limits)  # dra meets it


def test_pods_that_are_refused_when_they_are_made_are_not_waited_for(lab: Lab) -> None:
    """Restricted only after the rehearsal: the Deployment's ReplicaFailure is all that tells."""
    made = render(lab.fit(plans.two_nodes()), PROFILES, lab.options(target="mps"))
    before = time.monotonic()
    limits = WaitLimits(**{**vars(lab.limits), "start_s": 900.0})
    api = lab.api()
    rehearsed = api.create

    def create(*args: Any, **kwargs: Any) -> Any:
        answer = rehearsed(*args, **kwargs)
        if kwargs.get("dry_run") and "gateway" in str(args):
            restricted(lab)  # the last rehearsal is the gateway's
        return answer

    api.create = create  # type: ignore[method-assign]
    with pytest.raises(NotReady, match="violates PodSecurity"):
        apply(api, made, limits=limits)
    assert time.monotonic() - before < 200


def test_of_two_applies_at_once_one_is_refused(lab: Lab) -> None:
    before, after = lab.fit(plans.two_nodes()), lab.fit(plans.one_node())
    holding, go_on = threading.Event(), threading.Event()

    def note(event: Event) -> None:
        if event.what == "started":
            holding.set()
            go_on.wait(60)

    def first() -> None:
        apply(lab.api(), render(before, PROFILES, lab.options()), limits=lab.limits, on_event=note)

    thread = threading.Thread(target=first)
    thread.start()
    assert holding.wait(120)
    # It is alive, but says nothing while it is held up here: the second must not take over before the lease has run out.
    patient = WaitLimits(**{**vars(lab.limits), "lease_s": 60.0})
    refused: list[str] = []

    def second() -> None:
        try:
            apply(lab.api(), render(after, PROFILES, lab.options()), limits=patient)
        except BackendError as error:
            refused.append(str(error))

    other = threading.Thread(target=second)
    other.start()
    time.sleep(1.0)
    go_on.set()
    thread.join(120)
    other.join(120)
    if refused:
        assert "is being changed by" in refused[0]
        assert placement(lab) == planned(before)
    else:  # the first had ended before it renewed: then they ran one after the other
        assert placement(lab) == planned(after)


def test_what_kubectl_applied_is_a_release(lab: Lab) -> None:
    made = render(lab.fit(plans.two_nodes()), PROFILES, lab.options())
    for obj in yaml.safe_load_all(to_yaml(made.objects, lab.namespace)):
        lab.api().apply(obj)
    deadline = time.monotonic() + 120
    while (found := status(lab.api(), "scepsy", metrics=False))["state"] != "serving" and time.monotonic() < deadline:
        time.sleep(0.5)
    assert (found["state"], found["plan"], found["drift"]) == ("serving", made.plan_hash, [])
    assert delete(lab.api(), "scepsy", limits=lab.limits) > 15


def test_what_is_discovered_is_what_runs(lab: Lab) -> None:
    """A plan for the discovered cluster passes the checks, on nodes whose names are not their hostnames."""
    kind = msgspec.structs.replace(plans.A100, name="A100-80G")
    found = discover(lab.api(), {"A100-80G": kind}, types={"NVIDIA A100-SXM4-80GB": "A100-80G"})
    fitted = lab.fit(plans.two_nodes())
    mine = {node.name: node.gpu_uuids for node in found.nodes if node.name in {n.name for n in fitted.cluster.nodes}}
    assert mine == {node.name: node.gpu_uuids for node in fitted.cluster.nodes}
    apply(lab.api(), render(fitted, PROFILES, lab.options()), limits=lab.limits)
    nodes = [each["node"] for each in status(lab.api(), "scepsy", metrics=False)["instances"]]
    assert all(node["planned"] == node["actual"] for node in nodes)


@pytest.mark.cluster
@pytest.mark.skipif(not os.environ.get("KUBECONFIG"), reason="KUBECONFIG is not set: no cluster to run against")
def test_a_node_can_be_drained() -> None:
    """Cordon, then evict every pod, as `kubectl drain` does: no eviction is refused, though none can come up elsewhere."""
    with RealLab(plans.two_nodes().cluster).prepared() as lab:
        options: RenderOptions = lab.options(gateway_replicas=2)
        apply(lab.api(), render(lab.fit(plans.two_nodes()), PROFILES, options), limits=lab.limits)
        for node in lab.node_names():
            lab.send("PATCH", f"/api/v1/nodes/{node}", {"spec": {"unschedulable": True}}, "application/merge-patch+json")
        engines = [pod for pod in pods(lab) if pod["metadata"]["labels"].get("scepsy.dev/engine")]
        assert len(engines) == 6
        for pod in engines:
            name = pod["metadata"]["name"]
            body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": lab.namespace}}
            lab.send("POST", f"/api/v1/namespaces/{lab.namespace}/pods/{name}/eviction", body)
