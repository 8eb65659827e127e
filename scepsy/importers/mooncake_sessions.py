"""Mooncake rows with sessions (JSON lines), as Dynamo and AIPerf replay them: the turns of a session follow one another.

``delay`` (or ``delay_ms``): milliseconds after the turn before ended; without it, the difference of the rows' timestamps,
as Dynamo takes it. There are two kinds that look alike: prompts given in full (Dynamo's ``mooncake``), and only what a turn
adds (``mooncake-delta``): then a prompt is the one before, its output, and the row's tokens. Block ids tell them apart:
prompts given in full begin with the blocks of the turn before. Where they do not tell, ``--set prompts=full`` or ``delta``
must.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from scepsy.errors import InputError
from scepsy.importers.base import Imported, Importer, choice, positive_number
from scepsy.importers.detect import Fields
from scepsy.importers.fields import Absurd, count, get, label, seconds
from scepsy.importers.observing import WORKFLOW, block_ids, mapping, names
from scepsy.importers.prompts import Histories
from scepsy.importers.record_reader import json_records
from scepsy.importers.source import Source
from scepsy.importers.spool import Spool
from scepsy.importers.tally import Tally
from scepsy.workload import Call, Run, TraceSource

BLOCK_TOKENS = 512

OWN_BLOCKS = 2**48
"""Ids of blocks that the rows do not number (what a turn adds begins within a block) begin here."""


class Turn(msgspec.Struct, array_like=True):
    """One row, in seconds."""

    session: str
    at_s: float | None
    delay_s: float | None
    input_tokens: int
    output_tokens: int
    blocks: tuple[int, ...]


def _open(sources: Sequence[Source], options: Mapping[str, str], tally: Tally) -> Imported:
    block_tokens = round(positive_number(options, "block_tokens", BLOCK_TOKENS))
    if "block_tokens" not in options:
        tally.warn(f"the rows do not say how many tokens a block has: taken as {block_tokens} (else: --set block_tokens=N)")
    return Imported(
        source=TraceSource(
            origin=f"Mooncake sessions: {names(sources)}", notes=("a run is a session; service times are not recorded",)
        ),
        runs=_runs(sources, options, block_tokens, tally),
        prefix_block_tokens=block_tokens,
    )


def _runs(sources: Sequence[Source], options: Mapping[str, str], block_tokens: int, tally: Tally) -> Iterator[Run]:
    asked = choice(options, "prompts", ("by block ids", "full", "delta"))
    workflow, llm = options.get("workflow", "mooncake-sessions"), options.get("llm", "llm")
    with Spool(Turn) as spool:
        alone, votes = 0, {"full": 0, "delta": 0}
        before: dict[str, tuple[int, ...]] = {}
        several = False
        for source in sources:
            for record in json_records(source, tally):
                try:
                    turn = _turn(mapping(record.value))
                except Absurd as error:
                    tally.drop(str(error), source, record.line)
                    continue
                alone += not turn.session
                key = turn.session or f"row-{alone}"
                if key in before:
                    several = True
                    if before[key] and turn.blocks:
                        whole = before[key][:-1] or before[key]  # the last block may not be full yet
                        votes["full" if turn.blocks[: len(whole)] == whole else "delta"] += 1
                before[key] = turn.blocks
                spool.add(key, turn)
        kind = _kind(asked, votes, several, sources, tally)
        histories = Histories(block_tokens, first=OWN_BLOCKS)
        for number, group in enumerate(spool.groups()):
            try:
                yield _run(group, number, workflow, llm, kind == "delta", histories, tally)
            except ValueError as error:
                for _ in group:
                    tally.drop(str(error))


def _turn(row: Mapping[str, Any]) -> Turn:
    given, made = count(row.get("input_length"), "input_length"), count(row.get("output_length"), "output_length")
    if given is None or made is None:
        raise Absurd("input_length or output_length is missing: must be given")
    return Turn(
        label(row.get("session_id")),
        seconds(row.get("timestamp"), "timestamp", unit_s=1e-3),
        seconds(get(row, "delay_ms", "delay"), "delay", unit_s=1e-3),
        given,
        made,
        block_ids(row.get("hash_ids"), "hash_ids"),
    )


def _kind(asked: str, votes: Mapping[str, int], several: bool, sources: Sequence[Source], tally: Tally) -> str:
    if asked != "by block ids":
        return asked
    if not several:
        return "full"
    if not any(votes.values()) or (votes["full"] and votes["delta"] and min(votes.values()) * 20 > max(votes.values())):
        raise InputError(
            f"{', '.join(map(str, sources))}: input_length may be of whole prompts or of what a turn adds, and block "
            "ids do not tell: must be said (--set prompts=full or --set prompts=delta)"
        )
    kind = "full" if votes["full"] >= votes["delta"] else "delta"
    meaning = "whole prompts" if kind == "full" else "only what a turn adds"
    tally.warn(
        f"input_length is taken as that of {meaning} (by the block ids of {sum(votes.values())} turns; else: --set prompts=…)"
    )
    return kind


def _run(group: list[Turn], number: int, workflow: str, llm: str, delta: bool, histories: Histories, tally: Tally) -> Run:
    """One session; in a session without any delay or timestamp the turns follow one another at once."""
    calls: list[Call] = []
    first_s = group[0].at_s
    name = group[0].session or f"r{number}"
    history_tokens, before_s = 0, first_s
    for place, turn in enumerate(group):
        given = turn.input_tokens + (history_tokens if delta else 0)
        gap_s = 0.0
        if place:
            gap_s = turn.delay_s or 0.0
            if turn.delay_s is None and turn.at_s is not None and before_s is not None:
                gap_s = max(0.0, turn.at_s - before_s)
                tally.counts["gaps taken from the difference of timestamps, which includes the call before"] += 1
        if turn.output_tokens == 0:
            tally.counts["calls without output tokens, counted as one token"] += 1
        size = histories.block_tokens
        if delta:
            known = turn.blocks[: given // size]
            blocks = histories.blocks(name, given) if place else histories.begin(name, known, given)
        else:
            blocks = turn.blocks[: given // size]
        made = turn.output_tokens or 1
        calls.append(
            Call(
                id=f"c{place}", llm=llm, input_tokens=given, output_tokens=made, parents=(f"c{place - 1}",) if place else (),
                gap_s=gap_s, prefix_hashes=blocks,
            )
        )  # fmt: skip
        history_tokens, before_s = given + made, turn.at_s if turn.at_s is not None else before_s
    return Run(id=name, workflow=workflow, calls=tuple(calls), arrival_s=first_s, session=group[0].session)


MOONCAKE_SESSIONS = Importer(
    summary="Mooncake rows with sessions (JSON lines; mooncake-delta of Dynamo): turns, delays, lengths, prompt blocks",
    open=_open,
    detect=Fields(
        ("session_id", "input_length", "output_length"), lacks=("chat_id", "wait_for", "dependencies", "tool_wait_ms")
    ),
    options={
        **WORKFLOW,
        "llm": "name of the LLM (default: llm)",
        "prompts": "full: input_length is that of the whole prompt; delta: only what a turn adds (default: by block ids)",
        "block_tokens": f"tokens per id in hash_ids (default: {BLOCK_TOKENS})",
    },
)
