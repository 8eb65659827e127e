"""Hybrid models: some layers attend, others keep a constant state (Mamba, gated delta nets, linear attention).

Only attention layers keep a KV cache; the state of the others is the same at any length. Widths follow transformers 5.24,
states follow vLLM's: a convolution's last ``kernel − 1`` inputs in the model's dtype, and the recurrent state in the dtype
that the config names.
"""

from collections.abc import Sequence

from scepsy.errors import InputError
from scepsy.models import blocks
from scepsy.models.config import Config
from scepsy.models.families.decoder import Moe, expert_parts
from scepsy.models.families.dense import mtp_notes
from scepsy.models.families.experts import chosen, counted
from scepsy.models.families.latent import latent_attention
from scepsy.models.parts import Cache, ModelLayout, Part

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def state_bytes(c: Config, numbers: int, conv: int, default: str = "bfloat16") -> int:
    """Bytes of one layer's state for one sequence: ``numbers`` recurrent and ``conv`` convolution values (2 bytes each)."""
    field = next((name for name in ("mamba_ssm_cache_dtype", "mamba_ssm_dtype") if c.has(name)), "mamba_ssm_cache_dtype")
    kind = c.text(field, default)
    if kind not in DTYPE_BYTES:
        raise c.wrong(field, f"one of {', '.join(DTYPE_BYTES)}")
    return numbers * DTYPE_BYTES[kind] + 2 * conv


def mamba2(
    c: Config, at: str, inner: int, heads: int, groups: int, state: int, kernel: int, *, norm: bool = True
) -> list[Part]:
    """A Mamba-2 mixer: one projection in (gate, input, B, C, dt), a convolution, one projection out."""
    hidden = c.whole("hidden_size")
    conv = inner + 2 * groups * state
    biased = c.flag("mamba_proj_bias", c.flag("use_bias", False))
    conv_bias = c.flag("mamba_conv_bias", c.flag("use_conv_bias", True))
    return [
        blocks.matrix(f"{at}.in_proj", inner + conv + heads, hidden, bias=biased),
        blocks.matrix(f"{at}.out_proj", hidden, inner, bias=biased),
        blocks.plain(f"{at}.conv1d", conv * kernel + (conv if conv_bias else 0)),
        blocks.plain(f"{at}.rest", 3 * heads + (inner if norm else 0)),
    ]


def delta_net(c: Config, at: str, hidden: int) -> tuple[list[Part], int]:
    """A gated delta net (Qwen3-Next, Qwen3.5) and its state's bytes."""
    k_heads, v_heads = c.whole("linear_num_key_heads"), c.whole("linear_num_value_heads")
    k_size, v_size, kernel = c.whole("linear_key_head_dim"), c.whole("linear_value_head_dim"), c.whole("linear_conv_kernel_dim")
    keys, values = k_heads * k_size, v_heads * v_size
    conv = 2 * keys + values
    parts = [
        blocks.matrix(f"{at}.in_proj_qkv", conv, hidden),
        blocks.matrix(f"{at}.in_proj_z", values, hidden),
        blocks.plain(f"{at}.in_proj_ba", 2 * v_heads, cols=hidden),
        blocks.matrix(f"{at}.out_proj", hidden, values),
        blocks.plain(f"{at}.conv1d", conv * kernel),
        blocks.plain(f"{at}.rest", 2 * v_heads + v_size),
    ]
    return parts, state_bytes(c, v_heads * k_size * v_size, conv * (kernel - 1))


def attending(c: Config, default_interval: int = 4) -> list[bool]:
    """Which layers attend: by ``layer_types``, else every ``full_attention_interval``-th."""
    layers = c.layers
    types = c.words("layer_types", layers, blocks.LAYER_WORDS)
    if types is not None:
        return [kind in ("full_attention", "attention") for kind in types]
    every = c.whole("full_attention_interval", default_interval)
    return [(layer + 1) % every == 0 for layer in range(layers)]


