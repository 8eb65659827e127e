"""Model directories written by code: real architectures, random weights, a byte-level tokenizer; nothing to download.

vLLM serves them with ``--load-format dummy`` (weights drawn at start-up). Latency depends on shapes and lengths, not on
what the weights say, so they stand in for trained models wherever timing is the question: tests, CI, share laws.
"""

import json
from pathlib import Path

from scepsy.llm import Llm
from scepsy.value import Value, require

BYTES_PER_WEIGHT = 2
"""BF16, as vLLM serves these models."""

VOCABULARY = 384
"""256 bytes and the special tokens, rounded up to a multiple of 64, which vLLM pads to anyway."""

END_TOKEN = 256
"""Id of ``<|end|>``; bytes are ids 0 to 255."""

CHAT_TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)

ARCHITECTURES = {
    "generate": "LlamaForCausalLM",
    "embed": "LlamaForCausalLM",  # served with --runner pooling --convert embed
    "rerank": "LlamaForSequenceClassification",  # one label, or vLLM offers /classify but neither /score nor /rerank
}


class RandomModel(Value, frozen=True, kw_only=True):
    """The shape of a Llama-like model."""

    name: str
    kind: str = "generate"
    layers: int = 2
    hidden_size: int = 128
    attention_heads: int = 4
    kv_heads: int = 2
    context_limit: int = 2048

    def __post_init__(self) -> None:
        require(bool(self.name), "name", self.name, "a non-empty string")
        require(self.kind in ARCHITECTURES, "kind", self.kind, f"one of {', '.join(ARCHITECTURES)}")
        require(self.layers >= 1, "layers", self.layers, ">= 1")
        require(self.hidden_size % self.attention_heads == 0, "hidden_size", self.hidden_size, "a multiple of attention_heads")
        require(self.attention_heads % self.kv_heads == 0, "attention_heads", self.attention_heads, "a multiple of kv_heads")
        require(self.context_limit >= 1, "context_limit", self.context_limit, ">= 1")


def model_config(model: RandomModel) -> dict[str, object]:
    """The ``config.json`` of a model (the Hugging Face format that vLLM reads)."""
    config: dict[str, object] = {
        "architectures": [ARCHITECTURES[model.kind]],
        "model_type": "llama",
        "hidden_size": model.hidden_size,
        "intermediate_size": 4 * model.hidden_size,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.attention_heads,
        "num_key_value_heads": model.kv_heads,
        "head_dim": model.hidden_size // model.attention_heads,
        "max_position_embeddings": model.context_limit,
        "vocab_size": VOCABULARY,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "bos_token_id": END_TOKEN,
        "eos_token_id": END_TOKEN,
        "pad_token_id": END_TOKEN,
        "torch_dtype": "bfloat16",
    }
    if model.kind == "rerank":
        config |= {"num_labels": 1, "id2label": {"0": "relevance"}, "label2id": {"relevance": 0}}
    return config


def _byte_symbols() -> list[str]:
    """The 256 printable symbols of GPT-2's byte-level alphabet: visible Latin-1 bytes as they are, the others from 256 on."""
    visible = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    symbols, extra = [], 0
    for byte in range(256):
        if byte in visible:
            symbols.append(chr(byte))
        else:
            symbols.append(chr(256 + extra))
            extra += 1
    return symbols


def tokenizer() -> dict[str, object]:
    """A ``tokenizer.json``: one token per UTF-8 byte, so that token counts are known without any tokenizer."""
    vocabulary = {symbol: byte for byte, symbol in enumerate(_byte_symbols())}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": END_TOKEN,
                "content": "<|end|>",
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocabulary | {"<|end|>": END_TOKEN},
            "merges": [],
        },
    }


def write_model(model: RandomModel, folder: Path) -> Path:
    """Write ``folder/<name>`` with everything but weights, and return it. The same model gives the same bytes."""
    path = folder / model.name
    path.mkdir(parents=True, exist_ok=True)
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model.context_limit,
        "bos_token": "<|end|>",
        "eos_token": "<|end|>",
        "pad_token": "<|end|>",
        "chat_template": CHAT_TEMPLATE,
    }
    files = {"config.json": model_config(model), "tokenizer.json": tokenizer(), "tokenizer_config.json": tokenizer_config}
    for name, content in files.items():
        (path / name).write_text(json.dumps(content, indent=1, ensure_ascii=True) + "\n")
    return path


def parameters(model: RandomModel) -> int:
    """Number of weights, exactly: embeddings, attention, gated MLP, norms, head.

    >>> parameters(RandomModel(name="tiny", layers=1, hidden_size=8, attention_heads=2, kv_heads=1))
    7128
    """
    hidden = model.hidden_size
    kv = hidden // model.attention_heads * model.kv_heads
    layer = 2 * hidden * hidden + 2 * hidden * kv + 3 * hidden * 4 * hidden + 2 * hidden
    head = {"generate": VOCABULARY * hidden, "embed": 0, "rerank": hidden}[model.kind]
    return VOCABULARY * hidden + model.layers * layer + hidden + head


def llm_of(model: RandomModel) -> Llm:
    """The planner's view of a model. Pooling models keep no KV cache between requests (0 bytes per token)."""
    head_size = model.hidden_size // model.attention_heads
    kv_bytes = 2 * model.layers * model.kv_heads * head_size * BYTES_PER_WEIGHT
    return Llm(
        name=model.name,
        parameters=float(parameters(model)),
        weight_bytes=BYTES_PER_WEIGHT * parameters(model),
        kv_bytes_per_token=kv_bytes if model.kind == "generate" else 0,
        context_limit=model.context_limit,
        kind=model.kind,  # type: ignore[arg-type]  # checked in RandomModel
        kv_heads=model.kv_heads,
        attention_heads=model.attention_heads,
        layers=model.layers,
        hidden_size=model.hidden_size,
        source="random weights written by executor.random_models",
    )
