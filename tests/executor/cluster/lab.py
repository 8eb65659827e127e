"""What a test may do to a cluster, whichever it is: the double, or a real control plane with fake nodes.

A real one needs the API server, the scheduler and the controller manager; no kubelet. Fake nodes, their ResourceSlices and
the DeviceClass are made here and removed again; a thread plays the kubelet for pods on the fake nodes.
"""

import datetime
import os
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import msgspec
from kubernetes.client import ApiClient

from executor.cluster.api import Api, Object
from executor.cluster.connect import client_factory
from executor.cluster.kinds import CLAIM, DEPLOYMENT, LEASE, NODE, OWNED, POD, SLICE
from executor.cluster.waits import WaitLimits
from executor.manifests import RenderOptions
from executor.manifests.names import ENGINE, release_selector
from scepsy.cluster import Cluster
from scepsy.plans import Plan
from tests.builders import plans
from tests.executor.cluster.controllers import ready
from tests.executor.cluster.double import NAMESPACE, Double, node_objects

QUICK = WaitLimits(start_s=60.0, stop_s=60.0, drain_s=0.3, tick_s=0.5, poll_s=0.2, refused_s=0.5, lease_s=1.0)


class Lab(Protocol):
    """A cluster under test."""

    limits: WaitLimits
    namespace: str

    def api(self) -> Api: ...

    def fit(self, plan: Plan) -> Plan:
        """The plan with this cluster's node names and device UUIDs."""

    def options(self, **changes: Any) -> RenderOptions: ...

    def send(self, method: str, path: str, body: Object | None = None, kind: str = "application/json") -> Object | None:
        """A request of the test's own, by an administrator."""


def pods(lab: Lab) -> list[Object]:
    """Pods of the release that are not on their way out."""
    found = lab.api().list_all(POD, release_selector("scepsy"))[0]
    return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]


def everything(lab: Lab) -> list[str]:
    """All that the release holds, pods and the writer's lease included."""
    found = [obj for kind in (*OWNED, LEASE, POD) for obj in lab.api().list_all(kind, release_selector("scepsy"))[0]]
    return sorted(f"{obj['kind']}/{obj['metadata']['name']}" for obj in found)


def placement(lab: Lab) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Where every engine pod really is: instance → (node it is bound to, UUIDs that it was given and makes visible).

    What was given is the claim's ``status.allocation``, resolved through the ResourceSlices; never what was asked for.
    """
    api = lab.api()
    claims = {c["metadata"]["name"]: c for c in api.list_all(CLAIM)[0]}
    uuids = {
        (each["spec"]["pool"]["name"], device["name"]): device["attributes"]["uuid"]["string"]
        for each in api.list_all(SLICE)[0]
        for device in each["spec"]["devices"]
        if "uuid" in device["attributes"]
    }
    instances = {
        d["metadata"]["labels"][ENGINE]: d["metadata"]["annotations"]["scepsy.dev/instance"]
        for d in api.list_all(DEPLOYMENT, f"{release_selector('scepsy')},app.kubernetes.io/component=engine")[0]
    }
    hosts = {n["metadata"]["name"]: n["metadata"]["labels"]["kubernetes.io/hostname"] for n in api.list_all(NODE)[0]}
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    for pod in pods(lab):
        engine = pod["metadata"]["labels"].get(ENGINE)
        if not engine:
            continue
        container = pod["spec"]["containers"][0]
        told = {e["name"]: e.get("value", "") for e in container["env"]}
        named = pod["metadata"].get("annotations", {}).get("nvidia.com/use-gpuuuid", "")  # target hami: its library does it
        visible = told.get("CUDA_VISIBLE_DEVICES", named).split(",")
        if "resourceClaims" in pod["spec"]:
            given = _given(claims[pod["spec"]["resourceClaims"][0]["resourceClaimName"]], container, uuids)
            assert set(visible) <= given, f"{engine}: sees {visible}, was given {given}"
        assert instances[engine] not in found, f"two pods of {instances[engine]}"
        found[instances[engine]] = (hosts[pod["spec"]["nodeName"]], tuple(visible))
    return found


def _given(claim: Object, container: Object, uuids: dict[tuple[str, str], str]) -> set[str]:
    """UUIDs of the devices that a container gets of its claim: those of one request, or all."""
    assert "allocation" in claim.get("status", {}), f"{claim['metadata']['name']}: claim not allocated"
    [entry] = container["resources"]["claims"]
    results = claim["status"]["allocation"]["devices"]["results"]
    return {uuids[r["pool"], r["device"]] for r in results if entry.get("request", r["request"]) == r["request"]}


def planned(plan: Plan) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Where the plan says each instance is."""
    return {
        i.name: (i.gpus[0].node, tuple(plan.cluster.node(g.node).gpu_uuids[g.index] for g in i.gpus)) for i in plan.instances
    }


class DoubleLab:
    """The double as a lab."""

    namespace = NAMESPACE

    def __init__(self, running: Double) -> None:
        self.running = running
        self.limits = QUICK

    def api(self) -> Api:
        return self.running.api()

    def fit(self, plan: Plan) -> Plan:
        return plan

    def options(self, **changes: Any) -> RenderOptions:
        return msgspec.convert({"gateway_image": plans.IMAGE, **changes}, RenderOptions)

    def send(self, method: str, path: str, body: Object | None = None, kind: str = "application/json") -> Object | None:
        return self.api().call(method, path, body=body, content_type=kind, absent_ok=True)


def _node_name(node: Any) -> str:
    return f"{node.name}.internal"


