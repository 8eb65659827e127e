"""How each target ties a pod to its GPUs: the only place where the targets differ. Pure.

dra    a ResourceClaim per domain pins the devices by UUID; the DRA driver starts the domain's MPS daemon
mps    a Deployment per shared domain runs the daemon; pods meet it through directories on the host
hami   annotations name the device, limits ask HAMi's library for cores and memory
"""

from dataclasses import dataclass, field
from typing import Any

from executor.manifests.domains import Domain, uuid_of
from executor.manifests.names import CLAIM_DEVICE_LIMIT, CLAIM_POD_LIMIT, DOMAIN, GPUS, digest, labels
from executor.manifests.options import RenderOptions
from executor.manifests.pods import Manifest, container_security, deployment, placing, tolerations
from scepsy.errors import InputError
from scepsy.plans import Instance, Plan

_MIB = 2**20
_MPS_ROOT = "/run/scepsy/mps"


@dataclass(frozen=True)
class Binding:
    """What a target adds to the pod of one instance."""

    env: dict[str, str] = field(default_factory=dict)
    pod: dict[str, Any] = field(default_factory=dict)
    """Merged into the pod spec; ``volumes`` are appended."""
    container_resources: dict[str, Any] = field(default_factory=dict)
    mounts: tuple[Manifest, ...] = ()
    annotations: dict[str, str] = field(default_factory=dict)


def holder(plan: Plan, domain: Domain, options: RenderOptions) -> Manifest | None:
    """The object that holds a domain's GPUs before its engines start: a claim (dra), a daemon (mps), or none."""
    if options.target == "dra":
        return _claim(plan, domain, options)
    if options.target == "mps" and domain.shared:
        return _daemon(plan, domain, options)
    return None


def binding(plan: Plan, domain: Domain, instance: Instance, options: RenderOptions, held_by: str) -> Binding:
    """What ties the pod of ``instance`` to its devices; ``held_by`` is the name of its domain's holder, if it has one."""
    uuids = [uuid_of(plan, gpu) for gpu in instance.gpus]
    if options.target == "hami":
        return _hami(domain, instance, uuids)
    env = {"CUDA_VISIBLE_DEVICES": ",".join(uuids), **(mps_env(instance) if domain.shared else {})}
    if options.target == "dra":
        return Binding(
            env=env,
            pod={"resourceClaims": [{"name": "gpu", "resourceClaimName": held_by}]},
            container_resources={"claims": [_taken(domain, instance)]},
        )
    env["NVIDIA_VISIBLE_DEVICES"] = ",".join(uuids)
    env["NVIDIA_DRIVER_CAPABILITIES"] = "compute,utility"
    pod: dict[str, Any] = {"runtimeClassName": options.runtime_class}
    if not domain.shared:
        return Binding(env=env, pod=pod)
    env["CUDA_MPS_PIPE_DIRECTORY"] = "/mps/pipe"
    return Binding(env=env, pod={**pod, "volumes": _mps_volumes(held_by, "Directory")}, mounts=_MPS_MOUNTS)


def _taken(domain: Domain, instance: Instance) -> Manifest:
    """The container's entry for its claim: one request of it, or all when the instance spans several GPUs.

    The API server keys ``resources.claims`` by name, so a claim is named once. A group of several GPUs within a larger
    domain therefore sees the domain's other GPUs as well; ``CUDA_VISIBLE_DEVICES`` keeps it to its own.
    """
    if len(instance.gpus) == 1:
        return {"name": "gpu", "request": f"g{domain.gpus.index(instance.gpus[0])}"}
    return {"name": "gpu"}


def mps_env(instance: Instance) -> dict[str, str]:
    """What makes an MPS client keep to its share: percent of the SMs, and memory per visible device.

    The daemon itself is left at 100 %: a client's environment can only lower what the daemon allows. The memory limit
    holds for each *process* on each device, counted in the order of ``CUDA_VISIBLE_DEVICES``. vLLM runs one worker process
    per rank, and rank r allocates on device r alone; its API server and scheduler hold no device memory. So one worker
    fills each entry, and naming the same limit for every device caps the instance as planned, whatever TP is. What would
    break this is a second worker on one device (``--data-parallel-size`` in ``engine_args``), which is refused.

    >>> from scepsy.cluster import Gpu
    >>> one = Instance(llm="a", index=0, gpus=(Gpu(node="n", index=3),), share_pct=40, memory_bytes=32 * 2**30)
    >>> mps_env(one)
    {'CUDA_MPS_ACTIVE_THREAD_PERCENTAGE': '40', 'CUDA_MPS_PINNED_DEVICE_MEM_LIMIT': '0=32768M'}
    """
    limits = ",".join(f"{ordinal}={instance.memory_bytes // _MIB}M" for ordinal in range(instance.tensor_parallel))
    return {
        "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": str(instance.share_pct),
        "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": limits,
    }


def gpus_text(plan: Plan, domain_or_instance: Domain | Instance) -> str:
    """Value of the GPUs annotation."""
    return ",".join(f"{gpu.node}/{uuid_of(plan, gpu)}" for gpu in domain_or_instance.gpus)


