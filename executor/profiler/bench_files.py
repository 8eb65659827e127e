"""Results of ``vllm bench serve --save-result --save-detailed``, as a run folder that a step model can be fitted on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from executor.profiler.sweep import Row, write_run
from scepsy.cluster import GpuType
from scepsy.errors import InputError
from scepsy.llm import Llm
from scepsy.profile.model import EngineLimits

_DETAILS = ("input_lens", "output_lens", "ttfts", "itls", "start_times")

PAUSE_S = 5.0
"""Put between the runs of several files: they did not overlap, and an engine forgets the last one in that time."""


class _Result(msgspec.Struct):
    input_lens: list[int] | None = None
    output_lens: list[int] | None = None
    ttfts: list[float] | None = None
    itls: list[list[float]] | None = None
    start_times: list[float] | None = None
    errors: list[str] | None = None
    model_id: str = ""
    date: str = ""
    request_rate: Any = None


def read_bench(path: Path) -> tuple[list[Row], _Result]:
    """Requests of one result file, the failed ones left out. Raises ``InputError`` when details are missing."""
    try:
        result = msgspec.json.decode(path.read_bytes(), type=_Result)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}: must be a result of vllm bench serve") from error
    except msgspec.MsgspecError as error:
        raise InputError(f"{path}: {error}: must be a result of vllm bench serve") from error
    for name in _DETAILS:
        if getattr(result, name) is None:
            raise InputError(f"{path}: {name} is missing: run vllm bench serve with --save-result --save-detailed")
    columns = [getattr(result, name) for name in _DETAILS]
    if len({len(column) for column in columns}) != 1:
        raise InputError(f"{path}: ttfts has {len(columns[2])} entries, input_lens {len(columns[0])}: must be as many")
    failed = result.errors or [""] * len(columns[0])
    rows = []
    for (inputs, outputs, ttft_s, itls_s, start_s), failure in zip(zip(*columns, strict=True), failed, strict=True):
        if failure or outputs < 1 or inputs < 1:
            continue
        rows.append(
            {
                "input_toks": inputs,
                "output_toks": outputs,
                "arrival_time": start_s,
                "queued_ts": start_s,
                "scheduled_ts": start_s,
                "first_token_ts": start_s + ttft_s,
                "last_token_ts": start_s + ttft_s + sum(itls_s),
            }
        )
    return sorted(rows, key=lambda row: row["arrival_time"]), result


def write_bench_run(
    files: Sequence[Path], folder: Path, llm: Llm, gpu: GpuType, tensor_parallel: int, engine: EngineLimits
) -> int:
    """Write one run folder from several result files (several rates of one engine); the number of requests in it."""
    rows: list[Row] = []
    sources = []
    for path in files:
        found, result = read_bench(path)
        if found:
            shift_s = (max(row["last_token_ts"] for row in rows) + PAUSE_S if rows else 0.0) - found[0]["arrival_time"]
            times = [name for name in found[0] if name.endswith(("_ts", "_time"))]
            rows += [{**row, **{name: row[name] + shift_s for name in times}} for row in found]
        sources.append(
            {"file": path.name, "date": result.date, "model_id": result.model_id, "request_rate": result.request_rate}
        )
    if not rows:
        raise InputError(f"{', '.join(map(str, files))}: no request was completed: must hold some")
    meta = {
        "model": llm.name,
        "engine": "vllm bench serve",
        "hardware": {"device_name": gpu.name},
        "engine_kwargs": {
            "max_num_seqs": engine.max_num_seqs,
            "max_num_batched_tokens": engine.max_num_batched_tokens,
            "tensor_parallel_size": tensor_parallel,
        },
        "sources": sources,
    }
    write_run(folder, rows, meta)
    return len(rows)
