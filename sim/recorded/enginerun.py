"""A recorded run of a real vLLM engine: ``requests.jsonl`` and ``meta.json`` in one folder.

One line per request: ``input_toks, output_toks, queued_ts, scheduled_ts, first_token_ts, last_token_ts`` on the engine's
clock (s) and, when there is one, ``arrival_time`` on the client's. The engine looks at its queue between iterations, so
``queued_ts`` lags the arrival by up to an iteration; the client's clock, shifted to the smallest lag seen, says when a
request really came.
"""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from scepsy.errors import InputError
from scepsy.llm import Llm
from scepsy.profile import catalogue
from scepsy.profile.model import EngineLimits, Profile, kv_capacity_tokens
from scepsy.profile.step import StepModel

Array = npt.NDArray[np.float64]

ACTIVATION_BYTES = 1 << 30
ACTIVATION_BYTES_PER_TOKEN = 100 << 10
"""What an engine keeps beside weights and KV cache, where its KV capacity was not recorded: from one 8B model on an RTX
4090, whose capacity was (41,408 tokens with batches of 2,048; 41,030 by this rule)."""

UTILIZATION_BEFORE = (0, 20), 0.9
"""vLLM 0.19.0 took 0.9 of a GPU's memory unless told otherwise, 0.28.0 takes 0.92 (both seen in recorded settings). In which
version between it changed is not known: the next after 0.19 is assumed."""

NO_LIMIT = 1 << 32
"""KV blocks of an engine whose capacity is not known."""

ASYNC_SINCE = (0, 14)
"""The first vLLM version that schedules asynchronously unless told otherwise (on GPUs; its CPU platform never does)."""

_QUANTISED = re.compile(r"fp8|fp4|awq|gptq|int[48]|w[48]a|gguf|bnb|quant")
"""In the names under which quantised weights are published."""

LONGEST = 1e15
"""Seconds and tokens beyond this are no recorded ones (and integers beyond 2^63 have no place in an array)."""

_TIMES = ("queued_ts", "scheduled_ts", "first_token_ts", "last_token_ts")


@dataclass(frozen=True)
class EngineRun:
    """Times in seconds since the first arrival, in order of arrival."""

    name: str
    arrival_s: Array
    first_token_s: Array
    last_token_s: Array
    input_tokens: npt.NDArray[np.int64]
    output_tokens: npt.NDArray[np.int64]
    engine: EngineLimits
    kv_blocks: int
    model: str
    gpu: str | None
    """Catalogue name of the GPU type, where the folder tells."""
    tensor_parallel: int
    notes: tuple[str, ...]
    plain_weights: bool = True
    """Whether the weights are as the model was published: not quantised, as far as the folder tells."""
    kv_recorded: bool = True
    """Whether ``kv_blocks`` was recorded, not derived or unknown."""
    data_parallel: int = 1
    """Ranks taken together: ``engine`` and ``kv_blocks`` are those of all."""

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def latency_s(self) -> Array:
        """Arrival to last token."""
        return self.last_token_s - self.arrival_s

    @property
    def ttft_s(self) -> Array:
        """Arrival to first token."""
        return self.first_token_s - self.arrival_s

    @property
    def decode_s(self) -> Array:
        """First token to last."""
        return self.last_token_s - self.first_token_s


