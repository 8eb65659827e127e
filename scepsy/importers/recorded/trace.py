"""From a recording to a trace: runs, their graph, gaps and lengths."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from math import fsum
from statistics import median

from scepsy.errors import InputError
from scepsy.importers.recorded.dependencies import Edge, infer_edges
from scepsy.importers.recorded.record import PREFIX_BYTES, CallRecord
from scepsy.workload import Call, Run, Trace, TraceSource

BLOCK_TOKENS = 16
"""vLLM's KV block."""


def to_trace(
    records: Iterable[CallRecord], origin: str, *, torn_lines: int = 0, found: Callable[[Edge], None] = lambda edge: None
) -> Trace:
    """One run per recorded run id; only completed calls enter it, the notes count the others.

    ``found`` is told every inferred dependency.

    A call's gap is the time between its last parent's end (or the run's begin) and its own begin: what tools and the
    program itself took. Calls with nothing before them begin together with the run. Raises ``InputError`` when no call
    was completed.
    """
    everything = list(records)
    completed = [call for call in everything if call.outcome == "completed" and call.input_tokens >= 1]
    if not completed:
        raise InputError(f"{origin}: no completed call: must hold at least one (was the gateway used?)")
    by_run: dict[tuple[str, str], list[CallRecord]] = defaultdict(list)
    for call in completed:
        by_run[call.workflow, call.run].append(call)
    begin_s = min(call.start_s for call in completed)
    widths = _bytes_per_block(completed)
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
        runs.append(_run(name, workflow, calls, edges, begin_s, widths))
    return Trace(
        source=TraceSource(origin=origin, notes=_notes(everything, completed, edges_by, confidences, torn_lines)),
        runs=tuple(runs),
        prefix_block_tokens=BLOCK_TOKENS if any(call.prefix for call in completed) else 0,
    )


def _run(
    name: str,
    workflow: str,
    calls: Sequence[CallRecord],
    edges: Sequence[Edge],
    begin_s: float,
    widths: dict[str, float],
) -> Run:
    ordered = sorted(calls, key=lambda call: (call.start_s, call.end_s, call.id))
    arrival_s = ordered[0].start_s
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
                gap_s=max(0.0, call.start_s - max((ends[parent] for parent in parents[call.id]), default=arrival_s)),
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


def _notes(
    everything: Sequence[CallRecord],
    completed: Sequence[CallRecord],
    edges_by: Counter[str],
    confidences: Sequence[float],
    torn_lines: int,
) -> tuple[str, ...]:
    notes = []
    left_out = Counter(call.outcome for call in everything if call.outcome != "completed")
    if left_out:
        notes.append("left out: " + ", ".join(f"{count} {outcome} calls" for outcome, count in sorted(left_out.items())))
    if torn_lines:
        notes.append(f"left out: {torn_lines} lines cut short")
    rungs = Counter(call.rung for call in completed)
    notes.append("runs attributed by " + ", ".join(f"{rung} ({count} calls)" for rung, count in sorted(rungs.items())))
    if edges_by:
        text = ", ".join(f"{by} ({count} edges)" for by, count in sorted(edges_by.items()))
        doubt = f"; mean confidence of those by time {fsum(confidences) / len(confidences):.2f}" if confidences else ""
        notes.append(f"dependencies inferred by {text}{doubt}")
    counted = Counter(call.counted_by for call in completed if call.counted_by != "usage")
    if counted:
        notes.append("tokens not from usage: " + ", ".join(f"{count} by {by}" for by, count in sorted(counted.items())))
    return tuple(notes)
