"""What a family's reader makes of a config: weight matrices by name, the cache of each layer, and what is left out."""

from collections.abc import Iterator
from typing import Literal

from scepsy.value import Value, require

Role = Literal["text", "shared", "routed", "vision"]
"""``shared`` and ``routed``: experts that every token, or a few of its tokens, go through."""


class Part(Value, frozen=True, kw_only=True):
    """One weight: ``copies`` matrices of rows × cols (and ``bias`` more numbers each), under the name that checkpoints use."""

    name: str
    """Without the prefix that wrappers put before it: ``layers.3.self_attn.q_proj``, ``lm_head``, ``embed_tokens``."""
    rows: int
    cols: int = 1
    copies: int = 1
    bias: int = 0
    linear: bool = True
    """Whether a quantisation may apply: norms, embeddings, routers and convolutions stay as they are."""
    role: Role = "text"

    def __post_init__(self) -> None:
        require(self.rows >= 0 and self.cols >= 0, "rows, cols", (self.rows, self.cols), ">= 0")

    @property
    def parameters(self) -> int:
        """Numbers in all copies."""
        return self.copies * (self.rows * self.cols + self.bias)


CacheKind = Literal["full", "window", "latent", "index", "compressed"]
CACHE_WORDS: dict[CacheKind, str] = {
    "full": "keys and values of every token",
    "window": "keys and values of the last tokens only",
    "latent": "one latent vector per token (multi-head latent attention)",
    "index": "keys of the sparse attention's indexer",
    "compressed": "one entry per group of tokens",
}


class Cache(Value, frozen=True, kw_only=True):
    """What one layer keeps per token of context: ``numbers`` values, of ``element_bytes`` each (None: the KV dtype)."""

    kind: CacheKind
    numbers: float
    element_bytes: float | None = None
    window_tokens: int = 0
    """Tokens kept; 0: all of them."""
    read_tokens: int = 0
    """Tokens that one decoding step reads at most; 0: all that are kept."""


class ModelLayout(Value, frozen=True, kw_only=True):
    """A model as its family's reader sees it; the precision of weights is applied later (``models.quantisation``)."""

    family: str
    parts: tuple[Part, ...]
    caches: tuple[Cache, ...]
    """One or more per attention layer."""
    state_bytes_per_sequence: int = 0
    """Constant state of recurrent layers, all layers together."""
    layers: int
    hidden_size: int
    attention_heads: int
    kv_heads: int
    head_size: int
    context_tokens: int
    routed_experts: int = 0
    experts_per_token: int = 0
    shared_experts: int = 0
    expert_layers: int = 0
    counts_vision: bool = False
    """Whether the family's parameter count includes the vision encoder (as transformers' class for text generation does)."""
    notes: tuple[str, ...] = ()
    """What is left out or assumed."""
    encoder: bool = False

    def of(self, *roles: Role) -> Iterator[Part]:
        """The parts with one of the roles."""
        return (part for part in self.parts if part.role in roles)

    def parameters_of(self, *roles: Role) -> int:
        """Parameters of the parts with one of the roles."""
        return sum(part.parameters for part in self.of(*roles))
