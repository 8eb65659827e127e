"""Records files: ``<name>.runs.parquet`` and ``<name>.calls.parquet``, provenance in the files' metadata."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from scepsy.errors import InputError
from scepsy.files.atomic import atomic_path
from scepsy.files.failure import fail, reading, shown
from scepsy.records import CALL_SCHEMA, COMPLETED, REJECTED, RUN_SCHEMA, UNFINISHED, Records

FORMAT, VERSION = "scepsy.records", 1
_STATUS = (COMPLETED, REJECTED, UNFINISHED)
_RUNS, _CALLS = ".runs.parquet", ".calls.parquet"
_NULLABLE = {"end_s", "instance", "scheduled_s", "first_token_s", "cached_tokens", "preemptions"}
"""The last two: a client that measures cannot see them."""


def records_paths(path: str | Path) -> tuple[Path, Path]:
    """The two files of ``<name>``; either file's own path may be given instead.

    >>> [p.name for p in records_paths("out/x.calls.parquet")]
    ['x.runs.parquet', 'x.calls.parquet']
    """
    name = Path(path).name
    for suffix in (_RUNS, _CALLS, ".parquet"):
        name = name.removesuffix(suffix)
    folder = Path(path).parent
    return folder / (name + _RUNS), folder / (name + _CALLS)


def save_records(path: str | Path, records: Records) -> None:
    """Write both tables, atomically: both files are complete before either is renamed."""
    runs_path, calls_path = records_paths(path)
    meta = {"scepsy": json.dumps({"format": FORMAT, "version": VERSION, "meta": dict(records.meta)}, sort_keys=True)}
    with atomic_path(runs_path) as runs_aside, atomic_path(calls_path) as calls_aside:
        for table, aside in ((records.runs, runs_aside), (records.calls, calls_aside)):
            pq.write_table(table.replace_schema_metadata(meta), aside, compression="zstd", write_page_checksum=True)


def load_records(path: str | Path) -> Records:
    """Read both tables and check them. Raises ``InputError`` naming file, column and remedy."""
    runs_path, calls_path = records_paths(path)
    runs, meta = _read(runs_path, RUN_SCHEMA)
    calls, _ = _read(calls_path, CALL_SCHEMA)
    ids = runs.column("run")
    if len(pc.unique(ids)) != runs.num_rows:
        raise fail(runs_path, "run is not unique: must name each issued run once")
    strangers = pc.filter(calls.column("run"), pc.invert(pc.is_in(calls.column("run"), value_set=ids.combine_chunks())))
    if len(strangers):
        raise fail(
            calls_path, f"run is {shown(strangers[0].as_py())}: must be a run of {runs_path.name} (are the two of one pair?)"
        )
    return Records(runs=runs, calls=calls, meta=meta)


@contextmanager
def _parquet(path: Path) -> Iterator[None]:
    with reading(path):
        try:
            yield
        except (pa.ArrowException, MemoryError, OverflowError) as error:
            raise fail(
                path, f"is not a whole parquet file ({str(error)[:120]}): must be one (was it cut off? write it again)"
            ) from error


def _read(path: Path, schema: pa.Schema) -> tuple[pa.Table, dict[str, str]]:
    with reading(path), path.open("rb") as file:
        if not file.read(1):
            raise fail(path, "is empty: must be a parquet file (was it cut off?)")
    with _parquet(path):
        table = pq.ParquetFile(path, page_checksum_verification=True).read()
        table.validate(full=True)
    meta = _meta(path, table.schema.metadata or {})
    table = table.replace_schema_metadata(None)
    if not table.schema.equals(schema):
        raise fail(path, f"has {_schema_difference(table.schema, schema)}")
    for name in table.column_names:
        _check_column(path, name, table.column(name))
    return table, meta


def _meta(path: Path, metadata: dict[bytes, bytes]) -> dict[str, str]:
    try:
        header = json.loads(metadata[b"scepsy"])
        form, version, meta = header["format"], header["version"], header["meta"]
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise fail(path, f"has no {FORMAT} metadata: must be written by Scepsy (another kind of parquet file?)") from error
    if (form, version) != (FORMAT, VERSION):
        raise fail(path, f"format is {shown(form)} version {shown(version)}: must be {FORMAT} version {VERSION}")
    if not isinstance(meta, dict) or not all(isinstance(item, str) for item in meta.values()):
        raise fail(path, f"meta is {shown(meta)}: must be a mapping of strings")
    return meta


def _schema_difference(found: pa.Schema, wanted: pa.Schema) -> str:
    for field in wanted:
        if field.name not in found.names:
            return f"no column {field.name}: must have it ({field.type})"
        if found.names.count(field.name) > 1:
            return f"column {field.name} twice: must have it once"
        if found.field(field.name).type != field.type:
            return f"column {field.name} of type {found.field(field.name).type}: must be {field.type}"
    extra = [name for name in found.names if name not in wanted.names]
    return (
        f"the unknown column {extra[0]}: must be left out"
        if extra
        else f"columns {found.names}: must be ordered {wanted.names}"
    )


def _check_column(path: Path, name: str, column: pa.ChunkedArray) -> None:
    if name not in _NULLABLE and column.null_count:
        raise fail(path, f"{name} is null in {column.null_count} rows: must be given")
    if name == "status":
        wrong = [value for value in pc.unique(column).to_pylist() if value not in _STATUS]
        if wrong:
            raise fail(path, f"status is {shown(wrong[0])}: must be one of {', '.join(_STATUS)}")
    elif pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
        if pa.types.is_floating(column.type) and not pc.all(pc.is_finite(column)).as_py() and len(column.drop_null()):
            raise fail(path, f"{name} is not finite in some row: must be a finite number of seconds")
        low = pc.min(column).as_py()
        if low is not None and low < 0:
            raise fail(path, f"{name} is {low}: must be >= 0")


__all__ = ["FORMAT", "VERSION", "InputError", "load_records", "records_paths", "save_records"]
