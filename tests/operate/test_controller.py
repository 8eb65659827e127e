"""The rule, and what must hold whatever is found: minimum time between switches, the freeze, no act on a load that stays."""

from functools import cache
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scepsy.cluster import Gpu
from scepsy.operate.controller import Facts, Finding, Memory, begin, fresh, held_back, remember, step, switched
from scepsy.operate.decision import Answer, Candidate, Move, Outlook, Simulated, confirmed, decide
from scepsy.operate.features import Seen
from scepsy.operate.reference import planned_for
from scepsy.operate.settings import Settings
from scepsy.plans import Plan
from scepsy.search import PLANNERS
from scepsy.search.random_problems import Size, random_problem
from tests.operate.loads import facts_at, load, runs_of

W = "rag-rerank"


@cache
def plans() -> tuple[Plan, Plan]:
    problem = random_problem(Size(llms=3, nodes=1, gpus_per_node=4, load=0.15, share_unit_pct=20), 3)
    return PLANNERS["equal"](problem), PLANNERS["exact"](problem)


def outlook(in_system: float = 4.0, gpus: int = 4, *, meets: bool = True) -> Outlook:
    return Outlook(
        latency_s={W: in_system}, limited_s={W: in_system}, throughput_per_s={W: 3.0}, utilisation=0.5, gpus=gpus,
        in_system=in_system, meets=meets,
    )  # fmt: skip


def candidate(in_system: float = 2.0, gpus: int = 4, *, started: int = 2, lost: float = 10.0, meets: bool = True) -> Candidate:
    move = Move(started=started, stopped=started, cold_start_s=40.0, gpu_s=40.0 * started, lost_run_s=lost)
    return Candidate(plan=plans()[1], outlook=outlook(in_system, gpus, meets=meets), move=move)


def ask(answer: Answer, settings: Settings | None = None, **how: object):
    known = {"now_s": 1e4, "last_switch_s": None, "frozen": False, **how}
    return decide(settings or Settings(), answer, **known)  # type: ignore[arg-type]


outlooks = st.builds(outlook, st.floats(0.1, 100), st.integers(1, 8), meets=st.booleans())
candidates = st.builds(
    candidate, st.floats(0.1, 100), st.integers(1, 8), started=st.integers(0, 12), lost=st.floats(0, 1e5), meets=st.booleans()
)
answers = st.builds(Answer, running=outlooks, candidates=st.lists(candidates, max_size=4).map(tuple))
aims = st.one_of(
    st.builds(Settings, min_between_s=st.floats(0, 2000), most_started=st.integers(1, 12)),
    st.builds(Settings, goal=st.just("gpus"), limits_s=st.just({W: 5.0}), gpus_to=st.integers(1, 8)),
)


# ---- the rule --------------------------------------------------------------------------------------------------------


@given(answers, aims, st.booleans())
def test_frozen_never_acts(answer: Answer, aim: Settings, lost: bool) -> None:
    assert ask(answer, aim, frozen=True, lost=lost).act == "keep"


@given(answers, aims, st.floats(0, 1e5), st.booleans())
def test_nothing_acts_before_the_minimum_time(answer: Answer, aim: Settings, last: float, lost: bool) -> None:
    now = last + 0.99 * aim.min_between_s
    found = ask(answer, aim, now_s=now, last_switch_s=last, lost=lost)
    assert found.act == "keep" or aim.min_between_s == 0


@given(answers, aims, st.booleans())
def test_what_is_chosen_is_within_the_limits_and_pays(answer: Answer, aim: Settings, lost: bool) -> None:
    found = ask(answer, aim, lost=lost)
    if found.act == "keep":
        return
    assert found.candidate is not None
    chosen = answer.candidates[found.candidate]
    assert chosen.move.started <= aim.most_started
    assert aim.gpus_to is None or chosen.outlook.gpus <= aim.gpus_to
    if answer.running.meets and not lost:
        assert chosen.outlook.meets
        assert found.gain > aim.margin * found.cost
    else:
        assert chosen.outlook.meets or chosen.outlook.in_system < answer.running.in_system


