"""From a recording to a trace: runs, their graph, gaps and lengths."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from math import fsum
from statistics import median
from typing import NamedTuple

from scepsy.errors import InputError
from scepsy.importers.recorded.dependencies import Edge, infer_edges
from scepsy.importers.recorded.grouping import RunsOf, assign_runs
from scepsy.importers.recorded.record import PREFIX_BYTES, CallRecord
from scepsy.workload import Call, Run, Trace, TraceSource

BLOCK_TOKENS = 16
"""vLLM's KV block."""


def to_trace(
    records: Iterable[CallRecord], origin: str, *, torn_lines: int = 0, found: Callable[[Edge], None] = lambda edge: None
) -> Trace:
    """One run per recorded run id; calls without one are grouped (``grouping``). Only completed calls enter the trace, and
    of a request that its client sent several times only the last; the notes count the others.

    ``found`` is told every inferred dependency.

    A call's gap is the time between its last parent's end (or the run's begin) and its own begin, or its first attempt's:
    what tools and the program itself took. Calls with nothing before them begin together with the run. Raises
    ``InputError`` when no call was completed.
    """
    everything = list(records)
    completed, superseded = _last_attempts(
        call for call in everything if call.outcome == "completed" and call.input_tokens >= 1
    )
    if not completed:
        raise InputError(f"{origin}: no completed call: must hold at least one (was the gateway used?)")
    runs_of = assign_runs(completed)
    by_run = _by_run(completed, runs_of.run_of)
    begin_s = min(call.start_s for call in completed)
    widths = _bytes_per_block(completed)
    began_s = _first_attempts(everything)
    edges_by: Counter[str] = Counter()
    confidences: list[float] = []
    runs, seen = [], Counter(run for _, run in by_run)
    for (workflow, run_id), calls in sorted(by_run.items(), key=lambda item: min(c.start_s for c in item[1])):
        edges = infer_edges(calls)
        for edge in edges:
            found(edge)
        edges_by.update("time" if edge.by == "time" else "content" for edge in edges)
        confidences += [edge.confidence for edge in edges if edge.by == "time"]
        name = run_id if seen[run_id] == 1 else f"{workflow}/{run_id}"
        runs.append(_run(name, workflow, calls, edges, begin_s, widths, began_s))
    left = _Left(Counter(call.outcome for call in everything if call.outcome != "completed"), superseded, torn_lines)
    return Trace(
        source=TraceSource(origin=origin, notes=_notes(completed, left, edges_by, confidences, runs_of)),
        runs=tuple(runs),
        prefix_block_tokens=BLOCK_TOKENS if any(call.prefix for call in completed) else 0,
    )


def edges_of(records: Iterable[CallRecord]) -> dict[tuple[str, str], tuple[Edge, ...]]:
    """By (workflow, run): the dependencies that an import infers."""
    completed, _ = _last_attempts(call for call in records if call.outcome == "completed" and call.input_tokens >= 1)
    by_run = _by_run(completed, assign_runs(completed).run_of)
    return {key: infer_edges(calls) for key, calls in by_run.items()}


def _by_run(calls: Iterable[CallRecord], run_of: Mapping[str, str]) -> dict[tuple[str, str], list[CallRecord]]:
    by_run: dict[tuple[str, str], list[CallRecord]] = defaultdict(list)
    for call in calls:
        by_run[call.workflow, run_of.get(call.id, call.run)].append(call)
    return by_run


def _last_attempts(calls: Iterable[CallRecord]) -> tuple[list[CallRecord], int]:
    """Without the calls that a later completed one repeats (its client never saw their answers), and how many these were."""
    found = list(calls)
    given_up = {call.retry_of for call in found if call.retry_of}
    kept = [call for call in found if call.id not in given_up]
    return kept, len(found) - len(kept)


def _first_attempts(calls: Iterable[CallRecord]) -> dict[str, float]:
    """When the first attempt at each repeated request began, by the id of every later one."""
    by_id = {call.id: call for call in calls}
    began_s: dict[str, float] = {}
    for call in sorted(by_id.values(), key=lambda one: one.start_s):
        before = by_id.get(call.retry_of)
        if before is not None and before.start_s <= call.start_s:
            began_s[call.id] = began_s.get(before.id, before.start_s)
    return began_s


