"""Encoders for embedding and reranking: no KV cache, every token sees every other."""

from scepsy.models import blocks
from scepsy.models.config import Config
from scepsy.models.parts import ModelLayout, Part


def _layout(c: Config, family: str, parts: list[Part], heads: int, context: int) -> ModelLayout:
    hidden = c.first("hidden_size", "dim")
    return ModelLayout(
        family=family,
        parts=tuple(parts),
        caches=(),
        layers=c.first("num_hidden_layers", "n_layers"),
        hidden_size=hidden,
        attention_heads=heads,
        kv_heads=heads,
        head_size=hidden // heads,
        context_tokens=context,
        encoder=True,
    )


def head(c: Config, kind: str, hidden: int) -> list[Part]:
    """The part after the encoder: a dense layer and the labels for a reranker."""
    if kind != "rerank":
        return []
    labels = c.whole("num_labels", len(c.fields["id2label"]) if isinstance(c.fields.get("id2label"), dict) else 1)
    return [blocks.plain("classifier.out_proj", labels, cols=hidden), blocks.plain("classifier.bias", labels)]


def bert(c: Config, family: str, kind: str) -> ModelLayout:
    """BERT, RoBERTa, XLM-RoBERTa, MPNet, ELECTRA: learned positions, biases, two layer norms per layer, a pooler."""
    hidden, inner, layers = c.whole("hidden_size"), c.whole("intermediate_size"), c.layers
    heads, places = c.whole("num_attention_heads"), c.whole("max_position_embeddings")
    parts = [
        blocks.plain("embed_tokens", c.whole("vocab_size"), cols=hidden),
        blocks.plain("position_embeddings", places, cols=hidden),
        blocks.plain("embeddings.norm", 2 * hidden),
    ]
    if family != "mpnet":
        parts.append(blocks.plain("token_type_embeddings", c.whole("type_vocab_size", 2), cols=hidden))
    else:
        parts.append(blocks.plain("relative_attention_bias", c.whole("relative_attention_num_buckets", 32), cols=heads))
    for index in range(layers):
        at = f"layers.{index}"
        parts += blocks.attention(at, hidden, heads, heads, hidden // heads, bias=True, out_bias=True)
        parts += [blocks.plain(f"{at}.norms", 4 * hidden), *blocks.mlp(f"{at}.mlp", hidden, inner, gated=False, bias=True)]
    roberta = family in ("roberta", "xlm-roberta", "camembert")
    if kind == "rerank" or not roberta or "Model" in "".join(c.architectures):
        parts.append(blocks.plain("pooler", hidden, cols=hidden + 1))
    context = places - 2 if roberta or family == "mpnet" else places
    return _layout(c, family, parts + head(c, kind, hidden), heads, context)


def distilbert(c: Config, family: str, kind: str) -> ModelLayout:
    """DistilBERT: BERT without token types and pooler, and its own field names."""
    hidden, inner, layers, heads = (
        c.whole("dim"),
        c.whole("hidden_dim"),
        c.whole("n_layers", maximum=10_000),
        c.whole("n_heads"),
    )
    places = c.whole("max_position_embeddings")
    parts = [
        blocks.plain("embed_tokens", c.whole("vocab_size"), cols=hidden),
        blocks.plain("position_embeddings", places, cols=hidden),
        blocks.plain("embeddings.norm", 2 * hidden),
    ]
    for index in range(layers):
        at = f"layers.{index}"
        parts += blocks.attention(at, hidden, heads, heads, hidden // heads, bias=True, out_bias=True)
        parts += [blocks.plain(f"{at}.norms", 4 * hidden), *blocks.mlp(f"{at}.mlp", hidden, inner, gated=False, bias=True)]
    if kind == "rerank":
        parts.append(blocks.plain("pre_classifier", hidden, cols=hidden + 1))
    return _layout(c, family, parts + head(c, kind, hidden), heads, places)


def modernbert(c: Config, family: str, kind: str) -> ModelLayout:
    """ModernBERT: rotary positions, gated blocks, no biases unless the config has them."""
    hidden, inner, layers = c.whole("hidden_size"), c.whole("intermediate_size"), c.layers
    heads = c.whole("num_attention_heads")
    norm = hidden * (2 if c.flag("norm_bias", False) else 1)
    parts = [blocks.plain("embed_tokens", c.whole("vocab_size"), cols=hidden), blocks.plain("embeddings.norm", 2 * norm)]
    biased, wide = c.flag("attention_bias", False), c.flag("mlp_bias", False)
    for index in range(layers):
        at = f"layers.{index}"
        parts += blocks.attention(at, hidden, heads, heads, hidden // heads, bias=biased, out_bias=biased)
        parts += [
            blocks.plain(f"{at}.norms", norm * (1 if index == 0 else 2)),
            *blocks.mlp(f"{at}.mlp", hidden, inner, bias=wide),
        ]
    if kind == "rerank":
        parts.append(blocks.plain("head", hidden, cols=hidden + 1))
    return _layout(c, family, parts + head(c, kind, hidden), heads, c.whole("max_position_embeddings"))
