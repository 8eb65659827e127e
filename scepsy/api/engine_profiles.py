"""Profiles from measurements: sweep every (LLM, degree, share), fit step models and the share law, keep the errors."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from executor.cpu_meter import NO_CALLS, NOTHING, EngineWork, Shape, shape_of
from executor.local.options import LocalOptions
from executor.profiler.instance import profile_instance
from executor.profiler.sweep import Sweep, latencies_s, read_rows
from scepsy.cluster import GpuType
from scepsy.errors import InputError
from scepsy.files.failure import decode_json, explain, fail, read_bytes
from scepsy.llm import Llm
from scepsy.profile.fits import ShareSample, StepSamples, fit_share_law, fit_step
from scepsy.profile.model import EngineLimits, Profile, ProfileSet
from scepsy.profile.share import ColdStartLaw, ContentionLaw, ShareLaw
from scepsy.profile.step import StepModel
from scepsy.progress import Notify, Progress, no_notice, no_progress
from scepsy.workload import Call, Trace
from sim.recorded.enginerun import EngineRun, load_engine_run
from sim.recorded.replay import replay
from sim.recorded.stepfit import fit_step_model
from sim.recorded.validate import errors as replay_errors

CORE_LAW = ShareLaw(
    prefill_k=1.07,
    prefill_small_k=1.07,
    decode_k=1.4,
    decode_large_k=1.4,
    source="a quota of a core's time stretches work by 1/s (k = 1) and makes it dearer: medians of experiments/results/"
    "core_shares.csv (python -m experiments.checks.core_shares), vLLM 0.32 on an AMD EPYC under KVM; k of prompts 1.07, of "
    "decoding 1.2 (9 ms iterations) and 1.7 (4 ms iterations), together 1.4",
)

CPU_ENGINE = EngineLimits(max_num_seqs=32, max_num_batched_tokens=2048, block_tokens=32, activation_bytes=128 * 2**20)
"""Settings for small models on a core: vLLM's defaults would let one prompt batch hold everything up for seconds."""


Floats = npt.NDArray[np.float64]

LEAST_PART = 1e-2
"""A search in logarithms cannot start at zero: at least this part of the mean time per token."""


def core_type() -> GpuType:
    """A CPU core of this machine in a GPU's place: an equal part of three quarters of the memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cores = os.cpu_count() or 1
    return GpuType(
        name="cpu-core",
        memory_bytes=min(4 * 2**30, int(0.75 * memory / cores) // 2**20 * 2**20),
        bandwidth_bytes_per_s=1e10,
        flops_per_s=5e10,
        source="one core of this machine; bandwidth and rate are nominal (assumed), only measured step times are used",
    )


@dataclass(frozen=True)
class Fitted:
    """One profile with what is wrong with it, on data that the fit has not seen."""

    llm: str
    tensor_parallel: int
    share_pct: int
    step: StepModel
    residual_pct: float
    held_out: Mapping[str, float | None]
    """Signed errors of a simulated replay of the held-out run: mean latency, p95, TPOT, TTFT, percent."""
    capacity_per_s: float
    """Highest rate that the instance kept up with."""
    work: EngineWork = NOTHING
    """What the engine did while it was measured, held-out run left out; nothing where it was not metered."""
    shape: Shape = NO_CALLS
    """Of the calls it served."""
    held_out_slowdown: float | None = None
    """CPU time per work in the held-out run, over that in the others: what the machine's speed adds to the held-out errors."""

    @property
    def cpu_s_per_step_s(self) -> float | None:
        """CPU seconds per second that the step model gives to the same work; None: not metered."""
        return self.work.cpu_s / self.work.step_s(self.step, self.shape) if self.work.cpu_s else None


def calls_of(trace: Trace) -> dict[str, list[Call]]:
    """All calls of each LLM."""
    found: dict[str, list[Call]] = {}
    for run in trace.runs:
        for call in run.calls:
            found.setdefault(call.llm, []).append(call)
    return found


class EngineKwargs(msgspec.Struct, frozen=True, kw_only=True):
    """Of an engine's settings, what a fit needs."""

    tensor_parallel_size: int


class RunMeta(msgspec.Struct, frozen=True, kw_only=True):
    """What ``meta.json`` of a swept instance says, as far as fits and profiles need it."""

    llm: Llm
    engine_kwargs: EngineKwargs
    share_pct: int
    engine: str = ""
    date: str = ""
    hardware: dict[str, str] = {}
    start_s: float = 0.0
    work: EngineWork = NOTHING


