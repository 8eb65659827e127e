"""What an import found besides its runs, and the one summary that is printed, written and given to scripts."""

from collections import Counter
from dataclasses import dataclass, field
from math import gcd
from typing import TYPE_CHECKING

from scepsy.value import Value
from scepsy.workload import Run

if TYPE_CHECKING:
    from scepsy.importers.source import Source

MOST_REASONS = 20
"""Distinct reasons kept of each kind; further ones are counted together."""

CLOCKS_S = (1.0, 0.1, 0.01, 0.001, 1e-4, 1e-5, 1e-6)


@dataclass
class Tally:
    """Counts that importers add to while they read. All of it is complete once the runs are exhausted."""

    counts: Counter[str] = field(default_factory=Counter)
    """What was inferred or repaired, in words, with how often."""
    facts: Counter[str] = field(default_factory=Counter)
    """What is no fault but worth saying (wrappers left out, reasoning counted), in words, with how often."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Calls left out, by reason."""
    lines: Counter[str] = field(default_factory=Counter)
    """Lines that could not be read at all, by reason: nobody knows how many calls they held."""
    estimated: Counter[str] = field(default_factory=Counter)
    """Calls whose tokens were estimated, by rule."""
    warnings: list[str] = field(default_factory=list)
    first_drop: str = ""
    duplicates: int = 0
    unfinished: int = 0
    retries: int = 0
    cached_tokens: int = 0
    tool_s: float | None = None
    """Time in tools where the format records it."""
    confidences: list[float] = field(default_factory=lambda: [0.0, 0.0])
    """Of inferred dependencies: how many, and the sum of their confidences."""

    def drop(self, reason: str, source: "Source | None" = None, line: int | None = None, *, kind: str = "calls") -> None:
        """Count one call (or line) that is left out."""
        where = f"{source}: " if source is not None else ""
        self.first_drop = self.first_drop or where + (f"line {line}: " if line else "") + reason
        _add(self.lines if kind == "lines" else self.dropped, reason)

    def estimate(self, rule: str) -> None:
        """Count one call whose tokens were estimated."""
        _add(self.estimated, rule)

    def infer(self, confidence: float, amount: int = 1) -> None:
        """Count inferred dependencies."""
        self.confidences[0] += amount
        self.confidences[1] += amount * confidence

    def warn(self, text: str) -> None:
        """Say something once."""
        if text not in self.warnings:
            self.warnings.append(text)

    def faults(self) -> list[str]:
        """What ``--strict`` refuses: everything dropped, estimated, repaired, given twice or unfinished, in words."""
        said = [
            f"{what}: {n}" for counter in (self.lines, self.dropped, self.estimated, self.counts) for what, n in counter.items()
        ]
        said += [f"calls given twice: {self.duplicates}"] if self.duplicates else []
        return said + ([f"calls without an end: {self.unfinished}"] if self.unfinished else [])

    def notes(self) -> list[str]:
        """Everything there is to say, in words, for people and for the header of the trace."""
        said = [f"left out: {what}: {n}" for counter in (self.lines, self.dropped) for what, n in sorted(counter.items())]
        said += [f"estimated: {what}: {n}" for what, n in sorted(self.estimated.items())]
        said += [f"{what}: {n}" for counter in (self.counts, self.facts) for what, n in sorted(counter.items())]
        said += [f"calls given twice, kept once: {self.duplicates}"] if self.duplicates else []
        said += [f"calls without an end: {self.unfinished}"] if self.unfinished else []
        return said + self.warnings


def _add(counter: Counter[str], reason: str) -> None:
    counter[reason if reason in counter or len(counter) < MOST_REASONS else "other reasons"] += 1


class LlmSum(Value, frozen=True, kw_only=True):
    """One LLM's part of an import."""

    calls: int
    input_tokens: int
    output_tokens: int


