"""inference-perf's trace replay: a folder with one JSON file of chat spans per run (its ``trace_directory``).

That tool sends the recorded messages and sees who waited for whom from answers that stand in later inputs. We have no text, so
filler of the right length stands for it: made up from the call's id, four bytes a token, never from a recording.
"""

import shutil
from collections.abc import Iterable
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec

from scepsy.dag import timed
from scepsy.errors import InputError
from scepsy.files.exports.base import Lost
from scepsy.files.exports.mooncake import POOLING
from scepsy.files.trace import TraceReader
from scepsy.workload import Call, Run

BYTES_PER_TOKEN = 4

Message = dict[str, str]


def save_inference_perf(path: Path, runs: Iterable[Run], reader: TraceReader, lost: Lost) -> int:
    """Write the folder aside and rename it once it is whole. Raises ``InputError`` when it exists with something in it."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path}: exists: must be a new or an empty folder (inference-perf reads a folder of traces)")
    aside = path.with_name(f".{path.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    calls = 0
    try:
        aside.mkdir(parents=True)
        for number, run in enumerate(runs):
            spans = _spans(run, lost)
            if spans:
                (aside / f"{number:06d}.json").write_bytes(msgspec.json.encode(_document(run, spans)))
            calls += len(spans)
        if path.exists():
            path.rmdir()
        aside.rename(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror} (create its folder or choose another)") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    if reader.prefix_block_tokens:
        lost.counts["prompt blocks are left out; a prompt holds those of calls it waited for where it has room: traces"] = 1
    return calls


def _document(run: Run, spans: list[dict[str, Any]]) -> dict[str, Any]:
    return {"trace_id": run.id, "span_count": len(spans), "collected_at": spans[0]["start_time"], "spans": spans}


def _spans(run: Run, lost: Lost) -> list[dict[str, Any]]:
    prompts: dict[str, list[Message]] = {}
    calls: dict[str, Call] = {}
    spans = []
    for call in timed(run).calls:
        calls[call.id] = call
        if call.kind != "generate":
            lost.counts[POOLING] += 1
            continue
        prompts[call.id] = _prompt(run, call, calls, prompts, lost)
        at_s = run.arrival_s or 0.0
        spans.append(
            {
                "trace_id": run.id,
                "span_id": call.id,
                "parent_span_id": None,
                "name": f"chat {call.llm}",
                "kind": "SPAN_KIND_CLIENT",
                "start_time": _iso(at_s + (call.start_s or 0.0)),
                "end_time": _iso(at_s + (call.end_s or 0.0)),
                "attributes": {
                    "gen_ai.operation.name": "chat",
                    "gen_ai.request.model": call.llm,
                    "gen_ai.request.max_tokens": call.output_tokens,
                    "gen_ai.usage.input_tokens": call.input_tokens,
                    "gen_ai.usage.output_tokens": call.output_tokens,
                    "gen_ai.input.messages": msgspec.json.encode(prompts[call.id]).decode(),
                    "gen_ai.output.text": _answer(run, call),
                },
                "status": {"code": 1, "message": ""},
            }
        )
    return spans


def _prompt(run: Run, call: Call, calls: dict[str, Call], prompts: dict[str, list[Message]], lost: Lost) -> list[Message]:
    """Messages of about the call's input: what its first parent was asked, its parents' answers, and filler for the rest."""
    messages: list[Message] = []
    left = call.input_tokens
    for parent in (calls[id_] for id_ in call.parents if id_ in prompts):
        history = parent.input_tokens if not messages else 0
        if left > history + parent.output_tokens:
            messages += prompts[parent.id] if history else []
            left -= history
        elif left <= parent.output_tokens:
            lost.counts["dependencies on answers that a prompt has no room for (only the times show them)"] += 1
            continue
        messages.append({"role": "assistant", "content": _answer(run, parent)})
        left -= parent.output_tokens
    return [*messages, {"role": "user", "content": _filler(f"{run.id}/{call.id}/in", left)}]


def _answer(run: Run, call: Call) -> str:
    return _filler(f"{run.id}/{call.id}/out", call.output_tokens)


def _filler(of: str, tokens: int) -> str:
    """Letters and spaces, the same for the same name, that no other name has."""
    name = blake2b(of.encode(), digest_size=6).hexdigest()
    words = f"{name} ".ljust(8 * BYTES_PER_TOKEN, "x") if tokens > 8 else name
    return (
        (words + "so " * (tokens * BYTES_PER_TOKEN))[: max(tokens * BYTES_PER_TOKEN, len(name))].rstrip().ljust(len(name), "x")
    )


def _iso(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")
