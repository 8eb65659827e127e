"""Dense decoders: a table of styles, and the few that need a line of their own."""

from scepsy.models import blocks
from scepsy.models.config import Config
from scepsy.models.families.decoder import Style, decoder
from scepsy.models.parts import ModelLayout

STYLES: dict[str, Style] = {
    "llama": Style(),
    "mistral": Style(qkv_bias=False, out_bias=False, mlp_bias=False, window="all", window_tokens=4096),
    "ministral": Style(qkv_bias=False, out_bias=False, mlp_bias=False, window="all", window_tokens=4096),
    "ministral3": Style(qkv_bias=False, out_bias=False, mlp_bias=False, window="all"),
    "qwen2": Style(qkv_bias=True, out_bias=False, mlp_bias=False, window="qwen", window_tokens=4096),
    "qwen3": Style(mlp_bias=False, qk_norm="head", head_dim=128, window="qwen", window_tokens=4096),
    "mimo": Style(qkv_bias="attention_bias", out_bias=False, mlp_bias=False, window="qwen"),
    "gemma": Style(mlp_bias=False, tied=True, head_dim=256),
    "gemma2": Style(mlp_bias=False, tied=True, head_dim=256, norms=4, window="even", window_tokens=4096),
    "gemma3_text": Style(
        mlp_bias=False, tied=True, head_dim=256, norms=4, qk_norm="head", window="pattern", window_tokens=4096, window_period=6
    ),
    "phi": Style(
        qkv_bias=True, out_bias=True, mlp_bias=True, head_bias=True, norms=1, norm_bias=True, gated=False, out_name="dense"
    ),
    "phi3": Style(qkv_bias=False, out_bias=False, mlp_bias=False, window="all"),
    "granite": Style(),
    "olmo": Style(mlp_bias=False, norms=0),
    "olmo2": Style(mlp_bias=False, qk_norm="full"),
    "olmo3": Style(mlp_bias=False, qk_norm="full", window="pattern", window_tokens=4096, window_period=4),
    "cohere": Style(mlp_bias=False, tied=True, norms=1, qk_norm="heads", qk_norm_field="use_qk_norm"),
    "cohere2": Style(mlp_bias=False, tied=True, norms=1, window="pattern", window_tokens=4096, window_period=4),
    "stablelm": Style(
        qkv_bias="use_qkv_bias", out_bias=False, mlp_bias=False, norm_bias=True, qk_norm="heads", qk_norm_field="qk_layernorm"
    ),
    "starcoder2": Style(
        qkv_bias="!use_bias", out_bias="!use_bias", mlp_bias="!use_bias", norm_bias=True, gated=False, tied=True, window="all"
    ),
    "smollm3": Style(mlp_bias="mlp_bias", tied=True),
    "exaone4": Style(qkv_bias=False, out_bias=False, mlp_bias=False, qk_norm="head", window="pattern", window_period=4),
    "glm": Style(qkv_bias="!attention_bias", out_bias=False, mlp_bias=False, head_dim=128),
    "glm4": Style(qkv_bias="!attention_bias", out_bias=False, mlp_bias=False, norms=4, head_dim=128),
    "nemotron": Style(norm_bias=True, gated=False),
    "seed_oss": Style(qkv_bias="!attention_bias", out_bias="attention_out_bias", head_dim=128),
    "hunyuan_v1_dense": Style(mlp_bias=False, qk_norm="head"),
    "ernie4_5": Style(qkv_bias="use_bias", out_bias="use_bias", mlp_bias="use_bias", tied=True, head_dim=128),
    "arcee": Style(gated=False),
}
"""By model_type."""

DEFAULTS: dict[str, dict[str, object]] = {
    "gemma3_text": {
        "vocab_size": 262208,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
    },
    "gemma2": {"vocab_size": 256000, "max_position_embeddings": 8192},
    "qwen2": {"max_position_embeddings": 32768},
    "mistral": {"num_key_value_heads": 8},
    "cohere": {"max_position_embeddings": 8192},
}
"""Fields that published checkpoints leave out, as transformers 5.24 fills them in."""


def read(c: Config, family: str, outer: Config | None = None) -> ModelLayout:
    """A dense decoder by the style of its model_type."""
    filled = Config(
        {**DEFAULTS.get(family, {}), **{k: v for k, v in c.fields.items() if v is not None or k == "sliding_window"}}, c.where
    )
    notes = mtp_notes(filled)
    return decoder(filled, family, STYLES[family], outer=outer, notes=notes)


def mtp_notes(c: Config) -> tuple[str, ...]:
    """A note where the checkpoint carries layers for multi-token prediction, which are left out."""
    for field in ("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_modules"):
        if c.has(field) and (count := c.whole(field, minimum=0)):
            return (f"{count} multi-token-prediction layer(s) left out: engines load them only for speculative decoding",)
    return ()


def falcon(c: Config, family: str, outer: Config | None = None) -> ModelLayout:
    """Falcon 7B to 180B and 11B: one query-key-value matrix, parallel blocks, a plain feed-forward block."""
    hidden, layers = c.whole("hidden_size"), c.first("num_hidden_layers", "n_layer")
    heads = c.first("num_attention_heads", "n_head")
    if layers > 10_000 or hidden % heads:
        raise c.wrong("hidden_size", f"a multiple of num_attention_heads ({heads}), in at most 10000 layers")
    new, parallel, biased = c.flag("new_decoder_architecture", False), c.flag("parallel_attn", True), c.flag("bias", False)
    kv_heads = c.whole("num_kv_heads", heads) if new else (1 if c.flag("multi_query", True) else heads)
    norms = c.whole("num_ln_in_parallel_attn", 2) if new else (1 if parallel else 2)
    head, inner = hidden // heads, c.whole("ffn_hidden_size", 4 * hidden)
    tied = blocks.tied(c, True, outer)
    parts = blocks.embeddings(c, hidden, tied=tied, norm=2 * hidden)
    for index in range(layers):
        at = f"layers.{index}"
        parts += blocks.attention(at, hidden, heads, kv_heads, head, bias=biased, out_bias=biased, out_name="dense")
        parts += [blocks.plain(f"{at}.norms", norms * 2 * hidden)]
        parts += blocks.mlp(f"{at}.mlp", hidden, inner, gated=False, bias=biased)
    return ModelLayout(
        family=family,
        parts=tuple(parts),
        caches=tuple(blocks.kv_caches([0] * layers, kv_heads, head)),
        layers=layers,
        hidden_size=hidden,
        attention_heads=heads,
        kv_heads=kv_heads,
        head_size=head,
        context_tokens=blocks.context_of(c, 2048),
    )