def meta_of(folder: Path) -> RunMeta:
    """Read it. Raises ``InputError`` naming file and field: a measurement that is resumed may have been damaged since."""
    path = folder / "meta.json"
    document = decode_json(path, read_bytes(path))
    try:
        return msgspec.convert(document, RunMeta)
    except msgspec.ValidationError as error:
        raise fail(path, f"{explain(error, document, RunMeta)[1]} (or remove {folder} to measure it again)") from error


def fit_folder(folder: Path) -> Fitted:
    """Fit the step model of one swept instance and score it on the held-out run. Raises ``InputError``."""
    meta = meta_of(folder)
    llm = meta.llm
    run = load_engine_run(folder)
    if llm.kind == "generate":
        fit = fit_step_model(run, len(run), first_tokens=True)
        step, residual = fit.step, fit.residual_pct
    else:
        step, residual = fit_pooling(run)
    held = load_engine_run(folder / "held-out")
    scored = replay_errors(held, replay(held, step), slice(0, len(held)))
    rates = sorted(path for path in folder.glob("rate-*") if read_rows(path))
    kept = [read_rows(path) or [] for path in rates]
    alone = latencies_s(read_rows(folder / "unloaded") or [])
    fast = [rows for rows in kept if latencies_s(rows).mean() < 4 * alone.mean()]
    capacity = max((len(r) / (r[-1]["last_token_ts"] - r[0]["arrival_time"]) for r in fast), default=0.0)
    shape = shape_of(run.input_tokens, run.output_tokens)
    measured = [*folder.glob("unloaded*"), *rates]
    work, held_work = sum(map(_work_of, measured), NOTHING), _work_of(folder / "held-out")
    slower = None
    if work.cpu_s and held_work.cpu_s:
        slower = held_work.cpu_s / held_work.step_s(step, shape) / (work.cpu_s / work.step_s(step, shape))
    return Fitted(
        llm=llm.name,
        tensor_parallel=meta.engine_kwargs.tensor_parallel_size,
        share_pct=meta.share_pct,
        step=step,
        residual_pct=residual,
        held_out={name: (float(value) if np.isfinite(value) else None) for name, value in scored.items()},
        capacity_per_s=capacity,
        work=work,
        shape=shape,
        held_out_slowdown=slower,
    )


def _work_of(run_folder: Path) -> EngineWork:
    """What the engine did in one run; nothing where it was not metered."""
    return meta_of(run_folder).work


def fit_pooling(run: EngineRun) -> tuple[StepModel, float]:
    """``base + prefill · tokens`` of an engine that generates nothing; with the median error of simulated latencies.

    First on the requests that had the engine to themselves, whose latency is one iteration. Then on all of them: the two
    coefficients whose simulated replay is closest (mean absolute logarithm of the ratio), since only busy times tell what
    a batch of several costs. Raises ``InputError`` when fewer than five requests were alone.
    """
    free_s = np.concatenate([[-np.inf], np.maximum.accumulate(run.last_token_s)[:-1]])
    overlapped = np.concatenate([run.arrival_s[1:] < run.last_token_s[:-1], [False]])
    alone = (run.arrival_s >= free_s) & ~overlapped
    if alone.sum() < 5:
        raise InputError(f"{run.name}: {alone.sum()} requests without company: must be at least 5 (lower the first rate)")
    tokens, zeros = run.input_tokens[alone].astype(float), np.zeros(int(alone.sum()))
    first, _ = fit_step(StepSamples(tokens, zeros, zeros, zeros, run.latency_s[alone]))

    def model(theta: Floats) -> StepModel:
        base, prefill = np.exp(theta)
        return StepModel(base_s=float(base), prefill_s_per_token=float(prefill))

    def loss(theta: Floats) -> float:
        simulated = replay(run, model(theta)).last_token_s - run.arrival_s
        return float(np.abs(np.log(simulated / run.latency_s)).mean())

    typical = float(run.latency_s[alone].mean() / run.input_tokens.mean())
    start = np.log([max(first.base_s, LEAST_PART * typical), max(first.prefill_s_per_token, LEAST_PART * typical)])
    found = minimize(loss, start, method="Nelder-Mead", options={"maxiter": 120, "xatol": 1e-3, "fatol": 1e-4})
    step = model(found.x)
    simulated = replay(run, step).last_token_s - run.arrival_s
    return step, float(100 * np.median(np.abs(simulated / run.latency_s - 1)))