def load_engine_run(folder: str | Path) -> EngineRun:
    """Read one folder. Raises ``InputError`` naming file, line and field."""
    folder = Path(folder)
    notes: list[str] = []
    rows = _requests(folder / "requests.jsonl", notes)
    meta = _meta(folder / "meta.json")
    queued, scheduled, first, last = (np.array([row[name] for row in rows]) for name in _TIMES)
    arrival = queued
    if all(isinstance(row.get("arrival_time"), int | float) for row in rows):
        client = np.array([float(row["arrival_time"]) for row in rows])
        arrival = client + float((queued - client).min())
    else:
        notes.append("no arrival_time: requests are taken to arrive when the engine queued them")
    if (scheduled < queued - 1e-6).any() or (first < scheduled - 1e-6).any() or (last < first - 1e-6).any():
        raise InputError(
            f"{folder / 'requests.jsonl'}: times of some request go backwards: must be queued <= scheduled <= first <= last"
        )
    order = np.argsort(arrival, kind="stable")
    start = float(arrival[order[0]])
    model, gpu = str(meta.get("model") or "unknown"), _gpu(meta, folder.resolve().name)
    try:
        degree, ranks = (int(_number(meta, f"{kind}_parallel_size", 1)) for kind in ("tensor", "data"))
        engine = _engine(meta, gpu, ranks)
        kv_blocks, kv_recorded = _kv_blocks(meta, engine, model, gpu, (degree, ranks), notes)
    except InputError as error:
        raise InputError(f"{folder / 'meta.json'}: {error}") from error
    if ranks > 1:
        notes.append(f"{ranks} data-parallel ranks taken together, as one engine with the limits of all")
    return EngineRun(
        name=folder.resolve().name,
        arrival_s=arrival[order] - start,
        first_token_s=first[order] - start,
        last_token_s=last[order] - start,
        input_tokens=np.array([row["input_toks"] for row in rows], dtype=np.int64)[order],
        output_tokens=np.array([row["output_toks"] for row in rows], dtype=np.int64)[order],
        engine=engine,
        kv_blocks=kv_blocks,
        kv_recorded=kv_recorded,
        model=model,
        gpu=gpu,
        tensor_parallel=degree,
        data_parallel=ranks,
        notes=tuple(notes),
        plain_weights=not (_kwarg(meta, "quantization", None) or _QUANTISED.search(model.lower())),
    )


def _requests(path: Path, notes: list[str]) -> list[dict[str, Any]]:
    rows, dropped = [], 0
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}: a run folder needs requests.jsonl and meta.json") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 (byte {error.object[error.start]:#04x}): must be UTF-8 text") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            values = [row[name] for name in (*_TIMES, "input_toks", "output_toks")]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(f"{path} line {number}: {error!r}: must be a request with its lengths and engine times") from error
        if any(value is None for value in values) or not row["output_toks"] or not row["input_toks"]:
            dropped += 1  # failed or aborted: it has no end to compare with
            continue
        if not all(isinstance(value, int | float) and 0 <= value < LONGEST for value in values):
            raise InputError(f"{path} line {number}: {dict(zip(_TIMES, values, strict=False))}: must be finite numbers >= 0")
        rows.append(row)
    if len(rows) < 10:
        raise InputError(f"{path}: {len(rows)} finished requests: must be at least 10 to compare anything")
    if dropped:
        notes.append(f"{dropped} requests without an end left out")
    return rows


def _meta(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}: a run folder needs requests.jsonl and meta.json") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error})") from error
    if not isinstance(document, dict):
        raise InputError(f"{path}: is a {type(document).__name__}: must be an object")
    return document


def _section(meta: dict[str, Any], *names: str) -> dict[str, Any]:
    found: Any = meta
    for name in names:
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


_SECTIONS = (
    ("kv_cache",),
    ("resolved_config", "cache_config"),
    ("resolved_config", "scheduler_config"),
    ("resolved_config", "parallel_config"),
    ("engine_kwargs",),
)
"""Where settings stand, what the engine resolved before what it was asked for."""


def _kwarg(meta: dict[str, Any], name: str, default: Any) -> Any:
    for names in _SECTIONS:
        section = _section(meta, *names)
        if section.get(name) is not None:
            return section[name]
    return default


def _number(meta: dict[str, Any], name: str, default: float, low: float = 1, high: float = math.inf) -> float:
    """One setting. Raises ``InputError`` for one that is no number in range."""
    value = _kwarg(meta, name, default)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not low <= number <= high or not math.isfinite(number):
        upper = "" if high == math.inf else f" and <= {high:g}"
        raise InputError(f"{name} is {value!r}: must be a number >= {low:g}{upper}")
    return number


def _engine(meta: dict[str, Any], gpu: str | None, ranks: int) -> EngineLimits:
    """Its settings. Ranks of a mixture of experts run in step, since all compute every layer's experts together, and those of
    a dense model evenly loaded take as long: so they are one engine that may take ``ranks`` times as much."""
    default = EngineLimits()
    seqs = int(_number(meta, "max_num_seqs", default.max_num_seqs))
    tokens = max(seqs, int(_number(meta, "max_num_batched_tokens", default.max_num_batched_tokens)))
    return EngineLimits(
        max_num_seqs=ranks * seqs,
        max_num_batched_tokens=ranks * tokens,
        activation_bytes=ACTIVATION_BYTES + ACTIVATION_BYTES_PER_TOKEN * tokens,
        block_tokens=int(_number(meta, "block_size", default.block_tokens)),
        async_scheduling=_async_scheduling(meta, gpu),
        prefix_caching=bool(_kwarg(meta, "enable_prefix_caching", True)),
        memory_utilization=_number(meta, "gpu_memory_utilization", _utilization(meta), low=0.01, high=1.0),
    )