def test_a_gain_that_does_not_pay_is_said_in_numbers() -> None:
    found = ask(Answer(running=outlook(4.0), candidates=(candidate(3.0, lost=1e6),)))
    assert (found.act, found.candidate) == ("keep", 0)
    assert "gains 3600 run-seconds (25.0 %) for 1e+06" in found.reason


def test_a_small_gain_is_within_the_error_of_predictions() -> None:
    assert ask(Answer(running=outlook(4.0), candidates=(candidate(3.8, lost=0.0),))).act == "keep"
    assert ask(Answer(running=outlook(4.0), candidates=(candidate(3.5, lost=0.0),))).act == "switch"


def test_a_plan_that_misses_its_goal_goes_whatever_the_gain() -> None:
    found = ask(Answer(running=outlook(4.0, meets=False), candidates=(candidate(5.0, lost=1e9),)))
    assert found.act == "switch"
    assert "misses its goal" in found.reason


def test_fewer_gpus_must_pay_for_the_start() -> None:
    aim = Settings(goal="gpus", limits_s={W: 5.0})
    answer = Answer(running=outlook(gpus=8), candidates=(candidate(gpus=6),))
    assert ask(answer, aim).act == "switch"
    assert ask(answer, msgspec.structs.replace(aim, horizon_s=50)).act == "keep"
    assert ask(Answer(running=outlook(gpus=8), candidates=(candidate(gpus=6, meets=False),)), aim).act == "keep"


def test_no_gpu_is_saved_by_a_move_that_misses_the_limit_meanwhile() -> None:
    aim, two = Settings(goal="gpus", limits_s={W: 5.0}), candidate(gpus=2)
    harsh = msgspec.structs.replace(two, move=msgspec.structs.replace(two.move, meets_meanwhile=False))
    found = ask(Answer(running=outlook(gpus=4), candidates=(harsh,)), aim)
    assert (found.act, found.reason) == (
        "keep",
        "the running plan meets its goal, and every other would miss a limit while it is switched to",
    )
    assert ask(Answer(running=outlook(gpus=4), candidates=(harsh, candidate(gpus=3))), aim).candidate == 1
    assert ask(Answer(running=outlook(gpus=4, meets=False), candidates=(harsh,)), aim).act == "switch", "it is missed now"
    assert ask(Answer(running=outlook(4.0), candidates=(msgspec.structs.replace(harsh, outlook=outlook(2.0)),))).act == "switch"


def test_what_hardly_does_better_is_no_way_out() -> None:
    answer = Answer(running=outlook(100.0, meets=False), candidates=(candidate(95.0, meets=False),))
    assert ask(answer).act == "keep"
    assert ask(answer, Settings(least_gain_pct=1.0)).act == "switch"


def test_the_simulation_has_a_veto() -> None:
    wanted = ask(Answer(running=outlook(4.0), candidates=(candidate(2.0),)))
    assert wanted.act == "switch"
    slower = Simulated(running_s={W: 2.0}, candidate_s={W: 2.5}, runs=100)
    assert confirmed(wanted, slower, Settings(), must=False).act == "keep"
    faster = Simulated(running_s={W: 2.0}, candidate_s={W: 1.5}, runs=100)
    assert confirmed(wanted, faster, Settings(), must=False).act == "switch"
    piling_up = Simulated(running_s={W: 2.0}, candidate_s={W: 1.5}, candidate_keeps_up=False, runs=100)
    assert confirmed(wanted, piling_up, Settings(), must=True).act == "keep"
    both = msgspec.structs.replace(piling_up, running_keeps_up=False)
    assert confirmed(wanted, both, Settings(), must=False).act == "keep"
    assert confirmed(wanted, both, Settings(), must=True).act == "switch", "it piles up less than what serves now"


def test_settings_that_contradict_themselves_are_refused() -> None:
    for wrong in ({"goal": "gpus"}, {"gpus_from": 4, "gpus_to": 2}, {"percentile": 90}, {"margin": 0.5}):
        with pytest.raises(ValueError, match="must be"):
            Settings(**wrong)  # type: ignore[arg-type]


# ---- the controller --------------------------------------------------------------------------------------------------


def eager(running: Plan, finding: Finding) -> Answer:
    """Planning that always finds something much better."""
    return Answer(running=outlook(10.0), candidates=(candidate(1.0, lost=0.0),))


