"""What tensor parallelism buys: every part of a step divides over the GPUs, except a serial rest.

At degree ``t``, with ``o = overhead_s_per_layer · layers`` for launches and all-reduces, which do not divide:

- ``base(t) = o + (base(1) − o) / t``
- ``prefill(t) = prefill(1) · (1/t + κ · (1 − 1/t))``, where κ is the serial part
- the cost per decoding sequence has the same form with a κ of its own
- the KV read divides over at most ``kv_heads`` GPUs

The numbers are data (``scepsy/data/laws.yaml``), fitted by ``profile.fits``.
"""

from scepsy.llm import Llm
from scepsy.profile.step import StepModel
from scepsy.value import Value, require_finite


class TensorParallelLaw(Value, frozen=True, kw_only=True):
    """Amdahl's law for each term of the step model."""

    overhead_s_per_layer: float
    prefill_serial: float
    """κ of prefill: the part that does not divide (all-reduces grow with the tokens)."""
    decode_serial: float
    source: str = ""

    def __post_init__(self) -> None:
        for field in ("overhead_s_per_layer", "prefill_serial", "decode_serial"):
            require_finite(field, getattr(self, field))


def at_degree(step: StepModel, llm: Llm, degree: int, law: TensorParallelLaw) -> StepModel:
    """The step model of a group of ``degree`` GPUs from that of one GPU. Seconds throughout; degree 1 changes nothing."""
    overhead_s = min(law.overhead_s_per_layer * llm.layers, step.base_s)

    def amdahl(seconds: float, serial: float) -> float:
        return seconds * (1.0 / degree + serial * (1.0 - 1.0 / degree))

    return StepModel(
        base_s=overhead_s + (step.base_s - overhead_s) / degree,
        prefill_s_per_token=amdahl(step.prefill_s_per_token, law.prefill_serial),
        decode_s_per_sequence=amdahl(step.decode_s_per_sequence, law.decode_serial),
        context_s_per_token=step.context_s_per_token / min(degree, llm.kv_heads),
        attention_s_per_token2=step.attention_s_per_token2 / degree,
        experts_s=step.experts_s / degree,
        expert_part=step.expert_part,
    )
