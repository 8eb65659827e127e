"""Qwen-Bailian usage traces (JSON lines): arrivals in **seconds**, prompt blocks of **16** tokens, chats of several turns.

They look like Mooncake rows, which are in milliseconds with blocks of 512 tokens. A turn's input length is that of its
whole prompt. Each row is a run: the time between the turns of a chat is a human's. Turns of a chat share a session.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scepsy.importers.base import Imported, Importer
from scepsy.importers.detect import Fields
from scepsy.importers.fields import Absurd, count, label, seconds
from scepsy.importers.observing import block_ids, names, runs_of_records, single_call
from scepsy.importers.source import Source
from scepsy.importers.tally import Tally
from scepsy.workload import Run, TraceSource

BLOCK_TOKENS = 16


def _open(sources: Sequence[Source], options: Mapping[str, str], tally: Tally) -> Imported:
    return Imported(
        source=TraceSource(
            origin=f"Qwen-Bailian usage trace: {names(sources)}",
            licence="Apache-2.0",
            notes=("one call per run; service times are not recorded; turns of a chat share a session",),
        ),
        runs=_runs(sources, options.get("workflow", ""), options.get("llm", "qwen"), tally),
        prefix_block_tokens=BLOCK_TOKENS,
    )


def _runs(sources: Sequence[Source], workflow: str, llm: str, tally: Tally) -> Iterator[Run]:
    first_of: dict[tuple[str, str], str] = {}  # (input, chat) → the chat that began the conversation

    def make(row: Mapping[str, Any], id_: str, source: Source) -> Run:
        arrival_s, chat = seconds(row.get("timestamp"), "timestamp"), label(row.get("chat_id"))
        given = count(row.get("input_length"), "input_length")
        if arrival_s is None or not chat or given is None:
            raise Absurd("timestamp, chat_id or input_length is missing: must be given")
        session = first_of.get((str(source), label(row.get("parent_chat_id"))), chat)
        first_of[str(source), chat] = session
        return single_call(
            tally, run=id_, workflow=workflow or f"bailian-{label(row.get('type'), 40) or 'chat'}", llm=llm,
            arrival_s=arrival_s, input_tokens=given, output_tokens=count(row.get("output_length"), "output_length"),
            prefix=block_ids(row.get("hash_ids"), "hash_ids")[: given // BLOCK_TOKENS],
            session=f"{source.path.name}:{session}",
        )  # fmt: skip

    return runs_of_records(sources, tally, make)


QWEN_BAILIAN = Importer(
    summary="Qwen-Bailian usage trace (JSON lines): arrivals in seconds, lengths, 16-token prompt blocks, chats",
    open=_open,
    detect=Fields(("chat_id", "parent_chat_id", "timestamp", "input_length", "output_length")),
    options={"workflow": "name of the workflow (default: bailian-<type>)", "llm": "name of the LLM (default: qwen)"},
)
