"""Plan → Kubernetes manifests, pure. ``render`` is the way in; nothing here knows a cluster."""

from executor.manifests.emit import to_json, to_yaml
from executor.manifests.engines import Engine
from executor.manifests.options import RenderOptions
from executor.manifests.render import Rendered, read_plan_config_map, render

__all__ = ["Engine", "RenderOptions", "Rendered", "read_plan_config_map", "render", "to_json", "to_yaml"]
