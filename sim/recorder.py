"""Rows of runs and calls, turned into arrow batches as they come."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from scepsy.records import CALL_SCHEMA, RUN_SCHEMA
from sim.clock import TICKS_PER_S
from sim.request import Request

Sink = Callable[[str, pa.RecordBatch], None]
"""Takes one batch of the table called ``runs`` or ``calls``."""

BATCH_ROWS = 1 << 15


class Recorder:
    """Collects rows and hands full batches to ``sink``."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._runs: list[tuple[Any, ...]] = []
        self._calls: list[tuple[Any, ...]] = []

    def call(self, agent: Any, request: Request, status: str) -> None:
        """Add a call."""
        walk, node = agent.walk, request.node
        call = walk.run.calls[node]
        scheduled, first, end = request.scheduled, request.first_token, request.end
        rows = self._calls
        rows.append(
            (
                agent.id,
                call.id,
                walk.run.workflow,
                call.llm,
                request.instance or None,
                request.issued / TICKS_PER_S,
                scheduled / TICKS_PER_S if scheduled >= 0 else None,
                first / TICKS_PER_S if first >= 0 else None,
                end / TICKS_PER_S if end >= 0 and status == "completed" else None,
                request.input_tokens,
                request.output_tokens,
                request.cached_tokens,
                request.preemptions,
                status,
            )
        )
        if len(rows) >= BATCH_ROWS:
            self._flush("calls", rows, CALL_SCHEMA)

    def run(self, agent: Any, end: int, status: str) -> None:
        """Add a run."""
        run = agent.walk.run
        rows = self._runs
        rows.append(
            (
                agent.id,
                run.id,
                run.workflow,
                agent.arrival / TICKS_PER_S,
                end / TICKS_PER_S if status == "completed" else None,
                status,
            )
        )
        if len(rows) >= BATCH_ROWS:
            self._flush("runs", rows, RUN_SCHEMA)

    def close(self) -> None:
        """Hand over what is left."""
        self._flush("runs", self._runs, RUN_SCHEMA)
        self._flush("calls", self._calls, CALL_SCHEMA)

    def _flush(self, table: str, rows: list[tuple[Any, ...]], schema: pa.Schema) -> None:
        if rows:
            columns = [pa.array(column, type=field.type) for column, field in zip(zip(*rows, strict=True), schema, strict=True)]
            self._sink(table, pa.RecordBatch.from_arrays(columns, schema=schema))
            rows.clear()
