"""One Deployment per instance: the engine's pod, on its node, with its devices and its vLLM arguments. Pure."""

from dataclasses import dataclass
from typing import Any

from executor.engine import MODULE, vllm_args
from executor.manifests.devices import GPU_TOLERATION, Binding, binding, gpus_text
from executor.manifests.domains import Domain
from executor.manifests.names import ENGINE, GPUS, INSTANCE, LLM, WAVE, digest, labels, slug
from executor.manifests.options import RenderOptions
from executor.manifests.pods import (
    Manifest,
    container_security,
    deployment,
    http_probes,
    pod_security,
    pre_stop_s,
    requests,
    scratch_env,
    scratch_volumes,
)
from scepsy.plans import Instance, Plan
from scepsy.profile.model import Profile

PORT = 8000


@dataclass(frozen=True)
class Engine:
    """One instance as it will run."""

    instance: str
    """The plan's name, ``<llm>-<index>``."""
    llm: str
    name: str
    """Name of the Deployment, and of its pod's host."""
    host: str
    """DNS name within the cluster: the pod's own, so that the gateway chooses the instance."""
    node: str
    gpus: tuple[str, ...]
    """``<node>/<uuid>`` of each."""
    share_pct: int
    memory_bytes: int
    wave: int
    after: tuple[str, ...]
    """Deployments that must serve before this one starts: its neighbours on the same GPUs that come earlier."""
    holder: str
    """Name of the claim or the MPS daemon that holds its GPUs; empty when none does."""
    deployment: Manifest


def service_name(llm: str, options: RenderOptions) -> str:
    """Name of the Service of one LLM."""
    return f"{options.release}-{slug(llm)}"


def engine_labels(llm: str, options: RenderOptions) -> dict[str, str]:
    """Labels that every pod of one LLM has, in every plan."""
    return {**labels(options.release, "engine", "vllm"), LLM: slug(llm)}


def engine(
    plan: Plan,
    domain: Domain,
    instance: Instance,
    profile: Profile,
    options: RenderOptions,
    *,
    wave: int,
    after: tuple[str, ...],
    held_by: str,
    twin: int,
) -> Engine:
    """Build one engine. ``twin`` counts earlier instances with the very same content, which need names of their own.

    The Deployment's name is a digest of its pod, so an equal engine of another plan has the same name; what differs
    between plans without touching the pod (index, wave) stays out of the template.
    """
    tie = binding(plan, domain, instance, options, held_by)
    spec = _pod_spec(instance, profile, domain.node, tie, options)
    gpus = gpus_text(plan, instance)
    content = digest([spec, tie.annotations, twin])
    name = f"{options.release}-{slug(instance.llm)}-{content}"
    service = service_name(instance.llm, options)
    spec["hostname"] = name
    spec["subdomain"] = service
    mine = engine_labels(instance.llm, options)
    selector = {"app.kubernetes.io/instance": options.release, "app.kubernetes.io/component": "engine", ENGINE: name}
    template = {"metadata": {"labels": {**mine, ENGINE: name}, **_annotations(tie)}, "spec": spec}
    made = deployment(
        name, {**mine, ENGINE: name, WAVE: str(wave)}, selector, template, progressDeadlineSeconds=options.start_timeout_s + 60
    )
    made["metadata"]["annotations"] = {INSTANCE: instance.name, GPUS: gpus}
    return Engine(
        instance=instance.name,
        llm=instance.llm,
        name=name,
        host=f"{name}.{service}.{options.namespace}.svc",
        node=domain.node,
        gpus=tuple(gpus.split(",")),
        share_pct=instance.share_pct,
        memory_bytes=instance.memory_bytes,
        wave=wave,
        after=after,
        holder=held_by,
        deployment=made,
    )


def _annotations(tie: Binding) -> dict[str, Any]:
    return {"annotations": tie.annotations} if tie.annotations else {}


def _pod_spec(instance: Instance, profile: Profile, node: str, tie: Binding, options: RenderOptions) -> Manifest:
    volumes, mounts = scratch_volumes("" if any(m["mountPath"] == "/dev/shm" for m in tie.mounts) else options.shm)
    if options.models_claim:
        volumes.append({"name": "models", "persistentVolumeClaim": {"claimName": options.models_claim, "readOnly": True}})
        mounts.append({"name": "models", "mountPath": "/models", "readOnly": True})
    env = [*scratch_env(), *({"name": key, "value": value} for key, value in tie.env.items())]
    if options.hf_secret:
        env.append({"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": options.hf_secret, "key": "token"}}})
    args = vllm_args(
        instance,
        profile,
        model=options.models.get(instance.llm),
        port=PORT,
        shutdown_timeout_s=options.drain_s,
        extra=options.engine_args.get(instance.llm, ()),
    )
    container: Manifest = {
        "name": "vllm",
        "image": options.engine_image,
        "command": ["python3", "-m", MODULE],
        "args": args,
        "ports": [{"name": "http", "containerPort": PORT}],
        "env": env,
        "resources": {"requests": requests(options.engine_resources), **tie.container_resources},
        **http_probes("/health", options.start_timeout_s),
        "lifecycle": {"preStop": {"sleep": {"seconds": max(1, pre_stop_s(options))}}},
        "securityContext": container_security(),
        "volumeMounts": [*mounts, *tie.mounts],
    }
    extra = dict(tie.pod)
    volumes += extra.pop("volumes", [])
    return {
        "nodeSelector": {"kubernetes.io/hostname": node},
        "automountServiceAccountToken": False,
        "serviceAccountName": f"{options.release}-engine",
        "enableServiceLinks": False,
        "tolerations": [GPU_TOLERATION],
        "terminationGracePeriodSeconds": pre_stop_s(options) + options.drain_s + 10,
        "securityContext": pod_security(options.uid),
        **extra,
        "containers": [container],
        "volumes": volumes,
    }
