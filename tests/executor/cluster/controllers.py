"""What Kubernetes' controllers, its scheduler and a kubelet do to the double's objects, reduced to what a release needs.

Deployments make one pod each, pods are bound when their node selector and their claims' devices agree, claims are
allocated once and kept while pods use them, owners take what they own with them.
"""

import copy
import re
from collections.abc import Callable
from typing import Any

from tests.executor.cluster.store import Key, Object, Store

_CEL = re.compile(r"device\.attributes\['([^']+)'\]\.uuid == '([^']+)'")

Verdict = Callable[[Object], dict[str, Any] | None]
"""Given a bound pod: its status, or None to leave it waiting."""


def ready(pod: Object) -> dict[str, Any]:
    """Status of a pod whose containers all serve."""
    containers = [
        {"name": c["name"], "ready": True, "restartCount": 0, "state": {"running": {}}} for c in pod["spec"]["containers"]
    ]
    return {
        "phase": "Running",
        "conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "True"}],
        "containerStatuses": containers,
    }


class Controllers:
    """Runs every loop until nothing changes any more."""

    def __init__(self, store: Store, verdict: Verdict = ready) -> None:
        self.store = store
        self.verdict = verdict
        self.kubelet = True
        self._named: dict[str, tuple[str, str]] = {}
        """False: nothing runs pods, as on a plain control plane."""
        self.created = 0
        self.admit: Callable[[Object], str] = lambda pod: ""
        """Admission of pods: why one is refused (Pod Security, a webhook), or nothing. Quotas come on top."""

    def settle(self) -> None:
        while True:
            before = self.store.version
            self._deployments()
            self._jobs()
            self._collect_garbage()
            self._schedule()
            self._run_pods()
            self._release_claims()
            if self.store.version == before:
                return

    def _deployments(self) -> None:
        owners = self._pods_by_owner()
        for key, obj in self.store.items("deployments"):
            mine = owners.get(obj["metadata"]["uid"], [])
            if "deletionTimestamp" in obj["metadata"]:
                for pod in mine:
                    self.store.mark_deleted(pod)
                if not mine:
                    self.store.remove(key)
                continue
            live = [pod for pod in mine if "deletionTimestamp" not in self.store.objects[pod]["metadata"]]
            refused = ""
            for _ in range(obj["spec"].get("replicas", 1) - len(live)):
                refused = self.admit(obj["spec"]["template"]) or self.quota_refusal("pods")
                if not refused:
                    self._make_pod(key, obj, "Deployment", "apps/v1")
            ready_pods = sum(_is_ready(self.store.objects[pod]) for pod in live)
            status: dict[str, Any] = {"replicas": len(live), "readyReplicas": ready_pods}
            if refused:
                message = f'pods "{key[2]}-x" is forbidden: {refused}'
                failure = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": message}
                status["conditions"] = [failure]
            if obj.get("status") != status:
                self.store.change(key, lambda o, status=status: o.update(status=status))  # type: ignore[misc]

    def quota_refusal(self, resource: str) -> str:
        """Why one more of ``resource`` (as quotas name it) is refused; the used amounts are brought up to date first."""
        for key, quota in self.store.items("resourcequotas"):
            used = {name: str(self._used(name)) for name in quota["spec"]["hard"]}
            if quota.get("status", {}).get("used") != used:
                self.store.change(key, lambda o, used=used: o.update(status={"used": used}))  # type: ignore[misc]
            if resource in used and int(used[resource]) >= int(quota["spec"]["hard"][resource]):
                hard = quota["spec"]["hard"][resource]
                return (
                    f"exceeded quota: {key[2]}, requested: {resource}=1, used: {resource}={used[resource]}, "
                    f"limited: {resource}={hard}"
                )
        return ""

    def _used(self, resource: str) -> int:
        return sum(1 for _ in self.store.items(resource.removeprefix("count/").partition(".")[0]))

    def _jobs(self) -> None:
        owners = self._pods_by_owner()
        for key, obj in self.store.items("jobs"):
            mine = owners.get(obj["metadata"]["uid"], [])
            if "deletionTimestamp" in obj["metadata"]:
                for pod in mine:
                    self.store.mark_deleted(pod)
                if not mine:
                    self.store.remove(key)
            elif not mine:
                self._make_pod(key, obj, "Job", "batch/v1")
            else:
                phases = [self.store.objects[pod].get("status", {}).get("phase") for pod in mine]
                status = {"succeeded": phases.count("Succeeded"), "failed": phases.count("Failed")}
                if obj.get("status") != status:
                    self.store.change(key, lambda o, status=status: o.update(status=status))  # type: ignore[misc]

    def _make_pod(self, key: Key, owner: Object, kind: str, api: str) -> None:
        self.created += 1
        template = copy.deepcopy(owner["spec"]["template"])
        metadata = template.get("metadata", {})
        metadata["name"] = f"{key[2]}-{self.created:05d}"
        metadata["ownerReferences"] = [
            {"apiVersion": api, "kind": kind, "name": key[2], "uid": owner["metadata"]["uid"], "controller": True}
        ]
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": metadata,
            "spec": template["spec"],
            "status": {"phase": "Pending"},
        }
        self.store.put("pods", key[1], pod)

    def _collect_garbage(self) -> None:
        uids = {obj["metadata"]["uid"] for obj in self.store.objects.values()}
        for key, obj in list(self.store.objects.items()):
            owners = obj["metadata"].get("ownerReferences", [])
            if owners and not any(owner["uid"] in uids for owner in owners):
                if key[0] in ("pods", "deployments", "resourceclaims", "jobs"):
                    self.store.mark_deleted(key)
                else:
                    self.store.remove(key)

    def _schedule(self) -> None:
        nodes = {
            o["metadata"]["labels"].get("kubernetes.io/hostname"): o["metadata"]["name"] for _, o in self.store.items("nodes")
        }
        devices = {}
        named: dict[str, tuple[str, str]] = {}
        for _, obj in self.store.items("resourceslices"):
            for device in obj["spec"]["devices"]:
                uuid = device["attributes"].get("uuid", {}).get("string", "")
                devices[uuid] = obj["spec"]["nodeName"]
                named[uuid] = (obj["spec"]["pool"]["name"], device["name"])
        self._named = named
        by_name = {name: uuid for uuid, name in named.items()}
        taken = {by_name[each]: key for key, o in self.store.items("resourceclaims") for each in _allocated(o)}
        for key, pod in self.store.items("pods"):
            if pod["spec"].get("nodeName") or "deletionTimestamp" in pod["metadata"]:
                continue
            reason = self._bind(key, pod, nodes, devices, taken)
            if reason:
                condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": reason}
                if pod["status"].get("conditions") != [condition]:
                    self.store.change(key, lambda o, c=condition: o["status"].update(conditions=[c]))  # type: ignore[misc]

    def _bind(self, key: Key, pod: Object, nodes: dict[str, str], devices: dict[str, str], taken: dict[str, Key]) -> str:
        wanted = pod["spec"].get("nodeSelector", {}).get("kubernetes.io/hostname")
        node = nodes.get(wanted) if wanted else next(iter(nodes.values()), None)
        if node is None:
            return f"0/{len(nodes)} nodes are available: node selector {wanted} matches none"
        claims: list[Key] = []
        for reference in pod["spec"].get("resourceClaims", []):
            claim_key = ("resourceclaims", key[1], reference["resourceClaimName"])
            claim = self.store.objects.get(claim_key)
            if claim is None or "deletionTimestamp" in claim["metadata"]:
                return f'resourceclaim "{reference["resourceClaimName"]}" not found'
            uuids = claim_uuids(claim)
            if not _allocated(claim):
                for uuid in uuids:
                    if devices.get(uuid) != node:
                        return f"device {uuid} is not on node {node}"
                    if uuid in taken:
                        return f"device {uuid} is allocated to claim {taken[uuid][2]}"
            elif any(devices.get(uuid) != node for uuid in uuids):
                return "claim is allocated on another node"
            claims.append(claim_key)
        for claim_key in claims:
            claim = self.store.objects[claim_key]
            uuids = claim_uuids(claim)
            for uuid in uuids:
                taken[uuid] = claim_key
            uid = pod["metadata"]["uid"]
            results = [
                {"request": r["name"], "driver": "gpu.nvidia.com", "pool": self._named[u][0], "device": self._named[u][1]}
                for r, u in zip(claim["spec"]["devices"]["requests"], uuids, strict=True)
            ]

            def reserve(o: Object, results: list[dict[str, str]] = results, uid: str = uid) -> None:
                status = o.setdefault("status", {})
                status["allocation"] = {"devices": {"results": results}}
                status.setdefault("reservedFor", []).append({"resource": "pods", "name": pod["metadata"]["name"], "uid": uid})

            self.store.change(claim_key, reserve)
        scheduled = [{"type": "PodScheduled", "status": "True"}]

        def bind(o: Object) -> None:
            o["spec"]["nodeName"] = node
            o["status"]["conditions"] = scheduled

        self.store.change(key, bind)
        return ""

    def _run_pods(self) -> None:
        for key, pod in self.store.items("pods"):
            if "deletionTimestamp" in pod["metadata"]:
                if self.kubelet or not pod["spec"].get("nodeName"):
                    self.store.remove(key)
            elif self.kubelet and pod["spec"].get("nodeName"):
                status = self.verdict(pod)
                if status is not None and {**pod["status"], **status} != pod["status"]:
                    self.store.change(key, lambda o, s=status: o["status"].update(s))  # type: ignore[misc]

    def _release_claims(self) -> None:
        uids = {obj["metadata"]["uid"] for _, obj in self.store.items("pods")}
        for key, claim in self.store.items("resourceclaims"):
            reserved = claim.get("status", {}).get("reservedFor", [])
            kept = [each for each in reserved if each["uid"] in uids]
            if kept != reserved:

                def drop(o: Object, kept: list[Any] = kept) -> None:
                    o["status"] = {**o["status"], "reservedFor": kept} if kept else {}

                self.store.change(key, drop)
            if "deletionTimestamp" in claim["metadata"] and not kept:
                self.store.remove(key)

    def _pods_by_owner(self) -> dict[str, list[Key]]:
        found: dict[str, list[Key]] = {}
        for key, pod in self.store.items("pods"):
            for owner in pod["metadata"].get("ownerReferences", []):
                found.setdefault(owner["uid"], []).append(key)
        return found


def claim_uuids(claim: Object) -> list[str]:
    """Devices that a claim's selectors name."""
    requests = claim["spec"]["devices"]["requests"]
    return [match[2] for r in requests for s in r["exactly"]["selectors"] if (match := _CEL.fullmatch(s["cel"]["expression"]))]


def _allocated(claim: Object) -> list[tuple[str, str]]:
    """(pool, device) of each device that a claim was given."""
    results = claim.get("status", {}).get("allocation", {}).get("devices", {}).get("results", [])
    return [(result["pool"], result["device"]) for result in results]


def _is_ready(pod: Object) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod.get("status", {}).get("conditions", []))
