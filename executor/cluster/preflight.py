"""Everything that can be known before the first change: reads and reviews only, so a refusal leaves nothing behind."""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any

import yaml

from executor.cluster.api import Api, Object, Patience
from executor.cluster.devices import physical_gpus, published_list
from executor.cluster.kinds import ACCESS_REVIEW, CLAIM, DEVICE_CLASS, MONITOR, NODE, POD, POOL, RULES_REVIEW, RUNTIME_CLASS
from executor.manifests import Rendered
from scepsy.errors import BackendError

OLDEST_MINOR = 34
"""resource.k8s.io/v1 and the sleep action of container lifecycles are generally available since Kubernetes 1.34."""

FIRST_CONTACT = Patience(total_s=10.0, request_s=5.0)
"""A server that has never answered is more likely wrong than restarting."""


@dataclass(frozen=True)
class Grant:
    """One verb on one resource, as RBAC speaks of it."""

    verb: str
    group: str
    resource: str
    subresource: str = ""
    namespaced: bool = True

    def __str__(self) -> str:
        what = "/".join(filter(None, [self.resource, self.subresource]))
        return f"{self.verb} {what}{f'.{self.group}' if self.group else ''}"


def grants(role: str = "") -> frozenset[Grant]:
    """Every verb that ``rbac.yaml`` grants, or one role of it: the one list of what we may send."""
    documents = yaml.safe_load_all(files("executor.cluster").joinpath("rbac.yaml").read_text())
    return frozenset(_grants(each for each in documents if role in ("", each["metadata"]["name"])))


def preflight(api: Api, rendered: Rendered) -> None:
    """Check version, APIs, rights, nodes and devices for one rendered plan.

    Raises ``BackendError`` naming the first thing that is missing and its remedy. Changes nothing.
    """
    check_version(api)
    check_apis(api, rendered)
    check_rights(api, rendered)
    nodes = sorted({engine.node for engine in rendered.engines})
    found = {label: node for node in api.list_all(NODE)[0] if (label := hostname(node))}
    for name in nodes:
        _check_node(name, found)
    if rendered.options.target == "dra":
        _check_devices(api, rendered, {node["metadata"]["name"]: label for label, node in found.items()})
    if rendered.options.target == "mps" and api.get(RUNTIME_CLASS, rendered.options.runtime_class) is None:
        raise BackendError(
            f"cluster {api.host} has no RuntimeClass {rendered.options.runtime_class}: install the NVIDIA container toolkit "
            f"or name another one (runtime_class)"
        )
    if rendered.options.target == "hami":
        _check_hami(rendered, found)


def check_version(api: Api) -> None:
    """Raise ``BackendError`` when the server does not answer, or is older than we support."""
    version = api.get_path("/version", patience=replace(FIRST_CONTACT, first_s=api.patience.first_s))
    if version is None or "minor" not in version:
        raise BackendError(f"cluster {api.host} is no Kubernetes API server (no /version): check the address and KUBECONFIG")
    major, minor = int(re.sub(r"\D", "", version["major"])), int(re.sub(r"\D", "", version["minor"]))
    if (major, minor) < (1, OLDEST_MINOR):
        raise BackendError(f"cluster {api.host} runs Kubernetes {major}.{minor}: must be >= 1.{OLDEST_MINOR} (upgrade it)")


def check_apis(api: Api, rendered: Rendered) -> None:
    """Raise ``BackendError`` when an API that the plan's objects need is not served."""
    if rendered.options.target == "dra" and api.get_path(f"/apis/{CLAIM.api}") is None:
        raise BackendError(
            f"cluster {api.host} does not serve {CLAIM.api}: enable dynamic resource allocation "
            f"(feature gate DynamicResourceAllocation and --runtime-config={CLAIM.api}=true), or use --target mps"
        )
    if rendered.options.endpoint_picker and api.get_path(f"/apis/{POOL.api}") is None:
        raise BackendError(
            f"cluster {api.host} has no InferencePool ({POOL.api}): install the Gateway API inference extension's CRDs, "
            f"or leave endpoint_picker out"
        )
    if rendered.options.pod_monitor and api.get_path(f"/apis/{MONITOR.api}") is None:
        raise BackendError(
            f"cluster {api.host} has no PodMonitor ({MONITOR.api}): install the Prometheus operator, or leave pod_monitor out"
        )


def check_rights(api: Api, rendered: Rendered) -> None:
    """Ask the server about each verb that we will need. Raises ``BackendError`` naming the first one that is refused."""
    target = rendered.options.target
    skipped = {
        *(() if target == "dra" else ("resourceclaims", "deviceclasses", "resourceslices")),
        *(() if target == "mps" else ("runtimeclasses",)),
        *(() if rendered.options.endpoint_picker else ("inferencepools",)),
        *(() if rendered.options.pod_monitor else ("podmonitors",)),
    }
    # What a release may hold is listed whatever the plan; the rest is needed only where the plan has such objects.
    needed = {
        grant
        for grant in grants("scepsy-deployer")
        if not grant.subresource and (grant.resource not in skipped or (grant.verb == "list" and grant.namespaced))
    }
    review = api.create(
        RULES_REVIEW, {"apiVersion": RULES_REVIEW.api, "kind": RULES_REVIEW.name, "spec": {"namespace": api.namespace}}
    )
    rules = review.get("status", {}).get("resourceRules", [])
    # The list is complete only where every authorizer can list its rules, so what is not on it is asked for by itself.
    for grant in sorted((grant for grant in needed if not any(_covers(rule, grant) for rule in rules)), key=str):
        require_right(api, grant)


