"""A served model: its size, what its KV cache costs, how many of its experts a batch touches, how long a context it takes."""

from math import fsum
from typing import Literal

from scepsy.value import Value, require, require_finite

DEFAULT_CONTEXT_TOKENS = 4096
"""Context at which windows and constant states are spread over tokens where a trace does not say (assumed)."""


class KvLayers(Value, frozen=True, kw_only=True):
    """Layers that keep the same kind of cache."""

    kind: str
    """full, window, latent, index or compressed (``scepsy.models.parts``)."""
    layers: int
    bytes_per_token: float
    """Of all these layers together."""
    window_tokens: int = 0
    """Tokens kept; 0: all of them."""
    read_tokens: int = 0
    """Tokens read by a decoding step at most (sparse attention chooses that many); 0: all that are kept."""

    def __post_init__(self) -> None:
        require(self.layers >= 1, "layers", self.layers, ">= 1")
        require_finite("bytes_per_token", self.bytes_per_token, exclusive=True)
        require(self.window_tokens >= 0, "window_tokens", self.window_tokens, ">= 0")

    def bytes_at(self, context_tokens: int) -> float:
        """Bytes that a sequence of ``context_tokens`` keeps."""
        return self.bytes_per_token * (min(context_tokens, self.window_tokens) if self.window_tokens else context_tokens)

    @property
    def most_read_tokens(self) -> int:
        """Tokens that a decoding step reads at most; 0: all of them."""
        bounds = [tokens for tokens in (self.window_tokens, self.read_tokens) if tokens]
        return min(bounds) if bounds else 0


class Experts(Value, frozen=True, kw_only=True):
    """The routed experts of a mixture-of-experts model."""

    routed: int
    """Per layer."""
    per_token: int
    shared: int = 0
    """Experts that every token goes through."""
    layers: int
    """Layers that have experts."""
    parameters: float
    """Of all routed experts of all layers."""
    weight_bytes: int

    def __post_init__(self) -> None:
        require(self.routed >= 1, "routed", self.routed, ">= 1")
        require(1 <= self.per_token <= self.routed, "per_token", self.per_token, f"from 1 to {self.routed}")
        require_finite("parameters", self.parameters, exclusive=True)
        require(self.weight_bytes > 0, "weight_bytes", self.weight_bytes, "> 0")

    def touched_part(self, tokens: float) -> float:
        """Expected part of a layer's routed experts that ``tokens`` tokens touch, each choosing evenly: 1 − (1 − k/E)^tokens.

        >>> experts = Experts(routed=128, per_token=8, layers=48, parameters=29e9, weight_bytes=58 * 10**9)
        >>> [round(128 * experts.touched_part(tokens)) for tokens in (1, 8, 64)]
        [8, 52, 126]
        """
        return float(1.0 - (1.0 - self.per_token / self.routed) ** tokens)