def run(memory: Memory, seen, aim: Settings, *, frozen: bool = False, until: int = 4000, replan=eager):
    """Look every half minute and switch when told to; times of the switches, and the reports."""
    switches, reports = [], []
    running = plans()[0]
    for now in range(30, until, 30):
        memory, report = step(memory, facts_at(float(now), seen), aim, running, replan, None, frozen=frozen)
        memory = msgspec.json.decode(msgspec.json.encode(memory), type=Memory)  # it survives a crash at any time
        if report is not None:
            reports.append(report)
            if report.chosen is not None:
                switches.append(now)
                memory, running = switched(memory, float(now)), report.chosen
    return switches, reports


def changing(seed: int) -> list:
    """The rate jumps up and down every 500 s."""
    runs, seen = runs_of(), []
    for part in range(8):
        seen += load(runs, 1.0 if part % 2 == 0 else 2.5, 500.0 * part, 500.0 * (part + 1), seed=100 * seed + part)
    return seen


@settings(max_examples=3)
@given(st.integers(0, 1000), st.sampled_from([0.0, 300.0, 900.0]))
def test_never_two_switches_within_the_minimum_time(seed: int, least: float) -> None:
    aim = Settings(min_between_s=least)
    switches, _ = run(begin([planned_for(W, runs_of(), 1.0)], 0.0), changing(seed), aim)
    assert switches
    assert all(b - a >= least for a, b in pairwise(switches))


@settings(max_examples=3)
@given(st.integers(0, 1000))
def test_a_frozen_controller_tells_and_does_nothing(seed: int) -> None:
    switches, reports = run(begin([planned_for(W, runs_of(), 1.0)], 0.0), changing(seed), Settings(), frozen=True, until=2000)
    assert not switches
    assert reports
    assert {report.decision.blocked for report in reports} == {"frozen"}


@settings(max_examples=3)
@given(st.integers(0, 1000))
def test_a_load_that_stays_is_left_alone_however_good_another_plan_looks(seed: int) -> None:
    runs = runs_of()
    switches, reports = run(begin([planned_for(W, runs, 1.0)], 0.0), load(runs, 1.0, 0.0, 4000.0, seed=seed), Settings())
    assert not switches
    assert not reports


def test_after_a_change_the_new_load_is_what_is_tested_against() -> None:
    runs = runs_of()
    seen = [*load(runs, 1.0, 0.0, 1000.0), *load(runs, 2.0, 1000.0, 9000.0, seed=1)]
    switches, reports = run(begin([planned_for(W, runs, 1.0)], 0.0), seen, Settings(), until=9000)
    assert [report.finding.kind for report in reports].count("drift") == 1
    assert [report.finding.kind for report in reports].count("refined") <= 2
    assert 1000 < switches[0] < 1200
    last = reports[-1].finding.loads[0]
    assert last.rate_per_s.value == pytest.approx(2.0, rel=0.1)
    assert last.planned_rate_per_s == pytest.approx(2.0, rel=0.2)


def test_a_switch_that_came_too_soon_is_made_when_it_may_be() -> None:
    aim = Settings(min_between_s=1500.0)
    runs = runs_of()
    seen = [
        *load(runs, 1.0, 0.0, 500.0), *load(runs, 3.0, 500.0, 1000.0, seed=1), *load(runs, 1.0, 1000.0, 4000.0, seed=2)
    ]  # fmt: skip
    switches, reports = run(begin([planned_for(W, runs, 1.0)], 0.0), seen, aim)
    assert "too soon" in {report.decision.blocked for report in reports}
    assert switches[1] - switches[0] < 1500 + 60


def test_lost_gpus_are_acted_on_at_once() -> None:
    memory = begin([planned_for(W, runs_of(), 1.0)], 0.0)
    facts = msgspec.structs.replace(facts_at(30.0, load(runs_of(), 1.0, 0.0, 100.0)), lost=(Gpu(node="n0", index=0),))
    _, report = step(memory, facts, Settings(), plans()[0], eager, None, frozen=False)
    assert report is not None
    assert report.finding.kind == "GPUs lost"
    assert report.decision.act == "switch"


