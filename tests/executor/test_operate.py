"""The loop on a made-up deployment: what it reads, when it acts, what it writes down, and what a crash leaves."""

import os
import signal
import threading
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from executor.operate import operator as module
from executor.operate.journal import Entry, Journal, document, explained, read
from executor.operate.live import LiveRuns
from executor.operate.operator import FREEZE, LOG
from executor.operate.page import snapshot
from executor.operate.tail import Tail
from scepsy.errors import BackendError
from scepsy.importers.recorded.record import CallRecord
from scepsy.operate.controller import Facts, begin, fresh
from scepsy.operate.naming import fingerprint
from scepsy.operate.reference import planned_for
from scepsy.operate.settings import Settings
from tests.executor.operating import (
    BORN_S,
    ONE,
    RUNS,
    TWO,
    Clock,
    DiskTarget,
    W,
    between,
    die,
    look_until,
    operator,
    record,
    write_recording,
)

CHANGE = [(900.0, 2.0), (900.0, 6.0)]


@pytest.fixture
def clock() -> Clock:
    return Clock()


# ---- reading ---------------------------------------------------------------------------------------------------------


def line(number: int) -> bytes:
    return msgspec.json.encode(record(number, BORN_S + number)) + b"\n"


def test_a_recording_is_read_as_it_grows_and_no_line_twice(tmp_path) -> None:
    path = tmp_path / "calls.jsonl"
    tail = Tail(path)
    assert tail.read() == []
    path.write_bytes(b'{"format":"scepsy.recording","version":1,"session":"s","started_s":1}\n' + line(1) + line(2)[:40])
    assert [each.id for each in tail.read()] == ["c1"]
    with path.open("ab") as file:
        file.write(line(2)[40:] + b"{torn\n" + line(3))
    assert [each.id for each in tail.read()] == ["c2", "c3"]
    assert tail.damaged == 1
    assert tail.read() == []


def test_a_recording_that_was_rotated_or_emptied_is_read_from_its_start(tmp_path) -> None:
    path = tmp_path / "calls.jsonl"
    path.write_bytes(line(1) + line(2))
    tail = Tail(path)
    assert len(tail.read()) == 2
    path.rename(tmp_path / "calls.jsonl.1")
    assert tail.read() == []
    path.write_bytes(line(3))
    assert [each.id for each in tail.read()] == ["c3"]
    path.write_bytes(b"")
    assert tail.read() == []
    path.write_bytes(line(4))
    assert [each.id for each in tail.read()] == ["c4"]


def test_of_a_long_recording_only_the_end_is_read_at_first(tmp_path) -> None:
    path = tmp_path / "calls.jsonl"
    path.write_bytes(b"".join(line(n) for n in range(1, 101)))
    tail = Tail(path, first_bytes=3 * len(line(50)) + 10)
    assert [each.id for each in tail.read()] == ["c98", "c99", "c100"]
    assert tail.damaged == 0


def test_runs_end_when_nothing_came_for_a_while() -> None:
    live = LiveRuns([W], idle_s=10.0)
    live.add([record(1, BORN_S), record(2, BORN_S + 2, run="r1"), record(3, BORN_S + 20)])
    first, second = live.seen(BORN_S + 25)[W]
    assert (first.arrival_s, first.end_s, first.values["calls:chat"]) == (BORN_S, BORN_S + 3.0, 2.0)
    assert (second.arrival_s, second.end_s) == (BORN_S + 20, None)
    assert live.seen(BORN_S + 40)[W][1].end_s == BORN_S + 21


def told(live: LiveRuns, at_s: float) -> list[tuple[float, float | None, float | None]]:
    """(arrival, end, calls) of every run, times from ``BORN_S`` on."""
    known = live.seen(BORN_S + at_s)[W]
    return [(s.arrival_s - BORN_S, s.end_s and s.end_s - BORN_S, s.values.get("calls:chat")) for s in known]


def test_a_run_with_a_long_call_under_way_has_not_ended() -> None:
    """Its first call takes 1 s, its second 60 s: nothing comes of it for longer than the idle time."""
    live = LiveRuns([W], idle_s=10.0)
    live.add([record(1, BORN_S, run="r1")])
    assert told(live, 5) == [(0.0, None, None)]
    assert told(live, 30) == [(0.0, 1.0, 1.0)], "the recording does not tell of a call that is under way"
    live.add([record(2, BORN_S + 2, run="r1", end_s=BORN_S + 62)])
    assert told(live, 63) == [(0.0, None, None)], "one run, and it is open"
    assert live.resumed == 1
    assert live.known_until_s(BORN_S + 63) == BORN_S + 62, "the run was seen after its first call"
    assert told(live, 63 + live.quiet_s) == [(0.0, 62.0, 2.0)]


