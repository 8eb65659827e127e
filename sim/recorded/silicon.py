"""Simulated against a vendor's table of measured TTFT and TPOT: one closed loop per row, on step times from its kernel data.

The table is ``silicon_sample.csv`` of ``aiconfigurator-core`` (extra ``vendor``). It does not say how its means were taken.
What agrees with it is the usual benchmark: ``concurrency`` users start at once, each makes ten calls without thinking, and
all of them count, the first burst included. Lengths vary a little: users of equal lengths would stay in step for ever.

Kernel data knows neither the engine's host time per iteration nor how much slower prompts are in a full engine. These two
constants and the spread of lengths are calibrated on the rows of one tensor-parallel degree and scored on the others'.
"""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from scepsy.errors import InputError
from scepsy.llm import Llm
from scepsy.profile import catalogue
from scepsy.profile.fits import fit_step
from scepsy.profile.model import EngineLimits, Profile, kv_capacity_tokens
from scepsy.profile.step import StepModel
from scepsy.profile.vendor import VENDOR_SYSTEMS, engine_handle, vendor_samples
from scepsy.progress import Progress, no_progress
from scepsy.rng import stream
from sim.engine.clock import TICKS_PER_S, Kernel
from sim.engine.request import NO_KEYS, Request
from sim.recorded.replay import one_replica

MODEL = "Qwen/Qwen3-32B"
LLM = Llm(
    name="qwen3-32b", parameters=32.8e9, weight_bytes=65_600_000_000, kv_bytes_per_token=262_144, context_limit=40_960
)  # 64 layers of 8 KV heads of 128, bf16: the model's config.json
GPU = "H100-80G"
SYSTEM = VENDOR_SYSTEMS[GPU]

ENGINE = EngineLimits(max_num_seqs=1024, max_num_batched_tokens=8192, prefix_caching=False, memory_utilization=0.9)
"""vLLM 0.12's defaults for a server on a GPU of 70 GiB or more; prompts are random, so no prefix is found again."""

CALLS_PER_USER = 10
PREFILL_FACTORS = (1.15, 1.3, 1.45)
HOST_S = (0.001, 0.002, 0.003)
SPREADS = (0.03, 0.1)
"""What the constants are chosen from: factor on prompt work, host time per iteration, relative half-width of lengths."""
CALIBRATED_ON = (4,)
"""Tensor-parallel degrees whose rows the constants are chosen on; the others' are scored."""
AIM_TTFT_PCT, AIM_TPOT_PCT = 25.0, 8.0


Constants = tuple[float, float, float]


@dataclass(frozen=True)
class Row:
    """One measurement."""

    tensor_parallel: int
    concurrency: int
    input_tokens: int
    output_tokens: int
    ttft_s: float
    tpot_s: float


@dataclass(frozen=True)
class Kernels:
    """What kernel data says of one tensor-parallel degree."""

    handle: Any
    step: StepModel
    kv_blocks: int

    def loaded(self, prefill_factor: float, host_s: float) -> StepModel:
        """The step model with the two constants that kernels do not tell."""
        return msgspec.structs.replace(
            self.step,
            base_s=self.step.base_s + host_s,
            prefill_s_per_token=self.step.prefill_s_per_token * prefill_factor,
            attention_s_per_token2=self.step.attention_s_per_token2 * prefill_factor,
        )


def silicon_rows() -> tuple[list[Row], int]:
    """The table's rows of ``MODEL`` in bf16 under vLLM on ``SYSTEM``, and how many vLLM rows it has in all.

    The others are mixtures of experts over several GPUs or quantised models whose configuration the package does not bundle.
    Raises ``InputError`` when the package is not installed.
    """
    package = find_spec("aiconfigurator_core")
    if package is None or not package.submodule_search_locations:
        raise InputError("--silicon needs aiconfigurator-core: pip install 'scepsy[vendor]'")
    path = Path(package.submodule_search_locations[0]) / "systems" / "silicon_sample.csv"
    with path.open(encoding="utf-8", newline="") as file:
        vllm = [row for row in csv.DictReader(file) if row["backend"] == "vllm"]
    chosen = [
        row for row in vllm if (row["model_path"], row["system"], row["precision"], row["mode"]) == (MODEL, SYSTEM, "", "agg")
    ]
    rows = [
        Row(
            tensor_parallel=int(row["tp_size"]),
            concurrency=int(row["batch_size"]),
            input_tokens=int(row["isl"]),
            output_tokens=int(row["osl"]),
            ttft_s=float(row["silicon_ttft_ms"]) / 1e3,
            tpot_s=float(row["silicon_tpot_ms"]) / 1e3,
        )
        for row in chosen
    ]
    return rows, len(vllm)


