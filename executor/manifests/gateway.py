"""The gateway on the cluster: Deployment, Service, and its configuration naming every instance. Pure."""

import json
from collections.abc import Container, Iterable

import msgspec

from executor.gateway.config import FORMAT, VERSION, Endpoint, GatewayConfig, GatewayLimits
from executor.manifests.engines import PORT, Engine
from executor.manifests.names import labels
from executor.manifests.options import RenderOptions
from executor.manifests.pods import (
    Manifest,
    container_security,
    deployment,
    http_probes,
    placing,
    pod_security,
    requests,
    scratch_volumes,
)
from executor.recording.config import Recording

GATEWAY_PORT = 8080
CONFIG_FILE = "gateway.yaml"
_MOUNT = "/etc/scepsy"
_KEYS = "/etc/scepsy-keys"
_RECORDINGS = "/recordings"
RECORDING_FILE = "calls.jsonl"


def gateway_name(options: RenderOptions) -> str:
    """Name of the gateway's Deployment, Service and ConfigMap."""
    return f"{options.release}-gateway"


def gateway_config(engines: Iterable[Engine], options: RenderOptions, draining: Container[str] = ()) -> GatewayConfig:
    """The gateway's configuration: where each instance is, its share, and which ones (by name) take no new calls."""
    endpoints = tuple(
        Endpoint(
            name=engine.name,
            llm=engine.llm,
            also=engine.also,
            url=f"http://{engine.host}:{PORT}",
            share_pct=engine.share_pct,
            draining=engine.name in draining,
        )
        for engine in engines
    )
    return GatewayConfig(
        host="0.0.0.0",
        port=GATEWAY_PORT,
        endpoints=endpoints,
        api_keys_file=f"{_KEYS}/keys" if options.api_keys_secret else "",
        # Without keys the NetworkPolicy is the fence: only pods of this namespace get through.
        allow_unauthenticated=not options.api_keys_secret,
        limits=GatewayLimits(drain_s=float(options.drain_s)),
        recording=Recording(path=f"{_RECORDINGS}/{RECORDING_FILE}") if options.recording_claim else None,
    )


def gateway_config_map(config: GatewayConfig, options: RenderOptions) -> Manifest:
    """The configuration as a ConfigMap; the gateway reads it again whenever it changes, without a restart."""
    document = {"format": FORMAT, "version": VERSION, **msgspec.to_builtins(config)}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": gateway_name(options), "labels": labels(options.release, "gateway", "gateway")},
        # JSON is YAML, and the quickest to parse.
        "data": {CONFIG_FILE: json.dumps(document, indent=1)},
    }


def gateway_objects(options: RenderOptions) -> list[Manifest]:
    """Service, Deployment, and at two or more replicas a disruption budget."""
    mine = labels(options.release, "gateway", "gateway")
    selector = {"app.kubernetes.io/instance": options.release, "app.kubernetes.io/component": "gateway"}
    volumes, mounts = scratch_volumes()
    # The whole directory is mounted: a file mounted alone (subPath) would never see an update.
    volumes.append({"name": "config", "configMap": {"name": gateway_name(options)}})
    mounts.append({"name": "config", "mountPath": _MOUNT, "readOnly": True})
    if options.api_keys_secret:
        volumes.append({"name": "keys", "secret": {"secretName": options.api_keys_secret}})
        mounts.append({"name": "keys", "mountPath": _KEYS, "readOnly": True})
    if options.recording_claim:
        volumes.append({"name": "recordings", "persistentVolumeClaim": {"claimName": options.recording_claim}})
        mounts.append({"name": "recordings", "mountPath": _RECORDINGS})
    container: Manifest = {
        "name": "gateway",
        "image": options.gateway_image,
        "command": ["scepsy", "gateway"],
        "args": ["--config", f"{_MOUNT}/{CONFIG_FILE}"],
        "ports": [{"name": "http", "containerPort": GATEWAY_PORT}],
        "resources": {"requests": requests(options.gateway_resources)},
        # Not /health: it fails while any LLM has no instance, which is no reason to take the gateway from the others.
        **http_probes("/metrics", 60),
        "lifecycle": {"preStop": {"sleep": {"seconds": 5}}},
        "securityContext": container_security(),
        "volumeMounts": mounts,
    }
    pod = {
        "metadata": {"labels": {**mine, **selector}},
        "spec": {
            "automountServiceAccountToken": False,
            "serviceAccountName": gateway_name(options),
            "enableServiceLinks": False,
            **({"nodeSelector": options.node_selector} if options.node_selector else {}),
            **placing(options),
            "terminationGracePeriodSeconds": options.drain_s + 15,
            "securityContext": pod_security(options.uid),
            "containers": [container],
            "volumes": volumes,
        },
    }
    service: Manifest = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": gateway_name(options), "labels": mine},
        "spec": {"selector": selector, "ports": [{"name": "http", "port": GATEWAY_PORT, "targetPort": "http"}]},
    }
    # The gateway holds no GPU, so it may surge: a new one serves before the old one goes.
    surge = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    made = [
        service,
        deployment(gateway_name(options), mine, selector, pod, replicas=options.gateway_replicas, strategy=surge),
    ]
    if options.gateway_replicas > 1:
        made.append(
            {
                "apiVersion": "policy/v1",
                "kind": "PodDisruptionBudget",
                "metadata": {"name": gateway_name(options), "labels": mine},
                # A gateway that is not ready anyway must not keep a node from being drained.
                "spec": {
                    "maxUnavailable": 1,
                    "unhealthyPodEvictionPolicy": "AlwaysAllow",
                    "selector": {"matchLabels": selector},
                },
            }
        )
    return made
