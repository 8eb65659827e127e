"""``python -m executor.replay_job FILE``: replay inside the cluster, and print the records on stdout for the log to carry.

The log's other lines are progress. The records are two Arrow tables, packed, in base64 lines between two marks, with a
digest: a log that was cut or rotated is noticed, never read as a shorter measurement.
"""

import asyncio
import base64
import gzip
import hashlib
import json
import os
import sys
import zlib
from pathlib import Path

import msgspec
import pyarrow as pa

from executor.manifests.replay import ReplayTask
from executor.replay import replay
from scepsy.errors import BackendError, ScepsyError
from scepsy.files.failure import decode_json, explain, fail, read_bytes
from scepsy.records import Records

BEGIN, END = "-----BEGIN SCEPSY RECORDS-----", "-----END SCEPSY RECORDS-----"
_LINE = 4096


def pack(records: Records) -> str:
    """Records as text lines between the marks."""
    document = {"meta": dict(records.meta), "runs": _table_text(records.runs), "calls": _table_text(records.calls)}
    packed = base64.b64encode(zlib.compress(json.dumps(document).encode(), 6)).decode()
    lines = [packed[at : at + _LINE] for at in range(0, len(packed), _LINE)]
    return "\n".join([BEGIN, *lines, f"sha256:{hashlib.sha256(packed.encode()).hexdigest()}", END])


def unpack(log: str) -> Records:
    """Records out of a log. Raises ``BackendError`` when they are not in it whole."""
    _, begun, rest = log.rpartition(BEGIN)
    body, ended, _ = rest.partition(END)
    *lines, check = body.split() or [""]
    packed = "".join(lines)
    if not (begun and ended) or check != f"sha256:{hashlib.sha256(packed.encode()).hexdigest()}":
        last = log.strip().splitlines()[-1][:300] if log.strip() else "it is empty"
        raise BackendError(
            f"replay: the job's log does not hold the whole records: {last} (raise the kubelet's containerLogMaxSize?)"
        )
    document = json.loads(zlib.decompress(base64.b64decode(packed)))
    return Records(runs=_read_table(document["runs"]), calls=_read_table(document["calls"]), meta=document["meta"])


def read_task(path: Path) -> ReplayTask:
    """The task in a file. Raises ``InputError`` when it is not one, whole."""
    packed = read_bytes(path)
    try:
        data = gzip.decompress(packed)
    except (OSError, EOFError, zlib.error) as error:
        raise fail(path, f"is not a whole gzip file ({error}): must be a replay task (was it cut off?)") from error
    try:
        return msgspec.json.decode(data, type=ReplayTask)
    except msgspec.ValidationError as error:
        raise fail(path, explain(error, decode_json(path, data), ReplayTask)[1]) from error
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        decode_json(path, data)  # raises with the reason
        raise fail(path, f"is no replay task: {error}") from error


def write_task(path: Path, task: ReplayTask) -> None:
    """Write a task for ``read_task``."""
    path.write_bytes(gzip.compress(msgspec.json.encode(task), mtime=0))


def main(path: Path) -> int:
    """Run one task; exit code as everywhere."""
    try:
        task = read_task(path)
    except ScepsyError as error:
        print(f"scepsy: {error}", flush=True)
        return error.exit_code
    keys = [line.strip() for line in os.environ.get("SCEPSY_API_KEYS", "").splitlines()]
    key = next((line for line in keys if line and not line.startswith("#")), "")
    done = 0

    def on_run() -> None:
        nonlocal done
        done += 1
        if done % 50 == 0:
            print(f"{done} runs ended", flush=True)

    try:
        records = asyncio.run(replay(task.url, task.workload, task.context_limits, api_key=key, meta=task.meta, on_run=on_run))
    except ScepsyError as error:
        print(f"scepsy: {' '.join(str(error).split())}", flush=True)
        return error.exit_code
    print(pack(records), flush=True)
    return 0


def _table_text(table: pa.Table) -> str:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return base64.b64encode(sink.getvalue().to_pybytes()).decode()


def _read_table(text: str) -> pa.Table:
    with pa.ipc.open_stream(base64.b64decode(text)) as reader:
        return reader.read_all()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