def kernels(tensor_parallel: int) -> Kernels:
    """Step model and KV cache of one degree. Raises ``InputError`` when the vendor data does not hold it."""
    handle = engine_handle(MODEL, SYSTEM, tensor_parallel)
    step, _ = fit_step(vendor_samples(handle))
    profile = Profile(
        llm=LLM, gpu=catalogue.gpu_type(GPU), tensor_parallel=tensor_parallel, step=step, engine=ENGINE, source="vendor"
    )
    return Kernels(handle, step, kv_capacity_tokens(profile, 100) // ENGINE.block_tokens)


class _Users:
    """Each asks again as soon as it is answered."""

    id = "users"
    served_tokens = remaining_tokens = waited_ticks = served_ticks = 0

    def __init__(self, row: Row, step: StepModel, kv_blocks: int, calls: int, spread: float) -> None:
        self._env = Kernel()
        self._replica = one_replica(self._env, step, ENGINE, kv_blocks)
        rng = stream(0, "silicon", str(row))
        nominal = np.array([row.input_tokens, row.output_tokens])
        sizes = nominal * (1 + spread * rng.uniform(-1, 1, (row.concurrency, calls, 2)))
        self._sizes: list[Iterator[list[int]]] = [iter(np.maximum(1, np.rint(user)).astype(int).tolist()) for user in sizes]
        self.ended: list[Request] = []

    def run(self) -> list[Request]:
        """All calls, in order of their end."""
        for user in range(len(self._sizes)):
            self._ask(user)
        self._env.run()
        return self.ended

    def _ask(self, user: int) -> None:
        size = next(self._sizes[user], None)
        if size is not None:
            input_tokens, output_tokens = size
            self._replica.submit(Request(self, user, input_tokens, output_tokens, NO_KEYS, self._env.now))

    def call_ended(self, request: Request) -> None:
        """Keep the answer, ask again."""
        self.ended.append(request)
        self._ask(request.node)


def closed_loop(
    row: Row, step: StepModel, kv_blocks: int, *, calls: int = CALLS_PER_USER, spread: float
) -> tuple[float, float]:
    """Mean TTFT and mean TPOT (s) over all calls of a row's users, each making ``calls``."""
    ended = _Users(row, step, kv_blocks, calls, spread).run()
    ttft = [request.first_token - request.issued for request in ended]
    tpot = [(request.end - request.first_token) / (request.output_tokens - 1) for request in ended if request.output_tokens > 1]
    return float(np.mean(ttft)) / TICKS_PER_S, float(np.mean(tpot)) / TICKS_PER_S


def _simulated(rows: Sequence[Row], known: dict[int, Kernels], constants: Constants) -> dict[str, float]:
    """Mean absolute errors in percent."""
    pairs = []
    prefill_factor, host_s, spread = constants
    for row in rows:
        kernel = known[row.tensor_parallel]
        pairs.append(closed_loop(row, kernel.loaded(prefill_factor, host_s), kernel.kv_blocks, spread=spread))
    return _errors(rows, pairs)


def _kernels_alone(rows: Sequence[Row], known: dict[int, Kernels]) -> dict[str, float]:
    """The vendor's kernels without queueing: one prompt's prefill; a decode step of the full batch, half-way."""
    pairs = []
    for row in rows:
        handle, context = known[row.tensor_parallel].handle, row.input_tokens + row.output_tokens // 2
        step_ms = handle.predict_decode_latency(row.concurrency, context)
        pairs.append((handle.predict_prefill_latency(1, row.input_tokens) / 1e3, step_ms / 1e3))
    return _errors(rows, pairs)


def _errors(rows: Sequence[Row], pairs: Sequence[tuple[float, float]]) -> dict[str, float]:
    wanted = np.array([(row.ttft_s, row.tpot_s) for row in rows])
    ttft, tpot = 100 * np.abs(np.array(pairs) / wanted - 1).mean(axis=0)
    return {"ttft_mean_abs_err_pct": float(ttft), "tpot_mean_abs_err_pct": float(tpot)}


def validate_silicon(*, every: int = 1, progress: Progress = no_progress) -> dict[str, Any]:
    """The JSON document of ``scepsy profile validate --silicon``; ``every`` n-th row of each degree is used.

    Raises ``InputError`` when the package is missing or ``every`` leaves a side without rows.
    """
    table, vllm_rows = silicon_rows()
    degrees = sorted({row.tensor_parallel for row in table})
    rows = [row for degree in degrees for row in [one for one in table if one.tensor_parallel == degree][::every]]
    training = [row for row in rows if row.tensor_parallel in CALIBRATED_ON]
    scored = [row for row in rows if row.tensor_parallel not in CALIBRATED_ON]
    if every < 1 or not training or not scored:
        raise InputError(f"--every is {every}: leaves {len(training)} rows to calibrate on and {len(scored)} to score")
    known = {degree: kernels(degree) for degree in degrees}

    def loss(constants: Constants) -> float:
        found = _simulated(training, known, constants)
        progress(1)
        return found["ttft_mean_abs_err_pct"] / AIM_TTFT_PCT + found["tpot_mean_abs_err_pct"] / AIM_TPOT_PCT

    best = min(product(PREFILL_FACTORS, HOST_S, SPREADS), key=loss)
    return {
        "model": MODEL,
        "system": SYSTEM,
        "rows_used": len(rows),
        "vllm_rows": vllm_rows,
        "calibrated_on_tp": list(CALIBRATED_ON),
        "prefill_factor": best[0],
        "host_s_per_iteration": best[1],
        "length_spread": best[2],
        "scores": [
            {"step_times": "vendor kernels, no queueing", "rows": len(scored), **_kernels_alone(scored, known)},
            {
                "step_times": "simulated, kernel data alone",
                "rows": len(scored),
                **_simulated(scored, known, (1.0, 0.0, best[2])),
            },
            {"step_times": "simulated, calibrated: held-out rows", "rows": len(scored), **_simulated(scored, known, best)},
            {"step_times": "simulated, calibrated: its own rows", "rows": len(training), **_simulated(training, known, best)},
        ],
    }
