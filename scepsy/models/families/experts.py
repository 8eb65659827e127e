"""Mixtures of experts with grouped-query attention."""

from msgspec.structs import replace

from scepsy.errors import InputError
from scepsy.models import blocks
from scepsy.models.config import Config
from scepsy.models.families.decoder import Moe, Style, decoder, expert_parts
from scepsy.models.families.dense import mtp_notes
from scepsy.models.parts import Cache, ModelLayout, Part

MOST_EXPERTS = 100_000


def chosen(c: Config, count: int, *fields: str, default: int | None = None) -> int:
    """How many experts a token goes through: the first field that is there; never more than there are."""
    field = next((name for name in fields if c.has(name)), fields[0])
    return c.whole(field, default, maximum=count)


def counted(c: Config, *fields: str, default: int | None = None) -> int:
    """How many routed experts a layer has: the first field that is there."""
    field = next((name for name in fields if c.has(name)), fields[0])
    return c.whole(field, default, maximum=MOST_EXPERTS)


def from_first(c: Config, field: str = "first_k_dense_replace", default: int = 0) -> tuple[bool, ...]:
    """Experts from layer ``first_k_dense_replace`` on, or as ``mlp_layer_types`` or a list ``moe_layer_freq`` says."""
    layers = c.layers
    types = c.words("mlp_layer_types", layers, ("dense", "sparse"))
    if types is not None:
        return tuple(kind == "sparse" for kind in types)
    if isinstance(c.fields.get("moe_layer_freq"), list):
        return tuple(bool(item) for item in c.wholes("moe_layer_freq", layers) or ())
    every = c.whole("moe_layer_freq", 1)
    first = c.whole(field, default, minimum=0)
    return tuple(layer >= first and layer % every == 0 for layer in range(layers))


def sparse_steps(c: Config) -> tuple[bool, ...]:
    """Qwen's rule: every ``decoder_sparse_step``-th layer, but those of ``mlp_only_layers``."""
    step = c.whole("decoder_sparse_step", 1)
    only = c.wholes("mlp_only_layers") or []
    return tuple((layer + 1) % step == 0 and layer not in only for layer in range(c.layers))


def block_sparse(c: Config) -> Moe:
    """Mixtral's kind of experts: in every layer, as wide as the config's ``intermediate_size``."""
    count = counted(c, "num_local_experts")
    return Moe(
        count=count,
        per_token=chosen(c, count, "num_experts_per_tok"),
        inner=c.whole("intermediate_size"),
        layers=(True,) * c.layers,
        at="block_sparse_moe",
    )


def mixtral(c: Config, family: str, outer: Config | None = None) -> ModelLayout:
    """Mixtral: experts in every layer."""
    style = Style(qkv_bias=False, out_bias=False, window="all")
    return decoder(c, family, style, moe=block_sparse(c), outer=outer)


def phimoe(c: Config, family: str, outer: Config | None = None) -> ModelLayout:
    """Phi-3.5-MoE: Mixtral with biases and layer norms."""
    style = Style(norm_bias=True, head_bias=c.flag("lm_head_bias", False), window="all")
    return decoder(c, family, style, moe=block_sparse(c), outer=outer)


def qwen2_moe(c: Config, family: str, outer: Config | None = None) -> ModelLayout:
    """Qwen1.5/2-MoE: routed experts and one gated shared expert."""
    count = counted(c, "num_experts")
    moe = Moe(
        count=count,
        per_token=chosen(c, count, "num_experts_per_tok"),
        inner=c.whole("moe_intermediate_size"),
        layers=sparse_steps(c),
        shared_inner=c.whole("shared_expert_intermediate_size"),
        shared=1,
        shared_gate=True,
        shared_name="shared_expert",
    )
    return decoder(c, family, Style(qkv_bias="!qkv_bias", out_bias=False, mlp_bias=False, window="qwen"), moe=moe, outer=outer)


def qwen3_moe(c: Config, family: str, outer: Config | None = None) -> ModelLayout:
    """Qwen3-MoE (and the text part of Qwen3-VL-MoE)."""
    count = counted(c, "num_experts", "num_local_experts")
    moe = Moe(
        count=count,
        per_token=chosen(c, count, "num_experts_per_tok"),
        inner=c.whole("moe_intermediate_size"),
        layers=sparse_steps(c),
    )
    return decoder(c, family, Style(mlp_bias=False, qk_norm="head", window="qwen"), moe=moe, outer=outer)


