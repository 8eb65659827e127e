"""SWE-agent trajectories (``*.traj``, JSON): one instance per file, its steps, and token totals over all its calls.

No call has token counts or times. A step's prompt is its ``query`` (before SWE-agent 1.1: the history up to its reply). The
totals of ``info.model_stats`` are shared out over the calls by the length of their text; without totals, four bytes are one
token. Both are estimates and counted as such. ``execution_time`` of a step is its tool's time, which lies before the next
call. Attempts of a retrying agent follow one another.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from typing import Any

import msgspec

from scepsy.importers.base import Imported, Importer
from scepsy.importers.detect import Fields
from scepsy.importers.fields import Absurd, count, embedded, estimated_tokens, get, label, seconds
from scepsy.importers.observing import WORKFLOW, items, mapping, names
from scepsy.importers.prompts import TEXT_BLOCK_TOKENS, Texts
from scepsy.importers.record_reader import json_records
from scepsy.importers.source import Source
from scepsy.importers.tally import Tally
from scepsy.workload import Call, Run, TraceSource


@dataclass(frozen=True)
class _Step:
    """One call: what its text says of its lengths, and its tool's time."""

    text_in: int
    text_out: int
    prefix: tuple[int, ...]
    tool_s: float | None


def _open(sources: Sequence[Source], options: Mapping[str, str], tally: Tally) -> Imported:
    return Imported(
        source=TraceSource(
            origin=f"SWE-agent trajectories: {names(sources)}",
            notes=("times of calls are not recorded; each waits for the one before it and its tool",),
        ),
        runs=_runs(sources, options, tally),
        prefix_block_tokens=TEXT_BLOCK_TOKENS,
    )


def _runs(sources: Sequence[Source], options: Mapping[str, str], tally: Tally) -> Iterator[Run]:
    texts = Texts()
    for source in sources:
        for number, record in enumerate(json_records(source, tally)):
            try:
                document = mapping(record.value)
                name = label(get(document, "instance_id")) or source.path.name.removesuffix(".gz").removesuffix(".traj")
                run_id = name if number == 0 else f"{name}-{number}"
                yield _run(document, run_id, options, texts, tally)
            except ValueError as error:
                tally.drop(str(error), source, record.line)


def _run(document: Mapping[str, Any], run_id: str, options: Mapping[str, str], texts: Texts, tally: Tally) -> Run:
    attempts = items(document.get("attempts"), "attempts") or [document]
    steps = [step for attempt in attempts for step in _steps(mapping(attempt), texts)]
    if not steps:
        raise Absurd("trajectory holds no step: must hold at least one")
    given, made, calls_made = _totals(document, attempts)
    if calls_made is not None and calls_made != len(steps):
        tally.facts[
            "calls that the totals count beyond the steps (retries, reviews), whose tokens are shared out over the steps"
        ] += max(0, calls_made - len(steps))
    inputs = _shared_out(given, [step.text_in for step in steps])
    outputs = _shared_out(made, [step.text_out for step in steps])
    rule = "recorded totals shared out by length of text" if given and made else "from its text, 4 bytes a token"
    llm = _llm(document, attempts) or options.get("llm", "")
    if not llm:
        llm = "llm"
        tally.warn("the model is not recorded: it is called llm (else: --set llm=NAME)")
    calls: list[Call] = []
    for number, (step, input_tokens, output_tokens) in enumerate(zip(steps, inputs, outputs, strict=True)):
        before = steps[number - 1].tool_s if number else None
        calls.append(
            Call(
                id=f"c{number}", llm=llm, input_tokens=input_tokens, output_tokens=output_tokens,
                parents=(f"c{number - 1}",) if number else (), gap_s=before or 0.0,
                prefix_hashes=step.prefix[: input_tokens // TEXT_BLOCK_TOKENS],
            )
        )  # fmt: skip
        tally.estimate(rule)
    known = [step.tool_s for step in steps if step.tool_s is not None]
    if known:
        tally.tool_s = (tally.tool_s or 0.0) + fsum(known)
    return Run(id=run_id, workflow=options.get("workflow", "swe-agent"), calls=tuple(calls), tail_s=steps[-1].tool_s or 0.0)


def _steps(attempt: Mapping[str, Any], texts: Texts) -> Iterator[_Step]:
    """The calls of one attempt: the steps that have a reply."""
    history = [entry for entry in items(attempt.get("history"), "history") if isinstance(entry, dict)]
    replies = [
        place for place, entry in enumerate(history) if entry.get("role") == "assistant" and entry.get("is_demo") is not True
    ]
    for number, step in enumerate(items(attempt.get("trajectory"), "trajectory")):
        step = mapping(step)
        reply = step.get("response")
        query = step.get("query")
        if not isinstance(query, list) or not query or not any(query):
            query = history[: replies[number]] if number < len(replies) else history
        prompt = [
            {name: message.get(name) for name in ("role", "content", "tool_calls")}
            for message in query
            if isinstance(message, dict)
        ]
        if not reply and not estimated_tokens(step.get("thought"), step.get("action")):
            continue  # a step that the environment made: no call
        text_in = estimated_tokens(prompt)
        yield _Step(
            text_in=max(text_in, 1),
            text_out=max(estimated_tokens(reply, step.get("tool_calls"), step.get("thinking_blocks")), 1),
            prefix=texts.blocks((msgspec.json.encode(message).decode() for message in prompt), text_in),
            tool_s=seconds(step.get("execution_time"), "execution_time"),
        )


def _totals(document: Mapping[str, Any], attempts: Sequence[Any]) -> tuple[int, int, int | None]:
    """Input and output tokens and calls over the instance, as counted by SWE-agent; 0 where it did not."""
    stats = get(document, "info.model_stats")
    every = [stats] if isinstance(stats, dict) else [get(attempt, "info.model_stats") for attempt in attempts]
    sums = [
        sum(count(get(one, name), f"model_stats.{name}") or 0 for one in every)
        for name in ("tokens_sent", "tokens_received", "api_calls")
    ]
    return sums[0], sums[1], sums[2] or None


def _shared_out(total: int, weights: Sequence[int]) -> list[int]:
    """A total as whole parts by weight, each at least 1; the weights themselves where there is no total.

    >>> _shared_out(10, [1, 1, 2])
    [3, 2, 5]
    """
    if total < len(weights):
        return list(weights)
    left, weight = total, fsum(weights)
    parts = []
    for place, own in enumerate(weights):
        part = max(1, min(round(left * own / weight + 1e-9), left - (len(weights) - place - 1)))
        parts.append(part)
        left, weight = left - part, weight - own
    return parts


def _llm(document: Mapping[str, Any], attempts: Sequence[Any]) -> str:
    for holder in (document, *attempts):
        config = embedded(get(holder, "replay_config"))
        found = label(get(config, "agent.model.name", "agent.model.model_name"))
        if found:
            return found
    return ""


SWE_AGENT = Importer(
    summary="SWE-agent trajectories (*.traj): calls from steps, tokens estimated from text and recorded totals",
    open=_open,
    detect=Fields(("trajectory.response|attempts.trajectory.response", "info|attempts.info")),
    options={**WORKFLOW, "llm": "name of the LLM where the file has none (default: llm)"},
)
