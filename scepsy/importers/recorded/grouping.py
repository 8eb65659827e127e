"""Which calls are of one run, where no run id came with them: by what they say, then by when they were made.

1. **Content.** A call whose input holds another's output, or answers its tool call, is of the same run (its ``sources``).
2. **Shared text.** Fragments that are left share what a run repeats in all its prompts: the question, a document. From hashes
   of windows of the inputs (``CallRecord.marks``), those that belong to a template are left out: they occur in more than half
   of the calls that begin alike, or in more than ``TEMPLATE_MARK_CALLS`` calls. A fragment joins the run with which it
   shares the most, if that is at least ``MIN_SHARED_MARKS``, and ``BEST_OVER_NEXT`` times what it shares with any other run
   of that time.
3. **Time.** Kinds of calls that begin much sooner after the end of calls of one other kind than chance would have it react to
   them. A fragment that begins with such a call joins the run in which such an end came last and was not answered yet. Its
   confidence is the smaller the more runs could have been meant. Shared text is held to the same order of things.

What remains is a run of its own. The thresholds were chosen on programs whose dependencies are known
(``python -m experiments.checks.recording_accuracy``), whose table says how far this can be trusted.
"""

import base64
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from math import ceil, fsum
from operator import itemgetter
from typing import Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from scipy.special import bdtrc

from scepsy.importers.recorded.record import CallRecord

TEMPLATE_MARK_CALLS = 12
"""Calls: fewer than the gateway's own limit (16), so that marks which it stopped writing down are left out here."""

TEMPLATE_PART, TEMPLATE_CALLS = 0.5, 4
"""A mark in more than this part of the calls that begin alike, of which there are at least so many, is their template's."""

MIN_SHARED_MARKS = 2.5
"""Marks, each divided by the square of how many other fragments have it. A mark is a text of 24 letters, and one in eight such
texts is one."""

MIN_SHARED_MARKS_OF_FEW = 1.0
"""The same where only few runs are possible, since the call reacts to ends of a certain kind."""

SECOND_JOIN_MARKS = 3.0
"""Marks that only two fragments of all have: enough to join them beside the run that shares the most."""

BEST_OVER_NEXT = 1.5
"""Times what is shared with the next best run."""

ACTIVE_S = 60.0
"""A run that said nothing for so long is over, for shared text: questions come again."""

REACTION_PART = 0.5
"""A role reacts to ends of another if half of its calls come within this part of the time that half of them would by chance."""

FALSE_REACTIONS = 0.05
"""How many reactions chance may make up in a whole recording, over all pairs of roles: few begins prove little."""

STEADY_PART, STEADY_S = 0.8, 0.25
"""And so many of them come within this time: a program goes on at once, a user who starts the next run does not."""

SHIFTS = np.arange(-8, 9)[np.arange(17) != 8] / 8
SHIFT_SPACINGS = 8
"""What chance would give is seen by shifting begins by these parts of so many times the mean time between two ends of the
other role, but of no more than an eighth of the recording, so that busy and quiet times stay what they are."""

NO_GAP_S = 1e9
"""In place of a gap where nothing ended before."""

SIBLINGS_S = 0.1
"""Calls that a program sends together begin within this time."""

Times = npt.NDArray[np.float64]

Way = Literal["content", "shared text", "time", "alone"]


class Grouped(NamedTuple):
    """Runs of calls that named none."""

    run_of: dict[str, str]
    """Call id → the run id of the first call of its run."""
    ways: Counter[Way]
    """How many calls came into their run by what."""
    confidences: list[float]
    """Of those that came by time."""


class Joined:
    """Union-find over positions; a set is named by its smallest member."""

    def __init__(self, count: int) -> None:
        self._up = list(range(count))

    def find(self, at: int) -> int:
        """The name of the set."""
        while self._up[at] != at:
            self._up[at] = at = self._up[self._up[at]]
        return at

    def join(self, one: int, other: int) -> int:
        """Make one set of two; its name."""
        one, other = sorted((self.find(one), self.find(other)))
        self._up[other] = one
        return one


