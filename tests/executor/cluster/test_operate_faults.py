"""``scepsy operate --act`` on Kubernetes, from the change of the load to the outcome, with faults on the way."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from executor.cluster.api import Api, Patience
from executor.cluster.apply import apply
from executor.cluster.kinds import CONFIG_MAP, Kind
from executor.cluster.lease import lease_name
from executor.manifests import render
from executor.operate import cluster_target as module
from executor.operate.cluster_target import ClusterTarget
from executor.operate.journal import read
from executor.operate.operator import FREEZE, LOG, Operator
from scepsy.errors import BackendError
from scepsy.operate.naming import fingerprint
from scepsy.plans import Plan
from tests.builders import plans
from tests.executor.cluster.double import NAMESPACE, Faults, serve
from tests.executor.cluster.lab import everything, placement, planned
from tests.executor.cluster.test_faults import (
    AFTER,
    ANSWERS,
    BEFORE,
    CLUSTER,
    LIMITS,
    PROFILES,
    Bench,
    Killed,
    Mortal,
    Operation,
    _names,
)
from tests.executor.operating import BORN_S, Clock, between, look_until, operator, write_recording

START = render(BEFORE, PROFILES, plans.OPTIONS)
SWITCH = Operation("operate", START, lambda api: apply(api, render(AFTER, PROFILES, plans.OPTIONS), limits=LIMITS), None)
LEASE = ("leases", NAMESPACE, lease_name("scepsy"))
WIDER = plans.plan(CLUSTER, *BEFORE.instances, plans.instance("qwen3-8b", 1, "n1", (1,), 40))
"""One instance more than before."""
LOOK_S, ACTED_S = 60.0, BORN_S + 300.0
"""Between two looks. By then it has acted once; it may act again after 300 s more."""


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with serve(CLUSTER) as running:
        yield Bench(running)


class Case:
    """A release that serves BEFORE, and a load that calls for another plan."""

    def __init__(self, bench: Bench, folder: Path, wanted: Plan = AFTER) -> None:
        self.bench, self.folder, self.wanted = bench, folder, wanted
        bench.prepare(SWITCH)
        self.end_s = write_recording(folder / "calls.jsonl", [(120.0, 2.0), (480.0, 6.0)])
        self.clock = Clock()
        self.said: list[str] = []

    def operate(self, api: Api | None = None) -> Operator:
        """What operates, from its start; anew after a kill."""
        target = ClusterTarget(api or self.bench.api(), "scepsy", PROFILES, LIMITS)
        replan = between(BEFORE, self.wanted)
        one = operator(self.folder, target, self.clock, replan=replan, notify=self.said.append)
        one.start()
        return one

    def results(self) -> list[str]:
        """Of every outcome in the log."""
        return [entry.result for entry in read(self.folder / "operate" / LOG) if entry.kind == "outcome"]

    def at_end(self, plan: Plan) -> None:
        """Exactly this plan serves, and nothing else of any kind is left but, after the last kill, a dead writer's lease: the
        next writer takes that over."""
        assert placement(self.bench.lab) == planned(plan)
        assert fingerprint(ClusterTarget(self.bench.api(), "scepsy", PROFILES).running()) == fingerprint(plan)
        now = self._left()
        self.bench.prepare(SWITCH)
        if plan is not BEFORE:
            apply(self.bench.api(), render(plan, PROFILES, plans.OPTIONS), limits=LIMITS)
        assert now == self._left()

    def _left(self) -> list[str]:
        return [name for name in _names(everything(self.bench.lab)) if not name.startswith("Lease/")]


def writes(bench: Bench, folder: Path) -> list[int]:
    """Numbers of the requests that change something, from the start of what operates to the outcome without faults."""
    folder.mkdir()
    case = Case(bench, folder)
    look_until(case.operate(), case.clock, case.end_s, LOOK_S)
    assert case.results() == ["serving"]
    changes = ("patch", "delete", "create", "update")
    return [n for n, call in enumerate(bench.double.server.seen) if call.verb in changes and not call.dry]


def look_on(case: Case, one: Operator) -> None:
    """Look until the recording ends, as ``Operator.run`` does: a look that fails is followed by the next."""
    while case.clock.now_s + LOOK_S <= case.end_s:
        try:
            look_until(one, case.clock, case.clock.now_s + LOOK_S, LOOK_S)
        except BackendError as error:
            case.said.append(str(error))


def test_killed_before_the_old_record_is_gone_it_goes_when_started_again(bench, tmp_path) -> None:
    """The new plan serves already, so nothing else would take away what only the old one wanted."""
    case = Case(bench, tmp_path)
    dying = bench.api()

    def delete(kind: Kind, name: str, **how: Any) -> None:
        if kind == CONFIG_MAP:
            raise Killed
        Api.delete(dying, kind, name, **how)

    dying.delete = delete  # type: ignore[method-assign]
    with pytest.raises(Killed):
        look_until(case.operate(dying), case.clock, case.end_s, LOOK_S)
    bench.bury()
    assert fingerprint(ClusterTarget(bench.api(), "scepsy", PROFILES).running()) == fingerprint(AFTER)
    look_until(case.operate(), case.clock, case.end_s, LOOK_S)
    assert case.results() == ["serving"]
    case.at_end(AFTER)


@pytest.mark.parametrize("every", [6, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_between_two_steps_and_started_again_it_converges(bench, tmp_path, every, record_property) -> None:
    numbers = writes(bench, tmp_path / "clean")
    assert len(numbers) > 20
    record_property("fault", f"operate on Kubernetes: kill -9 after a write ×{len(numbers[::every])}")
    for number in numbers[::every]:
        folder = tmp_path / str(number)
        folder.mkdir()
        case = Case(bench, folder)
        mortal = Mortal(bench.double.client, number, after=True, patience=bench.api().patience)
        with pytest.raises(Killed):
            look_until(case.operate(mortal), case.clock, case.end_s, LOOK_S)
        bench.bury()
        look_until(case.operate(), case.clock, case.end_s, LOOK_S)
        assert case.results() == ["serving"], number
        case.at_end(AFTER)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ANSWERS)
def test_every_kind_of_answer_is_got_over(bench, tmp_path, kind, record_property) -> None:
    numbers = writes(bench, tmp_path / "clean")[::5]
    record_property("fault", f"operate on Kubernetes: a request is answered {kind} ×{len(numbers)}")
    for number in numbers:
        folder = tmp_path / str(number)
        folder.mkdir()
        case = Case(bench, folder)
        bench.double.server.faults = Faults(at=number, kind=kind)
        look_on(case, case.operate())
        assert case.results() == ["serving"]
        case.at_end(AFTER)


def test_a_server_that_is_away_for_longer_than_anybody_waits_is_gone_on_with(bench, tmp_path, record_property) -> None:
    record_property("fault", "operate on Kubernetes: API server away for longer than it is waited for ×2")
    numbers = writes(bench, tmp_path / "clean")
    for place, number in enumerate((numbers[len(numbers) // 3], numbers[2 * len(numbers) // 3])):
        folder = tmp_path / str(place)
        folder.mkdir()
        case = Case(bench, folder)
        hasty = bench.api()
        hasty.patience = Patience(total_s=0.2, first_s=0.05, longest_s=0.1)
        bench.double.server.faults = Faults(at=number, kind="drop", times=12)
        look_on(case, case.operate(hasty))
        assert len(bench.double.server.faults.struck) == 12
        assert any("is gone on with at the next look" in line for line in case.said)
        assert case.results() == ["serving"], "nothing is called rolled back that was not"
        assert [e.kind for e in read(folder / "operate" / LOG)].count("acting") == 1
        case.at_end(AFTER)


def test_a_write_refused_by_a_quota_mid_switch_rolls_back(bench, tmp_path, monkeypatch, record_property) -> None:
    """The quota comes when the switch has begun, so that nothing could have foreseen it."""
    record_property("fault", "operate on Kubernetes: a quota refuses a write mid-switch ×1")
    case = Case(bench, tmp_path, WIDER)
    controllers, store = bench.double.server.controllers, bench.double.store

    def hear(line: str) -> None:
        case.said.append(line)
        if line.endswith(": kept") and "quota" not in case.said:
            hard = {"count/deployments.apps": str(controllers._used("deployments"))}
            store.put("resourcequotas", NAMESPACE, {"metadata": {"name": "team"}, "spec": {"hard": hard}, "status": {}})
            case.said.append("quota")

    one = case.operate()
    one.notify = hear
    try:
        look_until(one, case.clock, ACTED_S, LOOK_S)
    finally:
        store.remove(("resourcequotas", NAMESPACE, "team"))
    assert case.results() == ["rolled back"]
    [outcome] = [entry for entry in one.journal.entries if entry.kind == "outcome"]
    assert "exceeded quota: team" in outcome.note
    assert fingerprint(one.target.running()) == outcome.plan == fingerprint(BEFORE)
    assert placement(bench.lab) == planned(BEFORE)
    look_until(one, case.clock, case.end_s, LOOK_S)
    assert case.results() == ["rolled back", "serving"], "it is tried again later"
    case.at_end(WIDER)


def test_a_quota_that_is_full_from_the_start_is_refused_before_anything_is_touched(bench, tmp_path, record_property) -> None:
    record_property("fault", "operate on Kubernetes: a quota that the new plan does not fit ×1")
    case = Case(bench, tmp_path, WIDER)
    controllers, store = bench.double.server.controllers, bench.double.store
    before = everything(bench.lab)
    hard = {"count/deployments.apps": str(controllers._used("deployments"))}
    store.put("resourcequotas", NAMESPACE, {"metadata": {"name": "team"}, "spec": {"hard": hard}, "status": {}})
    controllers.quota_refusal("")
    try:
        look_until(case.operate(), case.clock, ACTED_S, LOOK_S)
    finally:
        store.remove(("resourcequotas", NAMESPACE, "team"))
    assert case.results() == ["refused"]
    assert everything(bench.lab) == before


def another_holds(bench: Bench) -> None:
    """Another process of another host holds the lease, and has just renewed it."""
    spec = {"holderIdentity": "elsewhere/boot/1/2.00/abc", "leaseDurationSeconds": 1}
    metadata: dict[str, Any] = {"name": LEASE[2], "labels": {"beat": str(bench.double.store.version)}}
    bench.double.store.put("leases", NAMESPACE, {"metadata": metadata, "spec": spec})


def test_while_another_writer_is_at_work_nothing_is_touched(bench, tmp_path, record_property) -> None:
    record_property("fault", "operate on Kubernetes: another writer holds the lease ×1")
    case = Case(bench, tmp_path)
    before = everything(bench.lab)
    one = case.operate()

    def hear(line: str) -> None:
        case.said.append(line)
        if line.endswith("waiting for another writer"):
            another_holds(bench)  # it renews

    one.notify = hear
    another_holds(bench)
    look_until(one, case.clock, ACTED_S, LOOK_S)
    assert case.results() == ["refused"]
    assert "is being changed by elsewhere" in one.journal.entries[-1].note
    bench.double.store.remove(LEASE)
    assert everything(bench.lab) == before
    look_until(one, case.clock, case.end_s, LOOK_S)
    assert case.results() == ["refused", "serving"]
    case.at_end(AFTER)


def test_a_writer_that_took_over_is_not_fought(bench, tmp_path, record_property) -> None:
    """It loses its lease in the middle: it stops, undoes nothing, and says so."""
    record_property("fault", "operate on Kubernetes: the lease is taken over mid-switch ×1")
    case = Case(bench, tmp_path)
    one = case.operate()

    def hear(line: str) -> None:
        case.said.append(line)
        if line.endswith(": kept"):
            another_holds(bench)

    one.notify = hear
    target = one.target
    assert isinstance(target, ClusterTarget)
    moments = iter(range(10**9))
    target._api.clock = lambda: 20.0 * next(moments)  # every write renews, none of the waits is waited out
    target._limits = None
    look_until(one, case.clock, ACTED_S, LOOK_S)
    assert case.results() == ["refused"]
    assert "another apply or delete took over" in one.journal.entries[-1].note
    assert not any("rolling back" in line for line in case.said)
    bench.double.store.remove(LEASE)
    look_until(case.operate(), case.clock, case.end_s, LOOK_S)
    assert case.results() == ["refused", "serving"]
    case.at_end(AFTER)


def test_an_act_that_was_cut_off_is_left_where_freezing_came_between(bench, tmp_path) -> None:
    case = Case(bench, tmp_path)
    hasty = bench.api()
    hasty.patience = Patience(total_s=0.2, first_s=0.05, longest_s=0.1)
    one = case.operate(hasty)
    look_until(one, case.clock, BORN_S + 120.0, LOOK_S)
    bench.double.server.faults = Faults(at=len(bench.double.server.seen) + 20, kind="drop", times=12)
    with pytest.raises(BackendError, match="is gone on with at the next look"):
        look_until(one, case.clock, case.end_s, LOOK_S)
    (tmp_path / "operate" / FREEZE).touch()
    bench.double.server.faults = Faults()
    one.look()
    assert case.results() == ["left"]


def test_a_new_plan_that_fails_after_a_kill_gives_way_to_the_one_that_served(
    bench, tmp_path, monkeypatch, record_property
) -> None:
    """What was under way when it was killed is not what served: that plan is the one to go back to."""
    record_property("fault", "operate on Kubernetes: killed mid-switch, then the new plan does not come up ×1")
    writes(bench, tmp_path / "clean")
    seen = bench.double.server.seen
    number = next(n for n, call in enumerate(seen) if (call.verb, call.plural) == ("delete", "deployments"))
    case = Case(bench, tmp_path)
    mortal = Mortal(bench.double.client, number, after=True, patience=bench.api().patience)
    with pytest.raises(Killed):
        look_until(case.operate(mortal), case.clock, case.end_s, LOOK_S)
    bench.bury()
    old = {engine.name for engine in START.engines}

    def unschedulable(*what: Any) -> Any:
        made = render(*what)
        for engine in made.engines:
            if engine.name not in old:
                engine.deployment["spec"]["template"]["spec"]["nodeSelector"] = {"kubernetes.io/hostname": "nowhere"}
        return made

    monkeypatch.setattr(module, "render", unschedulable)
    monkeypatch.setattr("tests.executor.cluster.test_operate_faults.LIMITS", replace(LIMITS, start_s=3.0))
    one = case.operate()
    assert case.results() == ["rolled back"], case.said
    assert fingerprint(one.target.running()) == fingerprint(BEFORE)
    case.at_end(BEFORE)
