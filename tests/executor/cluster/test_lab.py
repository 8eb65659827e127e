"""The lab for real clusters, tried on the double: its fake nodes, its kubelet and its cleaning up are code too."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from executor.cluster.apply import apply
from executor.cluster.delete import delete
from executor.manifests import render
from tests.builders import plans
from tests.executor.cluster.double import Double, serve
from tests.executor.cluster.lab import RealLab, everything, placement, planned


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Double]:
    """A double without nodes, whose pods nobody runs, behind a KUBECONFIG."""
    with serve(plans.cluster(plans.node("unused", 1))) as running:
        for key in [key for key in running.store.objects if key[0] != "runtimeclasses"]:
            running.store.remove(key)
        running.server.controllers.kubelet = False
        kubeconfig = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": running.url}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
        }
        (tmp_path / "config").write_text(yaml.safe_dump(kubeconfig))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
        yield running


def test_the_lab_makes_what_a_plain_control_plane_lacks(empty: Double) -> None:
    with RealLab(plans.two_nodes().cluster).prepared() as lab:
        before, after = lab.fit(plans.two_nodes()), lab.fit(plans.one_node())
        for plan in (before, after):
            apply(lab.api(), render(plan, plans.profiles(), lab.options()), limits=lab.limits)
            assert placement(lab) == planned(plan)
        delete(lab.api(), "scepsy", limits=lab.limits)
        assert everything(lab) == []
    assert {key[0] for key in empty.store.objects} <= {"runtimeclasses"}