def olmoe(c: Config, family: str, outer: Config | None = None) -> ModelLayout:
    """OLMoE: experts in every layer, norms over all heads."""
    count = counted(c, "num_experts")
    moe = Moe(
        count=count,
        per_token=chosen(c, count, "num_experts_per_tok"),
        inner=c.whole("intermediate_size"),
        layers=(True,) * c.layers,
    )
    return decoder(c, family, Style(mlp_bias=False, qk_norm="full"), moe=moe, outer=outer)


def granitemoe(c: Config, family: str, outer: Config | None = None) -> ModelLayout:
    """Granite 3 MoE, with a shared expert in the ``shared`` variant."""
    count = counted(c, "num_local_experts")
    shared = c.whole("shared_intermediate_size", 0, minimum=0) if family == "granitemoeshared" else 0
    moe = Moe(
        count=count,
        per_token=chosen(c, count, "num_experts_per_tok"),
        inner=c.whole("intermediate_size"),
        layers=(True,) * c.layers,
        at="block_sparse_moe",
        router="router",
        shared_inner=shared,
        shared=int(shared > 0),
    )
    return decoder(c, family, Style(out_bias="attention_bias"), moe=moe, outer=outer)


def minimax_m2(c: Config, family: str, outer: Config | None = None) -> ModelLayout:
    """MiniMax-M2: experts in every layer, norms over all heads."""
    count = counted(c, "num_local_experts")
    moe = Moe(
        count=count,
        per_token=chosen(c, count, "num_experts_per_tok"),
        inner=c.whole("intermediate_size"),
        layers=(True,) * c.layers,
        at="block_sparse_moe",
        router_bias=0,
    )
    style = Style(qkv_bias=False, out_bias=False, qk_norm="full" if c.flag("use_qk_norm", True) else "none")
    return decoder(c, family, style, moe=moe, outer=outer, notes=mtp_notes(c))


def minimax_m3(c: Config, family: str, outer: Config | None = None) -> ModelLayout:
    """MiniMax-M3: a shared expert, dense first layers, and an indexer for block-sparse attention in the other layers.

    Source: MiniMax-M3's config fields and vLLM's description of its indexer (queries of ``sparse_num_index_heads``
    heads and one key).
    """
    count = counted(c, "num_local_experts")
    moe = Moe(
        count=count,
        per_token=chosen(c, count, "num_experts_per_tok"),
        inner=c.first("moe_intermediate_size", "intermediate_size"),
        layers=from_first(c),
        shared_inner=c.whole("shared_intermediate_size", 0, minimum=0) * c.whole("n_shared_experts", 1),
        shared=c.whole("n_shared_experts", 1),
        at="block_sparse_moe",
    )
    dense = Config({**c.fields, "intermediate_size": c.first("dense_intermediate_size", "intermediate_size")}, c.where)
    style = Style(qkv_bias=False, out_bias=False, qk_norm="head" if c.flag("use_qk_norm", True) else "none")
    layout = decoder(dense, family, style, moe=moe, outer=outer, notes=mtp_notes(c))
    sparse = c.inner("sparse_attention_config")
    if sparse is None or not sparse.flag("use_sparse_attention", False):
        return layout
    return with_block_indexer(layout, sparse)


def with_block_indexer(layout: ModelLayout, sparse: Config) -> ModelLayout:
    """MiniMax-M3's indexer: its matrices in the sparse layers, and its keys in the cache."""

    layers = sparse.wholes("sparse_attention_freq", layout.layers) or [1] * layout.layers
    heads, size = sparse.whole("sparse_num_index_heads"), sparse.whole("sparse_index_dim")
    parts, caches = list(layout.parts), list(layout.caches)
    for index, on in enumerate(layers):
        if on:
            at = f"layers.{index}.self_attn"
            parts += [
                blocks.matrix(f"{at}.index_q_proj", heads * size, layout.hidden_size),
                blocks.matrix(f"{at}.index_k_proj", size, layout.hidden_size),
            ]
            caches.append(Cache(kind="index", numbers=size))
    note = "the indexer's matrices are counted from the config; no public parameter count was at hand to compare with"
    return replace(layout, parts=tuple(parts), caches=tuple(caches), notes=(*layout.notes, note))


def gpt_oss(c: Config, family: str, outer: Config | None = None) -> ModelLayout:
    """gpt-oss: biases everywhere, a sink per head, every other layer with a window."""
    count, heads = counted(c, "num_local_experts"), c.whole("num_attention_heads")
    moe = Moe(
        count=count,
        per_token=chosen(c, count, "num_experts_per_tok", "experts_per_token"),
        inner=c.whole("intermediate_size"),
        layers=(True,) * c.layers,
        router="router",
        router_bias=count,
        router_extra=heads,
        expert_bias=True,
    )
    style = Style(qkv_bias="!attention_bias", out_bias="!attention_bias", window="even", window_tokens=128, head_dim=64)
    return decoder(c, family, style, moe=moe, outer=outer)


