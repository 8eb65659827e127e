"""Rows of runs and calls, turned into arrow batches as they come."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from scepsy.records import CALL_SCHEMA, COMPLETED, RUN_SCHEMA
from sim.agent import Agent
from sim.clock import TICKS_PER_S
from sim.request import Request

Sink = Callable[[str, pa.RecordBatch], None]
"""Takes one batch of the table called ``runs`` or ``calls``."""

BATCH_ROWS = 1 << 13
"""Ended calls are kept until a batch is full: more of them do not stay in the processor's cache, fewer make small batches."""


class Recorder:
    """Collects ended calls and runs and hands full batches to ``sink``."""

    def __init__(self, sink: Sink, batch_rows: int = BATCH_ROWS) -> None:
        self._sink = sink
        self._batch_rows = batch_rows
        self._runs: list[Agent] = []
        self._calls: list[Request] = []

    def call(self, request: Request, status: str) -> None:
        """Add a call."""
        request.status = status
        self._calls.append(request)
        if len(self._calls) >= self._batch_rows:
            self._flush_calls()

    def run(self, agent: Agent, end: int, status: str) -> None:
        """Add a run."""
        agent.end, agent.status = end, status
        self._runs.append(agent)
        if len(self._runs) >= self._batch_rows:
            self._flush_runs()

    def close(self) -> None:
        """Hand over what is left."""
        if self._runs:
            self._flush_runs()
        if self._calls:
            self._flush_calls()

    def _flush_runs(self) -> None:
        rows, self._runs = self._runs, []
        columns = [
            [agent.id for agent in rows],
            [agent.walk.run.id for agent in rows],
            [agent.walk.run.workflow for agent in rows],
            _times([agent.arrival for agent in rows]),
            _times([agent.end if agent.status == COMPLETED else -1 for agent in rows]),
            [agent.status for agent in rows],
        ]
        self._sink("runs", _batch(columns, RUN_SCHEMA))

    def _flush_calls(self) -> None:
        rows, self._calls = self._calls, []
        agents: list[Any] = [row.caller for row in rows]
        calls = [agent.walk.run.calls[row.node] for agent, row in zip(agents, rows, strict=True)]
        columns = [
            [agent.id for agent in agents],
            [call.id for call in calls],
            [agent.walk.run.workflow for agent in agents],
            [call.llm for call in calls],
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
        self._sink("calls", _batch(columns, CALL_SCHEMA))


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
