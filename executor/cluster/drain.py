"""Taking engines out of the gateway's rotation before they go."""

import json
import re
from collections.abc import Iterable
from typing import Any

from executor.cluster.api import Api, Object
from executor.cluster.kinds import CONFIG_MAP, POD
from executor.cluster.pods import pod_state
from executor.cluster.waits import Event, OnEvent, WaitLimits
from executor.manifests.gateway import CONFIG_FILE, GATEWAY_PORT, gateway_name
from executor.manifests.names import release_selector
from executor.manifests.options import RenderOptions

_SAMPLE = re.compile(r"^(scepsy_gateway_(?:outstanding|instance_up))\{(.*)\} ([-+.eE0-9]+)$", re.MULTILINE)
_LABEL = re.compile(r'instance="((?:[^"\\]|\\.)*)"')


def drain(
    api: Api, names: Iterable[str], options: RenderOptions, limits: WaitLimits, on_event: OnEvent, *, onto: Object | None = None
) -> None:
    """Tell the gateway that ``names`` take no new calls, and wait until those in flight have ended.

    ``onto`` is the configuration to go over to at the same time (a ConfigMap; default: the stored one stays). Never fails for
    being slow: after ``limits.drain_s`` the engines are stopped all the same, and finish what they can within their own
    grace period. Without a gateway that serves there is nothing to wait for.
    """
    leaving = set(names)
    stored = api.get(CONFIG_MAP, gateway_name(options)) if leaving else None
    if stored is None:
        return
    before: dict[str, Any] = json.loads(stored["data"][CONFIG_FILE])
    after = before if onto is None else json.loads(onto["data"][CONFIG_FILE])
    listed = {each["name"] for each in after["endpoints"]}
    endpoints = [*after["endpoints"], *(each for each in before["endpoints"] if each["name"] in leaving - listed)]
    marked = [{**each, "draining": True} if each["name"] in leaving else each for each in endpoints]
    if {**after, "endpoints": marked} != before:
        # All that we manage is sent, not only what changes: server-side apply drops what is left out.
        kept = {key: stored["metadata"][key] for key in ("name", "labels", "ownerReferences") if key in stored["metadata"]}
        data = {CONFIG_FILE: json.dumps({**after, "endpoints": marked}, indent=1)}
        api.apply({"apiVersion": "v1", "kind": CONFIG_MAP.name, "metadata": kept, "data": data})
    _wait_idle(api, leaving, options, limits, on_event)


def _wait_idle(api: Api, leaving: set[str], options: RenderOptions, limits: WaitLimits, on_event: OnEvent) -> None:
    started, pause_s = api.clock(), limits.poll_s / 32
    while api.clock() - started < limits.drain_s:
        selector = f"{release_selector(options.release)},app.kubernetes.io/component=gateway"
        gateways = [state for state in map(pod_state, api.list_all(POD, selector)[0]) if state.ready and not state.going]
        if all(_idle(api.text(metrics_path(api, pod.name, GATEWAY_PORT)), leaving) for pod in gateways):
            on_event(Event("drained", f"{len(leaving)} engines", api.clock() - started))
            return
        api.guard()
        api.sleep(pause_s)
        pause_s = min(2 * pause_s, limits.poll_s)
    on_event(Event("not drained, stopped anyway", f"{len(leaving)} engines", api.clock() - started))


def metrics_path(api: Api, pod: str, port: int) -> str:
    """Where the API server shows a pod's metrics."""
    return POD.path(api.namespace, f"{pod}:{port}", "proxy/metrics")


def _idle(metrics: str | None, leaving: set[str]) -> bool:
    """Whether one gateway has taken every leaving engine out of rotation and has no call in flight on any.

    >>> up = 'scepsy_gateway_instance_up{instance="a",llm="m"} 0.0'
    >>> _idle(up, {"a"}), _idle(up.replace("0.0", "1.0"), {"a"}), _idle(None, {"a"}), _idle("", {"a"})
    (True, False, False, True)
    """
    if metrics is None:
        return False
    for _, labels, value in _SAMPLE.findall(metrics):
        instance = _LABEL.search(labels)
        if instance and instance[1] in leaving and float(value) > 0:
            return False
    return True