def _covers(rule: Object, grant: Grant) -> bool:
    wanted = {"verbs": grant.verb, "apiGroups": grant.group, "resources": grant.resource}
    return not rule.get("resourceNames") and all({value, "*"} & set(rule.get(field, ())) for field, value in wanted.items())


def require_right(api: Api, grant: Grant) -> None:
    """Raise ``BackendError`` unless the server says that we may."""
    attributes = {
        "verb": grant.verb,
        "group": grant.group,
        "resource": grant.resource,
        **({"subresource": grant.subresource} if grant.subresource else {}),
        **({"namespace": api.namespace} if grant.namespaced else {}),
    }
    review = api.create(
        ACCESS_REVIEW,
        {"apiVersion": ACCESS_REVIEW.api, "kind": ACCESS_REVIEW.name, "spec": {"resourceAttributes": attributes}},
    )
    if not review.get("status", {}).get("allowed"):
        where = f" in namespace {api.namespace}" if grant.namespaced else ""
        raise BackendError(
            f"cluster {api.host} forbids `{grant}`{where} to this user: bind the roles of executor/cluster/rbac.yaml to it"
        )


def rehearse(api: Api, objects: Iterable[Object]) -> None:
    """Let the server check objects, admission included, without storing them (``dryRun=All``).

    This is where a driver that lacks a feature gate refuses a claim's sharing, and a policy refuses a Deployment. A quota that
    is full now is no refusal: what goes first makes room (``quota`` has compared the sums).
    """
    for obj in objects:
        with _quota_aside():
            api.apply(obj, dry_run=True)


def rehearse_pods(api: Api, deployments: Iterable[Object]) -> None:
    """Let the server check one pod of each Deployment: Pod Security, limits and webhooks refuse pods, not Deployments."""
    for obj in deployments:
        template = obj["spec"]["template"]
        # Our account may not exist yet, and the check of accounts is none that a pod of ours can fail.
        spec = {key: value for key, value in template["spec"].items() if key != "serviceAccountName"}
        name = f"{obj['metadata']['name']}-rehearsal"
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {**template["metadata"], "name": name}, "spec": spec}
        with _quota_aside():
            api.create(POD, pod, dry_run=True)


@contextmanager
def _quota_aside() -> Iterator[None]:
    try:
        yield
    except BackendError as error:
        if "exceeded quota" not in str(error):
            raise


def _check_node(name: str, found: dict[str, Object]) -> None:
    node = found.get(name)
    if node is None:
        raise BackendError(
            f"node {name} is not in the cluster (no node has the label kubernetes.io/hostname={name}; there are: "
            f"{', '.join(sorted(found)) or 'none'}): is this the right cluster? else `scepsy discover` and plan again"
        )
    if node.get("spec", {}).get("unschedulable"):
        raise BackendError(f"node {name} is cordoned: kubectl uncordon {name}, or plan without it")
    ready = {c["type"]: c["status"] for c in node.get("status", {}).get("conditions", [])}.get("Ready")
    if ready != "True":
        raise BackendError(f"node {name} is not ready (Ready is {ready}): repair it, or plan without it")


def _check_devices(api: Api, rendered: Rendered, hosts: Mapping[str, str]) -> None:
    options = rendered.options
    if api.get(DEVICE_CLASS, options.device_class) is None:
        raise BackendError(
            f"cluster {api.host} has no DeviceClass {options.device_class}: install the NVIDIA DRA driver (docs/kubernetes.md)"
        )
    devices = {gpu.uuid: gpu.device for gpu in physical_gpus(published_list(api, options.driver))}
    for engine in rendered.engines:
        for gpu in engine.gpus:
            node, _, uuid = gpu.partition("/")
            if uuid not in devices:
                raise BackendError(
                    f"GPU {uuid} of node {node}, which instance {engine.instance} needs, is not published by driver "
                    f"{options.driver}: is this the right cluster, and the driver running there? else `scepsy discover`"
                )
            where = hosts.get(devices[uuid]["node"], devices[uuid]["node"])
            if where != node:
                raise BackendError(f"GPU {uuid} is on node {where}, not {node} as planned: `scepsy discover` and plan again")


def _check_hami(rendered: Rendered, found: dict[str, Object]) -> None:
    for engine in rendered.engines:
        known = found[engine.node]["metadata"].get("annotations", {}).get("hami.io/node-nvidia-register", "")
        for gpu in engine.gpus:
            uuid = gpu.partition("/")[2]
            if uuid not in known:
                raise BackendError(
                    f"GPU {uuid} of node {engine.node} is not registered with HAMi: is its device plugin running there?"
                )


def hostname(node: Object) -> str:
    """The name by which plans know a node: what a node selector compares, which need not be the node's own name."""
    return str(node["metadata"].get("labels", {}).get("kubernetes.io/hostname", ""))


def _grants(documents: Iterable[Any]) -> Iterator[Grant]:
    for document in documents:
        for rule in document.get("rules", []):
            for group in rule["apiGroups"]:
                for resource in rule["resources"]:
                    name, _, part = resource.partition("/")
                    for verb in rule["verbs"]:
                        yield Grant(verb, group, name, part, namespaced=document["kind"] == "Role")
