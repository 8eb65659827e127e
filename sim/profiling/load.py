"""The load on one LLM: the traced runs projected onto its calls, and arrivals of them at any rate.

``LlmLoad.steady`` begins in the steady state: runs that arrived before time 0 and are not over are there, with the calls that
they still have to make. An empty system would take a run's duration to fill, and with many instances and long runs the filling
would be most of the replay. Every option sees the same runs arrive at the same times, in proportion to its rate, so that
differences between options are not noise.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import fsum
from typing import Any

import msgspec
import numpy as np

from scepsy.arrivals import issue_arrays
from scepsy.backend import Stream, Workload
from scepsy.dag import longest_path_s, nominal_s, project, sibling_groups
from scepsy.predictors.aggregate import Floats, Integers
from scepsy.predictors.paths import Paths
from scepsy.rng import stream
from scepsy.workload import Arrivals, Run, Trace
from sim.engine.prefix import PrefixKeys
from sim.world.agent import Walk

MOST_CUTS = 8
"""Places at which a traced run may be cut for those that are under way at the beginning."""
DRAWN_PART = 1.25
"""Runs drawn, over those expected in the time that they shall fill."""
SPARE_RUNS = 8
LONGEST_LEAD_S = 5.0
"""What a run may wait before its first call without being cut. Shorter waits cost little, so they are left as they are."""
PLANNED_RUNS = 16
"""Runs that a user plans ahead."""


@dataclass(frozen=True)
class Arriving:
    """Runs that arrive at given times, whatever happens."""

    time_s: Floats
    """Ascending."""
    part: Integers
    """Index in ``LlmLoad.parts``."""
    workflow: Integers
    last_s: float
    """End of the time that they fill."""


@dataclass(frozen=True)
class Users:
    """Users who start a run when their former one is over."""

    counts: tuple[int, ...]
    """Users of each workflow."""
    runs: int
    """Runs in all."""
    gaps: bool
    """Whether there are gaps between a run's calls."""


@dataclass
class _Timeline:
    """When the calls of each traced run start and end, were they to take given times: in the order of ``_Cuts``."""

    ready_s: Floats
    """Until the first of this and the later calls of its run starts, after the run's arrival; never falls within a run."""
    key: Floats
    """The same, runs apart."""
    apart_s: float
    lasts_s: Floats
    """By run, from arrival to the last call's end."""


class _Cuts:
    """The traced runs of one workflow, and what is left of each when its first calls are over."""

    def __init__(self, runs: Sequence[Run], paths: Paths) -> None:
        self.runs, self.paths = runs, paths
        nominal = np.array([nominal_s(runs[r].calls[n]) for r, n in zip(paths.run.tolist(), paths.index.tolist(), strict=True)])
        starts, _ = paths.walk(nominal)
        self.order = np.lexsort((starts, paths.run))
        self.nominal_s = starts[self.order]
        self.run = paths.run[self.order]
        self.first = np.searchsorted(self.run, np.arange(len(runs) + 1))
        self.next_cut = self._next_cuts()
        self.part = np.full(len(self.order), -1, dtype=np.int64)
        """Index in ``LlmLoad.parts`` of what is left from this call on; −1: not made yet."""

    def _next_cuts(self) -> Integers:
        """By call: the first at which its run may be cut, itself or later; −1: none."""
        found = np.full(len(self.order) + 1, -1, dtype=np.int64)
        for begin, end in zip(self.first[:-1].tolist(), self.first[1:].tolist(), strict=True):
            starts = self.nominal_s[begin:end]
            borders = begin + np.flatnonzero(np.concatenate(([True], np.diff(starts) > 0)))
            kept = borders[np.unique(np.linspace(0, len(borders) - 1, min(MOST_CUTS, len(borders))).astype(np.int64))]
            place = np.searchsorted(kept, np.arange(begin, end))
            found[begin:end] = np.where(place < len(kept), kept[np.minimum(place, len(kept) - 1)], -1)
        return found

    def left(self, call: int) -> Run:
        """What is left of a run when all before this call is over; its gap is what the first call starts after."""
        run = self.runs[int(self.run[call])]
        places = self.paths.index[self.order]
        end = int(self.first[self.run[call] + 1])
        starts = {run.calls[int(places[n])].id: float(self.nominal_s[n]) for n in range(call, end)}
        begin = float(self.nominal_s[call])
        calls = []
        for one in run.calls:
            if one.id in starts:
                parents = tuple(parent for parent in one.parents if parent in starts)
                gap = one.gap_s if parents else starts[one.id] - begin
                calls.append(msgspec.structs.replace(one, parents=parents, gap_s=gap))
        return msgspec.structs.replace(run, calls=tuple(calls))

    def timeline(self, durations_s: Floats) -> _Timeline:
        """For calls that take so long, in the order of ``paths``."""
        starts, ends = self.paths.walk(durations_s)
        ready, last = starts[self.order], ends[self.order]
        apart = float(last.max()) + 1.0
        # The least of this and all later ones of the run, from the back: runs lie one after another.
        keyed = ready + apart * self.run
        keyed = np.minimum.accumulate(keyed[::-1])[::-1]
        lasts = np.maximum.reduceat(last, self.first[:-1])
        return _Timeline(keyed - apart * self.run, keyed, apart, lasts)


