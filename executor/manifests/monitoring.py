"""For those who watch: PodMonitors of the Prometheus operator, and a Grafana dashboard. Pure."""

import json
from importlib.resources import files
from typing import Any

from executor.manifests.names import labels
from executor.manifests.options import RenderOptions
from executor.manifests.pods import Manifest


def pod_monitors(options: RenderOptions) -> list[Manifest]:
    """One for the engines, one for the gateway: both show /metrics at their port ``http``."""
    return [_monitor(component, name, options) for component, name in (("engine", "vllm"), ("gateway", "gateway"))]


def dashboard_config_map(options: RenderOptions) -> Manifest:
    """The dashboard under the label by which Grafana's sidecar finds it."""
    mine = labels(options.release, "dashboard", "dashboard")
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"{options.release}-dashboard", "labels": {**mine, "grafana_dashboard": "1"}},
        "data": {f"{options.release}.json": json.dumps(dashboard(options), indent=1)},
    }


def dashboard(options: RenderOptions) -> dict[str, Any]:
    """The dashboard as Grafana imports it: ``dashboard.json`` beside this file, for one release."""
    text = files("executor.manifests").joinpath("dashboard.json").read_text()
    return dict(json.loads(text.replace("$RELEASE", options.release).replace("$NAMESPACE", options.namespace)))


def _monitor(component: str, name: str, options: RenderOptions) -> Manifest:
    selector = {"app.kubernetes.io/instance": options.release, "app.kubernetes.io/component": component}
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": {"name": f"{options.release}-{component}", "labels": labels(options.release, component, name)},
        "spec": {
            "selector": {"matchLabels": selector},
            "podTargetLabels": ["scepsy.dev/llm", "scepsy.dev/engine"] if component == "engine" else [],
            "podMetricsEndpoints": [{"port": "http", "path": "/metrics", "interval": "15s"}],
        },
    }