def group(calls: Iterable[CallRecord]) -> Grouped:
    """Group the calls of one workflow and gateway session. They may come in any order."""
    ordered = sorted(calls, key=lambda call: (call.start_s, call.end_s, call.id))
    place = {call.id: at for at, call in enumerate(ordered)}
    joined = Joined(len(ordered))
    ways: list[Way] = ["alone"] * len(ordered)
    for at, call in enumerate(ordered):
        for source in call.sources:
            before = place.get(source.call)
            if before is not None and before != at:
                joined.join(at, before)
                ways[at] = "content"
    roles = roles_of(ordered)
    kinds = _kinds(ordered, roles, joined)
    _by_shared_text(ordered, roles, kinds, joined, ways)
    confidences = _by_time(ordered, roles, kinds, joined, ways)
    return Grouped({call.id: ordered[joined.find(at)].run for at, call in enumerate(ordered)}, Counter(ways), confidences)


Role = tuple[object, ...]


def roles_of(ordered: Sequence[CallRecord]) -> list[Role]:
    """The kind of each call: LLM, endpoint, whether a conversation had begun, and how its input begins, as far as at least
    ``TEMPLATE_CALLS`` calls begin like it.
    """
    kinds = [(call.llm, call.endpoint, call.turns > 0) for call in ordered]
    counts = Counter((kind, head) for kind, call in zip(kinds, ordered, strict=True) for head in enumerate(call.heads))
    roles: list[Role] = []
    for kind, call in zip(kinds, ordered, strict=True):
        alike = [head for head in enumerate(call.heads) if counts[kind, head] >= TEMPLATE_CALLS]
        roles.append((*kind, *alike[-1:]))
    return roles


def marks_of(call: CallRecord) -> list[int]:
    """``CallRecord.marks``, decoded. Raises ``ValueError`` for what is none."""
    data = base64.b64decode(call.marks, validate=True)
    marks: list[int] = np.frombuffer(data, "<u4").tolist()
    return marks


def _telling_marks(ordered: Sequence[CallRecord], roles: Sequence[Role]) -> dict[int, list[int]]:
    """Marks by which runs can be told apart, with the positions of their calls in order of time."""
    calls_of: dict[int, list[int]] = defaultdict(list)
    for at, call in enumerate(ordered):
        if call.marks:
            for mark in marks_of(call):
                calls_of[mark].append(at)
    sizes = Counter(roles)
    telling = {}
    for mark, positions in calls_of.items():
        if not 2 <= len(positions) <= TEMPLATE_MARK_CALLS:
            continue
        by_role = Counter(roles[at] for at in positions)
        if not any(sizes[role] >= TEMPLATE_CALLS and count > TEMPLATE_PART * sizes[role] for role, count in by_role.items()):
            telling[mark] = positions
    return telling


class _Kinds(NamedTuple):
    """What is known of each role whose calls begin fragments."""

    reacts: dict[Role, tuple[Role, float]]
    """Of roles that begin much sooner after the end of calls of one role than chance would have it: that role, how soon."""
    opens: frozenset[Role]
    """Roles that begin runs: in those that content put together nothing ends before them, nor do they react to anything."""
    follows: frozenset[Role]
    """Roles that never do."""


def _kinds(ordered: Sequence[CallRecord], roles: Sequence[Role], joined: Joined) -> _Kinds:
    first, inner = Counter[Role](), Counter[Role]()
    begins: dict[Role, list[float]] = defaultdict(list)
    sizes = Counter(joined.find(at) for at in range(len(ordered)))
    first_end_s: dict[int, float] = {}
    ends: dict[Role, list[float]] = defaultdict(list)
    for at, call in enumerate(ordered):
        run = joined.find(at)
        first_end_s[run] = min(first_end_s.get(run, call.end_s), call.end_s)
        ends[roles[at]].append(call.end_s)
    for at, call in enumerate(ordered):
        run = joined.find(at)
        if run == at:
            begins[roles[at]].append(call.start_s)
        if sizes[run] > 1:  # the run's first call, or one beside it, or a later one
            (first if call.start_s < first_end_s[run] else inner)[roles[at]] += 1
    span_s = max(call.end_s for call in ordered) - ordered[0].start_s
    reacts = _reactions(begins, ends, span_s)
    known = {role for role in set(roles) if first[role] + inner[role] >= TEMPLATE_CALLS}
    opens = frozenset(role for role in known if first[role] > 10 * inner[role] and role not in reacts)
    return _Kinds(reacts, opens, frozenset(role for role in known if inner[role] > 10 * first[role]))


