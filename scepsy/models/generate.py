"""Makes ``scepsy/data/models.yaml`` from config files: ``python -m scepsy.models.generate --help``.

Sources that it reads: folders of ``config.json`` files named ``org--name`` (as ai-dynamo/aiconfigurator keeps them),
MLC-LLM's ``model_preset.py`` (whole configs as a Python literal), litgpt's ``config.py`` (widths under its own names), and
a table of encoders and embedders below. Each row says which source it came from. The configs themselves are not kept.
"""

import argparse
import ast
import runpy
import sys
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from scepsy.errors import InputError
from scepsy.llm import Llm
from scepsy.models.config import read_json
from scepsy.models.read import llm_of_config

Found = tuple[str, Mapping[str, Any], Mapping[str, Any] | None, str]
"""(name on Hugging Face, config, hf_quant_config, source)."""

MLC = {
    "mistral_7b": "mistralai/Mistral-7B-Instruct-v0.2",
    "mistral_7b_v03": "mistralai/Mistral-7B-Instruct-v0.3",
    "phi-3_5": "microsoft/Phi-3.5-mini-instruct",
    "phi-4": "microsoft/phi-4",
    "gemma_2b": "google/gemma-2b-it",
    "gemma2_2b": "google/gemma-2-2b-it",
    "gemma2_9b": "google/gemma-2-9b-it",
    "gemma2_27b": "google/gemma-2-27b-it",
    "gemma3_1b_it": "google/gemma-3-1b-it",
    "snowflake-arctic-embed-m": "Snowflake/snowflake-arctic-embed-m",
    "olmo2_7b": "allenai/OLMo-2-1124-7B-Instruct",
    "olmo2_13b": "allenai/OLMo-2-1124-13B-Instruct",
    "olmo2_32b": "allenai/OLMo-2-0325-32B-Instruct",
    "aya-23": "CohereForAI/aya-23-8B",
    "smollm2_360m": "HuggingFaceTB/SmolLM2-360M-Instruct",
    "deepseek_v2_lite": "deepseek-ai/DeepSeek-V2-Lite",
    "codellama_7b": "codellama/CodeLlama-7b-Instruct-hf",
    "codellama_13b": "codellama/CodeLlama-13b-Instruct-hf",
    "codellama_34b": "codellama/CodeLlama-34b-Instruct-hf",
    "tinyllama_1b_chat_v1.0": "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
    "llama2_70b": "meta-llama/Llama-2-70b-chat-hf",
}
"""MLC-LLM's presets and what they are on Hugging Face."""

LITGPT = {
    "Qwen2.5-0.5B-Instruct": ("Qwen/Qwen2.5-0.5B-Instruct", "qwen2", True),
    "Qwen2.5-14B-Instruct": ("Qwen/Qwen2.5-14B-Instruct", "qwen2", False),
    "Qwen2.5-32B-Instruct": ("Qwen/Qwen2.5-32B-Instruct", "qwen2", False),
    "Qwen2.5-72B-Instruct": ("Qwen/Qwen2.5-72B-Instruct", "qwen2", False),
    "Qwen2.5-Coder-32B-Instruct": ("Qwen/Qwen2.5-Coder-32B-Instruct", "qwen2", False),
    "QwQ-32B": ("Qwen/QwQ-32B", "qwen2", False),
    "Llama-3.3-70B-Instruct": ("meta-llama/Llama-3.3-70B-Instruct", "llama", False),
    "Llama-3-8B-Instruct": ("meta-llama/Meta-Llama-3-8B-Instruct", "llama", False),
    "Gemma-3-4b-it": ("google/gemma-3-4b-it", "gemma3_text", True),
    "Gemma-3-12b-it": ("google/gemma-3-12b-it", "gemma3_text", True),
    "Gemma-3-27b-it": ("google/gemma-3-27b-it", "gemma3_text", True),
    "Phi-4-mini-instruct": ("microsoft/Phi-4-mini-instruct", "phi3", True),
    "Mistral-Large-Instruct-2411": ("mistralai/Mistral-Large-Instruct-2411", "mistral", False),
    "R1-Distill-Llama-8B": ("deepseek-ai/DeepSeek-R1-Distill-Llama-8B", "llama", False),
    "R1-Distill-Llama-70B": ("deepseek-ai/DeepSeek-R1-Distill-Llama-70B", "llama", False),
    "Falcon3-7B-Instruct": ("tiiuae/Falcon3-7B-Instruct", "llama", False),
    "Falcon3-10B-Instruct": ("tiiuae/Falcon3-10B-Instruct", "llama", False),
}
"""litgpt's entries: the name on Hugging Face, the model_type, whether the embeddings are tied."""

