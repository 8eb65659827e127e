"""How good a roofline is: models that have step times from kernels or engines, each scaled from the nearest other
model instead.

The error of a family says what to expect of its models that have none. Decoding is compared over batches and contexts,
prefill over
prompt lengths; both at one whole GPU.
"""

from collections.abc import Sequence

import numpy as np

from scepsy.profile.roofline import Efficiencies, MeasuredModel, nearest, scale
from scepsy.profile.step import StepModel
from scepsy.profile.tensor_parallel import TensorParallelLaw
from scepsy.value import Value

BATCHES = (1, 4, 16, 64, 128)
CONTEXTS = (512, 2048, 4096)
PROMPTS = (256, 1024, 4096, 8192)


class Checked(Value, frozen=True, kw_only=True):
    """The error of one scaled step model against the model's own."""

    llm: str
    family: str
    gpu: str
    scaled_from: str
    decode_pct: float
    """Median relative error over batches and contexts."""
    decode_worst_pct: float
    prefill_pct: float
    prefill_worst_pct: float


def decode_s(step: StepModel) -> list[float]:
    """Seconds of decoding steps over the grid."""
    return [step.step_s(0, 0, batch, batch * context) for batch in BATCHES for context in CONTEXTS]


def prefill_s(step: StepModel) -> list[float]:
    """Seconds of prefills over the grid."""
    return [step.step_s(prompt, prompt * prompt / 2, 0, 0) for prompt in PROMPTS]


def _errors(found: Sequence[float], known: Sequence[float]) -> tuple[float, float]:
    errors = 100 * np.abs(np.array(found) / np.array(known) - 1)
    return float(np.median(errors)), float(errors.max())


def family_of(reference: MeasuredModel) -> str:
    """The family of a reference; the dense models of the first catalogue are plain decoders."""
    return reference.llm.family or "dense"


def check_references(
    references: Sequence[MeasuredModel], law: TensorParallelLaw, efficiencies: Efficiencies, gpu: str | None = None
) -> list[Checked]:
    """Every reference against what scaling from the nearest other LLM gives. ``gpu``: only those on one type."""
    rows = []
    for reference in references:
        if gpu is not None and reference.gpu.name != gpu:
            continue
        others = [other for other in references if other.llm.name != reference.llm.name]
        source = nearest(reference.llm, reference.gpu, others)
        step = scale(source, reference.llm, reference.gpu, law, efficiencies)
        own = scale(reference, reference.llm, reference.gpu, law, efficiencies)
        decode, prefill = (_errors(grid(step), grid(own)) for grid in (decode_s, prefill_s))
        rows.append(
            Checked(
                llm=reference.llm.name,
                family=family_of(reference),
                gpu=reference.gpu.name,
                scaled_from=f"{source.llm.name} on {source.gpu.name}",
                decode_pct=decode[0],
                decode_worst_pct=decode[1],
                prefill_pct=prefill[0],
                prefill_worst_pct=prefill[1],
            )
        )
    return rows


class FamilyError(Value, frozen=True, kw_only=True):
    """What scaling was off by on the models of one family."""

    family: str
    pairs: int
    """Models times GPU types."""
    decode_pct: float
    """Median over pairs of each pair's median."""
    decode_worst_pct: float
    prefill_pct: float
    prefill_worst_pct: float


def by_family(rows: Sequence[Checked]) -> list[FamilyError]:
    """The errors of each family, those of all rows last."""
    families = {row.family: [other for other in rows if other.family == row.family] for row in rows}
    return [_family(name, found) for name, found in sorted(families.items())] + [_family("all", list(rows))]


def _family(name: str, rows: Sequence[Checked]) -> FamilyError:
    return FamilyError(
        family=name,
        pairs=len(rows),
        decode_pct=float(np.median([row.decode_pct for row in rows])),
        decode_worst_pct=max(row.decode_worst_pct for row in rows),
        prefill_pct=float(np.median([row.prefill_pct for row in rows])),
        prefill_worst_pct=max(row.prefill_worst_pct for row in rows),
    )