def test_where_calls_take_long_a_run_is_waited_for_as_long() -> None:
    live = LiveRuns([W], idle_s=10.0)
    live.add([record(n, BORN_S - 100 + n / 10, end_s=BORN_S - 40 + n / 10) for n in range(100)])
    live.add([record(101, BORN_S, run="long")])
    assert live.quiet_s == pytest.approx(70.0)
    assert told(live, 60)[-1] == (0.0, None, None)
    live.add([record(102, BORN_S + 2, run="long", end_s=BORN_S + 62)])
    assert (told(live, 64)[-1], live.resumed) == ((0.0, None, None), 0)


@pytest.mark.parametrize("looks", [(), (15.0, 35.0, 55.0, 90.0, 110.0)])
def test_a_run_is_the_same_whether_it_is_read_as_it_comes_or_all_at_once(looks) -> None:
    """Run r1 makes a call of 1 s and then one of 50 s. Its id comes again after a pause longer than the idle time."""
    live = LiveRuns([W], idle_s=10.0)
    every = [
        record(1, BORN_S, run="r1"),
        record(2, BORN_S + 5, run="r1", end_s=BORN_S + 55),
        record(3, BORN_S + 80, run="r1"),
        record(4, BORN_S + 85, run="r1"),
    ]
    for at_s in looks:
        live.add([each for each in every if each.end_s <= BORN_S + at_s])
        every = [each for each in every if each.end_s > BORN_S + at_s]
        live.seen(BORN_S + at_s)
    live.add(every)
    assert told(live, 300) == [(0.0, 55.0, 2.0), (80.0, 86.0, 2.0)]


def test_a_run_whose_calls_all_failed_has_come_and_tells_nothing_else() -> None:
    live = LiveRuns([W], idle_s=10.0)
    live.add([record(n, BORN_S + n, outcome="rejected" if n % 2 else "completed") for n in range(20)])
    seen = live.seen(BORN_S + 60)
    memory = begin([planned_for(W, RUNS, 1.0)], BORN_S - 1)
    times, ended = fresh(memory, Facts(now_s=BORN_S + 60, seen=seen, quiet_s=live.quiet_s), W)
    assert (len(times), len(ended)) == (20, 10)
    assert all(each.values for each in ended)
    live.add([record(99, BORN_S + 21, run="r19", end_s=BORN_S + 70)])  # its second try took long
    assert [(each.arrival_s, each.end_s) for each in live.seen(BORN_S + 71)[W]][-1] == (BORN_S + 19, None)


def test_calls_that_name_no_run_and_calls_of_others_are_counted() -> None:
    live = LiveRuns([W, "other"], idle_s=10.0)
    live.add(
        [
            record(1, BORN_S, rung="none", run="call-1"),
            record(2, BORN_S, workflow="strange"),
            record(3, BORN_S, outcome="failed"),
        ]
    )
    assert (live.calls, live.unnamed, live.strangers, live.failed) == (3, 1, 1, 1)
    assert [(each.end_s, bool(each.values)) for each in live.seen(BORN_S + 60)[W]] == [(BORN_S + 1, False), (BORN_S + 1, True)]
    alone = LiveRuns([W])
    alone.add([record(1, BORN_S, workflow="")])
    assert len(alone.seen(BORN_S)[W]) == 1, "a plan of one workflow takes calls that name none"


def test_how_long_ago_every_run_is_seen_follows_from_how_long_first_calls_take() -> None:
    live = LiveRuns([W])
    assert live.known_until_s(BORN_S) == BORN_S
    live.add([record(n, BORN_S + n, end_s=BORN_S + n + 20.0) for n in range(50)])
    assert live.known_until_s(BORN_S + 70) == BORN_S + 50
    live.add([record(100 + n, BORN_S + 60, run="r1", end_s=BORN_S + 61) for n in range(64)])
    assert live.known_until_s(BORN_S + 70) == BORN_S + 50, "later calls of a run tell nothing of it"


