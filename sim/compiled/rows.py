"""The core's rows as arrow batches of the records' schema."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from scepsy.records import CALL_SCHEMA, COMPLETED, REJECTED, RUN_SCHEMA, UNFINISHED
from sim.compiled import layout as at
from sim.compiled.templates import Templates, Words
from sim.engine.clock import TICKS_PER_S

Sink = Callable[[str, pa.RecordBatch], None]
"""Takes one batch of the table called ``runs`` or ``calls``."""

_STATUS = pa.array([COMPLETED, REJECTED, UNFINISHED])  # by ``layout.STATUS_…``
_TAG = (1 << at.TAG_BITS) - 1


def exact_ticks(epochs: Words, ticks: Words) -> npt.NDArray[np.float64]:
    """Ticks since the beginning as floats, each rounded once: the sum's upper part is exact in a float."""
    upper = epochs.astype(np.float64) * at.EPOCH + ((ticks >> 32) << 32).astype(np.float64)
    return upper + (ticks & 0xFFFFFFFF).astype(np.float64)


def _times(epochs: Words, ticks: Words, known: npt.NDArray[np.bool_]) -> pa.Array:
    return pa.array(exact_ticks(epochs, ticks) / TICKS_PER_S, mask=~known)


class RowBatches:
    """Turns rows into batches and hands them to a sink."""

    def __init__(
        self, sink: Sink, templates: Templates, names: Sequence[str], llms: Sequence[str], instances: Sequence[str]
    ) -> None:
        self._sink = sink
        self._templates = templates
        self._names = pa.array([f"{name}-" for name in names])
        self._llms = pa.array(llms)
        self._instances = pa.array(instances)
        self._known = -1
        self._columns: dict[str, Any] = {}

    def __call__(self, table: str, rows: Words) -> None:
        """Hand over rows of calls or of runs."""
        self._know()
        self._sink(table, self._calls(rows) if table == "calls" else self._runs(rows))

    def _know(self) -> None:
        """What the templates say, as columns."""
        templates = self._templates
        if self._known == len(templates.runs):
            return
        self._known = len(templates.runs)
        workflows = pa.array([run.workflow for run in templates.runs])
        self._columns = {
            "template": pa.array([run.id for run in templates.runs]),
            "workflow": workflows,
            "call": pa.array(templates.call_ids),
            "call workflow": workflows.take(pa.array(templates.call_templates)),
            "llm": self._llms.take(pa.array(templates.call_llms)),
            "input": np.array(templates.call_inputs, dtype=np.int32),
            "output": np.array(templates.call_outputs, dtype=np.int32),
        }

    def _ids(self, names: Words, numbers: Words) -> pa.Array:
        return pc.binary_join_element_wise(self._names.take(pa.array(names)), pa.array(numbers).cast(pa.string()), "")

    def _runs(self, rows: Words) -> pa.RecordBatch:
        columns, status, template = self._columns, rows[:, at.OR_STATUS], pa.array(rows[:, at.OR_TEMPLATE])
        every = np.ones(len(rows), dtype=bool)
        arrays = [
            self._ids(rows[:, at.OR_NAME], rows[:, at.OR_NUMBER]),
            columns["template"].take(template),
            columns["workflow"].take(template),
            _times(rows[:, at.OR_ARRIVAL_EPOCH], rows[:, at.OR_ARRIVAL], every),
            _times(rows[:, at.OR_END_EPOCH], rows[:, at.OR_END], status == at.STATUS_COMPLETED),
            _STATUS.take(pa.array(status)),
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=RUN_SCHEMA)

    def _calls(self, rows: Words) -> pa.RecordBatch:
        columns, status = self._columns, rows[:, at.OC_STATUS]
        call, tags = rows[:, at.OC_CALL], rows[:, at.OC_EPOCHS]
        place, every = pa.array(call), np.ones(len(rows), dtype=bool)
        scheduled, first = rows[:, at.OC_SCHEDULED], rows[:, at.OC_FIRST]
        arrays = [
            self._ids(rows[:, at.OC_NAME], rows[:, at.OC_NUMBER]),
            columns["call"].take(place),
            columns["call workflow"].take(place),
            columns["llm"].take(place),
            self._instances.take(pa.array(rows[:, at.OC_INSTANCE])),
            _times(tags & _TAG, rows[:, at.OC_ISSUED], every),
            _times((tags >> at.TAG_BITS) & _TAG, scheduled, scheduled >= 0),
            _times(tags >> (2 * at.TAG_BITS), first, first >= 0),
            _times(rows[:, at.OC_END_EPOCH], rows[:, at.OC_END], status == at.STATUS_COMPLETED),
            pa.array(columns["input"][call]),
            pa.array(columns["output"][call]),
            pa.array(rows[:, at.OC_CACHED].astype(np.int32)),
            pa.array(rows[:, at.OC_PREEMPTIONS].astype(np.int32)),
            _STATUS.take(pa.array(status)),
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=CALL_SCHEMA)
