"""A release's life, on the double and on a real control plane: the same bodies."""

from collections.abc import Iterator
from typing import Any

import pytest

from executor.cluster.apply import apply
from executor.cluster.delete import delete
from executor.cluster.diff import diff
from executor.cluster.kinds import OWNED
from executor.cluster.status import status
from executor.cluster.waits import Event, WaitLimits
from executor.manifests import Rendered, render
from scepsy.errors import BackendError
from scepsy.plans import Plan
from tests.builders import plans
from tests.executor.cluster.lab import Lab, everything, placement, planned, pods

PROFILES = plans.profiles()


def rendered(lab: Lab, plan: Plan) -> Rendered:
    return render(plan, PROFILES, lab.options())


def test_each_instance_runs_once_on_the_devices_that_the_plan_names(lab: Lab) -> None:
    plan = lab.fit(plans.two_nodes())
    done = apply(lab.api(), rendered(lab, plan), limits=lab.limits)
    assert (done.started, done.kept, done.stopped) == (6, 0, 0)
    assert placement(lab) == planned(plan)
    found = status(lab.api(), "scepsy", metrics=False)
    assert (found["state"], found["drift"], found["plan"]) == ("serving", [], done.plan_hash)


def test_neighbours_start_one_after_another(lab: Lab) -> None:
    plan = lab.fit(plans.two_nodes())
    events: list[Event] = []
    made = rendered(lab, plan)
    apply(lab.api(), made, limits=lab.limits, on_event=events.append)
    order = [(event.what, event.name) for event in events]
    by_name = {engine.name: engine for engine in made.engines}
    assert any(engine.after for engine in made.engines)
    for engine in made.engines:
        for earlier in engine.after:
            assert order.index(("serving", by_name[earlier].instance)) < order.index(("started", engine.instance))


def test_applying_the_same_plan_again_writes_nothing(lab: Lab) -> None:
    made = rendered(lab, lab.fit(plans.two_nodes()))
    apply(lab.api(), made, limits=lab.limits)
    before = {pod["metadata"]["uid"] for pod in pods(lab)}
    again = apply(lab.api(), made, limits=lab.limits)
    assert (again.requests, again.kept, again.started) == (0, 6, 0)
    assert {pod["metadata"]["uid"] for pod in pods(lab)} == before


def test_what_was_applied_reads_back_as_it_was_rendered(lab: Lab) -> None:
    """Field by field and spelt alike, so that a tool which compares what it rendered with what is there finds no difference."""
    made = rendered(lab, lab.fit(plans.two_nodes()))
    apply(lab.api(), made, limits=lab.limits)
    found = {(o["kind"], o["metadata"]["name"]): o for kind in OWNED for o in lab.api().list_all(kind)[0]}
    for wanted in made.objects:
        stored = found[wanted["kind"], wanted["metadata"]["name"]]
        assert list(missing(wanted, stored)) == []


def missing(wanted: Any, stored: Any, path: str = "") -> Iterator[str]:
    """Where what is stored is not what was wanted; what the server adds beside it does not count, but within plain lists."""
    if isinstance(wanted, dict) and isinstance(stored, dict):
        for key, value in wanted.items():
            yield from missing(value, stored.get(key), f"{path}.{key}")
    elif isinstance(wanted, list) and isinstance(stored, list) and path.rpartition(".")[2] in KEYED:
        keys = KEYED[path.rpartition(".")[2]]
        by_key = {tuple(entry.get(key) for key in keys): entry for entry in stored}
        for entry in wanted:
            yield from missing(entry, by_key.get(tuple(entry.get(key) for key in keys)), f"{path}[{entry}]")
    elif wanted != stored:
        yield f"{path}: {wanted!r} is stored as {stored!r}"


KEYED = {
    **dict.fromkeys(("containers", "initContainers", "volumes", "env", "resourceClaims"), ("name",)),
    "volumeMounts": ("mountPath",),
    "ports": ("port", "containerPort"),
    "claims": ("name", "request"),
    "tolerations": ("key", "operator"),
}
"""Lists to which others may add: the keyed ones of the pod's schema, and tolerations, which admission appends to."""


def test_a_switch_moves_only_what_differs(lab: Lab) -> None:
    before, after = lab.fit(plans.two_nodes()), lab.fit(plans.one_node())
    apply(lab.api(), rendered(lab, before), limits=lab.limits)
    uids = {pod["metadata"]["labels"].get("scepsy.dev/engine"): pod["metadata"]["uid"] for pod in pods(lab)}
    done = apply(lab.api(), rendered(lab, after), limits=lab.limits)
    assert (done.kept, done.started, done.stopped) == (3, 2, 3)
    assert placement(lab) == planned(after)
    now = {pod["metadata"]["labels"].get("scepsy.dev/engine"): pod["metadata"]["uid"] for pod in pods(lab)}
    kept = {engine.name for engine in rendered(lab, after).engines} & set(uids)
    assert len(kept) == 3
    assert all(now[name] == uids[name] for name in kept), "an engine that both plans have was restarted"
    assert status(lab.api(), "scepsy", metrics=False)["drift"] == []


def test_delete_leaves_nothing(lab: Lab) -> None:
    apply(lab.api(), rendered(lab, lab.fit(plans.two_nodes())), limits=lab.limits)
    assert delete(lab.api(), "scepsy", limits=lab.limits) > 20
    assert everything(lab) == []
    assert delete(lab.api(), "scepsy", limits=lab.limits) == 0
    assert status(lab.api(), "scepsy")["state"] == "absent"


def test_a_plan_that_cannot_run_gives_way_to_the_one_before(lab: Lab) -> None:
    before, after = lab.fit(plans.two_nodes()), lab.fit(plans.one_node())
    apply(lab.api(), rendered(lab, before), limits=lab.limits)
    made = rendered(lab, after)
    [moved] = [engine for engine in made.engines if engine.instance == "qwen3-8b-0"]
    # A selector that no node meets: no scheduler ever binds it.
    moved.deployment["spec"]["template"]["spec"]["nodeSelector"] = {"kubernetes.io/hostname": "nowhere"}
    quick = WaitLimits(**{**vars(lab.limits), "start_s": lab.limits.start_s / 24})
    with pytest.raises(BackendError, match=r"not scheduled: .*; rolled back to scepsy-plan-"):
        apply(lab.api(), made, limits=quick)
    assert placement(lab) == planned(before)
    assert status(lab.api(), "scepsy", metrics=False)["state"] == "serving"


def test_diff_is_empty_exactly_when_the_cluster_is_as_planned(lab: Lab) -> None:
    made = rendered(lab, lab.fit(plans.two_nodes()))
    text = "".join(diff(lab.api(), made))
    assert text.count("\n+kind: Deployment") == 7
    apply(lab.api(), made, limits=lab.limits)
    assert list(diff(lab.api(), made)) == []
    other = "".join(diff(lab.api(), rendered(lab, lab.fit(plans.one_node()))))
    assert "-kind: ResourceClaim" in other


def test_two_releases_do_not_touch_each_other(lab: Lab) -> None:
    plan = lab.fit(plans.two_nodes())
    apply(lab.api(), rendered(lab, plan), limits=lab.limits)
    spare = plans.plan(plans.two_nodes().cluster, plans.instance("embedder", 0, "n2", (1,), 50))
    other = render(lab.fit(spare), PROFILES, lab.options(release="spare"))
    apply(lab.api(), other, limits=lab.limits)
    assert delete(lab.api(), "spare", limits=lab.limits) > 0
    assert placement(lab) == planned(plan)
    assert status(lab.api(), "scepsy", metrics=False)["state"] == "serving"