def test_short_runs_are_not_read_before_an_open_one_whose_end_could_not_be_known(tmp_path, clock) -> None:
    short = [record(n, BORN_S + n) for n in range(60)]
    goes_on = [record(100, BORN_S + 60, run="long"), record(101, BORN_S + 80, run="long")]
    short_later = record(200, BORN_S + 61)
    (tmp_path / "calls.jsonl").write_bytes(b"".join(msgspec.json.encode(r) + b"\n" for r in (*short, *goes_on, short_later)))
    one = operator(tmp_path, DiskTarget(tmp_path), clock)
    one.live = LiveRuns([W], 30.0)
    one.start()
    memory = msgspec.structs.replace(one.memory, since_s={W: BORN_S - 1})
    for at_s, wanted in ((93.5, 60), (120.0, 62)):
        clock.now_s = BORN_S + at_s
        one.look()
        assert [s.end_s is not None for s in one.facts.seen[W][-2:]] == [wanted == 62, True]
        assert len(fresh(memory, one.facts, W)[1]) == wanted


# ---- deciding --------------------------------------------------------------------------------------------------------


def test_advice_says_it_once_and_changes_nothing(tmp_path, clock) -> None:
    end = write_recording(tmp_path / "calls.jsonl", CHANGE)
    target, said = DiskTarget(tmp_path), []
    one = operator(tmp_path, target, clock, mode="advise", notify=said.append)
    one.start()
    look_until(one, clock, end)
    entries = read(tmp_path / "operate" / LOG)
    advised = [entry for entry in entries if entry.decision is not None and entry.decision.act == "switch"]
    assert advised
    assert advised[0].wanted == fingerprint(TWO)
    assert 900 < advised[0].at_s - BORN_S < 1020
    assert {entry.kind for entry in entries} == {"started", "decided"}
    assert target.made() == []
    assert fingerprint(target.running()) == fingerprint(ONE)
    assert any("advice: nothing is changed" in line for line in said)


def test_acting_switches_when_the_load_changes_and_the_log_tells_it_all(tmp_path, clock) -> None:
    end = write_recording(tmp_path / "calls.jsonl", CHANGE)
    target = DiskTarget(tmp_path)
    one = operator(tmp_path, target, clock)
    one.start()
    look_until(one, clock, end)
    entries = read(tmp_path / "operate" / LOG)
    assert [entry.number for entry in entries] == list(range(1, len(entries) + 1))
    kinds = [entry.kind for entry in entries]
    assert kinds[:4] == ["started", "decided", "acting", "outcome"]
    decided, acting, outcome = entries[1:4]
    assert decided.drifts[0].number == "rate"
    assert decided.windows[0].rate_per_s.value > 2.0
    assert (acting.wanted, outcome.result, outcome.plan) == (fingerprint(TWO), "serving", fingerprint(TWO))
    assert target.made() == [acting.token]
    text = "\n".join(explained(decided))
    assert "rate was 2 in the load known before" in text
    assert "Decision: switch" in text
    assert (tmp_path / "operate" / "plans" / f"{fingerprint(TWO)}.plan.yaml").exists()


def test_a_change_in_the_pause_after_a_failed_switch_is_written_down_without_planning(tmp_path, clock) -> None:
    """The switch at 930 s or so comes to nothing, so no other may begin for an hour. Meanwhile the load falls."""
    end = write_recording(tmp_path / "calls.jsonl", [(900.0, 2.0), (900.0, 6.0), (600.0, 1.0)])
    said: list[str] = []
    settings = Settings(look_s=30.0, min_between_s=3600.0)
    one = operator(tmp_path, DiskTarget(tmp_path, fails=True), clock, settings=settings, notify=said.append)
    one.start()
    look_until(one, clock, end)
    noted = [entry for entry in one.journal.entries if entry.kind == "decided" and entry.running is None]
    assert [(entry.found, entry.drifts[0].number, entry.candidates) for entry in noted] == [("drift", "rate", ())]
    assert 1800 < noted[0].at_s - BORN_S < 2000
    text = "\n".join(explained(noted[0]))
    assert "Noted, because the load is not the one known before." in text
    assert "Decision: keep: only noted: no switch may begin for " in text
    assert any(line.startswith("drift: keep: only noted: no switch may begin for ") for line in said)
    assert snapshot(one)["workflows"][W]["predicted_latency_s"] is None, "of the new load nothing was predicted"


