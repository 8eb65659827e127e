"""Results of load generators (vLLM's bench, GuideLLM, AIPerf), as a run folder that a step model can be fitted on."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from executor.profiler.sweep import Row, write_run
from scepsy.cluster import GpuType
from scepsy.errors import InputError
from scepsy.importers import aiperf, guidellm, vllm_bench
from scepsy.importers.bench import Requests, Timed, timed_requests
from scepsy.importers.source import Source
from scepsy.importers.tally import Tally
from scepsy.llm import Llm
from scepsy.profile.model import EngineLimits

PAUSE_S = 5.0
"""Put between the runs of several files: they did not overlap, and an engine forgets the last one in that time."""


@dataclass(frozen=True)
class Generator:
    """A load generator: what it is called, how its requests are read, and what to do when it kept no times."""

    title: str
    requests: Requests
    places: tuple[str, ...]
    remedy: str


GENERATORS: Mapping[str, Generator] = {
    "vllm-bench": Generator(
        "vllm bench serve", vllm_bench.requests, (), "run vllm bench serve with --save-result --save-detailed"
    ),
    "guidellm": Generator("GuideLLM", guidellm.requests(), guidellm.PLACES, "give its benchmarks.json, of streamed requests"),
    "aiperf": Generator("AIPerf", aiperf.requests, (), "give its profile_export.jsonl, of a run with --streaming"),
}
"""Name on the command line → load generator."""


@dataclass(frozen=True)
class MeasuredRequests:
    """The requests of one file that a step model can be fitted on, in order of arrival."""

    rows: list[Row]
    llms: tuple[str, ...]
    """Models that the file names."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Requests without a use, by reason."""


def read_bench(path: Path, generator: str = "vllm-bench") -> MeasuredRequests:
    """Requests of one result file, the failed ones left out and counted. Raises ``InputError`` when none has its times."""
    kind = GENERATORS[generator]
    source, tally = Source(path), Tally()
    rows, llms = [], dict[str, None]()
    for request in timed_requests([source], tally, kind.requests, *kind.places):
        if request.failed:
            tally.dropped["failed requests"] += 1
            continue
        row = _row(request)
        if row is None:
            tally.dropped["requests without the time of their first or last token"] += 1
            continue
        rows.append(row)
        llms.setdefault(request.llm)
    if not rows:
        why = tally.first_drop.removeprefix(f"{path}: ") or ", ".join(tally.dropped) or "it holds no request"
        raise InputError(f"{path}: no request has its times ({why}): must hold some ({kind.remedy})")
    return MeasuredRequests(
        sorted(rows, key=lambda row: row["arrival_time"]), tuple(name for name in llms if name), tally.dropped
    )


def _row(request: Timed) -> Row | None:
    """A request as engines record it; a load generator sees no queue, so it was scheduled when it was sent."""
    given, made = request.input_tokens or 0, request.output_tokens or 0
    if given < 1 or made < 1 or request.start_s is None or request.first_s is None or request.last_s is None:
        return None
    return {
        "input_toks": given,
        "output_toks": made,
        "arrival_time": request.start_s,
        "queued_ts": request.start_s,
        "scheduled_ts": request.start_s,
        "first_token_ts": max(request.first_s, request.start_s),
        "last_token_ts": max(request.last_s, request.first_s, request.start_s),
    }


def write_bench_run(
    files: Sequence[Path],
    folder: Path,
    llm: Llm,
    gpu: GpuType,
    tensor_parallel: int,
    engine: EngineLimits,
    generator: str = "vllm-bench",
) -> MeasuredRequests:
    """Write one run folder from several result files (several rates of one engine); what is in it.

    Raises ``InputError`` when a file has no request with its times, or they go to several models.
    """
    rows: list[Row] = []
    llms, left_out = dict[str, None](), Counter[str]()
    for path in files:
        found = read_bench(path, generator)
        shift_s = (max(row["last_token_ts"] for row in rows) + PAUSE_S if rows else 0.0) - found.rows[0]["arrival_time"]
        times = [name for name in found.rows[0] if name.endswith(("_ts", "_time"))]
        rows += [{**row, **{name: row[name] + shift_s for name in times}} for row in found.rows]
        llms.update(dict.fromkeys(found.llms))
        left_out += found.left_out
    if len(llms) > 1:
        raise InputError(f"{files[0]}: requests go to {len(llms)} models ({', '.join(llms)}): must go to one (split them up)")
    meta = {
        "model": llm.name,
        "engine": GENERATORS[generator].title,
        "hardware": {"device_name": gpu.name},
        "engine_kwargs": {
            "max_num_seqs": engine.max_num_seqs,
            "max_num_batched_tokens": engine.max_num_batched_tokens,
            "tensor_parallel_size": tensor_parallel,
        },
        "sources": [{"file": path.name, "models": list(llms)} for path in files],
    }
    write_run(folder, rows, meta)
    return MeasuredRequests(rows, tuple(llms), left_out)