def test_an_observed_latency_beyond_its_limit_is_reason_enough() -> None:
    runs = runs_of()
    seen = load(runs, 1.0, 0.0, 600.0)
    memory, facts = begin([planned_for(W, runs, 1.0)], 0.0), facts_at(600.0, seen)
    for limit, wanted in ((4.0, True), (6.5, False)):
        aim = Settings(limits_s={W: limit})
        _, report = step(memory, facts, aim, plans()[0], eager, None, frozen=False)
        assert (report is not None and report.finding.kind == "goal missed") is wanted


def test_latency_from_before_the_plan_served_is_not_held_against_it() -> None:
    runs = runs_of()
    memory, facts = begin([planned_for(W, runs, 1.0)], 0.0), facts_at(600.0, load(runs, 1.0, 0.0, 600.0))
    for since, wanted in ((None, True), (300.0, True), (550.0, False)):
        known = msgspec.structs.replace(facts, serves_since_s=since)
        _, report = step(memory, known, Settings(limits_s={W: 4.0}), plans()[0], eager, None, frozen=False)
        assert (report is not None) is wanted, "100 runs must have come since"


def test_what_is_remembered_after_a_keep_is_the_new_load() -> None:
    runs = runs_of()
    seen = load(runs, 3.0, 0.0, 300.0)
    memory = begin([planned_for(W, runs, 1.0)], 0.0)

    def nothing_better(running: Plan, finding: Finding) -> Answer:
        return Answer(running=outlook(4.0), candidates=())

    memory, report = step(memory, facts_at(300.0, seen), Settings(), plans()[0], nothing_better, None, frozen=False)
    assert report is not None
    assert report.decision.act == "keep"
    assert memory.references[W].rate_per_s == pytest.approx(3.0, rel=0.15)
    again, none = step(memory, facts_at(330.0, seen), Settings(), plans()[0], nothing_better, None, frozen=False)
    assert none is None
    assert again == memory
    assert remember(memory, facts_at(330.0, seen), Settings(), report.finding, report.decision).since_s[W] == 330.0


def test_a_goal_that_nothing_mends_is_not_asked_about_at_every_look() -> None:
    runs, asked = runs_of(), []

    def nothing_better(running: Plan, finding: Finding) -> Answer:
        asked.append(finding.kind)
        return Answer(running=outlook(4.0, meets=False), candidates=())

    aim = Settings(limits_s={W: 4.0}, min_between_s=600.0)
    run(begin([planned_for(W, runs, 1.0)], 0.0), load(runs, 1.0, 0.0, 2000.0), aim, until=2000, replan=nothing_better)
    assert 1 <= len(asked) <= 6
    assert asked[0] == "goal missed"


def test_a_run_is_overdue_only_when_its_end_would_be_known() -> None:
    ended = [Seen(workflow=W, arrival_s=float(n), end_s=n + 5.0, values={"calls:m": 1.0}) for n in range(20)]
    seen = (*ended, Seen(workflow=W, arrival_s=60.0), Seen(workflow=W, arrival_s=61.0, end_s=65.0, values={"calls:m": 1.0}))
    memory = begin([planned_for(W, runs_of(), 1.0)], -1.0)
    read = [len(fresh(memory, Facts(now_s=85.0, seen={W: seen}, quiet_s=quiet_s), W)[1]) for quiet_s in (0.0, 30.0)]
    assert read == [21, 20], "open for 25 s, of which it may have been over for 30"


# ---- while no switch may begin ---------------------------------------------------------------------------------------


def nothing_better(running: Plan, finding: Finding) -> Answer:
    return Answer(running=outlook(4.0, meets=False), candidates=())


def told(reports) -> list[tuple[int, str, str, str]]:
    return [(round(r.now_s), r.finding.kind, r.decision.act, r.decision.blocked or r.decision.reason[:10]) for r in reports]


