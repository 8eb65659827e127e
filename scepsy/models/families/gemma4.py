"""Gemma 4: sliding layers and full ones with their own heads (values are the keys), a dense block and experts side by side."""

from scepsy.models import blocks
from scepsy.models.config import Config
from scepsy.models.families.decoder import Moe, expert_parts
from scepsy.models.families.experts import chosen, counted
from scepsy.models.parts import Cache, ModelLayout, Part


def gemma4(c: Config, family: str, outer: Config | None = None) -> ModelLayout:
    """The text part of Gemma 4 (26B-A4B, 31B). Models with per-layer inputs (E2B, E4B) are refused."""
    hidden, layers = c.whole("hidden_size"), c.layers
    if c.whole("hidden_size_per_layer_input", 0, minimum=0) or c.whole("num_kv_shared_layers", 0, minimum=0):
        raise c.wrong("hidden_size_per_layer_input", "0: per-layer inputs and shared KV layers (Gemma 4 E2B, E4B) are not read")
    types = c.words("layer_types", layers, ("full_attention", "sliding_attention"))
    if types is None:
        raise c.wrong("layer_types", f"a list with one item for each of {layers} layers")
    heads, kv_heads, head = blocks.heads_of(c)
    full_head = c.whole("global_head_dim", head)
    shared = c.flag("attention_k_eq_v", False)
    full_kv = c.whole("num_global_key_value_heads", kv_heads) if shared else kv_heads
    window, inner = c.whole("sliding_window", 512), c.whole("intermediate_size")
    moe = None
    if c.flag("enable_moe_block", False):
        count = counted(c, "num_experts")
        moe = Moe(
            count=count,
            per_token=chosen(c, count, "top_k_experts", "num_experts_per_tok"),
            inner=c.whole("moe_intermediate_size"),
            layers=(True,) * layers,
            at="",
            router="router.proj",
            router_extra=hidden + count,
        )
    parts: list[Part] = blocks.embeddings(c, hidden, tied=blocks.tied(c, True, outer), norm=hidden)
    caches: list[Cache] = []
    biased = c.flag("attention_bias", False)
    for index, kind in enumerate(types):
        at, full = f"layers.{index}", kind == "full_attention"
        size, kv = (full_head, full_kv) if full else (head, kv_heads)
        parts += blocks.attention(
            at, hidden, heads, kv, size, bias=biased, out_bias=biased, norms=2 * size, shared_kv=shared and full
        )
        parts += [blocks.plain(f"{at}.norms", (7 if moe else 4) * hidden), *blocks.mlp(f"{at}.mlp", hidden, inner)]
        if moe is not None:
            parts += expert_parts(at, hidden, moe)
        caches += blocks.kv_caches([0 if full else window], kv, size)
    return ModelLayout(
        family=family,
        parts=tuple(parts),
        caches=tuple(caches),
        layers=layers,
        hidden_size=hidden,
        attention_heads=heads,
        kv_heads=full_kv,
        head_size=head,
        context_tokens=blocks.context_of(c),
        routed_experts=moe.count if moe else 0,
        experts_per_token=moe.per_token if moe else 0,
        expert_layers=layers if moe else 0,
    )