def test_advice_that_stands_is_taken_when_acting_is_allowed(tmp_path, clock) -> None:
    end = write_recording(tmp_path / "calls.jsonl", CHANGE)
    target = DiskTarget(tmp_path)
    advising = operator(tmp_path, target, clock, mode="advise")
    advising.start()
    look_until(advising, clock, end - 60.0)
    acting = operator(tmp_path, target, clock)
    acting.start()
    acting.live, acting.tail = advising.live, advising.tail
    look_until(acting, clock, end)
    decided = [entry for entry in acting.journal.entries if entry.mode == "act" and entry.kind == "decided"]
    assert [(entry.found, entry.wanted) for entry in decided] == [("blocked before", fingerprint(TWO))]
    assert len(target.made()) == 1


def test_it_is_said_once_that_no_run_is_seen_and_why(tmp_path, clock) -> None:
    said, path = [], tmp_path / "calls.jsonl"
    one = operator(tmp_path, DiskTarget(tmp_path), clock, notify=said.append)
    one.start()
    for at_s in (60.0, 120.0):
        look_until(one, clock, BORN_S + at_s)
    assert said == [f"no run of w is seen: no calls were read from {path} (does the gateway record there?)"]
    assert snapshot(one)["problem"] == said[0]
    write_recording(path, [(300.0, 2.0)])
    look_until(one, clock, BORN_S + 240.0)
    assert (one.blind, len(said), snapshot(one)["problem"]) == ("", 1, "")
    others = operator(tmp_path / "two", DiskTarget(tmp_path), clock, notify=said.append)
    others.tail, others.live = one.tail, LiveRuns(["a", "b"])
    others.live.add([record(1, BORN_S)])
    others.start()
    others.look()
    assert said[1].startswith("no run of a, b is seen: the 1 calls read are of other workflows from ")


def test_a_load_that_stays_writes_nothing(tmp_path, clock) -> None:
    end = write_recording(tmp_path / "calls.jsonl", [(3600.0, 2.0)])
    one = operator(tmp_path, DiskTarget(tmp_path), clock)
    one.start()
    look_until(one, clock, end)
    assert [entry.kind for entry in read(tmp_path / "operate" / LOG)] == ["started"]


def test_the_freeze_file_stops_acts_and_its_removal_lets_them_go_on(tmp_path, clock) -> None:
    end = write_recording(tmp_path / "calls.jsonl", CHANGE)
    target = DiskTarget(tmp_path)
    one = operator(tmp_path, target, clock)
    one.start()
    (tmp_path / "operate" / FREEZE).touch()
    look_until(one, clock, BORN_S + 1300)
    assert target.made() == []
    assert read(tmp_path / "operate" / LOG)[1].decision.blocked == "frozen"
    (tmp_path / "operate" / FREEZE).unlink()
    look_until(one, clock, end)
    assert len(target.made()) == 1


def test_an_engine_that_cannot_start_is_rolled_back_and_not_tried_at_once_again(tmp_path, clock) -> None:
    end = write_recording(tmp_path / "calls.jsonl", CHANGE)
    target = DiskTarget(tmp_path, fails=True)
    one = operator(tmp_path, target, clock)
    one.start()
    look_until(one, clock, end)
    entries = read(tmp_path / "operate" / LOG)
    outcomes = [entry for entry in entries if entry.kind == "outcome"]
    assert {entry.result for entry in outcomes} == {"rolled back"}
    assert {entry.plan for entry in outcomes} == {fingerprint(ONE)}
    times = [entry.at_s for entry in entries if entry.kind == "acting"]
    assert all(b - a >= 300.0 for a, b in pairwise(times))


def test_a_switch_that_came_to_nothing_is_tried_again_after_a_pause_that_grows(tmp_path, clock) -> None:
    """The load stays as it was found: nothing but the failure is a reason to plan again."""
    end = write_recording(tmp_path / "calls.jsonl", [(900.0, 2.0), (3600.0, 6.0)])
    target, settings = DiskTarget(tmp_path, fails=True), Settings(look_s=30.0, min_between_s=300.0, horizon_s=1200.0)
    one = operator(tmp_path, target, clock, settings=settings)
    one.start()
    look_until(one, clock, end - 600.0)
    entries = read(tmp_path / "operate" / LOG)
    times = [entry.at_s for entry in entries if entry.kind == "acting"]
    assert [round(b - a) for a, b in pairwise(times)] == [300, 600, 1200]
    assert {entry.found for entry in entries if entry.kind == "decided" and entry.wanted} == {"drift", "blocked before"}
    again = operator(tmp_path, target, clock, settings=settings)
    again.start()
    assert again.memory.not_before_s == times[-1] + 1200.0, "a restart does not forget the pause, which is the horizon at most"
    target.fails, clock.now_s = False, times[-1] + 1200.0
    again.look()
    assert fingerprint(target.running()) == fingerprint(TWO)
    assert again.journal.failures == []


