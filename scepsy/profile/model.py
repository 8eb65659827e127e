"""Profiles: a step model with the engine's limits and the memory it may use; a set of them is one file."""

from scepsy.cluster import GpuType
from scepsy.llm import Llm
from scepsy.profile.share import ColdStartLaw, ContentionLaw, ShareLaw
from scepsy.profile.step import StepModel
from scepsy.value import Value, require, require_finite


class EngineLimits(Value, frozen=True, kw_only=True):
    """The scheduler settings of one instance; defaults are vLLM v1's (0.32) for an online server."""

    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    block_tokens: int = 16
    """Tokens per KV block."""
    prefix_caching: bool = True
    async_scheduling: bool = False
    """An iteration is scheduled while its predecessor runs (vLLM's default on GPUs since 0.14, not on CPUs or for pooling)."""
    max_num_queued: int | None = None
    """Waiting calls beyond which a new one is rejected (503); None: never."""
    activation_bytes: int = 2 * 1024**3
    """Memory per GPU kept for activations and CUDA graphs, not for KV blocks (assumed)."""
    memory_utilization: float = 0.92
    """Part of a GPU's memory engines may use together (vLLM's default)."""

    def __post_init__(self) -> None:
        require(self.max_num_seqs >= 1, "max_num_seqs", self.max_num_seqs, ">= 1")
        require(self.max_num_batched_tokens >= 1, "max_num_batched_tokens", self.max_num_batched_tokens, ">= 1")
        require(self.block_tokens >= 1, "block_tokens", self.block_tokens, ">= 1")
        if self.max_num_queued is not None:
            require(self.max_num_queued >= 0, "max_num_queued", self.max_num_queued, ">= 0")
        require(self.activation_bytes >= 0, "activation_bytes", self.activation_bytes, ">= 0")
        require(0 < self.memory_utilization <= 1, "memory_utilization", self.memory_utilization, "in (0, 1]")


class Profile(Value, frozen=True, kw_only=True):
    """One LLM on one GPU type at one tensor-parallel degree."""

    llm: Llm
    gpu: GpuType
    tensor_parallel: int
    step: StepModel
    engine: EngineLimits = EngineLimits()
    source: str
    """measured: …, fitted: …, vendor: …, scaled: … (a roofline, no measurement), simulated: …"""
    residual_pct: float | None = None
    """Median relative error of the fit on its own data, where there was any."""
    cpu_s_per_step_s: float | None = None
    """On cores: CPU seconds that the engine took per second that ``step`` gives to the same work, while it was profiled. More
    of them later mean a slower machine. None: nothing was metered (GPUs, vendor data)."""

    def __post_init__(self) -> None:
        require(self.tensor_parallel >= 1, "tensor_parallel", self.tensor_parallel, ">= 1")
        require(
            self.llm.supports_tensor_parallel(self.tensor_parallel),
            "tensor_parallel",
            self.tensor_parallel,
            f"a divisor of {self.llm.name}'s {self.llm.attention_heads} attention heads",
        )
        if self.residual_pct is not None:
            require_finite("residual_pct", self.residual_pct)
        if self.cpu_s_per_step_s is not None:
            require_finite("cpu_s_per_step_s", self.cpu_s_per_step_s, exclusive=True)

    @property
    def decode_bandwidth_demand(self) -> float:
        """Part of each GPU's peak bandwidth drawn while decoding at a whole GPU (``profile.share``, contention)."""
        if self.llm.kind != "generate" or self.step.base_s == 0.0:
            return 0.0
        read_s = self.step.base_s + self.step.experts_s
        return self.llm.weight_bytes / (self.tensor_parallel * read_s * self.gpu.bandwidth_bytes_per_s)


def instance_memory_bytes(profile: Profile, share_pct: int) -> int:
    """Memory per GPU that an instance at ``share_pct`` may use: its share of what engines may use together."""
    return int(profile.gpu.memory_bytes * profile.engine.memory_utilization * share_pct / 100)


