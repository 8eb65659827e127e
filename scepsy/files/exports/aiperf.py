"""AIPerf's ``mooncake_trace``: conversations whose turns follow one another, and single calls at fixed times.

AIPerf adds up a conversation's turns, so a turn's ``input_length`` is what it adds to the turns before. A run is written as a
conversation where each of its calls waits for the one before and holds its prompt and answer; else call by call at fixed times.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from scepsy.dag import timed
from scepsy.files.atomic import atomic_path
from scepsy.files.exports.base import Lost
from scepsy.files.exports.mooncake import POOLING, row
from scepsy.files.trace import TraceReader
from scepsy.workload import Call, Run


def save_aiperf(path: Path, runs: Iterable[Run], reader: TraceReader, lost: Lost) -> int:
    """For ``aiperf profile --custom-dataset-type mooncake_trace --fixed-schedule``."""
    calls = 0
    with atomic_path(path) as aside, aside.open("wb") as file:
        for run in runs:
            kept = [call for call in timed(run).calls if call.kind == "generate"]
            lost.llms.update(dict.fromkeys(call.llm for call in kept))
            if len(kept) < len(run.calls):
                lost.counts[POOLING] += len(run.calls) - len(kept)
            rows = _conversation(run, kept, lost) if _is_conversation(run) else _single(run, kept, reader, lost)
            for one in rows:
                file.write(msgspec.json.encode(one) + b"\n")
            calls += len(kept)
    return calls


def _is_conversation(run: Run) -> bool:
    """Whether every call waits for the one before and its prompt has room for that one's prompt and answer."""
    return len(run.calls) > 1 and all(
        call.parents == (before.id,)
        and call.kind == before.kind == "generate"
        and call.input_tokens > before.input_tokens + before.output_tokens
        for before, call in pairwise(run.calls)
    )


def _conversation(run: Run, calls: Sequence[Call], lost: Lost) -> list[dict[str, Any]]:
    if any(call.prefix_hashes for call in calls):
        lost.counts["conversations written without prompt blocks (turns hold what came before by themselves)"] += 1
    first = calls[0]
    rows: list[dict[str, Any]] = [
        {
            "session_id": run.id,
            "timestamp": round(((run.arrival_s or 0.0) + first.gap_s) * 1000),
            "input_length": first.input_tokens,
            "output_length": first.output_tokens,
        }
    ]
    for before, call in pairwise(calls):
        adds = call.input_tokens - before.input_tokens - before.output_tokens
        delay = {"delay": round(call.gap_s * 1000)}
        rows.append({"session_id": run.id, **delay, "input_length": adds, "output_length": call.output_tokens})
    return rows


def _single(run: Run, calls: Sequence[Call], reader: TraceReader, lost: Lost) -> list[dict[str, Any]]:
    if any(call.parents for call in calls):
        lost.counts[
            "runs that are no conversation (calls side by side, or other prompts), written as calls at fixed times"
        ] += 1
    ordered = sorted(calls, key=lambda call: call.start_s or 0.0)
    return [{"session_id": f"{run.id}/{call.id}", **row(run, call, reader.prefix_block_tokens, lost)} for call in ordered]