def _reactions(
    begins: Mapping[Role, Sequence[float]], ends: Mapping[Role, Sequence[float]], span_s: float
) -> dict[Role, tuple[Role, float]]:
    """For each role, the one whose ends its begins come after soonest, compared with begins a little earlier and later.

    Compared with begins at any time of the recording, those of a burst of work would seem to react to each other.
    """
    reacts = {}
    sorted_ends = {role: np.sort(times) for role, times in ends.items() if len(times) >= TEMPLATE_CALLS}
    sorted_begins = {role: np.array(times) for role, times in begins.items() if len(times) >= TEMPLATE_CALLS}
    chance = FALSE_REACTIONS / max(1, len(sorted_begins) * len(sorted_ends))
    in_order = sorted(((end_s, role) for role, times in sorted_ends.items() for end_s in times.tolist()), key=itemgetter(0))
    all_ends = [end_s for end_s, _ in in_order], [role for _, role in in_order]
    for role, starts in sorted_begins.items():
        best = REACTION_PART
        for other in _ended_before(starts, *all_ends, ceil(STEADY_PART * len(starts))):
            times = sorted_ends[other]
            gaps = np.sort(_since(times, starts))
            gap_s = float(np.median(gaps))
            steady = ceil(STEADY_PART * len(gaps))
            steady_s = float(gaps[steady - 1])
            shifts_s = span_s * min(1 / 8, SHIFT_SPACINGS / len(times)) * SHIFTS
            by_chance = _since(times, np.add.outer(starts, shifts_s))
            by_chance_s = float(np.median(by_chance))
            part = float(np.mean(by_chance <= steady_s))
            if gap_s < best * by_chance_s and _at_least(steady, len(gaps), part) <= chance:
                best, reacts[role] = gap_s / by_chance_s, (other, gap_s)
    return reacts


def _ended_before(starts: Times, times: list[float], roles: list[Role], count: int) -> list[Role]:
    """Roles of which a call ended within ``STEADY_S`` before at least ``count`` of the starts; ends come in order of time."""
    found = Counter[Role]()
    for start_s in starts.tolist():
        found.update(dict.fromkeys(roles[bisect_left(times, start_s - STEADY_S) : bisect_right(times, start_s)]).keys())
    return [role for role, number in found.items() if number >= count]


def _at_least(count: int, of: int, part: float) -> float:
    """How probable it is that at least ``count`` of so many fall into a ``part`` of all, each by itself.

    >>> round(_at_least(2, 3, 0.5), 3)
    0.5
    """
    return float(bdtrc(count - 1, of, part))


def _since(times: Times, starts: Times) -> Times:
    """How long before each start the last of the sorted times was."""
    before = np.searchsorted(times, starts, side="right") - 1
    return np.where(before >= 0, starts - times[np.maximum(before, 0)], NO_GAP_S)