def llama4(c: Config, family: str, outer: Config | None = None) -> ModelLayout:
    """Llama 4: experts in every ``interleave_moe_layer_step``-th layer; three of four layers attend within chunks."""
    layers = c.layers
    count = counted(c, "num_local_experts")
    listed = c.wholes("moe_layers")
    step = c.whole("interleave_moe_layer_step", 1)
    on = tuple(layer in listed if listed is not None else (layer + 1) % step == 0 for layer in range(layers))
    inner = c.whole("intermediate_size")
    moe = Moe(
        count=count,
        per_token=chosen(c, count, "num_experts_per_tok", default=1),
        inner=inner,
        layers=on,
        shared_inner=inner,
        shared=1,
        at="feed_forward",
        router="router",
        shared_name="shared_expert",
    )
    rope = c.wholes("no_rope_layers", layers) if c.items("no_rope_layers") else None
    every = c.whole("no_rope_layer_interval", 4)
    chunk = c.whole("attention_chunk_size", 8192)
    local = [bool(item) for item in rope] if rope is not None else [(layer + 1) % every != 0 for layer in range(layers)]
    types = c.words("layer_types", layers, blocks.LAYER_WORDS)
    if types is not None:
        local = [kind == "chunked_attention" for kind in types]
    dense = Config({**c.fields, "intermediate_size": c.whole("intermediate_size_mlp", 16384)}, c.where)
    return decoder(dense, family, Style(mlp_bias=False), moe=moe, outer=outer, sizes=[chunk if flag else 0 for flag in local])


def glm4_moe(c: Config, family: str, outer: Config | None = None) -> ModelLayout:
    """GLM-4.5 to 4.7 (and dots.llm1): dense first layers, then routed and shared experts."""
    count = counted(c, "n_routed_experts")
    inner = c.whole("moe_intermediate_size")
    shared = c.whole("n_shared_experts", 1 if family == "glm4_moe" else 0, minimum=0)
    moe = Moe(
        count=count,
        per_token=chosen(c, count, "num_experts_per_tok"),
        inner=inner,
        layers=from_first(c, default=1),
        shared_inner=inner * shared,
        shared=shared,
    )
    style = {
        "glm4_moe": Style(out_bias=False, mlp_bias=False, qk_norm="head", qk_norm_field="use_qk_norm", head_dim=128),
        "dots1": Style(mlp_bias=False, qk_norm="head", window="qwen"),
    }[family]
    return decoder(c, family, style, moe=moe, outer=outer, notes=mtp_notes(c))


def ernie4_5_moe(c: Config, family: str, outer: Config | None = None) -> ModelLayout:
    """ERNIE 4.5 MoE: experts between two layers, at an interval."""
    layers, count = c.layers, counted(c, "moe_num_experts")
    first, last = c.whole("moe_layer_start_index", 1, minimum=0), c.fields.get("moe_layer_end_index", -1)
    if isinstance(last, bool) or not isinstance(last, int) or not -1 <= last < layers:
        raise c.wrong("moe_layer_end_index", f"a layer from 0 to {layers - 1}, or -1 for the last")
    last = layers - 1 if last == -1 else last
    every, inner = c.whole("moe_layer_interval", 1), c.whole("moe_intermediate_size")
    shared = c.whole("moe_num_shared_experts", 2, minimum=0)
    on = tuple((layer + 1) % every == 0 and first <= layer <= last for layer in range(layers))
    moe = Moe(
        count=count,
        per_token=chosen(c, count, "moe_k"),
        inner=inner,
        layers=on,
        shared_inner=inner * shared,
        shared=shared,
        router_bias=count,
    )
    style = Style(qkv_bias="use_bias", out_bias="use_bias", mlp_bias="use_bias", tied=True)
    return decoder(c, family, style, moe=moe, outer=outer, notes=mtp_notes(c))


