"""The building blocks that families share. Sizes are numbers of weights; names are those of checkpoints without prefix."""

from collections.abc import Callable, Sequence

from scepsy.models.config import Config
from scepsy.models.parts import Cache, Part, Role

LAYER_WORDS = (
    "full_attention",
    "sliding_attention",
    "chunked_attention",
    "linear_attention",
    "attention",
    "mamba",
    "conv",
    "hybrid",
    "recurrent",
)


def matrix(name: str, rows: int, cols: int, *, bias: bool = False, copies: int = 1, role: Role = "text") -> Part:
    """A linear layer with ``rows`` outputs."""
    return Part(name=name, rows=rows, cols=cols, bias=rows if bias else 0, copies=copies, role=role)


def plain(name: str, numbers: int, role: Role = "text", cols: int = 1) -> Part:
    """Weights that no quantisation touches: norms, routers, embeddings, convolutions."""
    return Part(name=name, rows=numbers, cols=cols, linear=False, role=role)


def heads_of(c: Config, default: int | None = None) -> tuple[int, int, int]:
    """(attention heads, KV heads, head size); ``default``: the family's head size where the config has none."""
    heads = c.whole("num_attention_heads", maximum=100_000)
    kv_heads = c.whole("num_key_value_heads", heads, maximum=100_000)
    if heads % kv_heads:
        raise c.wrong("num_key_value_heads", f"a divisor of num_attention_heads ({heads})")
    if c.has("head_dim") or default is not None:
        return heads, kv_heads, c.whole("head_dim", default)
    hidden = c.whole("hidden_size")
    if hidden % heads:
        raise c.wrong("hidden_size", f"a multiple of num_attention_heads ({heads}), or head_dim must be given")
    return heads, kv_heads, hidden // heads


def attention(
    layer: str,
    hidden: int,
    heads: int,
    kv_heads: int,
    head: int,
    *,
    bias: bool = False,
    out_bias: bool = False,
    norms: int = 0,
    gated: bool = False,
    shared_kv: bool = False,
    name: str = "self_attn",
    out_name: str = "o_proj",
) -> list[Part]:
    """Grouped-query attention. ``norms``: weights of query and key norms; ``gated``: queries carry an output gate;
    ``shared_kv``: values are the keys."""
    at = f"{layer}.{name}"
    parts = [
        matrix(f"{at}.q_proj", heads * head * (2 if gated else 1), hidden, bias=bias),
        matrix(f"{at}.k_proj", kv_heads * head, hidden, bias=bias),
        matrix(f"{at}.{out_name}", hidden, heads * head, bias=out_bias),
    ]
    if not shared_kv:
        parts.append(matrix(f"{at}.v_proj", kv_heads * head, hidden, bias=bias))
    if norms:
        parts.append(plain(f"{at}.qk_norm", norms))
    return parts


def mlp(at: str, hidden: int, inner: int, *, gated: bool = True, bias: bool = False, role: Role = "text") -> list[Part]:
    """A feed-forward block: up and down, and a gate where ``gated``."""
    parts = [
        matrix(f"{at}.up_proj", inner, hidden, bias=bias, role=role),
        matrix(f"{at}.down_proj", hidden, inner, bias=bias, role=role),
    ]
    return [*parts, matrix(f"{at}.gate_proj", inner, hidden, bias=bias, role=role)] if gated else parts


def experts(at: str, hidden: int, inner: int, count: int, *, gated: bool = True, bias: bool = False) -> list[Part]:
    """``count`` routed experts of one layer."""
    parts = [
        matrix(f"{at}.experts.0.up_proj", inner, hidden, bias=bias, copies=count, role="routed"),
        matrix(f"{at}.experts.0.down_proj", hidden, inner, bias=bias, copies=count, role="routed"),
    ]
    if gated:
        parts.append(matrix(f"{at}.experts.0.gate_proj", inner, hidden, bias=bias, copies=count, role="routed"))
    return parts


def embeddings(c: Config, hidden: int, *, tied: bool, norm: int, bias: bool = False) -> list[Part]:
    """Input embedding, final norm, and the output matrix unless it is tied to the input."""
    vocabulary = c.whole("vocab_size")
    parts = [plain("embed_tokens", vocabulary, cols=hidden), plain("norm", norm)]
    return parts if tied else [*parts, matrix("lm_head", vocabulary, hidden, bias=bias)]


def tied(c: Config, default: bool, outer: Config | None = None) -> bool:
    """Whether input and output embeddings are one matrix. A wrapper's own field decides where it is there."""
    if outer is not None and outer.has("tie_word_embeddings"):
        return outer.flag("tie_word_embeddings", default)
    return c.flag("tie_word_embeddings", default)


def windows(c: Config, pattern: Callable[[int], bool] | None = None, default: int | None = None) -> list[int]:
    """Tokens that each layer's attention looks back at; 0: all of them.

    ``layer_types`` decides where it is there, else ``pattern(layer)`` (True: a window). ``default``: the window where
    ``sliding_window`` is missing.
    """
    layers = c.layers
    types = c.words("layer_types", layers, LAYER_WORDS)
    size = c.whole("sliding_window", default) if c.has("sliding_window") or default is not None else 0
    if types is not None:
        if "sliding_attention" in types and not size:
            raise c.wrong("sliding_window", "a whole number, since layer_types has sliding_attention")
        return [size if kind == "sliding_attention" else 0 for kind in types]
    return [size if size and pattern is not None and pattern(layer) else 0 for layer in range(layers)]


def kv_caches(sizes: Sequence[int], kv_heads: int, head: int, value_head: int | None = None) -> list[Cache]:
    """The caches of grouped-query layers with these windows: keys and values of ``kv_heads`` heads."""
    numbers = kv_heads * (head + (head if value_head is None else value_head))
    return [Cache(kind="window" if size else "full", numbers=numbers, window_tokens=size) for size in sizes]


def context_of(c: Config, default: int | None = None) -> int:
    """The longest context the config allows."""
    return c.first(
        "max_position_embeddings", "model_max_length", "max_sequence_length", "seq_length", "n_positions", default=default
    )