class RealLab:
    """A real control plane: a namespace of our own, fake nodes with GPUs, a kubelet that is a thread."""

    def __init__(self, cluster: Cluster) -> None:
        self.mark = uuid.uuid4().hex[:6]
        self.namespace = f"scepsy-test-{self.mark}"
        self.cluster = cluster
        self.limits = WaitLimits(start_s=120.0, stop_s=120.0, drain_s=1.0, tick_s=2.0, poll_s=0.5)
        self.connect = client_factory(kubeconfig=Path(os.environ["KUBECONFIG"]))
        self.client: ApiClient = self.connect()
        self.stop = threading.Event()

    def api(self) -> Api:
        return Api(self.connect, self.namespace)

    def fit(self, plan: Plan) -> Plan:
        nodes = {node.name: self._rename(node) for node in plan.cluster.nodes}
        instances = tuple(
            msgspec.structs.replace(i, gpus=tuple(msgspec.structs.replace(g, node=nodes[g.node].name) for g in i.gpus))
            for i in plan.instances
        )
        cluster = msgspec.structs.replace(plan.cluster, nodes=tuple(nodes.values()))
        return msgspec.structs.replace(plan, cluster=cluster, instances=instances)

    def options(self, **changes: Any) -> RenderOptions:
        return msgspec.convert({"gateway_image": plans.IMAGE, "namespace": self.namespace, **changes}, RenderOptions)

    def _rename(self, node: Any) -> Any:
        # Devices of other test runs on the same cluster must not be taken for ours.
        return msgspec.structs.replace(
            node, name=f"{node.name}-{self.mark}", gpu_uuids=tuple(f"{u}-{self.mark}" for u in node.gpu_uuids)
        )

    def send(self, method: str, path: str, body: Object | None = None, kind: str = "application/json") -> Object | None:
        return Api(self.connect, self.namespace).call(method, path, body=body, content_type=kind, absent_ok=True)

    @contextmanager
    def prepared(self) -> Iterator["RealLab"]:
        made: list[str] = []

        def make(collection: str, obj: Object) -> None:
            path = f"{collection}/{obj['metadata']['name']}"
            self.send("PATCH", f"{path}?fieldManager=scepsy-test&force=true", obj, "application/apply-patch+yaml")
            made.append(path)

        make("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}})
        if self.send("GET", "/apis/resource.k8s.io/v1/deviceclasses/gpu.nvidia.com") is None:
            cel = {"cel": {"expression": "device.driver == 'gpu.nvidia.com'"}}
            make(
                "/apis/resource.k8s.io/v1/deviceclasses",
                {
                    "apiVersion": "resource.k8s.io/v1",
                    "kind": "DeviceClass",
                    "metadata": {"name": "gpu.nvidia.com"},
                    "spec": {"selectors": [cel]},
                },
            )
        if self.send("GET", "/apis/node.k8s.io/v1/runtimeclasses/nvidia") is None:
            nvidia = {
                "apiVersion": "node.k8s.io/v1",
                "kind": "RuntimeClass",
                "metadata": {"name": "nvidia"},
                "handler": "nvidia",
            }
            make("/apis/node.k8s.io/v1/runtimeclasses", nvidia)
        where = {"nodes": "/api/v1/nodes", "resourceslices": "/apis/resource.k8s.io/v1/resourceslices"}
        for node in map(self._rename, self.cluster.nodes):
            for plural, obj in node_objects(node):
                status = obj.pop("status", None)
                # As with some providers, a node's name is not its hostname.
                if plural == "nodes":
                    obj["metadata"]["name"] = _node_name(node)
                else:
                    obj["spec"]["nodeName"] = _node_name(node)
                make(where[plural], obj)
                if status is not None:
                    path = f"{where[plural]}/{obj['metadata']['name']}"
                    self.send("PATCH", f"{path}/status", {"status": status}, "application/merge-patch+json")
        self._heartbeat()
        kubelet = threading.Thread(target=self._kubelet, daemon=True)
        kubelet.start()
        try:
            yield self
        finally:
            self.send("DELETE", f"/api/v1/namespaces/{self.namespace}")
            self.stop.wait(3)  # its pods go first, while there is still a kubelet to let go of them
            self.stop.set()
            kubelet.join(10)
            for path in reversed(made):
                self.send("DELETE", path)

    def node_names(self) -> list[str]:
        """The names of our nodes, which are not their hostnames."""
        return [_node_name(self._rename(node)) for node in self.cluster.nodes]

    def _heartbeat(self) -> None:
        """Without a sign of life the node lifecycle controller taints a node after less than a minute."""
        now = datetime.datetime.now(tz=datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        ready_now = {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": now}
        for node in map(self._rename, self.cluster.nodes):
            path = f"/api/v1/nodes/{_node_name(node)}"
            self.send("PATCH", f"{path}/status", {"status": {"conditions": [ready_now]}}, "application/merge-patch+json")
            stored = self.send("GET", path) or {}
            if not stored.get("spec", {}).get("unschedulable"):
                self.send("PATCH", path, {"spec": {"taints": []}}, "application/merge-patch+json")

    def _kubelet(self) -> None:
        """Pods that are bound to a fake node are ready; those on their way out are gone. Nodes stay ready."""
        beaten_s = 0.0
        while not self.stop.wait(0.3):
            if time.monotonic() - beaten_s > 10:
                self._heartbeat()
                beaten_s = time.monotonic()
            path = f"/api/v1/namespaces/{self.namespace}/pods"
            for pod in (self.send("GET", path) or {"items": []})["items"]:
                here = f"{path}/{pod['metadata']['name']}"
                if not pod["spec"].get("nodeName"):
                    continue
                if "deletionTimestamp" in pod["metadata"]:
                    self.send("DELETE", here, {"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0})
                elif pod.get("status", {}).get("phase") != "Running":
                    self.send("PATCH", f"{here}/status", {"status": ready(pod)}, "application/merge-patch+json")