def kv_capacity_tokens(profile: Profile, share_pct: int) -> int:
    """Context tokens that fit an instance's KV cache, in whole blocks; negative when not even the weights fit.

    ``(memory(share) − weights/t − activations·share) / KV bytes per token and GPU``. A pooling model (no KV) gets
    its activation-bound limit: ``max_num_seqs`` prompts of full context, if its weights fit.
    """
    llm, engine = profile.llm, profile.engine
    weights = llm.weight_bytes / profile.tensor_parallel
    activations = engine.activation_bytes * share_pct / 100
    free = instance_memory_bytes(profile, share_pct) - weights - activations
    if llm.kv_bytes_per_token == 0:
        return engine.max_num_seqs * llm.context_limit if free >= 0 else -1
    tokens = free / llm.kv_bytes_per_token_per_gpu(profile.tensor_parallel)
    return int(tokens // engine.block_tokens) * engine.block_tokens if tokens >= 0 else -1


def smallest_degree(llm: Llm, gpu: GpuType, engine: EngineLimits | None = None, most: int = 64) -> int | None:
    """The fewest GPUs of one type whose memory holds the weights, activations and one block of KV cache; None: not "
    "even ``most``.

    Degrees are powers of two that the attention heads divide by, as tensor parallelism takes them.
    """
    limits = engine or EngineLimits()
    degree = 1
    while degree <= most:
        free = gpu.memory_bytes * limits.memory_utilization - limits.activation_bytes - llm.weight_bytes / degree
        block = llm.kv_bytes_per_token_per_gpu(degree) * limits.block_tokens
        if llm.supports_tensor_parallel(degree) and free >= block:
            return degree
        degree *= 2
    return None


class ProfileSet(Value, frozen=True, kw_only=True):
    """Everything planning and simulation need to know about engines: one profiles file."""

    profiles: tuple[Profile, ...]
    share_law: ShareLaw
    contention: ContentionLaw
    cold_start: ColdStartLaw

    def __post_init__(self) -> None:
        keys = [(p.llm.name, p.gpu.name, p.tensor_parallel) for p in self.profiles]
        for key in keys:
            require(keys.count(key) == 1, "profiles", key, "distinct (llm, GPU type, tensor_parallel)")
        self._check_other_names()

    def _check_other_names(self) -> None:
        """Every other name stands for one LLM, which every profile of it says, and is no LLM's own."""
        llms = {p.llm.name: p.llm for p in self.profiles if p.llm.also}
        if not llms:
            return
        own = {p.llm.name for p in self.profiles}
        for profile in self.profiles:
            also = llms[profile.llm.name].also if profile.llm.name in llms else ()
            require(profile.llm.also == also, f"also of {profile.llm.name}", profile.llm.also, "the same in all its profiles")
        names = [name for llm in llms.values() for name in llm.also]
        for name in names:
            require(name not in own and names.count(name) == 1, "also", name, "a name of one LLM only")

    @property
    def other_names(self) -> dict[str, str]:
        """LLM by every other name that the traffic asks for it by; empty where each has one name."""
        return {name: profile.llm.name for profile in self.profiles for name in profile.llm.also}

    def of(self, llm: str, gpu_type: str, tensor_parallel: int) -> Profile:
        """The profile of one (LLM, GPU type, degree). Raises ``KeyError`` naming what there is instead."""
        for profile in self.profiles:
            if (profile.llm.name, profile.gpu.name, profile.tensor_parallel) == (llm, gpu_type, tensor_parallel):
                return profile
        known = sorted({p.llm.name for p in self.profiles})
        raise KeyError(f"no profile of LLM {llm!r} on {gpu_type!r} at TP {tensor_parallel} (LLMs profiled: {', '.join(known)})")

    def degrees(self, llm: str, gpu_type: str) -> tuple[int, ...]:
        """Tensor-parallel degrees profiled for one (LLM, GPU type), ascending; empty when there is no profile."""
        return tuple(sorted(p.tensor_parallel for p in self.profiles if (p.llm.name, p.gpu.name) == (llm, gpu_type)))

    def llm(self, name: str) -> Llm:
        """The LLM called ``name``. Raises ``KeyError`` when nothing of it is profiled."""
        for profile in self.profiles:
            if profile.llm.name == name:
                return profile.llm
        raise KeyError(f"no profile of LLM {name!r}")
