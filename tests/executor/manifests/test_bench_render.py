"""How long a large plan takes to render: objects, then text."""

from typing import Any

from executor.manifests import render, to_json, to_yaml
from tests.builders import plans

PLAN = plans.many(1000)
PROFILES = plans.profiles()


def test_render_1000_instances(benchmark: Any) -> None:
    rendered = benchmark(render, PLAN, PROFILES, plans.OPTIONS)
    assert len(rendered.engines) == 1000


def test_render_1000_instances_as_json(benchmark: Any) -> None:
    text = benchmark(lambda: to_json(render(PLAN, PROFILES, plans.OPTIONS).objects, "scepsy"))
    assert text.count('"kind": "Deployment"') == 1001


def test_render_1000_instances_as_yaml(benchmark: Any) -> None:
    text = benchmark(lambda: to_yaml(render(PLAN, PROFILES, plans.OPTIONS).objects, "scepsy"))
    assert text.count("kind: Deployment") == 1001