_XLM = {
    "model_type": "xlm-roberta",
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "vocab_size": 250002,
    "type_vocab_size": 1,
}
_BERT = {"model_type": "bert", "vocab_size": 30522, "max_position_embeddings": 512, "type_vocab_size": 2}
_BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
_MINI = {"hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536}
_QWEN3 = {
    "model_type": "qwen3",
    "head_dim": 128,
    "num_key_value_heads": 8,
    "max_position_embeddings": 32768,
    "vocab_size": 151669,
}
_QWEN3_SIZES: dict[str, dict[str, Any]] = {
    "0.6B": {"hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16, "intermediate_size": 3072},
    "4B": {"hidden_size": 2560, "num_hidden_layers": 36, "num_attention_heads": 32, "intermediate_size": 9728},
    "8B": {"hidden_size": 4096, "num_hidden_layers": 36, "num_attention_heads": 32, "intermediate_size": 12288},
}
POOLERS: dict[str, dict[str, Any]] = {
    "BAAI/bge-m3": {**_XLM, "architectures": ["XLMRobertaModel"], "max_position_embeddings": 8194},
    "BAAI/bge-reranker-v2-m3": {
        **_XLM,
        "architectures": ["XLMRobertaForSequenceClassification"],
        "max_position_embeddings": 8194,
        "num_labels": 1,
    },
    "intfloat/multilingual-e5-large": {**_XLM, "architectures": ["XLMRobertaModel"], "max_position_embeddings": 514},
    "BAAI/bge-base-en-v1.5": {**_BERT, **_BASE, "architectures": ["BertModel"]},
    "BAAI/bge-small-en-v1.5": {**_BERT, **_MINI, "num_hidden_layers": 12, "architectures": ["BertModel"]},
    "intfloat/e5-base-v2": {**_BERT, **_BASE, "architectures": ["BertModel"]},
    "intfloat/e5-large-v2": {**_BERT, **_LARGE, "architectures": ["BertModel"]},
    "sentence-transformers/all-MiniLM-L6-v2": {**_BERT, **_MINI, "num_hidden_layers": 6, "architectures": ["BertModel"]},
    "mixedbread-ai/mxbai-embed-large-v1": {**_BERT, **_LARGE, "architectures": ["BertModel"]},
    "cross-encoder/ms-marco-MiniLM-L-6-v2": {
        **_BERT,
        **_MINI,
        "num_hidden_layers": 6,
        "num_labels": 1,
        "architectures": ["BertForSequenceClassification"],
    },
    "BAAI/bge-reranker-base": {
        **_XLM,
        **_BASE,
        "architectures": ["XLMRobertaForSequenceClassification"],
        "max_position_embeddings": 514,
        "num_labels": 1,
    },
    "answerdotai/ModernBERT-base": {
        "model_type": "modernbert",
        "architectures": ["ModernBertModel"],
        "hidden_size": 768,
        "num_hidden_layers": 22,
        "num_attention_heads": 12,
        "intermediate_size": 1152,
        "vocab_size": 50368,
        "max_position_embeddings": 8192,
    },
    **{
        f"Qwen/Qwen3-Embedding-{size}": {**_QWEN3, **widths, "architectures": ["Qwen3Model"]}
        for size, widths in _QWEN3_SIZES.items()
    },
    **{
        f"Qwen/Qwen3-Reranker-{size}": {**_QWEN3, **widths, "architectures": ["Qwen3ForSequenceClassification"]}
        for size, widths in _QWEN3_SIZES.items()
    },
}
"""Embedders and rerankers: the widths of their public configs."""


_EXPERTS_FP8 = {
    "quant_method": "compressed-tensors",
    "ignore": [
        "lm_head",
        "re:.*self_attn.*",
        "re:.*shared_expert.*",
        "re:.*feed_forward\\.(gate|up|down)_proj.*",
        "re:.*mlp\\..*",
    ],
    "config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "float", "strategy": "channel"}}},
}
QUANTISED = {
    "meta-llama/Llama-4-Maverick-17B-128E-Instruct": (
        "meta-llama/Llama-4-Maverick-17B-128E-Instruct-FP8",
        _EXPERTS_FP8,
        "routed experts in FP8 as its model card says",
    ),
}
"""Checkpoints in another precision of a model whose config was read: name, quantization_config, what that rests on."""


def from_folder(folder: Path, label: str) -> Iterator[Found]:
    """Configs in ``org--name/config.json`` or ``org--name_config.json``."""
    for path in sorted(folder.iterdir()):
        if path.is_dir() and (path / "config.json").exists():
            name, beside = path.name, path / "hf_quant_config.json"
            config = path / "config.json"
        elif path.name.endswith("_config.json") and not path.name.endswith("_hf_quant_config.json"):
            name, config = path.name.removesuffix("_config.json"), path
            beside = path.with_name(f"{name}_hf_quant_config.json")
        else:
            continue
        name, fields = name.replace("--", "/"), read_json(config)
        yield name, fields, read_json(beside) if beside.exists() else None, label
        if name in QUANTISED:
            other, quantisation, why = QUANTISED[name]
            yield other, {**fields, "quantization_config": quantisation}, None, f"{label}; {why}"


def from_mlc(path: Path, label: str) -> Iterator[Found]:
    """MLC-LLM's presets: the dictionary in its source, read as a literal."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body:
        target = node.target if isinstance(node, ast.AnnAssign) else None
        if isinstance(target, ast.Name) and target.id == "MODEL_PRESETS" and isinstance(node, ast.AnnAssign) and node.value:
            presets = ast.literal_eval(node.value)
            for key, name in MLC.items():
                yield name, presets[key], None, label


def from_litgpt(path: Path, label: str) -> Iterator[Found]:
    """litgpt's entries under the field names of config.json. (Its file is run: it builds its list in loops.)"""
    sys.modules.setdefault("torch", types.ModuleType("torch"))
    known = {entry["name"]: entry for entry in runpy.run_path(str(path))["configs"]}
    for key, (name, model_type, is_tied) in LITGPT.items():
        entry = {"n_layer": 16, "n_head": 32, "n_embd": 4096, "block_size": 4096, **known[key]}  # litgpt's own defaults
        heads = entry["n_head"]
        config = {
            "model_type": model_type,
            "hidden_size": entry["n_embd"],
            "num_hidden_layers": entry["n_layer"],
            "num_attention_heads": heads,
            "num_key_value_heads": entry.get("n_query_groups", heads),
            "head_dim": entry.get("head_size", entry["n_embd"] // heads),
            "intermediate_size": entry["intermediate_size"],
            "vocab_size": entry.get("padded_vocab_size", entry.get("vocab_size")),
            "max_position_embeddings": entry["block_size"],
            "tie_word_embeddings": is_tied,
            "sliding_window": entry.get("sliding_window_size"),
            "architectures": ["ForCausalLM"],
        }
        yield name, config, None, label


def row(name: str, config: Mapping[str, Any], modelopt: Mapping[str, Any] | None, label: str) -> Llm:
    """One row of the catalogue: the short name is the part after the slash, in small letters."""
    llm = llm_of_config(name.rpartition("/")[2].lower(), config, name, modelopt=modelopt, source=f"config of {name}, {label}")
    return msgspec.structs.replace(llm, hf_name=name)


def rows(found: Iterator[Found], skip: set[str]) -> Iterator[Llm]:
    """Rows of the catalogue, those that cannot be read left out with a line on stderr."""
    for item in found:
        short = item[0].rpartition("/")[2].lower()
        if short in skip:
            continue
        skip.add(short)
        try:
            yield row(*item)
        except InputError as error:
            print(f"left out: {error}", file=sys.stderr)


def main(arguments: list[str] | None = None) -> None:
    """Write the catalogue."""
    parser = argparse.ArgumentParser(prog="python -m scepsy.models.generate", description=__doc__)
    parser.add_argument("--configs", action="append", default=[], metavar="LABEL=FOLDER", help="folder of config files")
    parser.add_argument("--mlc", metavar="LABEL=FILE", help="MLC-LLM's model_preset.py")
    parser.add_argument("--litgpt", metavar="LABEL=FILE", help="litgpt's config.py")
    parser.add_argument(
        "--skip", action="append", default=[], metavar="NAME", help="short name to leave out (it has a row elsewhere)"
    )
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args(arguments)
    known: list[Llm] = []
    skip = set(given.skip)
    for option, reader in ((given.configs, from_folder), ([given.mlc], from_mlc), ([given.litgpt], from_litgpt)):
        for item in filter(None, option):
            label, _, path = item.partition("=")
            known += rows(reader(Path(path), label), skip)
    known += rows(((name, config, None, "widths of its public config.json") for name, config in POOLERS.items()), skip)
    head = "# Made by `python -m scepsy.models.generate` from config files (see docs/models.md); every row says where from.\n"
    lines = [
        yaml.safe_dump([msgspec.to_builtins(llm)], sort_keys=False, width=100_000, default_flow_style=None) for llm in known
    ]
    given.output.write_text(head + "".join(lines), encoding="utf-8")
    print(f"{len(known)} models in {given.output}")


if __name__ == "__main__":
    main()
