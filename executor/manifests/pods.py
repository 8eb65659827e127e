"""The parts that every pod of ours has: security, scratch space, probes. Pure builders of plain data."""

from typing import Any

from executor.manifests.options import RenderOptions, Resources

SCRATCH = "/scratch"

_CACHES = {
    "HOME": SCRATCH,
    "HF_HOME": f"{SCRATCH}/hf",
    "VLLM_CACHE_ROOT": f"{SCRATCH}/vllm",
    "TRITON_CACHE_DIR": f"{SCRATCH}/triton",
    "TORCHINDUCTOR_CACHE_DIR": f"{SCRATCH}/inductor",
}

Manifest = dict[str, Any]


def pod_security(uid: int) -> Manifest:
    """Pod security context of the ``restricted`` profile, under one fixed user."""
    return {
        "runAsNonRoot": True,
        "runAsUser": uid,
        "runAsGroup": uid,
        "fsGroup": uid,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security() -> Manifest:
    """Container security context: nothing gained, nothing written outside the volumes."""
    return {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}


def scratch_env() -> list[Manifest]:
    """Every directory that the engine would write to under a read-only root."""
    return [{"name": name, "value": value} for name, value in _CACHES.items()]


def scratch_volumes(shm: str = "", cache_claim: str = "") -> tuple[list[Manifest], list[Manifest]]:
    """(volumes, mounts) of the writable places: /tmp, the caches (kept in ``cache_claim`` if given), and /dev/shm."""
    cache: Manifest = {"persistentVolumeClaim": {"claimName": cache_claim}} if cache_claim else {"emptyDir": {}}
    volumes: list[Manifest] = [{"name": "tmp", "emptyDir": {}}, {"name": "scratch", **cache}]
    mounts = [{"name": "tmp", "mountPath": "/tmp"}, {"name": "scratch", "mountPath": SCRATCH}]
    if shm:
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": shm}})
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})
    return volumes, mounts


def requests(resources: Resources, scratch: str = "") -> Manifest:
    """What the scheduler sets aside. No CPU limit: throttling the engine's Python loop stalls the GPU."""
    storage = {"ephemeral-storage": scratch} if scratch else {}
    return {"cpu": resources.cpu, "memory": resources.memory, **storage}


def http_probes(path: str, start_timeout_s: int) -> Manifest:
    """Startup patient (weights load for minutes), readiness quick, liveness tolerant (a long prefill is no death)."""
    probe: Manifest = {"httpGet": {"path": path, "port": "http"}}
    return {
        "startupProbe": {**probe, "periodSeconds": 5, "timeoutSeconds": 5, "failureThreshold": -(-start_timeout_s // 5)},
        "readinessProbe": {**probe, "periodSeconds": 2, "timeoutSeconds": 2, "failureThreshold": 2},
        "livenessProbe": {**probe, "periodSeconds": 20, "timeoutSeconds": 10, "failureThreshold": 6},
    }


def pre_stop_s(options: RenderOptions) -> int:
    """Seconds between a pod leaving its Service and its engine being told to stop: routes must forget it first."""
    return min(5, options.drain_s)


def deployment(name: str, labels: Manifest, selector: Manifest, pod: Manifest, **spec: Any) -> Manifest:
    """A Deployment that never surges: a second pod would wait for the GPUs that the first one holds."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "replicas": 1,
            "revisionHistoryLimit": 1,
            "strategy": {"type": "Recreate"},
            **spec,
            "selector": {"matchLabels": selector},
            "template": pod,
        },
    }


def placing(options: RenderOptions) -> Manifest:
    """What a pod spec says of its priority; nothing by default."""
    return {"priorityClassName": options.priority_class} if options.priority_class else {}


def tolerations(options: RenderOptions) -> list[Manifest]:
    """GPU nodes are often tainted so that only pods which need them land there; then the wanted ones."""
    wanted = [
        {key: value for key in ("key", "operator", "value", "effect") if (value := getattr(each, key))}
        for each in options.tolerations
    ]
    return [GPU_TOLERATION, *(each for each in wanted if each != GPU_TOLERATION)]


GPU_TOLERATION: Manifest = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
