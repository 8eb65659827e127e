"""Step models where no measurement exists: scaled from the nearest one that was measured, and marked as such.

From a reference (LLM r on GPU type q) to (LLM x on GPU type g), whole GPU, degree 1:

- base: the overhead per layer stays, the rest (weights read) scales with weight bytes and inversely with bandwidth;
- prefill: scales with parameters and inversely with the peak rate;
- per decoding sequence: the prefill cost of its one token scales, the host's part stays;
- context: KV bytes over bandwidth at the efficiency in ``laws.yaml``;
- attention: 4 · layers · attention size FLOP per token pair (QKᵀ and AV, 2 each) over the peak rate at the efficiency in
  ``laws.yaml``.
"""

import math
from collections.abc import Sequence

from scepsy.cluster import GpuType
from scepsy.llm import Llm
from scepsy.profile.step import StepModel
from scepsy.profile.tensor_parallel import TensorParallelLaw
from scepsy.value import Value, require_finite


class Reference(Value, frozen=True, kw_only=True):
    """A step model that was measured, at one whole GPU."""

    llm: Llm
    gpu: GpuType
    step: StepModel
    residual_pct: float
    source: str


class Efficiencies(Value, frozen=True, kw_only=True):
    """How much of the peaks attention reaches."""

    kv_efficiency: float
    attention_efficiency: float

    def __post_init__(self) -> None:
        require_finite("kv_efficiency", self.kv_efficiency, exclusive=True)
        require_finite("attention_efficiency", self.attention_efficiency, exclusive=True)


def nearest(llm: Llm, gpu: GpuType, references: Sequence[Reference]) -> Reference:
    """The reference to scale from: the same GPU type first, then the same LLM, then the nearest size (log parameters)."""

    def distance(reference: Reference) -> tuple[bool, bool, float, float, str]:
        return (
            reference.gpu.name != gpu.name,
            reference.llm.name != llm.name,
            abs(math.log(reference.llm.parameters / llm.parameters)),
            abs(math.log(reference.gpu.bandwidth_bytes_per_s / gpu.bandwidth_bytes_per_s)),
            reference.llm.name,
        )

    return min(references, key=distance)


def scale(reference: Reference, llm: Llm, gpu: GpuType, law: TensorParallelLaw, efficiencies: Efficiencies) -> StepModel:
    """The step model of ``llm`` on one whole ``gpu``. The reference's own LLM and GPU keep every measured coefficient."""
    step, bandwidth_ratio = reference.step, reference.gpu.bandwidth_bytes_per_s / gpu.bandwidth_bytes_per_s
    flops_ratio = reference.gpu.flops_per_s / gpu.flops_per_s
    size_ratio = llm.parameters / reference.llm.parameters
    overhead_s = min(law.overhead_s_per_layer * reference.llm.layers, step.base_s)
    weights_s = (step.base_s - overhead_s) * (llm.weight_bytes / reference.llm.weight_bytes) * bandwidth_ratio
    base_s = overhead_s * llm.layers / reference.llm.layers + weights_s
    prefill_s = step.prefill_s_per_token * size_ratio * flops_ratio
    host_s = max(step.decode_s_per_sequence - step.prefill_s_per_token, 0.0)
    decode_s = min(step.decode_s_per_sequence, step.prefill_s_per_token) * size_ratio * flops_ratio + host_s
    own = (llm.name, gpu.name) == (reference.llm.name, reference.gpu.name)
    context_s = llm.kv_bytes_per_token / (gpu.bandwidth_bytes_per_s * efficiencies.kv_efficiency)
    attention_s = 4.0 * llm.layers * llm.attention_size / (gpu.flops_per_s * efficiencies.attention_efficiency)
    generates = llm.kind == "generate"
    return StepModel(
        base_s=base_s,
        prefill_s_per_token=prefill_s,
        decode_s_per_sequence=decode_s if generates else 0.0,
        context_s_per_token=(step.context_s_per_token if own and step.context_s_per_token else context_s) if generates else 0.0,
        attention_s_per_token2=step.attention_s_per_token2 if own and step.attention_s_per_token2 else attention_s,
    )
