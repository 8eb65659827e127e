"""Desired against actual, instance by instance: where it runs, whether it serves, what is wrong, how busy it is."""

import re
from collections.abc import Mapping
from typing import Any

from executor.cluster.api import Api
from executor.cluster.drain import metrics_path
from executor.cluster.drift import additions, differences
from executor.cluster.kinds import CLAIM, DEPLOYMENT, NODE, POD
from executor.cluster.pods import PodState, best, pod_state
from executor.cluster.preflight import check_version, hostname
from executor.cluster.problems import refusal
from executor.cluster.snapshot import Snapshot, annotation, engine_of, take
from executor.manifests import Engine, Rendered, read_plan_config_map, render
from executor.manifests.engines import PORT
from executor.manifests.names import CONTENT, STATE, release_selector
from scepsy.errors import BackendError

_SAMPLE = re.compile(
    r"^vllm:(num_requests_running|num_requests_waiting|kv_cache_usage_perc)(?:\{[^}]*\})? ([-+.eE0-9]+)$", re.MULTILINE
)


def status(api: Api, release: str, *, metrics: bool = True) -> dict[str, Any]:
    """The state of one release as plain data.

    ``state`` is serving (every instance as planned), changing, degraded or absent; ``drift`` names every difference from
    the plan in words, ``added`` what others put beside it. A node is named by its label ``kubernetes.io/hostname``.
    Raises ``BackendError`` when the cluster cannot be asked or the record cannot be read.
    """
    check_version(api)
    now = take(api, release)
    record = now.record
    if record is None:
        stray = [f"{kind.lower()}/{name}" for kind, name in now.objects]
        return {
            "release": release,
            "state": "absent",
            "plan": None,
            "instances": [],
            "drift": [f"{s} without a plan" for s in stray],
        }
    wanted = render(*read_plan_config_map(record["data"]))
    pods = _pods(api, release)
    hosts = {node["metadata"]["name"]: hostname(node) for node in api.list_all(NODE)[0]}
    instances = [_instance(api, engine, now, pods, hosts, metrics) for engine in wanted.engines]
    drift = _drift(now, wanted)
    serving = all(each["ready"] for each in instances)
    changing = annotation(record, STATE) == "applying"
    return {
        "release": release,
        "state": "changing" if changing else "serving" if serving and not drift else "degraded",
        "plan": wanted.plan_hash,
        "target": wanted.options.target,
        "instances": instances,
        "drift": drift,
        "added": _added(now, wanted),
    }


def recorded(api: Api, release: str) -> Rendered:
    """The rendered plan that the cluster's record asks for. Raises ``BackendError`` when there is none."""
    check_version(api)
    record = take(api, release).record
    if record is None:
        raise BackendError(f"release {release} is not in namespace {api.namespace} of {api.host}: `scepsy apply` a plan first")
    return render(*read_plan_config_map(record["data"]))


def _pods(api: Api, release: str) -> dict[str, PodState]:
    groups: dict[str, list[PodState]] = {}
    for pod in api.list_all(POD, release_selector(release))[0]:
        groups.setdefault(engine_of(pod), []).append(pod_state(pod))
    return {engine: state for engine, states in groups.items() if (state := best(states)) is not None}


def _instance(
    api: Api, engine: Engine, now: Snapshot, pods: Mapping[str, PodState], hosts: Mapping[str, str], metrics: bool
) -> dict[str, Any]:
    pod = pods.get(engine.name)
    held = _allocated(now, engine)
    return {
        "instance": engine.instance,
        "llm": engine.llm,
        "deployment": engine.name,
        "node": {"planned": engine.node, "actual": hosts.get(pod.node, pod.node) if pod else None},
        "gpus": {"planned": [gpu.partition("/")[2] for gpu in engine.gpus], "claimed": held},
        "share_pct": engine.share_pct,
        "memory_bytes": engine.memory_bytes,
        "ready": bool(pod and pod.ready and not pod.going),
        "restarts": pod.restarts if pod else 0,
        "problem": pod.problem if pod else _no_pod(now, engine),
        "load": _load(api, pod) if metrics and pod and pod.ready else None,
    }


def _no_pod(now: Snapshot, engine: Engine) -> str:
    stored = now.objects.get((DEPLOYMENT.name, engine.name))
    conditions = stored.get("status", {}).get("conditions", []) if stored else []
    refused = [c.get("message", "") for c in conditions if c["type"] == "ReplicaFailure" and c["status"] == "True"]
    return f"no pod: {refusal(refused[0])}" if refused else "no pod"


def _added(now: Snapshot, wanted: Rendered) -> list[str]:
    """Entries that admission or somebody else put beside ours: no drift, since applying again would not remove them."""
    return [
        f"{obj['kind'].lower()}/{obj['metadata']['name']} {path} has {count} entries that are not ours"
        for obj in wanted.objects
        if (stored := now.has(obj)) is not None
        for path, count in additions(obj, stored)
    ]


def _allocated(now: Snapshot, engine: Engine) -> bool | None:
    """Whether the engine's claim has its devices; None where the target has no claims."""
    claim = now.objects.get((CLAIM.name, engine.holder))
    return None if claim is None else "allocation" in claim.get("status", {})


def _load(api: Api, pod: PodState) -> dict[str, float] | None:
    """What the engine says of itself; None when the API server cannot reach it (a NetworkPolicy may forbid that)."""
    text = api.text(metrics_path(api, pod.name, PORT))
    if text is None:
        return None
    found: dict[str, float] = {}
    for name, value in _SAMPLE.findall(text):
        found[name] = found.get(name, 0.0) + float(value)
    return found


def _drift(now: Snapshot, wanted: Rendered) -> list[str]:
    found: list[str] = []
    keys = set()
    for obj in wanted.objects:
        kind, name = obj["kind"], obj["metadata"]["name"]
        keys.add((kind, name))
        stored = now.objects.get((kind, name))
        if stored is None:
            found.append(f"{kind.lower()}/{name} is missing")
        elif annotation(stored, CONTENT) != obj["metadata"]["annotations"][CONTENT] and obj is not wanted.plan:
            found.append(f"{kind.lower()}/{name} was applied from something else")
        else:
            changed = [] if obj is wanted.plan or obj is wanted.gateway_config else differences(obj, stored)
            found += [f"{kind.lower()}/{name} {path} is {has!r}, planned {wants!r}" for path, wants, has in changed]
    for (kind, name), obj in now.objects.items():
        if (kind, name) not in keys and obj not in now.plans:
            found.append(f"{kind.lower()}/{name} is not in the plan")
    return found