def qwen_hybrid(c: Config, family: str, outer: Config | None = None) -> ModelLayout:
    """Qwen3-Next and Qwen3.5/3.6 (dense and MoE): gated delta nets, every fourth layer attends with an output gate."""
    hidden = c.whole("hidden_size")
    heads, kv_heads, head = blocks.heads_of(c)
    moe = qwen_experts(c)
    parts: list[Part] = blocks.embeddings(c, hidden, tied=blocks.tied(c, False, outer), norm=hidden)
    caches: list[Cache] = []
    state = 0
    for index, attends in enumerate(attending(c)):
        at = f"layers.{index}"
        if attends:
            parts += blocks.attention(
                at,
                hidden,
                heads,
                kv_heads,
                head,
                bias=c.flag("attention_bias", False),
                norms=2 * head,
                gated=c.flag("attn_output_gate", True),
            )
            caches += blocks.kv_caches([0], kv_heads, head)
        else:
            found, bytes_ = delta_net(c, f"{at}.linear_attn", hidden)
            parts += found
            state += bytes_
        parts.append(blocks.plain(f"{at}.norms", 2 * hidden))
        if moe is not None and moe.layers[index]:
            parts += expert_parts(at, hidden, moe)
        else:
            parts += blocks.mlp(f"{at}.mlp", hidden, c.whole("intermediate_size"))
    return _layout(c, family, parts, caches, state, (heads, kv_heads, head), moe, mtp_notes(c))


def qwen_experts(c: Config) -> Moe | None:
    """The experts of a Qwen hybrid; None where it is dense."""
    if not c.has("num_experts"):
        return None
    count = counted(c, "num_experts")
    only = c.wholes("mlp_only_layers") or []
    step = c.whole("decoder_sparse_step", 1)
    return Moe(
        count=count,
        per_token=chosen(c, count, "num_experts_per_tok"),
        inner=c.whole("moe_intermediate_size"),
        layers=tuple((layer + 1) % step == 0 and layer not in only for layer in range(c.layers)),
        shared_inner=c.whole("shared_expert_intermediate_size"),
        shared=1,
        shared_gate=True,
        shared_name="shared_expert",
    )


def _layout(
    c: Config,
    family: str,
    parts: Sequence[Part],
    caches: Sequence[Cache],
    state: int,
    heads: tuple[int, int, int],
    moe: Moe | None,
    notes: tuple[str, ...] = (),
    layers: int | None = None,
) -> ModelLayout:
    return ModelLayout(
        family=family,
        parts=tuple(parts),
        caches=tuple(caches),
        state_bytes_per_sequence=state,
        layers=layers or c.layers,
        hidden_size=c.whole("hidden_size"),
        attention_heads=heads[0],
        kv_heads=heads[1],
        head_size=heads[2],
        context_tokens=blocks.context_of(c),
        routed_experts=moe.count if moe else 0,
        experts_per_token=moe.per_token if moe else 0,
        shared_experts=moe.shared if moe else 0,
        expert_layers=sum(moe.layers) if moe else 0,
        notes=notes,
    )


RENAMED = {"linear_attention": "mamba", "full_attention": "attention", "sparse": "moe", "dense": "mlp"}
"""What transformers 5 calls the kinds when it writes a config."""

PATTERN = {"M": "mamba", "*": "attention", "E": "moe", "-": "mlp"}


def nemotron_layers(c: Config) -> list[str]:
    """The kind of each of Nemotron-H's layers: ``layers_block_type``, or the letters of ``hybrid_override_pattern``."""
    listed = c.words("layers_block_type", None, (*PATTERN.values(), *RENAMED))
    listed = None if listed is None else [RENAMED.get(kind, kind) for kind in listed]
    if listed is None:
        letters = c.text("hybrid_override_pattern")
        if not letters or set(letters) - set(PATTERN):
            raise c.wrong("hybrid_override_pattern", f"letters of {' '.join(PATTERN)} (or layers_block_type must be given)")
        listed = [PATTERN[letter] for letter in letters]
    if c.has("num_hidden_layers") and c.layers != len(listed):
        raise c.wrong("num_hidden_layers", f"{len(listed)}, as many as the pattern of layers has")
    return listed