def _run(
    name: str,
    workflow: str,
    calls: Sequence[CallRecord],
    edges: Sequence[Edge],
    begin_s: float,
    widths: dict[str, float],
    began_s: Mapping[str, float],
) -> Run:
    ordered = sorted(calls, key=lambda call: (call.start_s, call.end_s, call.id))
    arrival_s = ordered[0].start_s
    due_s = {call.id: max(arrival_s, began_s.get(call.id, call.start_s)) for call in ordered}
    ids = {call.id: f"c{index}" for index, call in enumerate(ordered)}
    ends = {call.id: call.end_s for call in ordered}
    parents: dict[str, list[str]] = defaultdict(list)
    for edge in edges:
        parents[edge.child].append(edge.parent)
    return Run(
        id=name,
        workflow=workflow,
        arrival_s=arrival_s - begin_s,
        session=name,
        calls=tuple(
            Call(
                id=ids[call.id],
                llm=call.llm,
                input_tokens=call.input_tokens,
                output_tokens=max(1, call.output_tokens) if call.kind == "generate" else 0,
                parents=tuple(ids[parent] for parent in parents[call.id]),
                gap_s=max(0.0, due_s[call.id] - max((ends[parent] for parent in parents[call.id]), default=arrival_s)),
                kind=call.kind,
                start_s=call.start_s - arrival_s,
                end_s=call.end_s - arrival_s,
                prefix_hashes=prefix_blocks(call, widths[call.llm]),
            )
            for call in ordered
        ),
    )


def _bytes_per_block(calls: Iterable[CallRecord]) -> dict[str, float]:
    """Prompt bytes per KV block, per LLM: the median over its calls of bytes per token, times the block."""
    ratios: dict[str, list[float]] = defaultdict(list)
    for call in calls:
        ratios[call.llm].append(call.input_bytes / call.input_tokens)
    return {llm: max(1e-9, median(values)) * BLOCK_TOKENS for llm, values in ratios.items()}


def prefix_blocks(call: CallRecord, bytes_per_block: float) -> tuple[int, ...]:
    """Ids of the prompt's whole KV blocks, from hashes of its 64-byte prefixes.

    Block j covers the first (j + 1)·16 tokens, which end inside some 64-byte step: its id is that of the step it needs
    whole, so two prompts share a block's id exactly when they agree at least up to its end.
    """
    blocks = []
    for block in range(call.input_tokens // BLOCK_TOKENS):
        step = -(-int((block + 1) * bytes_per_block) // PREFIX_BYTES)
        if step > len(call.prefix) or step < 1:
            break
        text = f"{call.session}:{call.prefix[step - 1]}:{block}"
        blocks.append(int.from_bytes(blake2b(text.encode(), digest_size=6).digest(), "big"))
    return tuple(blocks)


class _Left(NamedTuple):
    """What did not enter the trace."""

    outcomes: Counter[str]
    superseded: int
    torn_lines: int


def _notes(
    completed: Sequence[CallRecord],
    left: _Left,
    edges_by: Counter[str],
    confidences: Sequence[float],
    runs_of: RunsOf,
) -> tuple[str, ...]:
    notes = []
    if left.outcomes:
        counts = ", ".join(f"{count} {outcome} calls" for outcome, count in sorted(left.outcomes.items()))
        notes.append(f"left out: {counts}")
    if left.superseded:
        notes.append(f"left out: {left.superseded} calls that their client sent again")
    if left.torn_lines:
        notes.append(f"left out: {left.torn_lines} lines cut short")
    rungs = Counter(call.rung for call in completed)
    notes.append("runs attributed by " + ", ".join(f"{rung} ({count} calls)" for rung, count in sorted(rungs.items())))
    notes += runs_of.notes
    if edges_by:
        text = ", ".join(f"{by} ({count} edges)" for by, count in sorted(edges_by.items()))
        doubt = f"; mean confidence of those by time {fsum(confidences) / len(confidences):.2f}" if confidences else ""
        notes.append(f"dependencies inferred by {text}{doubt}")
    counted = Counter(call.counted_by for call in completed if call.counted_by != "usage")
    if counted:
        notes.append("tokens not from usage: " + ", ".join(f"{count} by {by}" for by, count in sorted(counted.items())))
    return tuple(notes)
