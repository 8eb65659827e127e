"""What the planner must know of a model, read from its folder's ``config.json`` (the Hugging Face format)."""

from pathlib import Path
from typing import Any

import msgspec

from scepsy.errors import InputError
from scepsy.llm import Llm
from scepsy.workload import CallKind

_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1}


def read_llm(name: str, folder: Path, kind: CallKind) -> Llm:
    """The Llm in ``folder``, served as ``name``. Raises ``InputError`` when its config does not say what is needed.

    Weights are counted for a dense decoder with grouped-query attention and a gated MLP (Llama, Mistral, Qwen2, …).
    """
    path = folder / "config.json"
    try:
        config = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}: must be a model folder with its config.json") from error
    except msgspec.MsgspecError as error:
        raise InputError(f"{path}: not a JSON object ({error}): must be the model's configuration") from error

    def number(field: str, default: int | None = None) -> int:
        value = config.get(field, default)
        if not isinstance(value, int) or value < 1:
            raise InputError(f"{path}: {field} is {value!r}: must be a whole number >= 1 (dense decoder models are read)")
        return value

    hidden, layers, heads = number("hidden_size"), number("num_hidden_layers"), number("num_attention_heads")
    kv_heads = number("num_key_value_heads", heads)
    head_size = number("head_dim", hidden // heads)
    vocabulary = number("vocab_size")
    attention = 2 * hidden * heads * head_size + 2 * hidden * kv_heads * head_size
    layer = attention + 3 * hidden * number("intermediate_size") + 2 * hidden
    tied = kind != "generate" or bool(config.get("tie_word_embeddings", False))
    head = hidden * int(config.get("num_labels", 1)) if kind == "rerank" else 0
    parameters = vocabulary * hidden * (1 if tied else 2) + layers * layer + hidden + head
    width = _BYTES.get(str(config.get("torch_dtype") or config.get("dtype") or "bfloat16"), 2)
    return Llm(
        name=name,
        parameters=float(parameters),
        weight_bytes=width * parameters,
        kv_bytes_per_token=2 * layers * kv_heads * head_size * width if kind == "generate" else 0,
        context_limit=number("max_position_embeddings"),
        kind=kind,
        kv_heads=kv_heads,
        attention_heads=heads,
        layers=layers,
        hidden_size=hidden,
        head_size=head_size,
        source=f"config.json of {folder.name}",
    )
