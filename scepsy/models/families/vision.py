"""Vision encoders beside the text part, and the wrappers that hold both. The text part decides; the encoder adds
weights only."""

from msgspec.structs import replace

from scepsy.models.config import Config
from scepsy.models.parts import ModelLayout, Part


def _encoder(numbers: int) -> list[Part]:
    return [Part(name="visual", rows=numbers, linear=False, role="vision")]


def with_vision(layout: ModelLayout, numbers: int, *, counted: bool) -> ModelLayout:
    """The layout with a vision encoder of ``numbers`` weights. ``counted``: transformers' class for text includes it."""
    what = "counted in parameters and weight bytes" if counted else "not in parameters, but in weight bytes"
    note = f"vision encoder: {numbers / 1e6:.0f} million weights, {what}; images' own compute and tokens are left out"
    return replace(layout, parts=(*layout.parts, *_encoder(numbers)), counts_vision=counted, notes=(*layout.notes, note))


def without_vision(layout: ModelLayout, why: str) -> ModelLayout:
    """A wrapper whose file does not describe its vision encoder: said, not guessed."""
    return replace(layout, notes=(*layout.notes, f"vision encoder left out: {why}"))


def block(width: int, inner: int, *, gated: bool = False, bias: bool = True, norm_bias: bool = True) -> int:
    """A vision transformer's layer: attention, feed-forward, two norms."""
    b = int(bias)
    attention = 4 * (width * width + b * width)
    mlp = (3 if gated else 2) * width * inner + b * ((2 if gated else 1) * inner + width)
    return attention + mlp + 2 * width * (2 if norm_bias else 1)


def qwen3_vl(v: Config) -> int:
    """The encoder of Qwen3-VL and Qwen3.5: patches over two frames, learned positions, a merger, and mergers in between."""
    width, inner, depth = v.whole("hidden_size"), v.whole("intermediate_size"), v.whole("depth")
    out, merge = v.whole("out_hidden_size"), v.whole("spatial_merge_size", 2)
    patch = v.whole("in_channels", 3) * v.whole("temporal_patch_size", 2) * v.whole("patch_size", 16) ** 2
    wide = width * merge * merge
    merger = wide * wide + wide + out * wide + out
    between = len(v.items("deepstack_visual_indexes") or [])
    return (
        (patch + 1) * width
        + v.whole("num_position_embeddings", 2304) * width
        + depth * block(width, inner)
        + merger
        + 2 * width
        + between * (merger + 2 * wide)
    )


def qwen2_vl(v: Config) -> int:
    """The encoder of Qwen2-VL."""
    width, ratio, depth = v.whole("embed_dim", 1280), v.whole("mlp_ratio", 4), v.whole("depth", 32)
    patch = v.first("in_channels", "in_chans", default=3) * v.whole("temporal_patch_size", 2) * v.whole("patch_size", 14) ** 2
    wide = width * v.whole("spatial_merge_size", 2) ** 2
    return (
        patch * width
        + depth * block(width, ratio * width)
        + 2 * width
        + wide * wide
        + wide
        + v.whole("hidden_size") * (wide + 1)
    )


def qwen2_5_vl(v: Config) -> int:
    """The encoder of Qwen2.5-VL: gated feed-forward blocks, RMS norms."""
    width, inner, depth = v.whole("hidden_size", 1280), v.whole("intermediate_size", 3420), v.whole("depth", 32)
    patch = v.first("in_channels", "in_chans", default=3) * v.whole("temporal_patch_size", 2) * v.whole("patch_size", 14) ** 2
    wide = width * v.whole("spatial_merge_size", 2) ** 2
    merger = width + wide * wide + wide + v.whole("out_hidden_size") * (wide + 1)
    return patch * width + depth * block(width, inner, gated=True, norm_bias=False) + merger


def siglip(v: Config, hidden: int) -> int:
    """Gemma 3's SigLIP and its projector."""
    width, inner, depth = v.whole("hidden_size", 1152), v.whole("intermediate_size", 4304), v.whole("num_hidden_layers", 27)
    patch, image = v.whole("patch_size", 14), v.whole("image_size", 896)
    pooling = block(width, inner) + width if v.flag("vision_use_head", True) else 0
    projector = width * hidden + width
    places = (image // patch) ** 2
    return (3 * patch * patch + 1 + places) * width + depth * block(width, inner) + 2 * width + pooling + projector


def pixtral(v: Config, hidden: int, merge: int, bias: bool) -> int:
    """Mistral Small 3's Pixtral encoder, patch merger and projector."""
    width, inner, depth = v.whole("hidden_size", 1024), v.whole("intermediate_size", 4096), v.whole("num_hidden_layers", 24)
    patch = v.whole("patch_size", 16)
    layers = depth * block(width, inner, gated=True, bias=False, norm_bias=False)
    merger = merge * merge * width * width
    projector = width + width * hidden + hidden * hidden + (2 * hidden if bias else 0)
    return 3 * patch * patch * width + width + layers + merger + projector


def gemma4(v: Config, hidden: int) -> int:
    """Gemma 4's encoder: factorised positions, gated blocks with four norms, a projection."""
    width, inner, depth = v.whole("hidden_size"), v.whole("intermediate_size"), v.whole("num_hidden_layers")
    head = v.whole("head_dim", 72)
    heads, kv = v.whole("num_attention_heads"), v.whole("num_key_value_heads", v.whole("num_attention_heads"))
    layer = 2 * width * heads * head + 2 * width * kv * head + 3 * width * inner + 4 * width + 2 * head
    return (
        2 * v.whole("position_embedding_size", 10240) * width
        + 3 * v.whole("patch_size", 16) ** 2 * width
        + depth * layer
        + width * hidden
    )


def kimi(v: Config, hidden: int) -> int:
    """Kimi K2.5's and K3's encoder (MoonViT) and patch merger."""
    width, inner, depth = v.whole("vt_hidden_size"), v.whole("vt_intermediate_size"), v.whole("vt_num_hidden_layers")
    patch = 3 * v.whole("patch_size", 14) ** 2
    places = v.whole("init_pos_emb_height", 64) * v.whole("init_pos_emb_width", 64)
    merge = v.wholes("merge_kernel_size") or [2, 2]
    wide = width * (merge[0] * merge[-1] if merge else 4)
    projector = 2 * width + wide * wide + wide + hidden * (wide + 1)
    return (patch + 1 + places) * width + depth * block(width, inner) + 2 * width + projector


def step(v: Config, hidden: int) -> int:
    """Step-3.7's encoder, two convolutions that halve the grid, and a projection; missing fields as transformers fills
    them in."""
    width, depth, patch = v.first("hidden_size", "width", default=1536), v.first("num_hidden_layers", "layers", default=47), 14
    inner, places = v.whole("intermediate_size", 8960), (728 // patch) ** 2
    convolutions = width * 2 * width * 9 + 2 * width + 2 * width * 4 * width * 9 + 4 * width
    layer = block(width, inner) + 2 * width
    return 3 * patch * patch * width + places * width + 2 * width + depth * layer + convolutions + 4 * width * hidden