def hunyuan_v1_moe(c: Config, family: str, outer: Config | None = None) -> ModelLayout:
    """Hunyuan-A13B: routed experts and a shared one in every layer."""
    for field in ("num_experts", "moe_topk", "num_shared_expert", "moe_intermediate_size"):
        found = c.fields.get(field)
        if isinstance(found, list) and len(set(map(str, found))) > 1:
            raise InputError(f"{c.where}: {field} differs between layers: must be the same in all layers to be read")
    flat = Config(
        {
            k: (
                v[0]
                if isinstance(v, list) and v and k in ("num_experts", "moe_topk", "num_shared_expert", "moe_intermediate_size")
                else v
            )
            for k, v in c.fields.items()
        },
        c.where,
    )
    count = counted(flat, "num_experts")
    inner = flat.first("moe_intermediate_size", "intermediate_size")
    moe = Moe(
        count=count,
        per_token=chosen(flat, count, "moe_topk"),
        inner=inner,
        layers=(True,) * c.layers,
        shared_inner=flat.whole("intermediate_size") * flat.whole("num_shared_expert", 1),
        shared=flat.whole("num_shared_expert", 1),
        shared_name="shared_mlp",
        router="gate.wg",
    )
    return decoder(flat, family, Style(mlp_bias=False, qk_norm="head"), moe=moe, outer=outer)


def step3p7(c: Config, family: str, outer: Config | None = None) -> ModelLayout:
    """Step-3.7-Flash: sliding layers, a gate per head, routed and shared experts."""
    count = counted(c, "num_experts", "moe_num_experts")
    inner = c.whole("moe_intermediate_size")
    shared = c.whole("share_expert_dim", inner)
    moe = Moe(
        count=count,
        per_token=chosen(c, count, "num_experts_per_tok", "moe_top_k"),
        inner=inner,
        layers=from_first(c, default=3),
        shared_inner=shared,
        shared=1,
    )
    style = Style(qkv_bias=False, out_bias=False, mlp_bias=False, qk_norm="head", window="pattern", window_period=4)
    layout = decoder(c, family, style, moe=moe, outer=outer, notes=mtp_notes(c))
    gates = [
        blocks.matrix(f"layers.{i}.self_attn.g_proj", layout.attention_heads, layout.hidden_size) for i in range(layout.layers)
    ]
    return replace(layout, parts=(*layout.parts, *gates))


def mimo_v2_flash(c: Config, family: str, outer: Config | None = None) -> ModelLayout:
    """MiMo-V2-Flash: full and sliding layers with their own KV heads, values narrower than keys, a sink per head where
    sliding."""
    hidden, layers, count = c.whole("hidden_size"), c.layers, counted(c, "n_routed_experts")
    pattern = c.wholes("hybrid_layer_pattern", layers)
    if pattern is None:
        raise c.wrong("hybrid_layer_pattern", f"a list of 0 (full) and 1 (sliding), one for each of {layers} layers")
    inner, shared = c.whole("moe_intermediate_size"), c.whole("n_shared_experts", 0, minimum=0)
    moe = Moe(
        count=count,
        per_token=chosen(c, count, "num_experts_per_tok"),
        inner=inner,
        layers=from_first(c),
        shared_inner=inner * shared,
        shared=shared,
    )
    window, biased = c.whole("sliding_window"), c.flag("attention_bias", False)
    parts: list[Part] = blocks.embeddings(c, hidden, tied=blocks.tied(c, False, outer), norm=hidden)
    caches: list[Cache] = []
    for index, sliding in enumerate(pattern):
        at, prefix = f"layers.{index}", "swa_" if sliding else ""
        heads, kv = c.whole(f"{prefix}num_attention_heads"), c.whole(f"{prefix}num_key_value_heads")
        size, value = c.whole(f"{prefix}head_dim"), c.whole(f"{prefix}v_head_dim")
        sinks = c.flag("add_swa_attention_sink_bias" if sliding else "add_full_attention_sink_bias", bool(sliding))
        parts += [
            blocks.matrix(f"{at}.self_attn.q_proj", heads * size, hidden, bias=biased),
            blocks.matrix(f"{at}.self_attn.k_proj", kv * size, hidden, bias=biased),
            blocks.matrix(f"{at}.self_attn.v_proj", kv * value, hidden, bias=biased),
            blocks.matrix(f"{at}.self_attn.o_proj", hidden, heads * value),
            blocks.plain(f"{at}.norms", 2 * hidden + (heads if sinks else 0)),
        ]
        parts += (
            expert_parts(at, hidden, moe)
            if moe.layers[index]
            else blocks.mlp(f"{at}.mlp", hidden, c.whole("intermediate_size"))
        )
        caches += blocks.kv_caches([window if sliding else 0], kv, size, value)
    return ModelLayout(
        family=family,
        parts=tuple(parts),
        caches=tuple(caches),
        layers=layers,
        hidden_size=hidden,
        attention_heads=c.whole("num_attention_heads"),
        kv_heads=c.whole("num_key_value_heads"),
        head_size=c.whole("head_dim"),
        context_tokens=blocks.context_of(c),
        routed_experts=count,
        experts_per_token=moe.per_token,
        shared_experts=shared,
        expert_layers=sum(moe.layers),
        notes=mtp_notes(c),
    )
