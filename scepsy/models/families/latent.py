"""Multi-head latent attention: DeepSeek V2 to V4, Kimi K2, GLM-5 and GLM-4.7-Flash. The cache holds one latent per token."""

from typing import NoReturn

from scepsy.models import blocks
from scepsy.models.config import Config
from scepsy.models.families.decoder import Moe, expert_parts
from scepsy.models.families.dense import mtp_notes
from scepsy.models.families.experts import chosen, counted, from_first
from scepsy.models.parts import Cache, ModelLayout, Part

INDEX_BYTES = 132 / 128
"""The indexer's keys are kept in FP8 with one 4-byte scale per 128 numbers (vLLM's DeepSeek-V3.2 cache), whatever the
KV dtype."""


def latent_attention(c: Config, at: str) -> list[Part]:
    """One layer's projections: queries (through a rank, or directly), latent, and its expansion to keys and values."""
    hidden, heads = c.whole("hidden_size"), c.whole("num_attention_heads")
    nope, rope, value = c.whole("qk_nope_head_dim"), c.whole("qk_rope_head_dim"), c.whole("v_head_dim")
    rank, bias = c.whole("kv_lora_rank"), c.flag("attention_bias", False)
    parts = [
        blocks.matrix(f"{at}.kv_a_proj_with_mqa", rank + rope, hidden, bias=bias),
        blocks.plain(f"{at}.kv_a_layernorm", rank),
        blocks.matrix(f"{at}.kv_b_proj", heads * (nope + value), rank),
        blocks.matrix(f"{at}.o_proj", hidden, heads * value, bias=bias),
    ]
    if not c.has("q_lora_rank"):
        return [*parts, blocks.matrix(f"{at}.q_proj", heads * (nope + rope), hidden)]
    q_rank = c.whole("q_lora_rank")
    return [
        *parts,
        blocks.matrix(f"{at}.q_a_proj", q_rank, hidden, bias=bias),
        blocks.plain(f"{at}.q_a_layernorm", q_rank),
        blocks.matrix(f"{at}.q_b_proj", heads * (nope + rope), q_rank),
    ]


def indexer(c: Config, at: str) -> list[Part]:
    """The indexer of sparse attention (DeepSeek-V3.2, GLM-5)."""
    hidden, heads, size = c.whole("hidden_size"), c.whole("index_n_heads"), c.whole("index_head_dim")
    return [
        blocks.matrix(f"{at}.indexer.wq_b", heads * size, c.whole("q_lora_rank")),
        blocks.matrix(f"{at}.indexer.wk", size, hidden),
        blocks.plain(f"{at}.indexer.k_norm", 2 * size),
        blocks.plain(f"{at}.indexer.weights_proj", heads, cols=hidden),
    ]


def indexed_layers(c: Config) -> list[bool]:
    """Which layers have an indexer of their own: GLM-5.2 shares it between layers."""
    layers = c.layers
    if not c.has("index_topk"):
        return [False] * layers
    types = c.words("indexer_types", layers, ("full", "shared"))
    return [True] * layers if types is None else [kind == "full" for kind in types]


def deepseek(c: Config, family: str, outer: Config | None = None) -> ModelLayout:
    """DeepSeek V2, V3, V3.2, Kimi K2, GLM-5, GLM-4.7-Flash."""
    hidden, layers = c.whole("hidden_size"), c.layers
    default_first = 1 if family == "glm4_moe_lite" else (0 if family == "deepseek_v2" else 3)
    count = counted(c, "n_routed_experts")
    inner, shared = c.whole("moe_intermediate_size"), c.whole("n_shared_experts", 0, minimum=0)
    moe = Moe(
        count=count,
        per_token=chosen(c, count, "num_experts_per_tok"),
        inner=inner,
        layers=from_first(c, default=default_first),
        shared_inner=inner * shared,
        shared=shared,
    )
    indexed = indexed_layers(c)
    parts: list[Part] = blocks.embeddings(c, hidden, tied=blocks.tied(c, False, outer), norm=hidden)
    caches: list[Cache] = []
    rank, rope = c.whole("kv_lora_rank"), c.whole("qk_rope_head_dim")
    for index in range(layers):
        at = f"layers.{index}"
        parts += [*latent_attention(c, f"{at}.self_attn"), blocks.plain(f"{at}.norms", 2 * hidden)]
        chosen_tokens = c.whole("index_topk") if c.has("index_topk") else 0
        caches.append(Cache(kind="latent", numbers=rank + rope, read_tokens=chosen_tokens))
        if indexed[index]:
            parts += indexer(c, f"{at}.self_attn")
            caches.append(Cache(kind="index", numbers=c.whole("index_head_dim"), element_bytes=INDEX_BYTES))
        parts += (
            expert_parts(at, hidden, moe)
            if moe.layers[index]
            else blocks.mlp(f"{at}.mlp", hidden, c.whole("intermediate_size"))
        )
    return ModelLayout(
        family=family,
        parts=tuple(parts),
        caches=tuple(caches),
        layers=layers,
        hidden_size=hidden,
        attention_heads=c.whole("num_attention_heads"),
        kv_heads=1,
        head_size=c.whole("qk_nope_head_dim") + rope,
        context_tokens=blocks.context_of(c),
        routed_experts=count,
        experts_per_token=moe.per_token,
        shared_experts=shared,
        expert_layers=sum(moe.layers),
        notes=mtp_notes(c),
    )