def test_a_change_is_found_though_a_missed_goal_could_not_be_mended_just_before() -> None:
    runs = runs_of()
    seen = [*load(runs, 1.0, 0.0, 300.0), *load(runs, 4.0, 300.0, 600.0, seed=1)]
    aim = Settings(limits_s={W: 4.0}, min_between_s=600.0)
    _, reports = run(begin([planned_for(W, runs, 1.0)], 0.0), seen, aim, until=600, replan=nothing_better)
    found = told(reports)
    assert found[0][:3] == (120, "goal missed", "keep")
    at, kind, *_ = found[1]
    assert (kind, 300 < at < 400) == ("drift", True)
    assert any(kind == "goal missed" and at > 310 for at, kind, *_ in found), "by the new load"
    assert all(report.answer is not None for report in reports), "a switch might have begun, so it was planned for"


def test_gpus_that_are_lost_are_acted_on_though_a_missed_goal_could_not_be_mended_just_before() -> None:
    runs, aim = runs_of(), Settings(limits_s={W: 4.0}, min_between_s=600.0)
    seen = load(runs, 1.0, 0.0, 600.0)
    memory, first = step(
        begin([planned_for(W, runs, 1.0)], 0.0), facts_at(200.0, seen), aim, plans()[0], nothing_better, None, frozen=False
    )
    assert first is not None
    assert (first.finding.kind, first.decision.act) == ("goal missed", "keep")
    lost = msgspec.structs.replace(facts_at(210.0, seen), lost=(Gpu(node="n0", index=0),))
    _, second = step(memory, lost, aim, plans()[0], eager, None, frozen=False)
    assert second is not None
    assert (second.finding.kind, second.decision.act) == ("GPUs lost", "switch")


def test_what_changes_while_it_is_too_soon_to_switch_is_noted_once_and_planned_for_when_it_may_be() -> None:
    runs, aim, planned = runs_of(), Settings(min_between_s=1500.0), []

    def counted(running: Plan, finding: Finding) -> Answer:
        planned.append(finding.kind)
        return eager(running, finding)

    seen = [
        *load(runs, 1.0, 0.0, 500.0), *load(runs, 3.0, 500.0, 800.0, seed=1), *load(runs, 1.0, 800.0, 1200.0, seed=2),
        *load(runs, 4.0, 1200.0, 4000.0, seed=3),
    ]  # fmt: skip
    switches, reports = run(begin([planned_for(W, runs, 1.0)], 0.0), seen, aim, until=2600, replan=counted)
    noted = [report for report in reports if report.answer is None]
    blocked = next(report.now_s for report in reports if report.decision.blocked == "too soon")
    assert 500 < blocked < 800, "more was known of the first change"
    assert [report.finding.kind for report in noted] == ["drift", "drift"]
    assert 800 < noted[0].now_s < 900 < 1200 < noted[1].now_s < 1300
    assert noted[1].decision.reason.startswith("only noted: no switch may begin for ")
    assert noted[1].finding.loads[0].rate_per_s.value == pytest.approx(4.0, rel=0.15)
    assert 1500 <= switches[1] - switches[0] < 1530
    last = next(report for report in reports if report.now_s == switches[1])
    assert last.finding.kind == "blocked before"
    assert last.finding.loads[0].rate_per_s.value == pytest.approx(4.0, rel=0.1)
    assert len(planned) <= 6, "planned for when found, when blocked, when allowed, and when more was known"


def test_a_load_that_stays_fills_no_log_while_a_switch_waits() -> None:
    runs, aim = runs_of(), Settings(min_between_s=600.0, limits_s={W: 4.0})
    memory = held_back(begin([planned_for(W, runs, 1.0)], 0.0), 3600.0)
    _, reports = run(memory, load(runs, 1.0, 0.0, 4000.0), aim, until=3590)
    assert {(report.finding.kind, report.answer) for report in reports} == {("goal missed", None)}
    assert 2 <= len(reports) <= 6, "that the goal is missed is said again every --min-between"


def test_a_change_in_the_pause_after_a_switch_that_came_to_nothing_is_noted() -> None:
    runs = runs_of()
    memory = held_back(begin([planned_for(W, runs, 1.0)], 0.0), 1000.0)
    seen = [*load(runs, 1.0, 0.0, 300.0), *load(runs, 4.0, 300.0, 1100.0, seed=1)]
    switches, reports = run(memory, seen, Settings(), until=1100)
    assert [kind for _, kind, *_ in told(reports)] == ["drift", "blocked before"]
    assert [report.answer is None for report in reports] == [True, False]
    assert switches == [1020]
    assert reports[-1].finding.loads[0].rate_per_s.value == pytest.approx(4.0, rel=0.1)


