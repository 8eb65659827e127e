"""Step models from vendor kernel measurements: ``aiconfigurator-core`` (extra ``vendor``), offline, any bundled model.

It answers how long a prefill or a decode step takes; a grid of its answers is fitted to our step model, so that the rest of
Scepsy does not know where a profile comes from. It knows nothing of queueing: that is the simulator's part.
"""

import importlib.metadata
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from scepsy.cluster import GpuType
from scepsy.errors import InputError
from scepsy.llm import Llm
from scepsy.models.names import hf_name
from scepsy.profile.fits import Errors, StepSamples, fit_step
from scepsy.profile.model import EngineLimits, Profile

MODELS = {
    "llama-3.1-8b": "meta-llama/Meta-Llama-3.1-8B",
    "llama-3.1-70b": "meta-llama/Meta-Llama-3.1-70B",
    "qwen3-8b": "Qwen/Qwen3-8B",
    "qwen3-32b": "Qwen/Qwen3-32B",
}
"""Catalogue names to the names the vendor data bundles a configuration for."""

VENDOR_SYSTEMS = {
    "A100-80G": "a100_sxm",
    "H100-80G": "h100_sxm",
    "H100-PCIe": "h100_pcie",
    "H200-141G": "h200_sxm",
    "L4": "l4",
    "L40S": "l40s",
    "RTX-PRO-6000": "rtx_pro_6000_server",
    "B200": "b200_sxm",
    "B300": "b300_sxm",
    "GB200": "gb200",
}
"""Catalogue GPU types to the vendor data's names for them. What a GPU can do is in ``scepsy/data/gpus.yaml`` only."""

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
CONTEXTS = (128, 512, 1024, 2048, 4096)
PROMPTS = (64, 128, 256, 512, 1024, 2048, 4096, 8192)


@contextmanager
def _quiet() -> Iterator[None]:
    """The library prints notices about kernels we do not use, from native code: send its stderr away meanwhile."""
    sys.stderr.flush()
    saved = os.dup(2)
    with open(os.devnull, "wb") as sink:
        os.dup2(sink.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def engine_handle(model: str, system: str, tensor_parallel: int) -> Any:
    """The vendor model of one engine. Raises ``InputError`` when the extra is missing or the model is not bundled."""
    try:
        with _quiet():
            from aiconfigurator_core.sdk import EngineHandle
    except ImportError:
        raise InputError("vendor profiles need aiconfigurator-core: pip install 'scepsy[vendor]'") from None
    try:
        with _quiet():
            return EngineHandle.compile(model, system, "vllm", tp_size=tensor_parallel)
    except Exception as error:  # the library's own errors are of no common type
        raise InputError(
            f"vendor data has no {model} on {system} at TP {tensor_parallel} ({error}): name a model of its kind, "
            "e.g. --vendor-model meta-llama/Meta-Llama-3.1-8B"
        ) from error


def vendor_samples(handle: Any) -> StepSamples:
    """Query a grid of pure prefill and pure decode steps (the library answers in ms)."""
    rows: list[tuple[float, float, float, float, float]] = []
    for batch in BATCHES:
        for context in CONTEXTS:
            rows.append((0.0, 0.0, batch, batch * context, handle.predict_decode_latency(batch, context) / 1e3))
    for prompt in PROMPTS:
        rows.append((prompt, prompt * prompt / 2, 0.0, 0.0, handle.predict_prefill_latency(1, prompt) / 1e3))
    return StepSamples(*np.array(rows, dtype=float).T)


def vendor_profile(
    llm: Llm, gpu: GpuType, tensor_parallel: int, *, model: str | None = None, engine: EngineLimits | None = None
) -> tuple[Profile, Errors]:
    """The profile of ``llm`` from vendor data, with the error of the fit to our step model.

    ``model`` is the vendor's name where the catalogue name is not in ``MODELS``. Raises ``InputError`` for anything
    the data does not hold.
    """
    name, system = model or MODELS.get(llm.name) or hf_name(llm) or None, VENDOR_SYSTEMS.get(gpu.name)
    if name is None:
        raise InputError(
            f"LLM {llm.name!r} has no vendor name: name a model of its kind, e.g. --vendor-model meta-llama/Meta-Llama-3.1-8B"
        )
    if system is None:
        raise InputError(f"GPU type {gpu.name!r} has no vendor data: one of {', '.join(VENDOR_SYSTEMS)}")
    part = llm.experts.per_token / llm.experts.routed if llm.experts is not None else 0.0
    handle = engine_handle(name, system, tensor_parallel)
    try:
        samples = vendor_samples(handle)
    except Exception as error:  # the library's own errors are of no common type
        raise InputError(f"vendor data has no kernels of {name} on {system} at TP {tensor_parallel}: {error}") from error
    step, errors = fit_step(samples, part)
    version = importlib.metadata.version("aiconfigurator-core")
    profile = Profile(
        llm=llm,
        gpu=gpu,
        tensor_parallel=tensor_parallel,
        step=step,
        engine=engine or EngineLimits(),
        source=f"vendor: aiconfigurator-core {version}, {name} on {system}, vLLM",
        residual_pct=errors.median_pct,
    )
    return profile, errors