def test_calls_that_take_long_are_no_load_that_has_fallen(tmp_path, clock) -> None:
    """A call is recorded when it ends, so the runs of the last minute are not there yet."""
    end = write_recording(tmp_path / "calls.jsonl", [(1200.0, 2.0)], call_s=60.0)
    one = operator(tmp_path, DiskTarget(tmp_path), clock)
    one.live = LiveRuns([W], 70.0)
    clock.now_s += 60.0  # nothing can be known before
    one.start()
    one.memory = msgspec.structs.replace(one.memory, since_s={W: BORN_S})
    look_until(one, clock, end)
    assert [entry.kind for entry in one.journal.entries] == ["started"]
    assert one.windows(one.facts)[0].rate_per_s.value == pytest.approx(2.0, rel=0.15)


def test_what_comes_is_told_where_the_engine_cannot_keep_up(tmp_path, clock) -> None:
    """Six runs a second come and two end: what ends is not what comes."""
    end = write_recording(tmp_path / "calls.jsonl", [(600.0, 2.0), (600.0, 6.0)])
    lines, free_s = (tmp_path / "calls.jsonl").read_bytes().splitlines(), 0.0
    records = [msgspec.json.decode(line, type=CallRecord) for line in lines[1:]]
    for place, each in enumerate(records):
        free_s = max(free_s, each.start_s) + 0.5
        records[place] = msgspec.structs.replace(each, end_s=free_s)
    (tmp_path / "calls.jsonl").write_bytes(b"\n".join([lines[0], *map(msgspec.json.encode, records)]) + b"\n")
    seen: list[float] = []

    def replan(running, finding):
        seen.append(finding.loads[0].rate_per_s.value)
        return between(ONE, TWO)(running, finding)

    one = operator(tmp_path, DiskTarget(tmp_path), clock, replan=replan)
    one.start()
    look_until(one, clock, end)
    assert seen[-1] == pytest.approx(6.0, rel=0.2)
    assert [entry.result for entry in one.journal.entries if entry.kind == "outcome"] == ["serving"]


def test_what_was_remembered_outlives_a_kill_between_the_switch_and_its_outcome(tmp_path) -> None:
    end = write_recording(tmp_path / "calls.jsonl", [(900.0, 2.0), (600.0, 6.0)])
    crash(tmp_path, "in the switch", end)
    one = operator(tmp_path, DiskTarget(tmp_path), Clock(end))
    one.start()
    assert one.journal.entries[-2].result == "serving"
    assert one.memory.references[W].rate_per_s == pytest.approx(6.0, rel=0.3), "the load that was found, not the plan's"


def test_two_controllers_of_one_deployment_are_not_allowed(tmp_path, clock) -> None:
    first, second = (operator(tmp_path, DiskTarget(tmp_path), clock) for _ in range(2))
    with first.alone(), pytest.raises(BackendError, match="another scepsy operate"), second.alone():
        pass


def test_a_look_that_fails_is_said_once_and_tried_again(tmp_path, clock) -> None:
    said, stop, tries = [], threading.Event(), []

    def broken(running, finding):
        tries.append(1)
        if len(tries) == 3:
            stop.set()
        raise BackendError("no curves today")

    clock.now_s = write_recording(tmp_path / "calls.jsonl", CHANGE) - 200
    one = operator(tmp_path, DiskTarget(tmp_path), clock, replan=broken, notify=said.append)
    one.settings = msgspec.structs.replace(one.settings, look_s=0.01)
    one.start()
    one.memory = msgspec.structs.replace(one.memory, since_s={W: BORN_S})
    one.run(stop)
    assert said == ["this look came to nothing: no curves today"]
    assert len(tries) == 3
    assert one.problem == "no curves today"


# ---- crashes ---------------------------------------------------------------------------------------------------------