def deepseek_v4(c: Config, family: str, outer: Config | None = None) -> ModelLayout:
    """DeepSeek V4: one key per token shared by all heads and used as value, kept for a window, and compressed beyond it.

    Layers with ratio r > 0 keep one more entry per r tokens; those with ratio 4 choose among them with an indexer.
    Hyper-connections carry ``hc_mult`` residual streams. Widths follow transformers 5.24's DeepseekV4.
    """
    hidden, layers, heads, head = c.whole("hidden_size"), c.layers, c.whole("num_attention_heads"), c.whole("head_dim")
    ratios = ratios_of(c)
    count = counted(c, "n_routed_experts")
    inner, shared = c.whole("moe_intermediate_size"), c.whole("n_shared_experts", 1, minimum=0)
    moe = Moe(
        count=count,
        per_token=chosen(c, count, "num_experts_per_tok"),
        inner=inner,
        layers=(True,) * layers,
        shared_inner=inner * shared,
        shared=shared,
    )
    streams, window = c.whole("hc_mult", 4), c.whole("sliding_window", 128)
    mixing = (2 + streams) * streams
    parts: list[Part] = blocks.embeddings(c, hidden, tied=blocks.tied(c, False, outer), norm=hidden)
    parts.append(blocks.plain("hc_head", streams * streams * hidden + streams + 1))
    caches: list[Cache] = []
    q_rank, o_rank, groups = c.whole("q_lora_rank"), c.whole("o_lora_rank"), c.whole("o_groups")
    if (heads * head) % groups:
        raise c.wrong("o_groups", f"a divisor of num_attention_heads times head_dim ({heads * head})")
    for index, ratio in enumerate(ratios):
        at = f"layers.{index}"
        parts += [
            blocks.matrix(f"{at}.attn.q_a_proj", q_rank, hidden),
            blocks.matrix(f"{at}.attn.q_b_proj", heads * head, q_rank),
            blocks.matrix(f"{at}.attn.kv_proj", head, hidden),
            blocks.matrix(f"{at}.attn.o_a_proj", groups * o_rank, heads * head // groups),
            blocks.matrix(f"{at}.attn.o_b_proj", hidden, groups * o_rank),
            blocks.plain(f"{at}.attn.norms", heads + q_rank + head + 2 * hidden),
            blocks.plain(f"{at}.hc", 2 * (mixing * streams * hidden + mixing + 3)),
            *expert_parts(at, hidden, Moe(**{**{f: getattr(moe, f) for f in moe.__struct_fields__}, "at": "ffn"})),
        ]
        caches.append(Cache(kind="window", numbers=head, window_tokens=window))
        if ratio:
            parts += compressor(c, at, ratio)
            # An indexer chooses index_topk entries, each of which stands for ``ratio`` tokens.
            read = c.whole("index_topk") * ratio if ratio == 4 and c.has("index_topk") else 0
            caches.append(Cache(kind="compressed", numbers=head / ratio, read_tokens=read))
            if ratio == 4:
                size = c.whole("index_head_dim")
                caches.append(Cache(kind="index", numbers=size / ratio, element_bytes=INDEX_BYTES))
    return ModelLayout(
        family=family,
        parts=tuple(parts),
        caches=tuple(caches),
        layers=layers,
        hidden_size=hidden,
        attention_heads=heads,
        kv_heads=1,
        head_size=head,
        context_tokens=blocks.context_of(c),
        routed_experts=count,
        experts_per_token=moe.per_token,
        shared_experts=shared,
        expert_layers=layers,
        notes=mtp_notes(c),
    )


def ratios_of(c: Config) -> list[int]:
    """The compression ratio of each layer (the file's list also holds those of the multi-token-prediction layers, at
    its end)."""
    found = c.wholes("compress_ratios")
    rates = c.inner("compress_rates")
    if found is None and rates is not None:
        kinds = c.words("layer_types", c.layers, ("sliding_attention", *rates.fields)) or []
        return [0 if kind == "sliding_attention" else rates.whole(kind) for kind in kinds] or _no_ratios(c)
    if found is None or len(found) < c.layers:
        return _no_ratios(c)
    return found[: c.layers]


def _no_ratios(c: Config) -> NoReturn:
    raise c.wrong("compress_ratios", f"a list of whole numbers, one for each of {c.layers} layers")


def compressor(c: Config, at: str, ratio: int) -> list[Part]:
    """The compressor of one layer; with ratio 4 groups overlap (twice the width) and there is an indexer."""
    hidden, head, width = c.whole("hidden_size"), c.whole("head_dim"), 2 if ratio == 4 else 1
    parts = [
        blocks.matrix(f"{at}.attn.compressor.kv_proj", width * head, hidden),
        blocks.matrix(f"{at}.attn.compressor.gate_proj", width * head, hidden),
        blocks.plain(f"{at}.attn.compressor.rest", ratio * width * head + head),
    ]
    if ratio == 4:
        size, heads = c.whole("index_head_dim"), c.whole("index_n_heads")
        parts += [
            blocks.matrix(f"{at}.attn.indexer.kv_proj", 2 * size, hidden),
            blocks.matrix(f"{at}.attn.indexer.gate_proj", 2 * size, hidden),
            blocks.matrix(f"{at}.attn.indexer.q_b_proj", heads * size, c.whole("q_lora_rank")),
            blocks.plain(f"{at}.attn.indexer.weights_proj", heads, cols=hidden),
            blocks.plain(f"{at}.attn.indexer.rest", ratio * 2 * size + size),
        ]
    return parts