class _Open:
    """Which runs wait for a reaction: ends of calls to which none has come yet."""

    def __init__(self, ordered: Sequence[CallRecord], roles: Sequence[Role], joined: Joined) -> None:
        self._ordered, self._roles, self._joined = ordered, roles, joined
        self._ends: dict[Role, tuple[list[float], list[int]]] = {}
        for end_s, at in sorted((call.end_s, at) for at, call in enumerate(ordered)):
            times, places = self._ends.setdefault(roles[at], ([], []))
            times.append(end_s)
            places.append(at)
        self._answered: dict[tuple[int, Role], float] = {}
        self._names = [joined.find(at) for at in range(len(ordered))]

    def before(self, fragment: int, role: Role, gap_s: float) -> dict[int, tuple[float, int]]:
        """By run: how long before the fragment's begin a call of ``role`` last ended, and which; the nearest first."""
        start_s = self._ordered[fragment].start_s
        times, places = self._ends[role]
        found: dict[int, tuple[float, int]] = {}
        for index in range(bisect_right(times, start_s) - 1, -1, -1):
            if start_s - times[index] > max(0.05, 5 * gap_s):
                break
            at = places[index]
            came_s = self._answered.get((at, self._roles[fragment]))
            if came_s is None or start_s - came_s <= SIBLINGS_S:
                found.setdefault(self._joined.find(at), (start_s - times[index], at))
        found.pop(self._joined.find(fragment), None)
        return found

    def answer(self, fragment: int, at: int) -> None:
        """The fragment reacts to the end of the call at this place."""
        self._answered.setdefault((at, self._roles[fragment]), self._ordered[fragment].start_s)


def _by_shared_text(
    ordered: Sequence[CallRecord], roles: Sequence[Role], kinds: _Kinds, joined: Joined, ways: list[Way]
) -> None:
    shared, between_two = _shared(ordered, roles, joined)
    last_s: dict[int, float] = defaultdict(float)
    for at, call in enumerate(ordered):
        last_s[joined.find(at)] = max(last_s[joined.find(at)], call.end_s)
    waiting = _Open(ordered, roles, joined)
    for fragment in sorted(shared):
        if roles[fragment] in kinds.opens:
            continue
        start_s = ordered[fragment].start_s
        near = waiting.before(fragment, *kinds.reacts[roles[fragment]]) if roles[fragment] in kinds.reacts else None
        scores: dict[int, float] = defaultdict(float)
        for earlier, score in shared[fragment].items():
            run = joined.find(earlier)
            if start_s - last_s[run] <= ACTIVE_S and run != joined.find(fragment):
                scores[run] += score
        ranked = sorted(((score, run) for run, score in scores.items() if near is None or run in near), reverse=True)
        if (
            not ranked
            or ranked[0][0] < (MIN_SHARED_MARKS if near is None else MIN_SHARED_MARKS_OF_FEW)
            or (len(ranked) > 1 and ranked[0][0] < BEST_OVER_NEXT * ranked[1][0])
        ):
            continue
        if near is not None:
            waiting.answer(fragment, near[ranked[0][1]][1])
        # What only two fragments of all share, they share for a reason, whatever else one of them has in common with others.
        also = [earlier for earlier, marks in between_two[fragment].items() if marks >= SECOND_JOIN_MARKS]
        for other in (ranked[0][1], *also):
            last = max(last_s[joined.find(fragment)], last_s[joined.find(other)])
            last_s[joined.join(fragment, other)] = last
        ways[fragment] = "shared text"


Shares = dict[int, dict[int, float]]


def _shared(ordered: Sequence[CallRecord], roles: Sequence[Role], joined: Joined) -> tuple[Shares, Shares]:
    """Fragment → earlier fragment → how much they share: a mark counts the less the more fragments have it. And likewise
    only of the marks that no third one has.

    Calls of one role share what their kind of work is about, unless they began together.
    """
    shared: Shares = defaultdict(lambda: defaultdict(float))
    between_two: Shares = defaultdict(lambda: defaultdict(float))
    for positions in _telling_marks(ordered, roles).values():
        holders: dict[int, list[int]] = defaultdict(list)
        for at in positions:
            holders[joined.find(at)].append(at)
        fragments = sorted(holders)
        for index, later in enumerate(fragments):
            for earlier in fragments[:index]:
                if any(
                    roles[one] != roles[other] or abs(ordered[one].start_s - ordered[other].start_s) <= SIBLINGS_S
                    for one in holders[later]
                    for other in holders[earlier]
                ):
                    shared[later][earlier] += 1 / (len(fragments) - 1) ** 2
                    if len(fragments) == 2:
                        between_two[later][earlier] += 1
    return shared, between_two