def test_lost_gpus_are_said_once_while_it_is_too_soon_and_again_when_more_are_lost() -> None:
    runs, aim = runs_of(), Settings(min_between_s=600.0)
    seen = load(runs, 1.0, 0.0, 2000.0)
    memory, kinds = switched(begin([planned_for(W, runs, 1.0)], 0.0), 0.0), []
    used = sorted({gpu for instance in plans()[0].instances for gpu in instance.gpus})
    for now in range(30, 700, 30):
        lost = () if now < 100 or 400 < now < 450 else tuple(used[: 1 if now < 200 else 2])
        facts = msgspec.structs.replace(facts_at(float(now), seen), lost=lost)
        memory, report = step(memory, facts, aim, plans()[0], eager, None, frozen=False)
        if report is not None:
            kinds.append((now, report.finding.kind, report.decision.act, report.answer is not None))
            if report.chosen is not None:
                break
    assert kinds == [
        (120, "GPUs lost", "keep", True),  # it was too soon
        (210, "GPUs lost", "keep", False),
        (450, "GPUs lost", "keep", False),
        (600, "GPUs lost", "switch", True),
    ]


def test_gpus_whose_loss_nothing_mends_are_no_reason_to_plan_at_every_look() -> None:
    runs, aim, memory, asked = runs_of(), Settings(min_between_s=600.0), begin([planned_for(W, runs_of(), 1.0)], 0.0), []

    def none(running: Plan, finding: Finding) -> Answer:
        asked.append(finding.kind)
        return nothing_better(running, finding)

    seen = [*load(runs, 1.0, 0.0, 700.0), *load(runs, 4.0, 700.0, 1200.0, seed=1)]
    for now in range(30, 1200, 30):
        facts = msgspec.structs.replace(facts_at(float(now), seen), lost=(Gpu(node="n0", index=0),))
        memory, _ = step(memory, facts, aim, plans()[0], none, None, frozen=False)
    assert asked[:3] == ["GPUs lost", "GPUs lost", "drift"], "after 30 s, 630 s, and when the load changes"
    assert len(asked) <= 5


def test_frozen_it_is_planned_for_what_is_new_and_again_at_once_when_the_freeze_ends() -> None:
    runs, memory, found = runs_of(), begin([planned_for(W, runs_of(), 1.0)], 0.0), []
    seen = [*load(runs, 1.0, 0.0, 300.0), *load(runs, 3.0, 300.0, 3700.0, seed=1)]
    for now in range(30, 3600, 30):
        memory, report = step(memory, facts_at(float(now), seen), Settings(), plans()[0], eager, None, frozen=True)
        if report is not None:
            found.append(report)
    assert found[0].finding.kind == "drift"
    assert {report.decision.blocked for report in found} == {"frozen"}
    assert len(found) <= 4, "and when more is known"
    memory, report = step(memory, facts_at(3600.0, seen), Settings(), plans()[0], eager, None, frozen=False)
    assert report is not None
    assert (report.finding.kind, report.decision.act) == ("blocked before", "switch")
    assert report.finding.loads[0].rate_per_s.value == pytest.approx(3.0, rel=0.1)


def test_a_workflow_that_nobody_runs_hides_no_change_of_another() -> None:
    """Its rate is not what was planned for, but there are no runs that a new plan could rest on."""
    runs, other = runs_of(), "reflection"
    references = [planned_for(W, runs, 1.0), planned_for(other, runs_of(other), 1.0)]
    seen = [*load(runs, 1.0, 0.0, 500.0), *load(runs, 3.0, 500.0, 800.0, seed=1)]
    _, reports = run(begin(references, 0.0), seen, Settings(), until=800, replan=nothing_better)
    assert [(report.finding.kind, {drift.workflow for drift in report.finding.drifts}) for report in reports][:1] == [
        ("drift", {W})
    ]
    assert 500 < reports[0].now_s < 600
    stopped = next(each for each in reports[0].finding.loads if each.workflow == other)
    assert stopped.planned_rate_per_s == pytest.approx(1.0), "as before, until more is known"