def nemotron_h(c: Config, family: str, outer: Config | None = None) -> ModelLayout:
    """Nemotron-H and Nemotron 3: every layer is one of Mamba-2, attention, a feed-forward block or experts (squared
    ReLU, no gate)."""
    hidden = c.whole("hidden_size")
    kinds = nemotron_layers(c)
    heads, kv_heads, head = blocks.heads_of(c)
    m_heads, m_head, groups = c.whole("mamba_num_heads"), c.whole("mamba_head_dim"), c.whole("n_groups")
    inner, kernel, state_size = m_heads * m_head, c.whole("conv_kernel", 4), c.whole("ssm_state_size")
    moe = nemotron_experts(c, kinds) if "moe" in kinds else None
    parts: list[Part] = blocks.embeddings(c, hidden, tied=blocks.tied(c, False, outer), norm=hidden)
    caches: list[Cache] = []
    state = 0
    for index, kind in enumerate(kinds):
        at = f"layers.{index}"
        parts.append(blocks.plain(f"{at}.norm", hidden))
        if kind == "mamba":
            parts += mamba2(c, f"{at}.mixer", inner, m_heads, groups, state_size, kernel)
            state += state_bytes(c, inner * state_size, (inner + 2 * groups * state_size) * (kernel - 1), "float32")
        elif kind == "attention":
            parts += blocks.attention(
                at,
                hidden,
                heads,
                kv_heads,
                head,
                bias=c.flag("attention_bias", False),
                out_bias=c.flag("attention_bias", False),
                name="mixer",
            )
            caches += blocks.kv_caches([0], kv_heads, head)
        elif kind == "moe":
            assert moe is not None
            parts += expert_parts(at, hidden, moe)
        else:
            parts += blocks.mlp(
                f"{at}.mixer", hidden, c.whole("intermediate_size"), gated=False, bias=c.flag("mlp_bias", False)
            )
    notes = mtp_notes(c)
    return _layout(c, family, parts, caches, state, (heads, kv_heads, head), moe, notes, layers=len(kinds))


def nemotron_experts(c: Config, kinds: Sequence[str]) -> Moe:
    """Nemotron 3's experts; ``moe_latent_size`` is the width they work in."""
    count = counted(c, "n_routed_experts")
    shared = c.whole("n_shared_experts", 1, minimum=0)
    return Moe(
        count=count,
        per_token=chosen(c, count, "num_experts_per_tok"),
        inner=c.whole("moe_intermediate_size"),
        layers=tuple(kind == "moe" for kind in kinds),
        at="mixer",
        gated=False,
        latent=c.whole("moe_latent_size", 0, minimum=0),
        shared_inner=c.whole("moe_shared_expert_intermediate_size") * shared,
        shared=shared,
    )


