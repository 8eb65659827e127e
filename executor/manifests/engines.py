"""One Deployment per instance: the engine's pod, on its node, with its devices and its vLLM arguments. Pure."""

from dataclasses import dataclass
from typing import Any

from executor.engine import MODULE, vllm_args, what_serves
from executor.manifests.devices import Binding, binding, gpus_text
from executor.manifests.domains import Domain
from executor.manifests.names import ENGINE, GPUS, INSTANCE, LLM, WAVE, digest, labels, slug
from executor.manifests.options import RenderOptions
from executor.manifests.pods import (
    Manifest,
    container_security,
    deployment,
    http_probes,
    placing,
    pod_security,
    pre_stop_s,
    requests,
    scratch_env,
    scratch_volumes,
    tolerations,
)
from executor.manifests.sizing import Needs, needs_of
from scepsy.errors import InputError
from scepsy.llm import Served
from scepsy.plans import Instance, Plan
from scepsy.profile.model import Profile

PORT = 8000


@dataclass(frozen=True)
class Engine:
    """One instance as it will run."""

    instance: str
    """The plan's name, ``<llm>-<index>``."""
    llm: str
    also: tuple[str, ...]
    """Other names that clients ask for it by."""
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
    start_timeout_s: int
    """How long it may load before it is restarted."""
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
    _check_args(instance, options)
    tie = binding(plan, domain, instance, options, held_by)
    needs = needs_of(profile, options.models[instance.llm], options)
    served = what_serves(plan, profile)
    spec = _pod_spec(instance, profile, served, domain.node, tie, options, needs)
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
        name, {**mine, ENGINE: name, WAVE: str(wave)}, selector, template, progressDeadlineSeconds=needs.start_timeout_s + 60
    )
    made["metadata"]["annotations"] = {INSTANCE: instance.name, GPUS: gpus}
    return Engine(
        instance=instance.name,
        llm=instance.llm,
        also=served.also,
        name=name,
        host=f"{name}.{service}.{options.namespace}.svc",
        node=domain.node,
        gpus=tuple(gpus.split(",")),
        share_pct=instance.share_pct,
        memory_bytes=instance.memory_bytes,
        wave=wave,
        after=after,
        holder=held_by,
        start_timeout_s=needs.start_timeout_s,
        deployment=made,
    )


def _models(options: RenderOptions) -> Manifest:
    if options.models_claim:
        return {"persistentVolumeClaim": {"claimName": options.models_claim, "readOnly": True}}
    if options.models_host_path:
        return {"hostPath": {"path": options.models_host_path, "type": "Directory"}}
    return {}


_SEVERAL_WORKERS = ("--data-parallel-size", "-dp", "--data-parallel-size-local")


def _check_args(instance: Instance, options: RenderOptions) -> None:
    """The memory cap is per process, so two workers of one engine on one GPU would have it twice."""
    given = options.engine_args.get(instance.llm, ())
    found = next((each for each in given if each.partition("=")[0] in _SEVERAL_WORKERS), "")
    if found and instance.share_pct < 100:
        raise InputError(
            f"engine_args of {instance.llm} has {found}: must not be used on shared GPUs, where the memory cap holds for each "
            f"process and every data-parallel rank is one (plan more instances instead)"
        )


def _annotations(tie: Binding) -> dict[str, Any]:
    return {"annotations": tie.annotations} if tie.annotations else {}


def _pod_spec(
    instance: Instance, profile: Profile, served: Served, node: str, tie: Binding, options: RenderOptions, needs: Needs
) -> Manifest:
    own_shm = any(mount["mountPath"] == "/dev/shm" for mount in tie.mounts)
    volumes, mounts = scratch_volumes("" if own_shm else options.shm, options.cache_claim)
    models = _models(options)
    if models:
        volumes.append({"name": "models", **models})
        mounts.append({"name": "models", "mountPath": "/models", "readOnly": True})
    env = [*scratch_env(), *({"name": key, "value": value} for key, value in tie.env.items())]
    if options.hf_secret:
        env.append({"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": options.hf_secret, "key": "token"}}})
    args = vllm_args(
        instance,
        profile,
        model=options.models[instance.llm],
        names=served.names,
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
        "resources": {"requests": requests(needs.resources, needs.scratch), **tie.container_resources},
        **http_probes("/health", needs.start_timeout_s),
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
        "tolerations": tolerations(options),
        **placing(options),
        "terminationGracePeriodSeconds": pre_stop_s(options) + options.drain_s + 10,
        "securityContext": pod_security(options.uid),
        **extra,
        "containers": [container],
        "volumes": volumes,
    }