def _by_time(
    ordered: Sequence[CallRecord], roles: Sequence[Role], kinds: _Kinds, joined: Joined, ways: list[Way]
) -> list[float]:
    """Fragments whose role reacts to ends of another join the run where such an end came last; their confidences."""
    waiting = _Open(ordered, roles, joined)
    confidences = []
    for at in range(len(ordered)):
        if joined.find(at) != at or roles[at] in kinds.opens or roles[at] not in kinds.reacts:
            continue
        near = list(waiting.before(at, *kinds.reacts[roles[at]]).items())
        if not near:
            continue
        (run, (gap_s, before)), *others = near
        waiting.answer(at, before)
        joined.join(at, run)
        ways[at] = "time"
        confidences.append(0.9 if not others else max(0.3, 0.9 * (1 - gap_s / max(1e-9, others[0][1][0]))))
    return confidences


class RunsOf(NamedTuple):
    """The runs of calls whose run ids do not say it."""

    run_of: dict[str, str]
    """Call id → run id, where it differs from the recorded one."""
    notes: tuple[str, ...]
    """What was done, and what to doubt."""


def assign_runs(calls: Sequence[CallRecord]) -> RunsOf:
    """Group the calls that name no run; look whether isolated runs were as isolated as was said."""
    run_of: dict[str, str] = {}
    ways: Counter[Way] = Counter()
    confidences: list[float] = []
    for part in _parts(call for call in calls if call.rung == "none"):
        found = group(part)
        run_of |= found.run_of
        ways += found.ways
        confidences += found.confidences
    notes = [_told(ways, confidences, len(set(run_of.values())))] if run_of else []
    split, runs = 0, 0
    for part in _parts(call for call in calls if call.rung == "isolated"):
        for several in _several_at_once(part):
            split += 1
            runs += len(set(several.values()))
            run_of |= several
    if split:
        notes.append(
            f"WARNING: {split} isolated recordings had several runs in flight at once ({runs} in all, told apart by content): "
            "give each run an id instead (x-scepsy-run, or /run/<id>/v1 in the base_url)"
        )
    return RunsOf(run_of, tuple(notes))


def _parts(calls: Iterable[CallRecord]) -> list[list[CallRecord]]:
    parts: dict[tuple[str, str], list[CallRecord]] = defaultdict(list)
    for call in calls:
        parts[call.workflow, call.session].append(call)
    return list(parts.values())


def _told(ways: Counter[Way], confidences: Sequence[float], runs: int) -> str:
    text = ", ".join(f"{way} ({ways[way]} calls)" for way in ("content", "shared text", "time", "alone") if ways[way])
    doubt = f"; mean confidence of those by time {fsum(confidences) / len(confidences):.2f}" if confidences else ""
    return f"{sum(ways.values())} calls without a run id grouped into {runs} runs: first or {text}{doubt}"


def _several_at_once(calls: Sequence[CallRecord]) -> list[dict[str, str]]:
    """Of each recorded run in which conversations of their own overlapped: run ids that tell these apart."""
    by_run: dict[str, list[CallRecord]] = defaultdict(list)
    for call in calls:
        by_run[call.run].append(call)
    found = []
    for run, members in by_run.items():
        grouped = group([_as_alone(call) for call in members]).run_of
        groups: dict[str, list[CallRecord]] = defaultdict(list)
        for call in members:
            groups[grouped[call.id]].append(call)
        spans = sorted(
            (min(c.start_s for c in group_), max(c.end_s for c in group_)) for group_ in groups.values() if len(group_) > 1
        )
        if any(later[0] < earlier[1] for earlier, later in pairwise(spans)):
            found.append({call.id: f"{run}/{grouped[call.id]}" for call in members})
    return found


def _as_alone(call: CallRecord) -> CallRecord:
    return msgspec.structs.replace(call, run=call.id)
