"""The decoder that most families are: grouped-query attention and a feed-forward block or experts in every layer.

``Style`` says how a family differs. Widths, biases and norms follow the families' modelling code in transformers 5.24.
"""

from collections.abc import Callable, Sequence
from typing import Literal

from scepsy.models import blocks
from scepsy.models.config import Config
from scepsy.models.parts import ModelLayout, Part
from scepsy.value import Value

Bias = bool | str
"""Yes, no, or the config's field that says so (no where it is missing; a leading ! means yes where it is missing)."""


class Style(Value, frozen=True, kw_only=True):
    """How a family's decoder differs from Llama's."""

    qkv_bias: Bias = "attention_bias"
    out_bias: Bias = "attention_bias"
    mlp_bias: Bias = "mlp_bias"
    head_bias: bool = False
    """The output matrix has a bias."""
    qk_norm: Literal["none", "head", "full", "heads"] = "none"
    """Norms of queries and keys: of one head's size, of all heads together, or one of a head's size for each head."""
    qk_norm_field: str = ""
    """The config's field that switches the norm on."""
    norms: int = 2
    """Norms of hidden size per layer."""
    norm_bias: bool = False
    gated: bool = True
    tied: bool = False
    """Where the config does not say."""
    head_dim: int | None = None
    """Where the config does not say; None: hidden size over heads."""
    window: Literal["none", "all", "qwen", "even", "pattern"] = "none"
    """Where ``layer_types`` is missing: every layer, those from ``max_window_layers`` on, even ones, or all but each n-th."""
    window_tokens: int | None = None
    """Where the config does not say."""
    window_period: int = 0
    out_name: str = "o_proj"


class Moe(Value, frozen=True, kw_only=True):
    """The experts of a model, as read from its config."""

    count: int
    per_token: int
    inner: int
    layers: tuple[bool, ...]
    """Which layers have experts; the others have a dense block of ``intermediate_size``."""
    shared_inner: int = 0
    """Width of the expert that every token goes through; 0: none."""
    shared: int = 0
    shared_gate: bool = False
    router_bias: int = 0
    expert_bias: bool = False
    router_extra: int = 0
    """Further numbers of the router in each layer."""
    at: str = "mlp"
    router: str = "gate"
    shared_name: str = "shared_experts"
    gated: bool = True
    latent: int = 0
    """Width that tokens are projected to before the routed experts; 0: the hidden size."""


def switched(c: Config, bias: Bias) -> bool:
    """A ``Bias`` as the config has it."""
    if isinstance(bias, bool):
        return bias
    return c.flag(bias.removeprefix("!"), bias.startswith("!"))


def expert_parts(layer: str, hidden: int, moe: Moe) -> list[Part]:
    """Router, routed and shared experts of one layer."""
    at = f"{layer}.{moe.at}" if moe.at else layer
    inner_hidden = moe.latent or hidden
    parts = [
        blocks.plain(f"{at}.{moe.router}", moe.count, cols=hidden),
        *blocks.experts(at, inner_hidden, moe.inner, moe.count, gated=moe.gated, bias=moe.expert_bias),
    ]
    if moe.router_bias or moe.router_extra:
        parts.append(blocks.plain(f"{at}.{moe.router}.extra", moe.router_bias + moe.router_extra))
    if moe.latent:
        parts += [
            blocks.matrix(f"{at}.fc1_latent_proj", moe.latent, hidden),
            blocks.matrix(f"{at}.fc2_latent_proj", hidden, moe.latent),
        ]
    if moe.shared_inner:
        parts += blocks.mlp(f"{at}.{moe.shared_name}", hidden, moe.shared_inner, gated=moe.gated, role="shared")
    if moe.shared_gate:
        parts.append(blocks.plain(f"{at}.{moe.shared_name}_gate", hidden))
    return parts


def layer_windows(c: Config, style: Style) -> list[int]:
    """The window of each layer by the family's rule."""
    layers = c.layers
    if style.window == "none":
        return [0] * layers
    if style.window == "qwen":
        if not c.flag("use_sliding_window", False):
            return [0] * layers
        first = c.whole("max_window_layers", 28, minimum=0)
        return blocks.windows(c, lambda layer: layer >= first)
    period = 0
    if style.window == "pattern":
        period = c.whole("sliding_window_pattern", style.window_period)
    pattern: dict[str, Callable[[int], bool]] = {
        "all": lambda layer: True,
        "even": lambda layer: layer % 2 == 0,
        "pattern": lambda layer: (layer + 1) % period != 0,
    }
    missing = "sliding_window" not in c.fields
    return blocks.windows(c, pattern[style.window], style.window_tokens if missing else None)


def norm_size(kind: str, heads: int, kv_heads: int, head: int) -> int:
    """Weights of the query and key norms of one layer."""
    return {"none": 0, "head": 2 * head, "full": (heads + kv_heads) * head, "heads": (heads + kv_heads) * head}[kind]


def decoder(
    c: Config,
    family: str,
    style: Style,
    *,
    moe: Moe | None = None,
    outer: Config | None = None,
    sizes: Sequence[int] | None = None,
    notes: tuple[str, ...] = (),
) -> ModelLayout:
    """The layout of a decoder of this style. ``outer`` is the wrapper's config where the text part is nested."""
    hidden, layers = c.whole("hidden_size"), c.layers
    heads, kv_heads, head = blocks.heads_of(c, style.head_dim)
    norm = hidden * (2 if style.norm_bias else 1)
    qkv_bias, out_bias, mlp_bias = (switched(c, bias) for bias in (style.qkv_bias, style.out_bias, style.mlp_bias))
    qk = norm_size(style.qk_norm, heads, kv_heads, head)
    if style.qk_norm_field and not c.flag(style.qk_norm_field, False):
        qk = 0
    dense = moe is None or not all(moe.layers)
    inner = c.whole("intermediate_size") if dense else 0
    parts: list[Part] = blocks.embeddings(
        c, hidden, tied=blocks.tied(c, style.tied, outer), norm=norm if style.norms else 0, bias=style.head_bias
    )
    for index in range(layers):
        at = f"layers.{index}"
        parts += blocks.attention(
            at, hidden, heads, kv_heads, head, bias=qkv_bias, out_bias=out_bias, norms=qk, out_name=style.out_name
        )
        parts.append(blocks.plain(f"{at}.norms", style.norms * norm))
        if moe is not None and moe.layers[index]:
            parts += expert_parts(at, hidden, moe)
        else:
            parts += blocks.mlp(f"{at}.mlp", hidden, inner, gated=style.gated, bias=mlp_bias)
    window = layer_windows(c, style) if sizes is None else list(sizes)
    return ModelLayout(
        family=family,
        parts=tuple(parts),
        caches=tuple(blocks.kv_caches(window, kv_heads, head)),
        layers=layers,
        hidden_size=hidden,
        attention_heads=heads,
        kv_heads=kv_heads,
        head_size=head,
        context_tokens=blocks.context_of(c),
        routed_experts=moe.count if moe else 0,
        experts_per_token=moe.per_token if moe else 0,
        shared_experts=moe.shared if moe else 0,
        expert_layers=sum(moe.layers) if moe else 0,
        notes=notes,
    )
