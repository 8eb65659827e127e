"""Many runs' DAGs as arrays, walked level by level: start and end of every call from the calls' durations (max-plus).

Calls are ordered by (level, run); a level's calls depend on earlier levels only, so each level is one gather and one
segmented maximum over all runs at once. Durations may carry leading axes (allocations, draws), walked together.
"""

from collections.abc import Sequence

import numpy as np

from scepsy.dag import levels
from scepsy.predictors.aggregate import Floats, Integers
from scepsy.workload import Run


class Paths:
    """The compiled runs. Arrays over calls have shape (calls,), in walking order."""

    def __init__(self, runs: Sequence[Run]) -> None:
        entries: list[tuple[int, int, int]] = []
        for number, run in enumerate(runs):
            level = levels(run)
            entries.extend((level[call.id], number, index) for index, call in enumerate(run.calls))
        entries.sort()
        place = {(number, runs[number].calls[index].id): n for n, (_, number, index) in enumerate(entries)}
        calls = [runs[number].calls[index] for _, number, index in entries]
        self.runs = len(runs)
        self.llms = tuple(dict.fromkeys(call.llm for run in runs for call in run.calls))
        number_of = {llm: m for m, llm in enumerate(self.llms)}
        self.llm: Integers = np.array([number_of[call.llm] for call in calls], dtype=np.int64)
        self.run: Integers = np.array([number for _, number, _ in entries], dtype=np.int64)
        self.index: Integers = np.array([index for _, _, index in entries], dtype=np.int64)
        """Place of each call in its run's ``calls``."""
        self.input_tokens: Floats = np.array([call.input_tokens for call in calls], dtype=float)
        self.output_tokens: Floats = np.array([call.output_tokens for call in calls], dtype=float)
        self.gap_s: Floats = np.array([call.gap_s for call in calls], dtype=float)
        self.tail_s: Floats = np.array([run.tail_s for run in runs], dtype=float)
        self._by_run: Integers = np.argsort(self.run, kind="stable")
        self._run_starts: Integers = np.searchsorted(self.run[self._by_run], np.arange(self.runs))
        self.level: Integers = np.array([level for level, _, _ in entries], dtype=np.int64)
        borders = np.searchsorted(self.level, np.arange(self.level.max() + 2))
        self._roots = int(borders[1])
        self._levels: list[tuple[int, int, Integers, Integers]] = []
        for begin, end in zip(borders[1:-1].tolist(), borders[2:].tolist(), strict=True):
            parents: list[int] = []
            offsets: list[int] = []
            for n in range(begin, end):
                offsets.append(len(parents))
                parents.extend(place[entries[n][1], parent] for parent in dict.fromkeys(calls[n].parents))
            self._levels.append((begin, end, np.array(parents, dtype=np.int64), np.array(offsets, dtype=np.int64)))

    def __len__(self) -> int:
        return len(self.llm)

    @property
    def stages(self) -> float:
        """Mean levels of a run."""
        depth = np.zeros(self.runs)
        np.maximum.at(depth, self.run, self.level + 1.0)
        return float(depth.mean())

    def walk(self, durations_s: Floats) -> tuple[Floats, Floats]:
        """Start and end of every call, in seconds after its run's arrival; shape (…, calls) in and out."""
        starts = np.empty(durations_s.shape)
        ends = np.empty(durations_s.shape)
        starts[..., : self._roots] = self.gap_s[: self._roots]
        ends[..., : self._roots] = self.gap_s[: self._roots] + durations_s[..., : self._roots]
        for begin, end, parents, offsets in self._levels:
            ready = np.maximum.reduceat(ends[..., parents], offsets, axis=-1)
            starts[..., begin:end] = ready + self.gap_s[begin:end]
            ends[..., begin:end] = starts[..., begin:end] + durations_s[..., begin:end]
        return starts, ends

    def latency_s(self, durations_s: Floats) -> Floats:
        """End-to-end seconds of every run, gaps and tail included: shape (…, calls) in, (…, runs) out."""
        _, ends = self.walk(durations_s)
        return np.asarray(np.maximum.reduceat(ends[..., self._by_run], self._run_starts, axis=-1) + self.tail_s)

    def span_s(self, durations_s: Floats) -> Floats:
        """Seconds from every run's first call to the end of its last: shape (…, calls) in, (…, runs) out."""
        starts, ends = self.walk(durations_s)
        first = np.minimum.reduceat(starts[..., self._by_run], self._run_starts, axis=-1)
        return np.asarray(np.maximum.reduceat(ends[..., self._by_run], self._run_starts, axis=-1) - first)

    def busy_s(self, durations_s: Floats) -> Floats:
        """Seconds per run with at least one call in flight: shape (calls,) in, (runs,) out."""
        starts, ends = self.walk(durations_s)
        return busy_seconds_by_run(self.run, self.runs, starts, ends)


def busy_seconds_by_run(run: Integers, runs: int, starts_s: Floats, ends_s: Floats) -> Floats:
    """Length of the union of [start, end) by run: shape (calls,) each in, (runs,) out.

    >>> busy_seconds_by_run(np.array([0, 0, 1]), 2, np.array([0.0, 1.0, 5.0]), np.array([2.0, 3.0, 6.0]))
    array([3., 1.])
    """
    if len(run) == 0:
        return np.zeros(runs)
    # Runs are laid one after another on one axis, so that a running maximum never crosses from one into the next.
    apart = run * (float(ends_s.max()) - min(float(starts_s.min()), 0.0) + 1.0)
    order = np.lexsort((starts_s, run))
    start, end = (starts_s + apart)[order], (ends_s + apart)[order]
    reached = np.concatenate(([-np.inf], np.maximum.accumulate(end)[:-1]))
    new = np.maximum(0.0, end - np.maximum(start, reached))
    return np.asarray(np.bincount(run[order], weights=new, minlength=runs), dtype=float)
