"""Rows of runs and calls, turned into arrow batches as they come."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from scepsy.records import CALL_SCHEMA, COMPLETED, RUN_SCHEMA
from sim.engine.clock import TICKS_PER_S
from sim.engine.request import Request
from sim.world.agent import Agent

Sink = Callable[[str, pa.RecordBatch], None]
"""Takes one batch of the table called ``runs`` or ``calls``."""

BATCH_ROWS = 1 << 13
"""Rows handed over at once."""
OBJECT_ROWS = 1 << 9
"""Ended calls and runs kept as objects, before they become columns: few, so that those to come find their memory in the
processor's cache."""


class RecordWriter:
    """Collects ended calls and runs and hands full batches to ``sink``."""

    def __init__(self, sink: Sink, batch_rows: int = BATCH_ROWS) -> None:
        self._sink = sink
        self._batch_rows = batch_rows
        self._object_rows = min(batch_rows, OBJECT_ROWS)
        self._runs: list[Agent] = []
        self._calls: list[Request] = []
        self._kept: dict[str, list[pa.RecordBatch]] = {"runs": [], "calls": []}
        """Columns of rows that do not make a batch yet."""

    def call(self, request: Request, status: str) -> None:
        """Add a call."""
        request.status = status
        self._calls.append(request)
        if len(self._calls) >= self._object_rows:
            self._calls_to_columns()

    def run(self, agent: Agent, end: int, status: str) -> None:
        """Add a run."""
        agent.end, agent.status = end, status
        self._runs.append(agent)
        if len(self._runs) >= self._object_rows:
            self._runs_to_columns()

    def close(self) -> None:
        """Hand over what is left."""
        if self._runs:
            self._runs_to_columns()
        if self._calls:
            self._calls_to_columns()
        for table in self._kept:
            self._hand_over(table)

    def _keep(self, table: str, rows: pa.RecordBatch) -> None:
        kept = self._kept[table]
        kept.append(rows)
        if sum(each.num_rows for each in kept) >= self._batch_rows:
            self._hand_over(table)

    def _hand_over(self, table: str) -> None:
        kept, self._kept[table] = self._kept[table], []
        if kept:
            for batch in pa.Table.from_batches(kept).combine_chunks().to_batches():
                self._sink(table, batch)

    def _runs_to_columns(self) -> None:
        rows, self._runs = self._runs, []
        columns = [
            [agent.id for agent in rows],
            [agent.walk.run_id for agent in rows],
            [agent.walk.workflow for agent in rows],
            _times([agent.arrival for agent in rows]),
            _times([agent.end if agent.status == COMPLETED else -1 for agent in rows]),
            [agent.status for agent in rows],
        ]
        self._keep("runs", _batch(columns, RUN_SCHEMA))

    def _calls_to_columns(self) -> None:
        rows, self._calls = self._calls, []
        agents: list[Any] = [row.caller for row in rows]
        steps = [agent.walk.steps[row.node] for agent, row in zip(agents, rows, strict=True)]
        columns = [
            [agent.id for agent in agents],
            [step.id for step in steps],
            [agent.walk.workflow for agent in agents],
            [step.llm for step in steps],
            [row.instance for row in rows],
            _times([row.issued for row in rows]),
            _times([row.scheduled for row in rows]),
            _times([row.first_token for row in rows]),
            _times([row.end if row.status == COMPLETED else -1 for row in rows]),
            [row.input_tokens for row in rows],
            [row.output_tokens for row in rows],
            [row.cached_tokens for row in rows],
            [row.preemptions for row in rows],
            [row.status for row in rows],
        ]
        self._keep("calls", _batch(columns, CALL_SCHEMA))


def _times(ticks: list[int]) -> pa.Array:
    """Seconds; negative ticks (not known) become null."""
    values = np.asarray(ticks, dtype=np.float64)
    return pa.array(values / TICKS_PER_S, mask=values < 0)


def _batch(columns: list[Any], schema: pa.Schema) -> pa.RecordBatch:
    arrays = [
        column if isinstance(column, pa.Array) else pa.array(column, type=field.type)
        for column, field in zip(columns, schema, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
