"""Desired against actual, instance by instance: where it runs, whether it serves, what is wrong, how busy it is."""

import re
from collections.abc import Mapping
from typing import Any

from executor.cluster.api import Api
from executor.cluster.drain import metrics_path
from executor.cluster.drift import differences
from executor.cluster.kinds import CLAIM, POD
from executor.cluster.pods import PodState, best, pod_state
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
    the plan in words. Raises ``BackendError`` when the cluster cannot be asked or the record cannot be read.
    """
    now = take(api, release)
    if not now.plans:
        stray = [f"{kind.lower()}/{name}" for kind, name in now.objects]
        return {
            "release": release,
            "state": "absent",
            "plan": None,
            "instances": [],
            "drift": [f"{s} without a plan" for s in stray],
        }
    record = next((obj for obj in now.plans if annotation(obj, STATE) == "applying"), now.active_plan or now.plans[0])
    wanted = render(*read_plan_config_map(record["data"]))
    pods = _pods(api, release)
    instances = [_instance(api, engine, now, pods, metrics) for engine in wanted.engines]
    drift = _drift(now, wanted)
    serving = all(each["ready"] for each in instances)
    changing = annotation(record, STATE) != "active"
    return {
        "release": release,
        "state": "changing" if changing else "serving" if serving and not drift else "degraded",
        "plan": wanted.plan_hash,
        "target": wanted.options.target,
        "instances": instances,
        "drift": drift,
    }


def recorded(api: Api, release: str) -> Rendered:
    """The rendered plan that the cluster's record asks for. Raises ``BackendError`` when there is none."""
    now = take(api, release)
    record = next((obj for obj in now.plans if annotation(obj, STATE) == "applying"), now.active_plan)
    if record is None:
        raise BackendError(f"release {release} is not in namespace {api.namespace} of {api.host}: `scepsy apply` a plan first")
    return render(*read_plan_config_map(record["data"]))


def _pods(api: Api, release: str) -> dict[str, PodState]:
    groups: dict[str, list[PodState]] = {}
    for pod in api.list_all(POD, release_selector(release))[0]:
        groups.setdefault(engine_of(pod), []).append(pod_state(pod))
    return {engine: state for engine, states in groups.items() if (state := best(states)) is not None}


def _instance(api: Api, engine: Engine, now: Snapshot, pods: Mapping[str, PodState], metrics: bool) -> dict[str, Any]:
    pod = pods.get(engine.name)
    held = _allocated(now, engine)
    return {
        "instance": engine.instance,
        "llm": engine.llm,
        "deployment": engine.name,
        "node": {"planned": engine.node, "actual": pod.node if pod else None},
        "gpus": {"planned": [gpu.partition("/")[2] for gpu in engine.gpus], "claimed": held},
        "share_pct": engine.share_pct,
        "memory_bytes": engine.memory_bytes,
        "ready": bool(pod and pod.ready and not pod.going),
        "restarts": pod.restarts if pod else 0,
        "problem": pod.problem if pod else "no pod",
        "load": _load(api, pod) if metrics and pod and pod.ready else None,
    }


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
