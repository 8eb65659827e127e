"""Step models where no measurement exists: scaled from the nearest one that was measured, and marked as such.

From a reference (LLM r on GPU type q) to (LLM x on GPU type g), whole GPU, degree 1:

- base: the overhead per layer stays, the rest (weights that every iteration reads) scales with bytes and inversely
  with bandwidth;
- experts: the bytes of routed experts at the reference's seconds per byte (those of its own experts where it has some);
- prefill: scales with the weights that one token goes through and inversely with the peak rate at their precision;
  layers with a
  window, or that choose what they attend to, add a constant cost per token;
- per decoding sequence: the prefill cost of its one token scales, the host's part stays; full windows, chosen entries and
  constant states are read once per sequence;
- context: the KV bytes of the other layers over bandwidth at the efficiency in ``laws.yaml`` (a latent is read once,
  not per head);
- attention: 4 · layers without a bound · attention size FLOP per token pair (QKᵀ and AV, 2 each) over the peak rate at
  the efficiency in
  ``laws.yaml``.
"""

import math
from collections.abc import Sequence

from scepsy.cluster import GpuType
from scepsy.llm import Llm
from scepsy.profile.step import StepModel
from scepsy.profile.tensor_parallel import TensorParallelLaw
from scepsy.value import Value, require_finite


class MeasuredModel(Value, frozen=True, kw_only=True):
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


def nearest(llm: Llm, gpu: GpuType, references: Sequence[MeasuredModel]) -> MeasuredModel:
    """The reference to scale from: one of the same kind (dense, mixture of experts), then on the same GPU type, then
    of the same LLM, then in the same precision, then of the nearest size (log of the weights that one token goes through)."""

    def distance(reference: MeasuredModel) -> tuple[bool, bool, bool, bool, bool, float, float, str]:
        return (
            (reference.llm.experts is None) != (llm.experts is None),
            reference.gpu.name != gpu.name,
            reference.llm.name != llm.name,
            # A fit that sees no cost of reading experts tells nothing of another model's.
            reference.llm.experts is not None and reference.step.experts_s == 0.0,
            precision_class(reference.llm) != precision_class(llm),
            abs(math.log(reference.llm.active / llm.active)),
            abs(math.log(reference.gpu.bandwidth_bytes_per_s / gpu.bandwidth_bytes_per_s)),
            reference.llm.name,
        )

    return min(references, key=distance)


def precision_class(llm: Llm) -> str:
    """What kernels a model's weights need: 16 bits, fp8, fp4 or int."""
    precision = llm.precision.lower()
    for name, starts in (("fp8", ("fp8",)), ("fp4", ("nvfp4", "mxfp4")), ("int", ("int", "4 bits"))):
        if precision.startswith(starts):
            return name
    return "16 bits"


def compute_rate(llm: Llm, gpu: GpuType) -> float:
    """The peak rate at which ``gpu`` multiplies by the weights of ``llm``: in FP8 or FP4 where both have it, else in 16 bits.

    Weights in fewer bits whose activations stay in 16 (AWQ, GPTQ, "NVFP4 weights") are multiplied in 16 bits.
    """
    precision = llm.precision.lower()
    if "weights" in precision or precision.startswith("int"):
        return gpu.flops_per_s
    if precision.startswith("nvfp4"):
        return gpu.fp4_flops_per_s or gpu.flops_per_s
    if precision.startswith("fp8"):
        return gpu.fp8_flops_per_s or gpu.flops_per_s
    return gpu.flops_per_s


def weights_read(reference: MeasuredModel, overhead_s: float) -> tuple[float, float]:
    """(seconds per byte of weights that every iteration reads, seconds per byte of routed experts) of a reference."""
    always = (reference.step.base_s - overhead_s) / (reference.llm.weight_bytes - reference.llm.routed_bytes)
    if reference.step.experts_s and reference.llm.routed_bytes:
        return always, reference.step.experts_s / reference.llm.routed_bytes
    return always, always


def scale(reference: MeasuredModel, llm: Llm, gpu: GpuType, law: TensorParallelLaw, efficiencies: Efficiencies) -> StepModel:
    """The step model of ``llm`` on one whole ``gpu``. The reference's own LLM and GPU keep every measured coefficient."""
    step, bandwidth_ratio = reference.step, reference.gpu.bandwidth_bytes_per_s / gpu.bandwidth_bytes_per_s
    flops_ratio = compute_rate(reference.llm, reference.gpu) / compute_rate(llm, gpu)
    size_ratio = llm.active / reference.llm.active
    own = (llm.name, gpu.name) == (reference.llm.name, reference.gpu.name)
    if own and llm.experts is not None:
        return step
    overhead_s = min(law.overhead_s_per_layer * reference.llm.layers, step.base_s)
    always_s, routed_s = weights_read(reference, overhead_s)
    base_s = overhead_s * llm.layers / reference.llm.layers
    base_s += always_s * (llm.weight_bytes - llm.routed_bytes) * bandwidth_ratio
    prefill_s = step.prefill_s_per_token * size_ratio * flops_ratio
    host_s = max(step.decode_s_per_sequence - step.prefill_s_per_token, 0.0)
    decode_s = min(step.decode_s_per_sequence, step.prefill_s_per_token) * size_ratio * flops_ratio + host_s
    kv_rate = gpu.bandwidth_bytes_per_s * efficiencies.kv_efficiency
    attention_rate = gpu.flops_per_s * efficiencies.attention_efficiency
    context_s = llm.unbounded_kv_bytes / kv_rate
    attention_s = 4.0 * llm.quadratic_layers * llm.attention_size / attention_rate
    decode_s += llm.bounded_kv_bytes / kv_rate
    prefill_s += 4.0 * llm.bounded_attention_tokens * llm.attention_size / attention_rate
    generates = llm.kind == "generate"
    return StepModel(
        base_s=base_s,
        prefill_s_per_token=prefill_s,
        decode_s_per_sequence=decode_s if generates else 0.0,
        context_s_per_token=(step.context_s_per_token if own and step.context_s_per_token else context_s) if generates else 0.0,
        attention_s_per_token2=step.attention_s_per_token2 if own and step.attention_s_per_token2 else attention_s,
        experts_s=routed_s * llm.routed_bytes * bandwidth_ratio,
        expert_part=llm.experts.per_token / llm.experts.routed if llm.experts is not None else 0.0,
    )