def crash(folder: Path, stage: str, end_s: float) -> None:
    """A controller in a process of its own that is killed (-9) at a stage."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), f"it was not killed at stage {stage!r}"
        assert os.WTERMSIG(status) == signal.SIGKILL
        return
    try:
        clock = Clock(BORN_S + 750.0)
        target = DiskTarget(folder, before=die if stage == "before the switch" else lambda: None)
        if stage == "in the switch":

            def switch(plan, token, notify):
                DiskTarget.switch(target, plan, token, notify)
                die()

            target.switch = switch  # type: ignore[method-assign]
        one = operator(folder, target, clock)
        append = one.journal.append

        def dying(entry: Entry) -> Entry:
            if stage == f"before {entry.kind}":
                die()
            made = append(entry)
            if stage == f"after {entry.kind}":
                die()
            if stage == f"within {entry.kind}":  # half a line
                with one.journal.path.open("rb+") as file:
                    file.truncate(one.journal.path.stat().st_size - 20)
                die()
            return made

        one.journal.append = dying  # type: ignore[method-assign]
        if stage == "saving":
            module.write_own = lambda path, data: die() if path.name == "memory.json" and one.report else None
        one.start()
        look_until(one, clock, end_s)
    finally:
        os._exit(9)


STAGES = [
    "after started", "before decided", "after decided", "saving", "before acting", "after acting", "within acting",
    "before the switch", "in the switch", "before outcome", "after outcome", "within outcome",
]  # fmt: skip


@pytest.mark.parametrize("stage", STAGES)
def test_killed_at_any_stage_and_started_again_it_converges(tmp_path, stage, record_property) -> None:
    record_property("fault", "kill -9 of scepsy operate at a stage of a switch ×1")
    end = write_recording(tmp_path / "calls.jsonl", [(900.0, 2.0), (600.0, 6.0)])
    crash(tmp_path, stage, end)
    clock = Clock(BORN_S + 1200.0)
    target = DiskTarget(tmp_path)
    one = operator(tmp_path, target, clock)
    one.start()
    assert one.journal.under_way is None
    look_until(one, clock, end)
    assert fingerprint(target.running()) == fingerprint(TWO)
    assert len(target.made()) == 1, "the switch was made once"
    entries = read(tmp_path / "operate" / LOG)
    outcomes = [entry for entry in entries if entry.kind == "outcome"]
    assert outcomes[-1].result == "serving"
    assert len({entry.token for entry in outcomes}) == len(outcomes)


def test_after_a_crash_advice_and_freeze_do_not_go_on_with_an_act(tmp_path) -> None:
    end = write_recording(tmp_path / "calls.jsonl", [(900.0, 2.0), (900.0, 6.0)])
    crash(tmp_path, "before the switch", end)
    target = DiskTarget(tmp_path)
    one = operator(tmp_path, target, Clock(end), mode="advise")
    one.start()
    assert target.made() == []
    assert [entry.result for entry in one.journal.entries if entry.kind == "outcome"] == ["left"]


def test_what_was_remembered_is_about_the_plan_that_serves(tmp_path, clock) -> None:
    end = write_recording(tmp_path / "calls.jsonl", CHANGE)
    one = operator(tmp_path, DiskTarget(tmp_path), clock)
    one.start()
    look_until(one, clock, end)
    again = operator(tmp_path, DiskTarget(tmp_path), clock)
    again.start()
    assert again.memory == one.memory
    (tmp_path / "operate" / "memory.json").write_text("{")
    fresh = operator(tmp_path, DiskTarget(tmp_path), clock)
    said: list[str] = []
    fresh.notify = said.append
    fresh.start()
    assert fresh.memory.since_s == {W: clock.now_s}
    assert [line for line in said if "memory.json cannot be read" in line and "begun anew" in line]


def test_the_log_survives_a_torn_line_and_is_never_shortened(tmp_path) -> None:
    journal = Journal(tmp_path / "log.jsonl")
    entry = Entry(number=0, at_s=1.0, kind="started", mode="advise", plan="p")
    journal.append(entry)
    with journal.path.open("ab") as file:
        file.write(b'{"number":')
    again = Journal(tmp_path / "log.jsonl")
    assert again.append(entry).number == 2
    assert [each.number for each in read(journal.path)] == [1, 2]
    assert document(entry)["kind"] == "started"