def _async_scheduling(meta: dict[str, Any], gpu: str | None) -> bool:
    """What the folder says, else the default of its vLLM version; an engine that is not known to run on a GPU does without."""
    said = _kwarg(meta, "async_scheduling", None)
    if said is not None:
        return bool(said)
    return gpu is not None and _version(meta) >= ASYNC_SINCE


def _utilization(meta: dict[str, Any]) -> float:
    """The default of its vLLM version."""
    until, before = UTILIZATION_BEFORE
    return before if () < _version(meta) < until else EngineLimits().memory_utilization


def _version(meta: dict[str, Any]) -> tuple[int, ...]:
    """Major and minor version of vLLM; empty where the folder does not say."""
    return tuple(int(part) for part in re.findall(r"\d+", str(meta.get("vllm_version") or ""))[:2])


def _kv_blocks(
    meta: dict[str, Any], engine: EngineLimits, model: str, gpu: str | None, ways: tuple[int, int], notes: list[str]
) -> tuple[int, bool]:
    """Blocks for requests, and whether they were recorded; ``ways``: tensor- and data-parallel. One block of every rank is its
    null block. vLLM reports the sum over its ranks (``v1/engine/core_client.py``)."""
    degree, ranks = ways
    for name, tokens_each in (("num_gpu_blocks", engine.block_tokens), ("num_kv_tokens", 1)):
        if _kwarg(meta, name, None):
            recorded = int(_number(meta, name, 0, low=(ranks + 1) * engine.block_tokens // tokens_each))
            return recorded * tokens_each // engine.block_tokens - ranks, True
    llm = catalogue_llm(model)
    if llm is not None and gpu is not None and llm.supports_tensor_parallel(degree):
        some = StepModel(base_s=0.0, prefill_s_per_token=1.0)
        kind = catalogue.gpu_type(gpu)
        tokens = kv_capacity_tokens(
            Profile(llm=llm, gpu=kind, tensor_parallel=degree, step=some, engine=engine, source="limits only"), 100
        )
        if tokens > engine.block_tokens:
            notes.append(f"KV capacity not recorded: {ranks * tokens} tokens derived from a {gpu}'s memory")
            return ranks * tokens // engine.block_tokens, False
    notes.append("KV capacity neither recorded nor derivable: no limit unless fitted")
    return NO_LIMIT, False


def catalogue_step(run: EngineRun) -> StepModel | None:
    """The step model that the catalogue has for the run's LLM, GPU type and degree, or none (also for quantised weights)."""
    llm = catalogue_llm(run.model)
    if (
        llm is None
        or run.gpu is None
        or not run.plain_weights
        or run.data_parallel > 1
        or not llm.supports_tensor_parallel(run.tensor_parallel)
    ):
        return None
    return catalogue.built_in_profile(llm, catalogue.gpu_type(run.gpu), run.tensor_parallel).step


def catalogue_llm(model: str) -> Llm | None:
    """The catalogue's model for a served name such as ``meta-llama/Llama-3.1-8B``."""
    wanted = _plain(model.rpartition("/")[2])
    for name in catalogue.llms():
        llm = catalogue.llm(name)
        if wanted in (_plain(name), _plain(llm.source.rpartition("/")[2])) or wanted.startswith(_plain(name)):
            return llm
    return None


def _gpu(meta: dict[str, Any], folder: str) -> str | None:
    device = str(_section(meta, "hardware").get("device_name") or meta.get("device_name") or "")
    names = list(catalogue.gpu_types())
    for text in (device, folder):
        for name in sorted(names, key=len, reverse=True):
            if _plain(name) in _plain(text):
                return name
        for name in names:
            if _plain(name.split("-")[0]) in _plain(text) and len(name.split("-")[0]) > 3:
                return name
    return None


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())
