"""Records straight to parquet: a simulation of any length in bounded memory."""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

from scepsy.files.atomic import atomic_path
from scepsy.files.records import FORMAT, VERSION, records_paths
from scepsy.records import CALL_SCHEMA, RUN_SCHEMA


class RecordsStream:
    """Writes batches to ``<name>.runs.parquet`` and ``<name>.calls.parquet`` as they come; use as the ``sink`` of ``simulate``.

    A context manager: both files appear when it ends without an error, and neither when it does not.

        with RecordsStream("out/big") as stream:
            records = simulate(plan, workload, profiles=profiles, sink=stream)
            stream.describe(records.meta)
    """

    def __init__(self, path: str | Path) -> None:
        self._paths = dict(zip(("runs", "calls"), records_paths(path), strict=True))
        self._writers: dict[str, pq.ParquetWriter] = {}
        self._stack = ExitStack()
        self.rows = {"runs": 0, "calls": 0}

    def __enter__(self) -> "RecordsStream":
        for table, schema in (("runs", RUN_SCHEMA), ("calls", CALL_SCHEMA)):
            aside = self._stack.enter_context(atomic_path(self._paths[table]))
            writer = pq.ParquetWriter(aside, schema, compression="zstd", write_page_checksum=True)
            self._writers[table] = self._stack.enter_context(writer)
        self.describe({})
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.__exit__(kind, error, trace)

    def __call__(self, table: str, batch: pa.RecordBatch) -> None:
        """Append a batch to the table ``runs`` or ``calls``."""
        self._writers[table].write_batch(batch)
        self.rows[table] += batch.num_rows

    def describe(self, meta: Mapping[str, str]) -> None:
        """Set the provenance that both files carry; the last one given counts."""
        header = json.dumps({"format": FORMAT, "version": VERSION, "meta": dict(meta)}, sort_keys=True)
        for writer in self._writers.values():
            writer.add_key_value_metadata({"scepsy": header})
