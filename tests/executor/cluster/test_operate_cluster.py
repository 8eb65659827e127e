"""``scepsy operate``'s target on Kubernetes: what serves is told by the cluster, a switch is an apply, also after a crash."""

import pytest

from executor.cluster.apply import apply
from executor.cluster.status import status
from executor.cluster.waits import WaitLimits
from executor.manifests import render
from executor.operate import cluster_target as module
from executor.operate.cluster_target import ClusterTarget
from scepsy.errors import BackendError, InputError
from scepsy.operate.naming import fingerprint
from tests.builders import plans
from tests.executor.cluster.lab import Lab, placement, planned

PROFILES = plans.profiles()


def target(lab: Lab) -> ClusterTarget:
    return ClusterTarget(lab.api(), "scepsy", PROFILES, lab.limits)


def test_without_a_plan_nothing_can_be_operated(lab: Lab) -> None:
    with pytest.raises(InputError, match=r"no plan serves in namespace .*: apply one first"):
        target(lab).running()


def test_a_switch_brings_the_release_to_the_plan_once(lab: Lab) -> None:
    before, after = lab.fit(plans.two_nodes()), lab.fit(plans.one_node())
    apply(lab.api(), render(before, PROFILES, lab.options()), limits=lab.limits)
    operated = target(lab)
    assert fingerprint(operated.running()) == fingerprint(before)
    said: list[str] = []
    operated.switch(after, "t1", said.append)
    assert fingerprint(operated.running()) == fingerprint(after)
    assert placement(lab) == planned(after)
    assert any("kept" in line for line in said)
    operated.switch(after, "t1")  # as after a crash: nothing is left to do
    assert status(lab.api(), "scepsy", metrics=False)["state"] == "serving"


def test_a_plan_that_does_not_come_up_gives_way_to_the_one_before(lab: Lab, monkeypatch, record_property) -> None:
    record_property("fault", "operate on Kubernetes: an engine of the new plan is never scheduled ×1")
    before, after = lab.fit(plans.two_nodes()), lab.fit(plans.one_node())
    apply(lab.api(), render(before, PROFILES, lab.options()), limits=lab.limits)

    def unschedulable(*what):
        made = render(*what)
        for engine in made.engines:
            if engine.instance == "qwen3-8b-0":
                engine.deployment["spec"]["template"]["spec"]["nodeSelector"] = {"kubernetes.io/hostname": "nowhere"}
        return made

    monkeypatch.setattr(module, "render", unschedulable)
    quick = WaitLimits(**{**vars(lab.limits), "start_s": lab.limits.start_s / 24})
    with pytest.raises(BackendError, match=r"rolled back to scepsy-plan-"):
        ClusterTarget(lab.api(), "scepsy", PROFILES, quick).switch(after, "t2")
    assert fingerprint(target(lab).running()) == fingerprint(before)
    assert placement(lab) == planned(before)
