"""A served model: its size, what its KV cache costs, how long a context it takes."""

from typing import Literal

from scepsy.value import Value, require, require_finite


class Llm(Value, frozen=True, kw_only=True):
    """One LLM by the name a client asks for."""

    name: str
    parameters: float
    """Number of weights."""
    weight_bytes: int
    """Bytes of all weights as served (BF16: 2 per parameter)."""
    kv_bytes_per_token: int
    """Key and value bytes per context token over all layers: 2 · layers · kv_heads · head_size · bytes. 0: pooling model."""
    context_limit: int
    """Longest prompt + output, tokens."""
    kind: Literal["generate", "embed", "rerank"] = "generate"
    kv_heads: int = 8
    """Key/value heads: KV memory divides over at most this many GPUs."""
    attention_heads: int = 32
    """Tensor parallelism must divide this."""
    layers: int = 32
    hidden_size: int = 4096
    head_size: int = 0
    """Of one attention head; 0: hidden_size / attention_heads."""
    source: str = ""

    def __post_init__(self) -> None:
        require(bool(self.name), "name", self.name, "a non-empty string")
        require_finite("parameters", self.parameters, exclusive=True)
        require(self.weight_bytes > 0, "weight_bytes", self.weight_bytes, "> 0")
        require(self.kv_bytes_per_token >= 0, "kv_bytes_per_token", self.kv_bytes_per_token, ">= 0")
        require(self.context_limit >= 1, "context_limit", self.context_limit, ">= 1")
        require(self.kv_heads >= 1, "kv_heads", self.kv_heads, ">= 1")
        require(self.attention_heads >= 1, "attention_heads", self.attention_heads, ">= 1")
        require(self.head_size >= 0, "head_size", self.head_size, ">= 0")

    @property
    def attention_size(self) -> int:
        """Width of all attention heads together."""
        return self.head_size * self.attention_heads or self.hidden_size

    def supports_tensor_parallel(self, degree: int) -> bool:
        """Whether the attention heads divide over ``degree`` GPUs (vLLM refuses to start otherwise)."""
        return degree >= 1 and self.attention_heads % degree == 0

    def kv_bytes_per_token_per_gpu(self, tensor_parallel: int) -> float:
        """KV bytes one token costs on each GPU of a group; heads are replicated beyond ``kv_heads`` GPUs."""
        return self.kv_bytes_per_token / min(tensor_parallel, self.kv_heads)