def _claim(plan: Plan, domain: Domain, options: RenderOptions) -> Manifest:
    if len(domain.instances) > CLAIM_POD_LIMIT:
        raise InputError(
            f"node {domain.node}: {len(domain.instances)} instances share the domain of {domain.gpus[0]}: a claim serves "
            f"at most {CLAIM_POD_LIMIT} pods (plan larger shares)"
        )
    if len(domain.gpus) > CLAIM_DEVICE_LIMIT:
        raise InputError(
            f"node {domain.node}: {len(domain.gpus)} GPUs form one domain: a claim holds at most {CLAIM_DEVICE_LIMIT} "
            f"(place tensor-parallel groups side by side instead of overlapping)"
        )
    names = [f"g{number}" for number in range(len(domain.gpus))]
    requests = [
        {
            "name": name,
            "exactly": {
                "deviceClassName": options.device_class,
                "allocationMode": "ExactCount",
                "count": 1,
                "selectors": [{"cel": {"expression": f"device.attributes['{options.driver}'].uuid == '{uuid_of(plan, gpu)}'"}}],
            },
        }
        for name, gpu in zip(names, domain.gpus, strict=True)
    ]
    devices: dict[str, Any] = {"requests": requests}
    if domain.shared:
        # One entry for all GPUs: the driver starts one daemon per (claim, entry), and a pod can join only one.
        parameters = {
            "apiVersion": "resource.nvidia.com/v1beta1",
            "kind": "GpuConfig",
            "sharing": {"strategy": "MPS", "mpsConfig": {"multiUser": True} if options.mps_multi_user else {}},
        }
        devices["config"] = [{"requests": names, "opaque": {"driver": options.driver, "parameters": parameters}}]
    # A claim's spec is immutable, so its name follows from it: other devices or another sharing make another claim.
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {
            "name": f"{options.release}-gpus-{digest(devices)}",
            "labels": labels(options.release, "gpus", "gpus"),
            "annotations": {GPUS: gpus_text(plan, domain)},
        },
        "spec": {"devices": devices},
    }


_MPS_MOUNTS = ({"name": "mps-pipe", "mountPath": "/mps/pipe"}, {"name": "mps-shm", "mountPath": "/dev/shm"})


def _mps_volumes(held_by: str, kind: str) -> list[Manifest]:
    """The daemon's pipe and its shared memory, which its clients must see at the same place (as in the device plugin)."""
    root = f"{_MPS_ROOT}/{held_by}"
    return [{"name": f"mps-{part}", "hostPath": {"path": f"{root}/{part}", "type": kind}} for part in ("pipe", "shm")]


def _daemon(plan: Plan, domain: Domain, options: RenderOptions) -> Manifest:
    uuids = ",".join(uuid_of(plan, gpu) for gpu in domain.gpus)
    name = f"{options.release}-mps-{digest([domain.node, uuids, options.uid, options.mps_image, options.runtime_class])}"
    mine = labels(options.release, "mps", "mps")
    selector = {"app.kubernetes.io/instance": options.release, "app.kubernetes.io/component": "mps", DOMAIN: name}
    env = {
        "CUDA_VISIBLE_DEVICES": uuids,
        "NVIDIA_VISIBLE_DEVICES": uuids,
        "NVIDIA_DRIVER_CAPABILITIES": "compute,utility",
        "CUDA_MPS_PIPE_DIRECTORY": "/mps/pipe",
        "CUDA_MPS_LOG_DIRECTORY": "/tmp",
    }
    own = {
        "name": "own",
        "image": options.mps_image,
        "command": ["chown", f"{options.uid}:{options.uid}", "/mps/pipe", "/dev/shm"],
        "securityContext": {
            **container_security(),
            "runAsUser": 0,
            "runAsNonRoot": False,
            "capabilities": {"drop": ["ALL"], "add": ["CHOWN"]},
        },
        "volumeMounts": list(_MPS_MOUNTS),
    }
    ready = ["sh", "-c", "echo get_server_list | nvidia-cuda-mps-control"]
    daemon = {
        "name": "mps",
        "image": options.mps_image,
        "command": ["nvidia-cuda-mps-control", "-f"],
        "env": [{"name": key, "value": value} for key, value in env.items()],
        "securityContext": container_security(),
        "readinessProbe": {"exec": {"command": ready}, "periodSeconds": 2, "timeoutSeconds": 5},
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}},
        "volumeMounts": [*_MPS_MOUNTS, {"name": "tmp", "mountPath": "/tmp"}],
    }
    pod = {
        "metadata": {"labels": {**mine, **selector}},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": domain.node},
            "runtimeClassName": options.runtime_class,
            "automountServiceAccountToken": False,
            "serviceAccountName": f"{options.release}-engine",
            "tolerations": tolerations(options),
            **placing(options),
            "securityContext": {
                "runAsUser": options.uid,
                "runAsGroup": options.uid,
                "runAsNonRoot": True,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "initContainers": [own],
            "containers": [daemon],
            "volumes": [*_mps_volumes(name, "DirectoryOrCreate"), {"name": "tmp", "emptyDir": {}}],
        },
    }
    made = deployment(name, {**mine, DOMAIN: name}, selector, pod)
    made["metadata"]["annotations"] = {GPUS: gpus_text(plan, domain)}
    return made


def _hami(domain: Domain, instance: Instance, uuids: list[str]) -> Binding:
    limits: dict[str, Any] = {"nvidia.com/gpu": str(len(uuids))}
    if domain.shared:
        limits["nvidia.com/gpumem"] = str(instance.memory_bytes // _MIB)
        limits["nvidia.com/gpucores"] = str(instance.share_pct)
    return Binding(annotations={"nvidia.com/use-gpuuuid": ",".join(uuids)}, container_resources={"limits": limits})