class Llm(Value, frozen=True, kw_only=True):
    """One LLM by the name a client asks for."""

    name: str
    parameters: float
    """Number of weights."""
    weight_bytes: int
    """Bytes of all weights as served (BF16: 2 per parameter)."""
    kv_bytes_per_token: int
    """Cache bytes that a new token writes, over all layers: 2 · layers · kv_heads · head_size · bytes for plain attention.
    Layers with a window are counted here too; ``kv_layers`` tells the kinds apart. 0: pooling model."""
    context_limit: int
    """Longest prompt + output, tokens."""
    kind: Literal["generate", "embed", "rerank"] = "generate"
    kv_heads: int = 8
    """Key/value heads: KV memory divides over at most this many GPUs (1 for latent attention: each GPU keeps all of it)."""
    attention_heads: int = 32
    """Tensor parallelism must divide this."""
    layers: int = 32
    hidden_size: int = 4096
    head_size: int = 0
    """Of one attention head; 0: hidden_size / attention_heads."""
    source: str = ""
    hf_name: str = ""
    """Its name on Hugging Face; empty: not known."""
    model: str = ""
    """The model's own name where ``name`` is what a trace calls it; empty: they are the same."""
    also: tuple[str, ...] = ()
    """Other names that clients ask for it by: their calls go to the same instances."""
    family: str = ""
    """The model_type of its config; empty: not read from a config."""
    active_parameters: float = 0.0
    """Weights that one token goes through; 0: all of them."""
    precision: str = ""
    """What weights are stored in; empty: BF16."""
    kv_dtype: str = ""
    """Of the KV cache; empty: BF16."""
    kv_layers: tuple[KvLayers, ...] = ()
    """Caches by kind of layer; empty: every layer keeps every token."""
    state_bytes_per_sequence: int = 0
    """Constant state of recurrent layers."""
    experts: Experts | None = None
    kv_context_tokens: int = 0
    """Context at which windows and states are spread over tokens; 0: 4,096 or the limit."""
    notes: tuple[str, ...] = ()
    """What is left out or assumed."""

    def __post_init__(self) -> None:
        require(bool(self.name), "name", self.name, "a non-empty string")
        require_names(self.name, self.also)
        require_finite("parameters", self.parameters, exclusive=True)
        require(self.weight_bytes > 0, "weight_bytes", self.weight_bytes, "> 0")
        require(self.kv_bytes_per_token >= 0, "kv_bytes_per_token", self.kv_bytes_per_token, ">= 0")
        require(self.context_limit >= 1, "context_limit", self.context_limit, ">= 1")
        require(self.kv_heads >= 1, "kv_heads", self.kv_heads, ">= 1")
        require(self.attention_heads >= 1, "attention_heads", self.attention_heads, ">= 1")
        require(self.head_size >= 0, "head_size", self.head_size, ">= 0")
        require_finite("active_parameters", self.active_parameters)
        require(self.active_parameters <= self.parameters, "active_parameters", self.active_parameters, "<= parameters")
        require(self.state_bytes_per_sequence >= 0, "state_bytes_per_sequence", self.state_bytes_per_sequence, ">= 0")
        require(self.kv_context_tokens >= 0, "kv_context_tokens", self.kv_context_tokens, ">= 0")

    @property
    def attention_size(self) -> int:
        """Width of all attention heads together."""
        return self.head_size * self.attention_heads or self.hidden_size

    @property
    def active(self) -> float:
        """Weights that one token goes through."""
        return self.active_parameters or self.parameters

    @property
    def routed_bytes(self) -> int:
        """Bytes of the routed experts' weights; 0 for a dense model."""
        return self.experts.weight_bytes if self.experts is not None else 0

    @property
    def unbounded_kv_bytes(self) -> float:
        """Cache bytes per token that a decoding step reads at any length: layers without a window, and not sparse."""
        if not self.kv_layers:
            return float(self.kv_bytes_per_token)
        return fsum(layers.bytes_per_token for layers in self.kv_layers if not layers.most_read_tokens)

    @property
    def bounded_kv_bytes(self) -> float:
        """Bytes that a decoding step reads per sequence whatever its length: full windows, chosen entries, states read
        and written."""
        bounded = fsum(layers.bytes_per_token * layers.most_read_tokens for layers in self.kv_layers)
        return bounded + 2.0 * self.state_bytes_per_sequence

    @property
    def quadratic_layers(self) -> int:
        """Layers in which a prompt token attends to every token before it."""
        if not self.kv_layers:
            return self.layers
        return sum(
            layers.layers for layers in self.kv_layers if layers.kind in ("full", "latent") and not layers.most_read_tokens
        )

    @property
    def bounded_attention_tokens(self) -> int:
        """Tokens that a prompt token attends to in layers with a bound, summed over those layers."""
        kinds = ("full", "latent", "window")
        return sum(layers.layers * layers.most_read_tokens for layers in self.kv_layers if layers.kind in kinds)

    def supports_tensor_parallel(self, degree: int) -> bool:
        """Whether the attention heads divide over ``degree`` GPUs (vLLM refuses to start otherwise)."""
        return degree >= 1 and self.attention_heads % degree == 0

    def sequence_bytes(self, context_tokens: int) -> float:
        """Cache and state bytes that one sequence of ``context_tokens`` keeps, over all layers."""
        if not self.kv_layers:
            return float(self.kv_bytes_per_token * context_tokens + self.state_bytes_per_sequence)
        return fsum(layers.bytes_at(context_tokens) for layers in self.kv_layers) + self.state_bytes_per_sequence

    @property
    def uneven_cache(self) -> bool:
        """Whether the memory per token depends on the context: windows, constant states."""
        return self.state_bytes_per_sequence > 0 or any(layers.window_tokens for layers in self.kv_layers)

    @property
    def mean_context_tokens(self) -> int:
        """The context at which ``mean_kv_bytes_per_token`` is taken."""
        return self.kv_context_tokens or min(DEFAULT_CONTEXT_TOKENS, self.context_limit)

    @property
    def mean_kv_bytes_per_token(self) -> float:
        """Memory per token of context: what windows save and constant states add is spread over ``mean_context_tokens``."""
        if self.kv_bytes_per_token == 0 or not (self.kv_layers or self.state_bytes_per_sequence):
            return float(self.kv_bytes_per_token)
        return self.sequence_bytes(self.mean_context_tokens) / self.mean_context_tokens

    def kv_bytes_per_token_per_gpu(self, tensor_parallel: int) -> float:
        """KV bytes one token costs on each GPU of a group; heads are replicated beyond ``kv_heads`` GPUs."""
        return self.mean_kv_bytes_per_token / min(tensor_parallel, self.kv_heads)


class Served(Value, frozen=True, kw_only=True):
    """Which model answers to an LLM's name."""

    llm: str
    """The name that the traffic asks for. Where there are several, the one that the LLM goes by everywhere else."""
    model: str
    """The model that serves it, by its own name."""
    hub_id: str = ""
    """The model's name on Hugging Face, which engines load; empty: not known, so it must be given before deploying."""
    quantisation: str = ""
    """What its weights are stored in, such as bfloat16 or fp8."""
    also: tuple[str, ...] = ()
    """Other names that the traffic asks for, served by the same instances."""

    def __post_init__(self) -> None:
        require_names(self.llm, self.also)

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that the traffic asks for."""
        return (self.llm, *self.also)


def require_names(name: str, also: tuple[str, ...]) -> None:
    """Raise ``ValueError`` unless an LLM's other names are names, each once."""
    names = (name, *also)
    require(all(names) and len(set(names)) == len(names), "also", also, f"names, each once and none {name!r}")