class Summary(Value, frozen=True, kw_only=True):
    """What was imported: counts, sums, and how much of it was guessed."""

    runs: int
    calls: int
    input_tokens: int
    output_tokens: int
    llms: dict[str, LlmSum]
    span_s: float | None
    """From the first begin to the last end; None when the trace has no clock."""
    estimated_calls: int
    estimated_pct: float
    """Part of the imported calls whose tokens were estimated."""
    dropped_calls: int
    dropped_pct: float
    """Part of all calls found that was left out."""
    dropped_lines: int
    duplicate_calls: int
    unfinished_calls: int
    retries: int
    """Failed calls that were made again."""
    cached_input_tokens: int
    overlapping_calls: int
    """Calls that began while another call of their run was in flight."""
    tool_s: float | None
    """Summed time in tools, where the format records it."""
    between_calls_s: float
    """Summed time between calls: tools, and the program itself."""
    clock_resolution_s: float | None
    """The coarsest of 1, 0.1, … 1e-6 s that all recorded times are multiples of; None with fewer than four times."""
    dependencies_given: int
    dependencies_inferred: int
    inferred_confidence: float | None
    """Mean confidence of the inferred dependencies."""
    reconstructed: int
    """Calls or runs for which something was inferred or repaired, by the notes."""


class Summing:
    """Adds up runs as they pass."""

    def __init__(self, tally: Tally) -> None:
        self.tally = tally
        self.runs = self.calls = self.overlapping = 0
        self.llms: dict[str, list[int]] = {}
        self._begin_s, self._end_s = float("inf"), float("-inf")
        self._between_s = 0.0
        self._clock, self._times = 0, 0
        self.edges = 0

    def add(self, run: Run) -> None:
        """Count one run."""
        self.runs += 1
        self.calls += len(run.calls)
        in_flight_until = float("-inf")
        for call in sorted(run.calls, key=lambda call: call.start_s or 0.0):
            sums = self.llms.setdefault(call.llm, [0, 0, 0])
            sums[0] += 1
            sums[1] += call.input_tokens
            sums[2] += call.output_tokens
            self._between_s += call.gap_s
            self.edges += len(call.parents)
            if call.start_s is not None and call.end_s is not None:
                self.overlapping += call.start_s < in_flight_until - 1e-9
                in_flight_until = max(in_flight_until, call.end_s)
                self._see(run, call.start_s, call.end_s)
        self._between_s += run.tail_s
        if run.arrival_s is not None:
            self._see(run, 0.0)

    def _see(self, run: Run, *times_s: float) -> None:
        for time_s in times_s:
            at = (run.arrival_s or 0.0) + time_s
            self._begin_s, self._end_s = min(self._begin_s, at), max(self._end_s, at)
            self._times += 1
            if self._clock != 1:
                self._clock = gcd(self._clock, round(at * 1e6))

    def summary(self) -> Summary:
        """The totals so far."""
        tally = self.tally
        dropped, estimated = sum(tally.dropped.values()), sum(tally.estimated.values())
        inferred = int(tally.confidences[0])
        micro = self._clock
        clock = next((clock for clock in CLOCKS_S if micro and micro % round(clock * 1e6) == 0), None)
        return Summary(
            runs=self.runs,
            calls=self.calls,
            input_tokens=sum(sums[1] for sums in self.llms.values()),
            output_tokens=sum(sums[2] for sums in self.llms.values()),
            llms={
                name: LlmSum(calls=calls, input_tokens=given, output_tokens=made)
                for name, (calls, given, made) in sorted(self.llms.items())
            },
            span_s=self._end_s - self._begin_s if self._times else None,
            estimated_calls=estimated,
            estimated_pct=100.0 * estimated / self.calls if self.calls else 0.0,
            dropped_calls=dropped,
            dropped_pct=100.0 * dropped / (dropped + self.calls) if dropped else 0.0,
            dropped_lines=sum(tally.lines.values()),
            duplicate_calls=tally.duplicates,
            unfinished_calls=tally.unfinished,
            retries=tally.retries,
            cached_input_tokens=tally.cached_tokens,
            overlapping_calls=self.overlapping,
            tool_s=tally.tool_s,
            between_calls_s=self._between_s,
            clock_resolution_s=clock if self._times >= 4 else None,
            dependencies_given=max(0, self.edges - inferred),
            dependencies_inferred=inferred,
            inferred_confidence=tally.confidences[1] / inferred if inferred else None,
            reconstructed=sum(tally.counts.values()),
        )
