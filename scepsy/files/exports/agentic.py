"""Dynamo's agentic Mooncake rows: lengths, prompt blocks, the calls that each one waits for, and tool time in between."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from scepsy.files.atomic import atomic_path
from scepsy.files.exports.base import Lost, sampled_blocks
from scepsy.files.exports.mooncake import BLOCK_TOKENS, POOLING
from scepsy.files.trace import TraceReader
from scepsy.workload import Call, Run


def save_agentic(path: Path, runs: Iterable[Run], reader: TraceReader, lost: Lost) -> int:
    """A run is a session; its calls are rows, parents first. Times are those of arrivals; calls follow their parents."""
    calls = 0
    with atomic_path(path) as aside, aside.open("wb") as file:
        for run in runs:
            through = _through_pooling(run)
            for call in run.calls:
                if call.kind != "generate":
                    lost.counts[POOLING] += 1
                    continue
                file.write(msgspec.json.encode(_row(run, call, through, reader.prefix_block_tokens, lost)) + b"\n")
                calls += 1
            if any(call.start_s is not None for call in run.calls):
                lost.counts["runs whose service times are left out (a replay measures its own)"] += 1
    return calls


def _through_pooling(run: Run) -> dict[str, tuple[str, ...]]:
    """What waiting for a call means in rows: itself, or where it generates nothing, what it waited for."""
    means: dict[str, tuple[str, ...]] = {}
    for call in run.calls:
        before = tuple(dict.fromkeys(other for parent in call.parents for other in means[parent]))
        means[call.id] = (call.id,) if call.kind == "generate" else before
    return means


def _row(run: Run, call: Call, through: dict[str, tuple[str, ...]], own_block_tokens: int, lost: Lost) -> dict[str, Any]:
    waits = list(dict.fromkeys(f"{run.id}/{other}" for parent in call.parents for other in through[parent]))
    row: dict[str, Any] = {
        "request_id": f"{run.id}/{call.id}",
        "session_id": run.id,
        "model": call.llm,
        "input_length": call.input_tokens,
        "output_length": call.output_tokens,
        "hash_ids": sampled_blocks(call.prefix_hashes, own_block_tokens, BLOCK_TOKENS, call.input_tokens, lost),
    }
    if waits:
        return row | {"wait_for": waits, "tool_wait_ms": round(call.gap_s * 1000, 3)}
    return row | {"wait_for": [], "timestamp": round(((run.arrival_s or 0.0) + call.gap_s) * 1000, 3)}
