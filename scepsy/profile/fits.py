"""Fits: step models and laws from measurements, with the error they leave, on the data itself and held out.

All fits are non-negative least squares on relative errors (a millisecond matters more in a step of five than in one of fifty).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scepsy.profile.share import ShareLaw
from scepsy.profile.step import StepModel
from scepsy.profile.tensor_parallel import TensorParallelLaw

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Errors:
    """Relative errors of a fit, percent."""

    median_pct: float
    p95_pct: float
    points: int


@dataclass(frozen=True)
class StepSamples:
    """Measured steps, one entry each: what was in the batch and how long it took."""

    prefill_tokens: Array
    attention_token2: Array
    sequences: Array
    context_tokens: Array
    seconds: Array


def _relative_nnls(design: Array, seconds: Array) -> Array:
    from scipy.optimize import nnls  # slow to import, and only fits need it

    weights = 1.0 / seconds
    coefficients: Array = nnls(design * weights[:, None], np.ones_like(seconds))[0]
    return coefficients


def _errors(predicted: Array, measured: Array) -> Errors:
    relative = 100.0 * np.abs(predicted - measured) / measured
    return Errors(float(np.median(relative)), float(np.percentile(relative, 95)), len(relative))


def fit_step(samples: StepSamples, expert_part: float = 0.0) -> tuple[StepModel, Errors]:
    """Fit the coefficients of ``StepModel``; ``expert_part`` (k/E of a mixture of experts) adds that of reading
    experts. Raises ``ValueError`` for fewer than five samples or a time <= 0."""
    if len(samples.seconds) < 5:
        raise ValueError(f"{len(samples.seconds)} samples: a step model needs at least 5")
    if not np.all(samples.seconds > 0):
        raise ValueError("step seconds must be > 0")
    ones = np.ones_like(samples.seconds)
    columns = [ones, samples.prefill_tokens, samples.sequences, samples.context_tokens, samples.attention_token2]
    if expert_part:
        columns.append(1.0 - (1.0 - expert_part) ** (samples.prefill_tokens + samples.sequences))
    design = np.column_stack(columns)
    scale = np.maximum(design.max(axis=0), 1e-12)
    found = _relative_nnls(design / scale, samples.seconds) / scale
    base, prefill, decode, context, attention = found[:5]
    step = StepModel(
        base_s=float(base),
        prefill_s_per_token=float(prefill),
        decode_s_per_sequence=float(decode),
        context_s_per_token=float(context),
        attention_s_per_token2=float(attention),
        experts_s=float(found[5]) if expert_part else 0.0,
        expert_part=expert_part,
    )
    return step, _errors(design @ found, samples.seconds)


@dataclass(frozen=True)
class ShareSample:
    """One ratio: how much longer a phase takes at ``share_pct`` than at the whole GPU."""

    model: str
    phase: str
    """prefill or decode"""
    size: int
    """Prefill: batch · prompt tokens. Decode: sequences."""
    share_pct: int
    ratio: float


def muxserve_samples(
    grid: Mapping[str, Mapping[str, Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]]],
) -> list[ShareSample]:
    """Read MuxServe's grid ``[model][TP]['SM %'][batch][sequence length] -> {prefill, decoding}`` (ms; −1: out of memory).

    TP 1 only, since the law is one GPU's; measurements without a whole-GPU partner are left out.
    """
    samples = []
    for model, by_degree in grid.items():
        whole = by_degree["1"]["100"]
        for share, by_batch in by_degree["1"].items():
            if share == "100":
                continue
            for batch, by_length in by_batch.items():
                for length, cell in by_length.items():
                    reference = whole.get(batch, {}).get(length)
                    if reference is None:
                        continue
                    sizes = (("prefill", "prefill", int(batch) * int(length)), ("decode", "decoding", int(batch)))
                    for phase, column, size in sizes:
                        if cell[column] > 0 and reference[column] > 0:
                            samples.append(ShareSample(model, phase, size, int(share), cell[column] / reference[column]))
    return samples


REGIMES = ("prefill_k", "prefill_small_k", "decode_k", "decode_large_k")


def regime(sample: ShareSample) -> str | None:
    """Which k of ``ShareLaw`` a sample tells about; None for decode batches between the two regimes."""
    if sample.phase == "prefill":
        return "prefill_k" if sample.size >= 512 else "prefill_small_k"
    if sample.size <= 64:
        return "decode_k"
    return "decode_large_k" if sample.size >= 128 else None


def fit_share_law(samples: Sequence[ShareSample], source: str = "") -> tuple[ShareLaw, dict[str, Errors]]:
    """Fit ``ratio = 1 + k·(1/s − 1)`` per regime; relative least squares, closed form. Errors are on the data itself."""
    ks: dict[str, float] = {}
    errors: dict[str, Errors] = {}
    for name in REGIMES:
        mine = [sample for sample in samples if regime(sample) == name]
        if not mine:
            raise ValueError(f"no samples for {name}: the grid must cover prefill and decode, small and large")
        x, ratio = _law_columns(mine)
        weights = 1.0 / ratio
        ks[name] = max(0.0, float(np.sum((x * weights) * (1 - weights)) / np.sum((x * weights) ** 2)))
        errors[name] = _errors(1 + ks[name] * x, ratio)
    law = ShareLaw(
        prefill_k=ks["prefill_k"],
        prefill_small_k=ks["prefill_small_k"],
        decode_k=ks["decode_k"],
        decode_large_k=ks["decode_large_k"],
        source=source,
    )
    return law, errors


def _law_columns(samples: Sequence[ShareSample]) -> tuple[Array, Array]:
    x = np.array([100.0 / sample.share_pct - 1.0 for sample in samples])
    return x, np.array([sample.ratio for sample in samples])


def held_out_share_errors(samples: Sequence[ShareSample]) -> dict[str, Errors]:
    """Errors per regime when each model's samples are predicted by a law fitted on the other models."""
    predicted: dict[str, list[float]] = {name: [] for name in REGIMES}
    measured: dict[str, list[float]] = {name: [] for name in REGIMES}
    for model in sorted({sample.model for sample in samples}):
        law, _ = fit_share_law([sample for sample in samples if sample.model != model])
        for sample in samples:
            name = regime(sample)
            if sample.model == model and name is not None:
                predicted[name].append(1 + getattr(law, name) * (100.0 / sample.share_pct - 1.0))
                measured[name].append(sample.ratio)
    return {name: _errors(np.array(predicted[name]), np.array(measured[name])) for name in REGIMES}