@dataclass
class _Drawn:
    """Arrivals at one run per second, and which runs, as many as were asked for so far."""

    more: Iterator[tuple[Floats, Integers]]
    time_s: Floats = field(default_factory=lambda: np.zeros(0))
    run: Integers = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def first(self, count: int) -> tuple[Floats, Integers]:
        """The first so many."""
        while self.time_s.size < count:
            times, runs = next(self.more)
            self.time_s, self.run = np.concatenate((self.time_s, times)), np.concatenate((self.run, runs))
        return self.time_s[:count], self.run[:count]


class LlmLoad:
    """The projected runs of every workflow that calls the LLM, and the rates at which they come."""

    def __init__(self, llm: str, streams: Sequence[Stream], block_tokens: int, seed: int) -> None:
        self.llm = llm
        self.seed = seed
        self.traces: list[Trace] = []
        self.arrivals: list[Arrivals] = []
        self.calling: list[float] = []
        """Part of each workflow's runs that call the LLM at all; only those are replayed."""
        for item in streams:
            projected = [_begun(part) for run in item.trace.runs if (part := project(run, llm)) is not None]
            if projected:
                self.traces.append(msgspec.structs.replace(item.trace, runs=tuple(projected)))
                self.arrivals.append(item.arrivals)
                self.calling.append(len(projected) / len(item.trace.runs))
        self.workflows = [trace.workflows[0] for trace in self.traces]
        self.paths = [Paths(trace.runs) for trace in self.traces]
        self.largest_group = max(len(group) for trace in self.traces for run in trace.runs for group in sibling_groups(run))
        """Most calls that one run issues at once."""
        groups = [sum(len(sibling_groups(run)) for run in trace.runs) for trace in self.traces]
        self.gaps_s = [_gaps_s(trace.runs) for trace in self.traces]
        """Mean seconds of a run in which none of its calls is to be served, were they to take no time."""
        self.stages = [paths.stages for paths in self.paths]
        self.calls_per_run = [len(paths) / paths.runs for paths in self.paths]
        rates = np.array([float(a.rate_per_s or 1.0) * part for a, part in zip(self.arrivals, self.calling, strict=True)])
        self.mix = rates / float(rates @ np.array(self.calls_per_run))
        """Rate of each workflow's replayed runs per call per second of all."""
        runs = [paths.runs for paths in self.paths]
        self.per_group = 1.0 / float(self.mix @ (np.array(groups) / np.array(runs)))
        """Mean calls that are issued at one instant."""
        tokens = [float(paths.input_tokens.sum()) / paths.runs for paths in self.paths]
        context = [float(paths.input_tokens.sum() + paths.output_tokens.sum()) / paths.runs for paths in self.paths]
        self.tokens_per_call = float(self.mix @ np.array(context))
        """Mean tokens of a call's context at its end."""
        self.blocks = max(1.0, float(self.mix @ np.array(tokens)) / block_tokens)
        """KV blocks of a mean prompt."""
        dense = [tuple(_without_gaps(run) for run in trace.runs) for trace in self.traces]
        self.dense = [msgspec.structs.replace(t, runs=runs) for t, runs in zip(self.traces, dense, strict=True)]
        """The same runs with nothing between the calls: what saturates an instance, however small its part of a run is."""
        self.prefixes = PrefixKeys([(trace, True) for trace in (*self.traces, *self.dense)], {llm: block_tokens})
        self.parts: list[Run] = [run for trace in (*self.traces, *self.dense) for run in trace.runs]
        """Everything that ever arrives: whole runs, runs without gaps, and what is left of runs under way."""
        sizes = np.cumsum([0, *(len(trace.runs) for trace in (*self.traces, *self.dense))]).tolist()
        self._whole, self._dense = sizes[: len(self.traces)], sizes[len(self.traces) : -1]
        self._cuts = [_Cuts(trace.runs, paths) for trace, paths in zip(self.traces, self.paths, strict=True)]
        self.streams = tuple(Stream(trace=t, arrivals=a) for t, a in zip(self.traces, self.arrivals, strict=True))
        self.walks: dict[int, Walk] = {}
        self.prepared: Any = None
        """What replays on the compiled core have in common (``sim.profiling.bench``)."""
        self.whole_of: dict[int, Run] = {}
        """The run that a part is what is left of."""
        self._drawn: dict[tuple[int, int], _Drawn] = {}
        self._users: dict[int, Integers] = {}

    @property
    def per_run(self) -> float:
        """Mean calls of a replayed run."""
        return 1.0 / float(self.mix.sum())

    def steady(
        self,
        calls_per_s: float,
        lasts_s: float,
        durations_s: Sequence[Floats],
        work: Callable[[Floats, Floats], Floats],
        again: int = 0,
    ) -> Arriving:
        """Arrivals for ``lasts_s`` seconds that offer ``calls_per_s`` in all, in a system that is in its steady state.

        ``durations_s``: how long calls are expected to take, by workflow in the order of ``paths``: so long are runs under way.
        ``work`` of calls, from their input and output tokens: the clock is set so that the calls expected in that time bring
        exactly the work of as many mean calls. ``again``: other runs at other times.
        """
        lines = [cuts.timeline(seconds) for cuts, seconds in zip(self._cuts, durations_s, strict=True)]
        drawn, brought, wanted = [], 0.0, 0.0
        for number, (cuts, line) in enumerate(zip(self._cuts, lines, strict=True)):
            rate = calls_per_s * float(self.mix[number])
            before = int(np.ceil(DRAWN_PART * rate * float(line.lasts_s.max()))) + SPARE_RUNS
            after = int(np.ceil(DRAWN_PART * rate * lasts_s)) + SPARE_RUNS
            times, runs = self._draw(number, again).first(before + after)
            times = (times - times[before - 1]) / rate
            paths = cuts.paths
            weights = work(paths.input_tokens, paths.output_tokens)[cuts.order]
            total = np.concatenate(([0.0], np.cumsum(weights)))
            begin, end = self._reached(cuts, line, runs, -times), self._reached(cuts, line, runs, lasts_s - times)
            brought += float((total[end] - total[begin]).sum())
            wanted += rate * lasts_s * float(total[-1]) / paths.runs
            drawn.append((times, runs))
        slower = brought / wanted if brought > 0 else 1.0
        made = [
            self._parts(number, times * slower, runs, line, lasts_s)
            for number, ((times, runs), line) in enumerate(zip(drawn, lines, strict=True))
        ]
        time_s, part, workflow = (np.concatenate(column) for column in zip(*made, strict=True))
        order = np.argsort(time_s, kind="stable")
        return Arriving(time_s[order], part[order], workflow[order], lasts_s)

    def _draw(self, number: int, again: int) -> _Drawn:
        key = (number, again)
        if key not in self._drawn:
            arrivals = self.arrivals[number]
            kind = arrivals.kind if arrivals.kind in ("poisson", "gamma", "deterministic") else "poisson"
            timed = msgspec.structs.replace(arrivals, kind=kind, rate_per_s=1.0)
            item = Stream(trace=self.traces[number], arrivals=timed, order="shuffled")
            workload = Workload(streams=(item,), seed=self.seed + 1_000_003 * again, horizon_s=1e300)
            self._drawn[key] = _Drawn((part.time_s, part.run) for part in issue_arrays(workload))
        return self._drawn[key]

    @staticmethod
    def _reached(cuts: _Cuts, line: _Timeline, runs: Integers, since_s: Floats) -> Integers:
        """Calls of each run, as indices, that are the first not yet issued so long after its arrival."""
        inside = np.clip(since_s, 0.0, line.apart_s * (1 - 1e-9))
        place = np.searchsorted(line.key, runs * line.apart_s + inside, side="left")
        return np.asarray(np.clip(place, cuts.first[runs], cuts.first[runs + 1]), dtype=np.int64)

    def _parts(
        self, number: int, times: Floats, runs: Integers, line: _Timeline, lasts_s: float
    ) -> tuple[Floats, Integers, Integers]:
        """(Time, part, workflow) of what arrives of one workflow."""
        cuts = self._cuts[number]
        new = (times >= 0) & (times <= lasts_s)
        old = np.flatnonzero(times < 0)
        place = self._reached(cuts, line, runs[old], -times[old])
        under_way = place < cuts.first[runs[old] + 1]
        old, place = old[under_way], cuts.next_cut[place[under_way]]
        old, place = old[place >= 0], place[place >= 0]
        # A run that comes less than the keys can tell apart before the clock starts has its first call just before 0.
        since = np.maximum(times[old] + line.ready_s[place], 0.0)
        old, place, since = old[since <= lasts_s], place[since <= lasts_s], since[since <= lasts_s]
        for call in np.unique(place[cuts.part[place] < 0]).tolist():
            cuts.part[call] = number_of = len(self.parts)
            self.parts.append(cuts.left(call))
            self.whole_of[number_of] = cuts.runs[int(cuts.run[call])]
            self.prefixes.add_part(self.parts[-1], cuts.runs[int(cuts.run[call])])
        time_s = np.concatenate((since, times[new]))
        part = np.concatenate((cuts.part[place], self._whole[number] + runs[new]))
        return time_s, part, np.full(time_s.size, number, dtype=np.int64)

    def users(self, total: int, runs: int, *, gaps: bool = False) -> Users:
        """``total`` users without think time, divided among the workflows as their runs come."""
        part = self.mix / self.mix.sum()
        counts = tuple(np.maximum(1, np.round(part * total)).astype(int).tolist())
        return Users(counts, max(runs, sum(counts)), gaps)

    def plans(self, users: Users) -> list[Integers]:
        """What the users of each workflow ask for in turn, again from the beginning after the last: indices in ``parts``.

        Shape (users, ``PLANNED_RUNS``) by workflow. A user's plan does not depend on how many there are.
        """
        found = []
        for number, count in enumerate(users.counts):
            known = self._users.get(number)
            if known is None or len(known) < count:
                rng = stream(self.seed, "users", self.workflows[number])
                known = self._users[number] = rng.integers(len(self.dense[number].runs), size=(2 * count, PLANNED_RUNS))
            found.append(known[:count] + (self._whole if users.gaps else self._dense)[number])
        return found


def _gaps_s(runs: Sequence[Run]) -> float:
    return fsum(longest_path_s(run, [0.0] * len(run.calls)) for run in runs) / len(runs)


def _begun(run: Run) -> Run:
    """The run from its first call on, where it waits for more than ``LONGEST_LEAD_S`` before that.

    What comes before the first call only shifts a run, and arrivals know no shift. A fast model takes thousands of calls per
    second, and so many runs would be drawn for every second that they wait.
    """
    lead_s = min(call.gap_s for call in run.calls if not call.parents)
    if lead_s <= LONGEST_LEAD_S:
        return run
    calls = tuple(c if c.parents else msgspec.structs.replace(c, gap_s=c.gap_s - lead_s) for c in run.calls)
    return msgspec.structs.replace(run, calls=calls)


def _without_gaps(run: Run) -> Run:
    calls = tuple(msgspec.structs.replace(call, gap_s=0.0) for call in run.calls)
    return msgspec.structs.replace(run, calls=calls, tail_s=0.0)
