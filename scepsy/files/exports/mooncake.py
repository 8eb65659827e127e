"""Mooncake rows (https://github.com/kvcache-ai/Mooncake): one call a line, with its time in ms, its lengths and prompt blocks.

Nobody waits for anybody there: every call is sent at the time it was recorded (or, without a clock, would nominally have been).
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from scepsy.dag import timed
from scepsy.files.atomic import atomic_path
from scepsy.files.exports.base import Lost, sampled_blocks
from scepsy.files.trace import TraceReader
from scepsy.workload import Call, Run

BLOCK_TOKENS = 512

POOLING = "calls that generate nothing (embeddings, reranking), left out"


def save_mooncake(path: Path, runs: Iterable[Run], reader: TraceReader, lost: Lost) -> int:
    """Rows in order of time within a run; runs follow one another as in the trace."""
    calls = 0
    with atomic_path(path) as aside, aside.open("wb") as file:
        for run in runs:
            if any(call.parents for call in run.calls):
                lost.counts["runs whose calls wait for each other, written as calls at fixed times"] += 1
            for call in sorted(timed(run).calls, key=lambda call: call.start_s or 0.0):
                if call.kind != "generate":
                    lost.counts[POOLING] += 1
                    continue
                lost.llms[call.llm] = None
                file.write(msgspec.json.encode(row(run, call, reader.prefix_block_tokens, lost)) + b"\n")
                calls += 1
    return calls


def row(run: Run, call: Call, own_block_tokens: int, lost: Lost) -> dict[str, Any]:
    """One call at its own time."""
    at_s = (run.arrival_s or 0.0) + (call.start_s or 0.0)
    return {
        "timestamp": round(at_s * 1000),
        "input_length": call.input_tokens,
        "output_length": call.output_tokens,
        "hash_ids": sampled_blocks(call.prefix_hashes, own_block_tokens, BLOCK_TOKENS, call.input_tokens, lost),
    }