def aegaeon_samples(table: Mapping[str, Sequence[float]], chunk_tokens: int = 4096) -> StepSamples:
    """Read one model of the Aegaeon artifact: ``"prompt tokens,batch" -> [prefill_s, decode_s]``.

    Rows whose batch holds ``chunk_tokens`` prompt tokens or more are left out: there the recorded prefill is one chunk
    only, and the recorded decode step carries the rest of the prefill.
    """
    rows: list[tuple[float, float, float, float, float]] = []
    for key, (prefill_s, decode_s) in table.items():
        length, batch = (int(part) for part in key.split(","))
        if length * batch < chunk_tokens:
            rows.append((length * batch, batch * length * length / 2, 0.0, 0.0, prefill_s))
            rows.append((0.0, 0.0, batch, 0.0, decode_s))
    return StepSamples(*np.array(sorted(rows)).T)


@dataclass(frozen=True)
class DegreeSample:
    """A step model of one LLM at one degree, for the fit of the tensor-parallel law."""

    llm: str
    layers: int
    degree: int
    step: StepModel


def fit_tensor_parallel_law(samples: Sequence[DegreeSample], source: str = "") -> tuple[TensorParallelLaw, Errors]:
    """Fit overhead per layer and the two serial parts; errors are over base, prefill and decode coefficients together.

    Each is linear given the degree-1 step: ``base(t) − base(1)/t = overhead · layers · (1 − 1/t)`` and
    ``x(t)/x(1) − 1/t = κ · (1 − 1/t)``.
    """
    whole = {sample.llm: sample.step for sample in samples if sample.degree == 1}
    split = [sample for sample in samples if sample.degree > 1 and sample.llm in whole]
    if not split:
        raise ValueError("the law needs one LLM at degree 1 and at a higher degree")
    rest = np.array([1.0 - 1.0 / sample.degree for sample in split])
    inverse = 1.0 - rest
    base1 = np.array([whole[sample.llm].base_s for sample in split])
    base = np.array([sample.step.base_s for sample in split])
    layers = np.array([sample.layers for sample in split], dtype=float)
    overhead = float(_relative_nnls((layers * rest)[:, None], np.maximum(base - base1 * inverse, 1e-9))[0])
    serial, predicted, measured = {}, [overhead * layers * rest + base1 * inverse], [base]
    for field in ("prefill_s_per_token", "decode_s_per_sequence"):
        ratio = np.array([getattr(s.step, field) / getattr(whole[s.llm], field) for s in split])
        weights = 1.0 / ratio
        kappa = float(np.sum((rest * weights) * ((ratio - inverse) * weights)) / np.sum((rest * weights) ** 2))
        serial[field] = min(max(kappa, 0.0), 1.0)
        predicted.append(inverse + serial[field] * rest)
        measured.append(ratio)
    law = TensorParallelLaw(
        overhead_s_per_layer=overhead,
        prefill_serial=serial["prefill_s_per_token"],
        decode_serial=serial["decode_s_per_sequence"],
        source=source,
    )
    return law, _errors(np.concatenate(predicted), np.concatenate(measured))
