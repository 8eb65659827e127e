"""Mooncake traces (JSON lines): arrivals in milliseconds, lengths, blocks of 512 tokens, one single-call run per line.

Rows of relatives of this format use the same names for other things (seconds, blocks of 16 tokens, turns of a session, calls
that wait). They are told by their further fields and refused, and so are rows with more blocks than their length has.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scepsy.importers.base import Imported, Importer, choice, positive_number
from scepsy.importers.detect import Fields
from scepsy.importers.fields import Absurd, count, seconds
from scepsy.importers.observing import block_ids, names, runs_of_records, single_call
from scepsy.importers.source import Source
from scepsy.importers.tally import Tally
from scepsy.workload import Run, TraceSource

BLOCK_TOKENS = 512

RELATIVES = {
    "chat_id": "qwen-bailian (seconds, blocks of 16 tokens)",
    "wait_for": "agentic-mooncake (calls that wait for others)",
    "dependencies": "agentic-mooncake (calls that wait for others)",
    "tool_wait_ms": "agentic-mooncake (calls that wait for others)",
    "session_id": "mooncake-sessions (turns that follow one another)",
    "delay": "mooncake-sessions (turns that follow one another)",
}
"""Fields that only rows of another format have."""

UNITS_S = {"ms": 1e-3, "s": 1.0}


def _open(sources: Sequence[Source], options: Mapping[str, str], tally: Tally) -> Imported:
    block_tokens = round(positive_number(options, "block_tokens", BLOCK_TOKENS))
    unit_s = UNITS_S[choice(options, "unit", tuple(UNITS_S))]
    reader = _Reader(options.get("workflow", "mooncake"), options.get("llm", "llm"), block_tokens, unit_s, tally)
    if "unit" not in options:
        reader.doubt = True
    return Imported(
        source=TraceSource(
            origin=f"Mooncake trace: {names(sources)}", notes=("one call per run; service times are not recorded",)
        ),
        runs=reader.runs(sources),
        prefix_block_tokens=block_tokens,
    )


@dataclass
class _Reader:
    workflow: str
    llm: str
    block_tokens: int
    unit_s: float
    tally: Tally
    doubt: bool = False
    """Whether fractions of a millisecond are worth a warning."""

    def runs(self, sources: Sequence[Source]) -> Iterator[Run]:
        """One run per row."""
        return runs_of_records(sources, self.tally, lambda row, id_, source: self._run(row, id_))

    def _run(self, row: Mapping[str, Any], id_: str) -> Run:
        other = next((name for name in RELATIVES if name in row), None)
        if other is not None:
            raise Absurd(f"a row has {other}: must be imported as {RELATIVES[other]}")
        given = count(row.get("input_length"), "input_length")
        at_s = seconds(row.get("timestamp"), "timestamp", unit_s=self.unit_s)
        if given is None or at_s is None:
            raise Absurd("timestamp or input_length is missing: must be given")
        if self.doubt and isinstance(row.get("timestamp"), float) and not row["timestamp"].is_integer():
            self.doubt = False
            self.tally.warn("timestamps have fractions, which Mooncake's do not: taken as milliseconds (else: --set unit=s)")
        blocks = block_ids(row.get("hash_ids"), "hash_ids")
        most = -(-given // self.block_tokens)
        if len(blocks) > most:
            raise Absurd(
                f"hash_ids has {len(blocks)} ids for {given} tokens: blocks of {self.block_tokens} tokens are at most {most} "
                "(of another size? give --set block_tokens=N)"
            )
        return single_call(
            self.tally, run=id_, workflow=self.workflow, llm=self.llm, arrival_s=at_s, input_tokens=given,
            output_tokens=count(row.get("output_length"), "output_length"), prefix=blocks[: given // self.block_tokens],
        )  # fmt: skip


MOONCAKE = Importer(
    summary="Mooncake trace (JSON lines): arrivals, lengths and prefix blocks of single calls",
    open=_open,
    detect=Fields(("timestamp", "input_length", "output_length"), lacks=(*RELATIVES, "request_id")),
    options={
        "workflow": "name of the workflow (default: mooncake)",
        "llm": "name of the LLM (default: llm)",
        "block_tokens": f"tokens per id in hash_ids (default: {BLOCK_TOKENS})",
        "unit": "of timestamp: ms (default) or s",
    },
)