def jamba(c: Config, family: str, outer: Config | None = None) -> ModelLayout:
    """Jamba: one attention layer among eight of Mamba-1, experts in every other layer."""
    hidden, layers = c.whole("hidden_size"), c.layers
    heads, kv_heads, head = blocks.heads_of(c)
    every, offset = c.whole("attn_layer_period", 8), c.whole("attn_layer_offset", 4, minimum=0)
    e_every, e_offset = c.whole("expert_layer_period", 2), c.whole("expert_layer_offset", 1, minimum=0)
    count = counted(c, "num_experts", default=16)
    moe = Moe(
        count=count,
        per_token=chosen(c, count, "num_experts_per_tok", default=2),
        inner=c.whole("intermediate_size"),
        layers=tuple(layer % e_every == e_offset and count > 1 for layer in range(layers)),
        at="feed_forward",
        router="router",
    )
    inner = hidden * c.whole("mamba_expand", 2)
    size, kernel = c.whole("mamba_d_state", 16), c.whole("mamba_d_conv", 4)
    rank = -(-hidden // 16) if c.fields.get("mamba_dt_rank", "auto") == "auto" else c.whole("mamba_dt_rank")
    parts: list[Part] = blocks.embeddings(c, hidden, tied=blocks.tied(c, False, outer), norm=hidden)
    caches: list[Cache] = []
    state = 0
    for index in range(layers):
        at = f"layers.{index}"
        parts.append(blocks.plain(f"{at}.norms", 2 * hidden))
        if index % every == offset:
            parts += blocks.attention(at, hidden, heads, kv_heads, head)
            caches += blocks.kv_caches([0], kv_heads, head)
        else:
            parts += [
                blocks.matrix(f"{at}.mamba.in_proj", 2 * inner, hidden),
                blocks.matrix(f"{at}.mamba.x_proj", rank + 2 * size, inner),
                blocks.matrix(f"{at}.mamba.dt_proj", inner, rank, bias=True),
                blocks.matrix(f"{at}.mamba.out_proj", hidden, inner),
                blocks.plain(f"{at}.mamba.rest", inner * (size + 1) + inner * (kernel + 1) + rank + 2 * size),
            ]
            state += state_bytes(c, inner * size, inner * (kernel - 1))
        parts += expert_parts(at, hidden, moe) if moe.layers[index] else blocks.mlp(f"{at}.feed_forward", hidden, moe.inner)
    return _layout(c, family, parts, caches, state, (heads, kv_heads, head), moe if any(moe.layers) else None)


def granite_hybrid(c: Config, family: str, outer: Config | None = None) -> ModelLayout:
    """Granite 4 and Bamba: Mamba-2 layers and a few of attention, a shared block (and experts) in every layer."""
    hidden, layers = c.whole("hidden_size"), c.layers
    heads, kv_heads, head = blocks.heads_of(c)
    m_heads, size = c.whole("mamba_n_heads", 128), c.whole("mamba_d_state", 256)
    groups, kernel = c.whole("mamba_n_groups", 1), c.whole("mamba_d_conv", 4)
    inner = hidden * c.whole("mamba_expand", 2)
    biased = c.flag("attention_bias", False)
    moe = None
    if family == "granitemoehybrid" and c.whole("num_local_experts", 0, minimum=0):
        count = counted(c, "num_local_experts")
        moe = Moe(
            count=count,
            per_token=chosen(c, count, "num_experts_per_tok"),
            inner=c.whole("intermediate_size"),
            layers=(True,) * layers,
            shared=1,
            at="block_sparse_moe",
            router="router",
        )
    shared = c.whole("shared_intermediate_size") if family == "granitemoehybrid" else c.whole("intermediate_size")
    parts: list[Part] = blocks.embeddings(c, hidden, tied=blocks.tied(c, False, outer), norm=hidden)
    caches: list[Cache] = []
    state = 0
    for index, attends in enumerate(granite_attending(c)):
        at = f"layers.{index}"
        parts.append(blocks.plain(f"{at}.norms", 2 * hidden))
        if attends:
            parts += blocks.attention(at, hidden, heads, kv_heads, head, bias=biased, out_bias=biased)
            caches += blocks.kv_caches([0], kv_heads, head)
        else:
            parts += mamba2(c, f"{at}.mamba", inner, m_heads, groups, size, kernel)
            state += state_bytes(c, inner * size, (inner + 2 * groups * size) * (kernel - 1))
        if moe is not None:
            parts += expert_parts(at, hidden, moe)
        parts += blocks.mlp(f"{at}.shared_mlp", hidden, shared, role="shared" if moe else "text")
    return _layout(c, family, parts, caches, state, (heads, kv_heads, head), moe)


def granite_attending(c: Config) -> list[bool]:
    """Which layers attend, by ``layer_types`` or ``attn_layer_indices``."""
    layers = c.layers
    types = c.words("layer_types", layers, blocks.LAYER_WORDS) or c.words("layers_block_type", layers, blocks.LAYER_WORDS)
    if types is not None:
        return [kind in ("attention", "full_attention") for kind in types]
    listed = c.wholes("attn_layer_indices") or []
    return [layer in listed for layer in range(layers)]


def falcon_h1(c: Config, family: str, outer: Config | None = None) -> ModelLayout:
    """Falcon-H1: attention and Mamba-2 side by side in every layer."""
    hidden, layers = c.whole("hidden_size"), c.layers
    heads, kv_heads, head = blocks.heads_of(c)
    m_heads, size = c.whole("mamba_n_heads"), c.whole("mamba_d_state")
    groups, kernel = c.whole("mamba_n_groups", 1), c.whole("mamba_d_conv", 4)
    inner = c.whole("mamba_d_ssm") if c.has("mamba_d_ssm") else hidden * c.whole("mamba_expand", 2)
    biased, wide = c.flag("attention_bias", False), c.flag("mlp_bias", False)
    parts: list[Part] = blocks.embeddings(c, hidden, tied=blocks.tied(c, False, outer), norm=hidden)
    state = 0
    for index in range(layers):
        at = f"layers.{index}"
        parts += [blocks.plain(f"{at}.norms", 2 * hidden)]
        parts += blocks.attention(at, hidden, heads, kv_heads, head, bias=biased, out_bias=biased)
        parts += mamba2(c, f"{at}.mamba", inner, m_heads, groups, size, kernel, norm=c.flag("mamba_rms_norm", False))
        parts += blocks.mlp(f"{at}.feed_forward", hidden, c.whole("intermediate_size"), bias=wide)
        state += state_bytes(c, inner * size, (inner + 2 * groups * size) * (kernel - 1))
    return _layout(c, family, parts, blocks.kv_caches([0] * layers, kv_heads, head), state, (heads, kv_heads, head), None)


def kimi_linear(c: Config, family: str, outer: Config | None = None) -> ModelLayout:
    """Kimi Linear and Kimi K3: Kimi delta attention in most layers, latent attention in the others.

    K3's full-rank gates and latent experts are read from its config; no public parameter count was at hand to compare with.
    """
    hidden, layers, linear = c.whole("hidden_size"), c.layers, c.inner("linear_attn_config")
    if linear is None:
        raise c.wrong("linear_attn_config", "a JSON object with num_heads, head_dim, full_attn_layers and kda_layers")
    full = [layer - 1 for layer in linear.wholes("full_attn_layers") or []]
    kda = [layer - 1 for layer in linear.wholes("kda_layers") or []]
    if sorted(full + kda) != list(range(layers)):
        raise InputError(f"{linear.where}: full_attn_layers and kda_layers must name each of {layers} layers once")
    count = counted(c, "num_experts", "num_local_experts")
    inner, shared = c.whole("moe_intermediate_size"), c.first("num_shared_experts", "n_shared_experts", default=0, minimum=0)
    first = c.whole("first_k_dense_replace", 1, minimum=0)
    moe = Moe(
        count=count,
        per_token=chosen(c, count, "num_experts_per_token", "num_experts_per_tok"),
        inner=inner,
        layers=tuple(layer >= first for layer in range(layers)),
        shared_inner=inner * shared,
        shared=shared,
        latent=c.whole("routed_expert_hidden_size", 0, minimum=0),
        at="block_sparse_moe",
    )
    parts: list[Part] = blocks.embeddings(c, hidden, tied=blocks.tied(c, False, outer), norm=hidden)
    caches: list[Cache] = []
    state = 0
    for index in range(layers):
        at = f"layers.{index}"
        parts.append(blocks.plain(f"{at}.norms", 2 * hidden))
        if index in full:
            parts += latent_attention(c, f"{at}.self_attn")
            if c.flag("mla_use_output_gate", False):
                parts.append(
                    blocks.matrix(f"{at}.self_attn.g_proj", c.whole("num_attention_heads") * c.whole("v_head_dim"), hidden)
                )
            caches.append(Cache(kind="latent", numbers=c.whole("kv_lora_rank") + c.whole("qk_rope_head_dim")))
        else:
            found, bytes_ = delta_attention(linear, f"{at}.self_attn", hidden)
            parts += found
            state += bytes_
        parts += (
            expert_parts(at, hidden, moe)
            if moe.layers[index]
            else blocks.mlp(f"{at}.mlp", hidden, c.whole("intermediate_size"))
        )
    notes = mtp_notes(c)
    if moe.latent:
        notes = (
            *notes,
            "gates and latent projections are counted from the config; no public count was at hand to compare with",
        )
    heads = (c.whole("num_attention_heads"), 1, c.whole("qk_nope_head_dim") + c.whole("qk_rope_head_dim"))
    return _layout(c, family, parts, caches, state, heads, moe, notes)


def delta_attention(linear: Config, at: str, hidden: int) -> tuple[list[Part], int]:
    """Kimi delta attention and its state's bytes (float32: vLLM keeps the recurrent state so)."""
    heads, head, kernel = linear.whole("num_heads"), linear.whole("head_dim"), linear.whole("short_conv_kernel_size", 4)
    wide = heads * head
    parts = [
        *(blocks.matrix(f"{at}.{name}", wide, hidden) for name in ("q_proj", "k_proj", "v_proj")),
        blocks.plain(f"{at}.conv1d", 3 * wide * kernel),
        blocks.matrix(f"{at}.f_a_proj", head, hidden),
        blocks.matrix(f"{at}.f_b_proj", wide, head),
        blocks.matrix(f"{at}.b_proj", heads, hidden),
        blocks.plain(f"{at}.rest", wide + heads + head),
        blocks.matrix(f"{at}.o_proj", hidden, wide),
    ]
    if linear.flag("use_full_rank_gate", False):
        parts.append(blocks.matrix(f"{at}.g_proj", wide, hidden))
    else:
        parts += [blocks.matrix(f"{at}.g_a_proj", head, hidden), blocks.matrix(f"{at}.g_b_proj", wide, head)]
    return parts, 4 * heads * head * head + 2 * 3 * wide * (kernel - 1)