def fit_shares(found: Sequence[Fitted], gpu: GpuType) -> ShareLaw | None:
    """Refit the share law from instances measured at several shares; None when there is no such pair.

    Ratios of whole steps at typical sizes, from the fitted step models of one LLM at share s and at 100 %. Not on cores, where
    the engines' CPU time was metered: their speed differs more between two sweeps than a law could be off (``CORE_LAW``).
    """
    whole = {(f.llm, f.tensor_parallel): f for f in found if f.share_pct == 100}
    samples = []
    for part in found:
        reference = whole.get((part.llm, part.tensor_parallel))
        if part.share_pct == 100 or reference is None or part.work.cpu_s:
            continue
        for phase, sizes in (("prefill", (64, 256, 512, 1024, 2048)), ("decode", (1, 8, 32, 128, 256))):
            for size in sizes:
                work = (size, 0, 0, 0) if phase == "prefill" else (0, 0, size, 256 * size)
                ratio = part.step.step_s(*work) / reference.step.step_s(*work)
                samples.append(ShareSample(part.llm, phase, size, part.share_pct, ratio))
    if not samples:
        return None
    pairs = sorted({f"{f.llm} at {f.share_pct} %" for f in found if f.share_pct < 100})
    law, _ = fit_share_law(samples, source=f"measured on {gpu.name}: {', '.join(pairs)} against 100 %")
    return law


def profile_trace(
    trace: Trace,
    llms: Mapping[str, Llm],
    gpu: GpuType,
    out: Path,
    *,
    local: LocalOptions,
    engine: EngineLimits,
    degrees: Sequence[int] = (1,),
    shares: Sequence[int] = (100,),
    options: Sweep | None = None,
    default_law: ShareLaw = CORE_LAW,
    uuids: Sequence[str] = (),
    notify: Notify = no_notice,
    progress: Progress = no_progress,
) -> tuple[ProfileSet, list[Fitted]]:
    """Measure and fit everything asked for; instances whose folders under ``out`` are complete are not measured again."""
    folders: list[Path] = []
    start_s: list[tuple[float, float]] = []
    for name, calls in calls_of(trace).items():
        for degree in degrees:
            for share in shares:
                folder = out / f"{name}-tp{degree}-share{share}"
                folder.mkdir(parents=True, exist_ok=True)
                profile_instance(
                    llms[name], calls, gpu, degree, share, engine, folder,
                    local=local, options=options or Sweep(), uuids=uuids, notify=notify,
                )  # fmt: skip
                folders.append(folder)
                start_s.append((llms[name].parameters / 1e9, meta_of(folder).start_s))
                progress()
    found = [fit_folder(folder) for folder in folders]
    law = fit_shares(found, gpu) or default_law
    profiles = [_profile(fitted, llms[fitted.llm], gpu, engine, out) for fitted in found if fitted.share_pct == max(shares)]
    cold = ColdStartLaw(base_s=float(np.median([seconds for _, seconds in start_s])), s_per_billion=0.0)
    return ProfileSet(
        profiles=tuple(profiles), share_law=law, contention=ContentionLaw(interference=0.0), cold_start=cold
    ), found


def _profile(fitted: Fitted, llm: Llm, gpu: GpuType, engine: EngineLimits, out: Path) -> Profile:
    if fitted.share_pct != 100:
        raise InputError(f"shares are up to {fitted.share_pct}: must include 100, which profiles describe")
    meta = meta_of(out / f"{fitted.llm}-tp{fitted.tensor_parallel}-share100")
    held = fitted.held_out.get("latency_mean_err_pct")
    source = f"measured: {meta.engine} on {meta.hardware.get('machine', '?')}, {meta.date}"
    if held is not None:
        source += f"; held-out mean latency {held:+.1f} %"
    if fitted.held_out_slowdown is not None:
        source += f" with the machine {fitted.held_out_slowdown:.2f}x slower then"
    return Profile(
        llm=llm,
        gpu=gpu,
        tensor_parallel=fitted.tensor_parallel,
        step=fitted.step,
        engine=engine,
        source=source,
        residual_pct=fitted.residual_pct,
        cpu_s_per_step_s=fitted.cpu_s_per_step_s,
    )


def document_of(found: Sequence[Fitted]) -> list[dict[str, Any]]:
    """Rows for ``scepsy profile run``."""
    return [
        {
            "llm": fitted.llm,
            "tensor_parallel": fitted.tensor_parallel,
            "share_pct": fitted.share_pct,
            "base_ms": fitted.step.base_s * 1e3,
            "prefill_us_per_token": fitted.step.prefill_s_per_token * 1e6,
            "decode_us_per_sequence": fitted.step.decode_s_per_sequence * 1e6,
            "context_us_per_token": fitted.step.context_s_per_token * 1e6,
            "capacity_per_s": fitted.capacity_per_s,
            "residual_pct": fitted.residual_pct,
            "cpu_s_per_step_s": fitted.cpu_s_per_step_s,
            "held_out_slowdown": fitted.held_out_slowdown,
            **{f"held_out_{name}": value for name, value in fitted.held_out.items()},
        }
        for fitted in found
    ]
