"""From any plan to any other: nothing is ever overfilled on the way, and what both have stays."""

import copy
from collections import Counter
from collections.abc import Iterable
from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from executor.cluster.apply import apply
from executor.cluster.delete import delete
from executor.cluster.snapshot import Snapshot, gpus_of
from executor.cluster.transition import transition
from executor.manifests import Rendered, RenderOptions, render
from scepsy.plans import Plan
from tests.builders import plans
from tests.executor.cluster.double import serve
from tests.executor.cluster.lab import QUICK, DoubleLab, everything, placement, planned

PROFILES = plans.profiles()
EIGHT = plans.cluster(plans.node("n0", 4, ((0, 1), (2, 3))), plans.node("n1", 4))


@st.composite
def on_eight(draw: st.DrawFn) -> Plan:
    """A random plan on one fixed cluster, so that two of them compete for the same GPUs."""
    free = dict.fromkeys(EIGHT.gpus, 100)
    made = []
    for each in plans.LLMS:
        share, degree, replicas = draw(st.sampled_from([20, 30, 50, 100])), draw(st.sampled_from([1, 2])), 0
        for _ in range(draw(st.integers(0, 4))):
            domain = draw(st.sampled_from(list(EIGHT.nvlink_domains())))
            chosen = tuple(gpu for gpu in domain if free[gpu] >= share)[:degree]
            if len(chosen) == degree:
                for gpu in chosen:
                    free[gpu] -= share
                made.append(plans.instance(each.name, replicas, chosen[0].node, tuple(g.index for g in chosen), share))
                replicas += 1
    return plans.plan(EIGHT, *(made or [plans.instance("embedder", 0, "n0", (0,), 50)]))


def snapshot(objects: Iterable[Any]) -> Snapshot:
    return Snapshot({(o["kind"], o["metadata"]["name"]): o for o in copy.deepcopy(list(objects))})


def used(names: Iterable[str], *rendered: Rendered) -> Counter[str]:
    share: Counter[str] = Counter()
    engines = {engine.name: engine for each in rendered for engine in each.engines}
    for name in names:
        for gpu in engines[name].gpus:
            share[gpu] += engines[name].share_pct
    return share


@settings(max_examples=200)
@given(on_eight(), on_eight())
def test_no_gpu_is_overfilled_at_any_step(before: Plan, after: Plan) -> None:
    old, new = render(before, PROFILES, plans.OPTIONS), render(after, PROFILES, plans.OPTIONS)
    steps = transition(snapshot(old.objects), new)
    there = {engine.name for engine in old.engines}
    wanted = {engine.name for engine in new.engines}
    assert set(steps.keep) == there & wanted
    assert {engine.name for engine in steps.start} == wanted - there
    assert {*steps.evict, *steps.retire} == there - wanted
    assert not set(steps.evict) & set(steps.retire)
    alive = there - set(steps.evict)
    assert all(pct <= 100 for pct in used(alive | wanted, old, new).values())
    assert (alive | wanted) - set(steps.retire) == wanted
    held = {o["metadata"]["name"]: gpus_of(o) for o in [*old.holders, *new.holders]}
    released = {name for _, name in steps.release}
    together = {name: gpus for name, gpus in held.items() if name not in released}
    counts = Counter(gpu for gpus in together.values() for gpu in gpus)
    assert all(count == 1 for count in counts.values()), "two claims on one device"
    for name in released:
        users = {engine.name for engine in old.engines if engine.holder == name}
        assert users <= set(steps.evict), "a claim would be deleted under a running engine"


@given(on_eight())
def test_a_plan_to_itself_is_nothing(plan: Plan) -> None:
    made = render(plan, PROFILES, plans.OPTIONS)
    steps = transition(snapshot(made.objects), made)
    assert (steps.moves, steps.release, steps.discard) == (0, (), ())


@given(on_eight(), st.sampled_from(["dra", "mps"]))
def test_from_one_target_to_another_everything_moves(plan: Plan, target: str) -> None:
    old = render(plan, PROFILES, plans.OPTIONS)
    new = render(plan, PROFILES, msgspec.convert({"target": target, "uid": 20002, "gateway_image": plans.IMAGE}, RenderOptions))
    steps = transition(snapshot(old.objects), new)
    assert set(steps.evict) == {engine.name for engine in old.engines}
    assert steps.retire == ()


def test_a_claim_on_its_way_out_takes_its_engines_along() -> None:
    made = render(plans.two_nodes(), PROFILES, plans.OPTIONS)
    now = snapshot(made.objects)
    [claim] = [o for o in now.objects.values() if o["kind"] == "ResourceClaim" and "n2/" in str(gpus_of(o))]
    claim["metadata"]["deletionTimestamp"] = "now"
    steps = transition(now, made)
    embedders = {engine.name for engine in made.engines if engine.llm == "embedder"}
    assert set(steps.evict) == embedders == {engine.name for engine in steps.start}
    assert steps.release == (("ResourceClaim", claim["metadata"]["name"]),)


def test_random_plans_one_after_another_on_the_double() -> None:
    """Applied for real, one on top of the other: each instance once, on the planned devices, nothing left behind."""
    with serve(EIGHT) as double:
        lab = DoubleLab(double)

        @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
        @given(on_eight())
        def switch(plan: Plan) -> None:
            made = render(plan, PROFILES, plans.OPTIONS)
            apply(double.api(), made, limits=QUICK)
            assert placement(lab) == planned(plan)
            wanted = {f"{o['kind']}/{o['metadata']['name']}" for o in made.objects}
            assert {name for name in everything(lab) if not name.startswith("Pod/")} == wanted

        switch()
        delete(double.api(), "scepsy", limits=QUICK)
        assert everything(lab) == []
