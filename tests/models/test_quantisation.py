"""Weight bytes by precision, against arithmetic written out by hand on a one-layer model."""

import json
from pathlib import Path

import pytest

from scepsy.errors import InputError
from scepsy.models.quantisation import Matcher
from scepsy.models.read import llm_of_config

COUNTS = json.loads((Path(__file__).parent / "transformers_counts.json").read_text(encoding="utf-8"))
LLAMA = {**COUNTS["llama"]["config"], "num_hidden_layers": 1}
ATTENTION = 64 * 64 * 2 + 2 * 64 * 32
MLP = 3 * 64 * 96
LINEAR = ATTENTION + MLP
HEAD = 512 * 64
REST = 512 * 64 + 3 * 64  # the embedding and three norms
FP8, NVFP4, MXFP4 = 1.0, 0.5 + 1 / 16, 0.5 + 1 / 32


def size(quantisation, config=LLAMA, modelopt=None):
    fields = {**config, "quantization_config": quantisation} if quantisation else config
    return llm_of_config("m", fields, "x/config.json", modelopt=modelopt).weight_bytes


CASES = {
    "none": (None, 2 * (LINEAR + HEAD + REST)),
    "fp8 per tensor": ({"quant_method": "fp8"}, FP8 * LINEAR + 2 * (HEAD + REST)),
    "fp8 block": ({"quant_method": "fp8", "weight_block_size": [128, 128]}, (1 + 4 / 16384) * LINEAR + 2 * (HEAD + REST)),
    "fp8 but attention": (
        {"quant_method": "fp8", "modules_to_not_convert": ["model.layers.0.self_attn", "lm_head"]},
        FP8 * MLP + 2 * (ATTENTION + HEAD + REST),
    ),
    "awq": ({"quant_method": "awq", "bits": 4, "group_size": 128}, (0.5 + 2 / 128 + 0.5 / 128) * LINEAR + 2 * (HEAD + REST)),
    "gptq 8 bits": ({"quant_method": "gptq", "bits": 8, "group_size": -1}, 1.0 * LINEAR + 2 * (HEAD + REST)),
    "nvfp4": ({"quant_algo": "NVFP4", "ignore": ["lm_head"], "quant_method": "modelopt"}, NVFP4 * LINEAR + 2 * (HEAD + REST)),
    "nvfp4 but attention": (
        {"quant_algo": "NVFP4", "ignore": ["lm_head", "model.layers.0.self_attn*"], "quant_method": "modelopt"},
        NVFP4 * MLP + 2 * (ATTENTION + HEAD + REST),
    ),
    "mixed": (
        {
            "quant_algo": "MIXED_PRECISION",
            "quant_method": "modelopt",
            "quantized_layers": {
                "model.layers.0.mlp.up_proj": {"quant_algo": "NVFP4"},
                "model.layers.0.self_attn.o_proj": {"quant_algo": "FP8"},
                "lm_head": {"quant_algo": "FP8"},
            },
        },
        NVFP4 * 64 * 96 + FP8 * 64 * 64 + FP8 * HEAD + 2 * (LINEAR - 64 * 96 - 64 * 64 + REST),
    ),
    "compressed-tensors int4": (
        {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "ignore": ["lm_head", "re:.*self_attn.*"],
            "config_groups": {
                "group_0": {
                    "targets": ["Linear"],
                    "weights": {"num_bits": 4, "type": "int", "group_size": 32, "symmetric": True},
                }
            },
        },
        (0.5 + 2 / 32) * MLP + 2 * (ATTENTION + HEAD + REST),
    ),
    "compressed-tensors fp8": (
        {
            "quant_method": "compressed-tensors",
            "ignore": ["lm_head"],
            "config_groups": {
                "group_0": {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "float", "strategy": "channel"}}
            },
        },
        FP8 * LINEAR + 2 * (HEAD + REST),
    ),
    "bitsandbytes": ({"quant_method": "bitsandbytes", "load_in_4bit": True}, (0.5 + 4 / 64) * LINEAR + 2 * (HEAD + REST)),
}


@pytest.mark.parametrize("case", sorted(CASES))
def test_bytes_by_hand(case):
    quantisation, expected = CASES[case]
    assert size(quantisation) == round(expected)


def test_mxfp4_touches_routed_experts_only():
    config = {**COUNTS["gpt_oss"]["config"], "num_hidden_layers": 1, "layer_types": ["sliding_attention"]}
    plain = llm_of_config("m", config, "x/config.json")
    assert plain.experts is not None
    biases = 8 * (2 * 96 + 64)
    expected = plain.weight_bytes - 2 * (plain.experts.parameters - biases) + MXFP4 * (plain.experts.parameters - biases)
    assert size({"quant_method": "mxfp4"}, config) == round(expected)


def test_modelopt_file_beside_the_config():
    modelopt = {"quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]}}
    llm = llm_of_config("m", LLAMA, "x/config.json", modelopt=modelopt)
    assert llm.weight_bytes == FP8 * LINEAR + 2 * (HEAD + REST)
    assert (llm.kv_dtype, llm.kv_bytes_per_token) == ("fp8", 1 * 2 * 2 * 16 * 1)


@pytest.mark.parametrize(("name", "size_"), [("bfloat16", 2), ("fp8", 1), ("nvfp4", 0.5625)])
def test_kv_dtype_can_be_chosen(name, size_):
    assert llm_of_config("m", LLAMA, "x/config.json", kv_dtype=name).kv_bytes_per_token == 2 * 2 * 16 * size_


@pytest.mark.parametrize(
    "quantisation",
    [
        {"quant_method": "new_method"},
        {"quant_method": "fp8", "weight_block_size": [0, 128]},
        {"quant_algo": "FP3"},
        {},
        [],
        {"quant_method": "compressed-tensors"},
        {"quant_method": "awq", "bits": 5},
        {"quant_algo": "MIXED_PRECISION"},
        {"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {"num_bits": 4}}}, "ignore": ["re:("]},
    ],
)
def test_what_is_not_understood_is_refused(quantisation):
    damaged = {**LLAMA, "quantization_config": quantisation}
    with pytest.raises(InputError, match="quantization_config"):
        llm_of_config("m", damaged, "x/config.json")


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("model.layers.3.mlp.gate", "layers.3.mlp.gate", True),
        ("model.layers.3.mlp.gate", "layers.3.mlp.gate_proj", False),
        ("model.layers.3", "layers.30.mlp.up_proj", False),
        ("model.language_model.layers.3.self_attn*", "layers.3.self_attn.q_proj", True),
        ("gate", "layers.3.mlp.gate", True),
        ("re:.*mlp\\.(gate|up)_proj.*", "layers.3.mlp.up_proj", True),
        ("re:.*mlp\\.(gate|up)_proj.*", "layers.3.mlp.experts.0.up_proj", False),
        ("*.mlp.shared_expert.*", "layers.3.mlp.shared_expert.up_proj", True),
        ("backbone.layers.5.mixer.in_proj", "layers.5.mixer.in_proj", True),
        ("layers.0.ffn.experts", "layers.0.ffn.experts.0.down_proj", True),
    ],
)
def test_patterns(pattern, name, matches):
    assert Matcher((pattern,))(name) is matches
