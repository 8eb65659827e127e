"""Every family's reader against counts that transformers made, and against arithmetic written out by hand."""

import json
from pathlib import Path

import pytest

from scepsy.errors import InputError
from scepsy.models.config import Config
from scepsy.models.read import llm_of_config
from scepsy.models.registry import ALIASES, ENCODERS, TEXT, VISION, layout_of

COUNTS = json.loads((Path(__file__).parent / "transformers_counts.json").read_text(encoding="utf-8"))
"""Small configs, one per family, with the parameters that transformers 5.24.0 counts on the meta device."""


@pytest.mark.parametrize("family", sorted(COUNTS))
def test_parameters_equal_those_of_transformers(family):
    layout, _ = layout_of(Config(COUNTS[family]["config"], family))
    counted = layout.parameters_of("text", "shared", "routed")
    if layout.counts_vision:
        counted += layout.parameters_of("vision")
    assert counted == COUNTS[family]["parameters"]


def test_every_reader_has_a_fixture():
    renamed = {
        "qwen3_5_text": "qwen3_5_text",
        "kimi_k2": "deepseek_v3",
        "mimo": "qwen2",
        "minimax_m3": "",
        "step3p7": "",
        "camembert": "roberta",
    }
    for family in (*TEXT, *ENCODERS):
        assert family in COUNTS or family in renamed or family in ALIASES.values(), f"{family} has no fixture"
    assert set(VISION) - set(COUNTS) <= {"qwen3_5", "qwen3_5_moe", "kimi_k25", "kimi_k3", "step3p7"}


BF16 = 2
HAND = {
    # family: (config changes, KV bytes per token by hand, state bytes per sequence by hand)
    "llama": ({}, 4 * 2 * 2 * 16 * BF16, 0),  # layers · (K, V) · KV heads · head size · bytes
    "mixtral": ({}, 4 * 2 * 2 * 16 * BF16, 0),
    "gpt_oss": ({}, 4 * 2 * 2 * 16 * BF16, 0),
    "gemma3_text": ({}, 4 * 2 * 2 * 16 * BF16, 0),
    "minimax_m2": ({}, 4 * 2 * 2 * 16 * BF16, 0),
    "llama4_text": ({}, 4 * 2 * 2 * 16 * BF16, 0),
    "gemma4": ({}, (3 * 2 * 2 * 16 + 1 * 2 * 1 * 32) * BF16, 0),  # 3 sliding layers, 1 full with 1 KV head of 32
    "deepseek_v3": ({}, 4 * (32 + 8) * BF16, 0),  # one latent of kv_lora_rank + qk_rope_head_dim per layer
    "deepseek_v32": ({}, 4 * ((32 + 8) * BF16 + 16 * 132 / 128), 0),  # and an index key in FP8 with a scale per 128
    # 4 layers with a window; ratio 4 twice, 128 once; index keys where the ratio is 4
    "deepseek_v4": ({}, 4 * 32 * BF16 + 32 * BF16 * (2 / 4 + 1 / 128) + 2 * 16 * 132 / 128 / 4, 0),
    # one attention layer of four; conv: (2·2·8 + 4·8) channels · 3 inputs, state: 4 heads · 8 · 8, in the model's 2 bytes
    "qwen3_next": ({}, 1 * 2 * 2 * 16 * BF16, 3 * (4 * 8 * 8 * 2 + 64 * 3 * 2)),
    # and with float32 states, as Qwen3.5 has them
    "qwen3_5_text": ({"mamba_ssm_dtype": "float32"}, 1 * 2 * 2 * 16 * BF16, 3 * (4 * 8 * 8 * 4 + 64 * 3 * 2)),
    # Mamba-2: 64 inner · 16 states in float32, and (64 + 2·2·16) channels · 3 inputs
    "nemotron_h": ({"mamba_ssm_cache_dtype": "float32"}, 1 * 2 * 2 * 16 * BF16, 64 * 16 * 4 + 128 * 3 * 2),
    # Mamba-1: 128 inner · 16 states, 128 channels · 3 inputs, in three of four layers
    "jamba": ({}, 1 * 2 * 2 * 16 * BF16, 3 * (128 * 16 * 2 + 128 * 3 * 2)),
    # latent attention in one layer; 4 heads · 16 · 16 in float32 and 3 · 64 channels · 3 inputs in three
    "kimi_linear": ({}, 1 * (32 + 8) * BF16, 3 * (4 * 16 * 16 * 4 + 192 * 3 * 2)),
    "bert": ({}, 0, 0),
    "qwen3_vl_moe": ({}, 4 * 2 * 2 * 16 * BF16, 0),
    "mistral3": ({}, 4 * 2 * 2 * 16 * BF16, 0),
}


@pytest.mark.parametrize("family", sorted(HAND))
def test_cache_by_hand(family):
    changes, kv, state = HAND[family]
    llm = llm_of_config("m", {**COUNTS[family]["config"], **changes}, "x/config.json")
    assert llm.kv_bytes_per_token == -int(-kv // 1)
    assert llm.state_bytes_per_sequence == state


@pytest.mark.parametrize(
    ("family", "window", "windowed", "full"),
    [
        ("gpt_oss", 128, 2, 2),
        ("gemma2", 4096, 2, 2),
        ("olmo3", 4096, 3, 1),
        ("mistral", 4096, 4, 0),
        ("llama4_text", 8192, 3, 1),
    ],
)
def test_windows_are_told_apart_from_full_layers(family, window, windowed, full):
    config = {**COUNTS[family]["config"], "max_position_embeddings": 131072}
    config.pop("layer_types", None)
    llm = llm_of_config("m", config, "x/config.json")
    found = {(layers.kind, layers.window_tokens): layers.layers for layers in llm.kv_layers}
    assert found == {key: count for key, count in ((("window", window), windowed), (("full", 0), full)) if count}
    long, per_layer = 100_000, 2 * 2 * 16 * 2
    assert llm.sequence_bytes(long) == per_layer * (windowed * window + full * long)


@pytest.mark.parametrize("name", ["mllama", "mamba", "t5", "some_new_model", "gemma3n", "whisper", "gpt2"])
def test_unknown_families_are_refused_by_name(name):
    with pytest.raises(InputError, match=f"model_type is '{name}': this family is not understood.*scepsy model add"):
        llm_of_config(
            "m", {**COUNTS["llama"]["config"], "model_type": name, "architectures": ["NewForCausalLM"]}, "x/config.json"
        )


def test_active_parameters_and_touched_experts():
    llm = llm_of_config("m", COUNTS["qwen3_moe"]["config"], "x/config.json")
    routed = 4 * 8 * 3 * 64 * 24
    assert llm.parameters - llm.active == routed * (1 - 2 / 8)
    assert llm.experts is not None
    assert llm.experts.parameters == routed
    assert llm.experts.touched_part(1) == pytest.approx(2 / 8)
    assert llm.experts.touched_part(3) == pytest.approx(1 - 0.75**3)


def test_prediction_layers_and_vision_are_said_to_be_left_out():
    config = {**COUNTS["deepseek_v3"]["config"], "num_nextn_predict_layers": 1}
    assert any("multi-token-prediction" in note for note in llm_of_config("m", config, "x/config.json").notes)
    assert any("vision encoder" in note for note in llm_of_config("m", COUNTS["qwen3_vl"]["config"], "x/config.json").notes)
    nested = {**COUNTS["qwen3_vl"]["config"], "model_type": "llama4", "vision_config": None}
    nested["text_config"] = {**COUNTS["llama4_text"]["config"], "model_type": "llama4_text"}
    assert any("no vision_config" in note for note in llm_of_config("m", nested, "x/config.json").notes)


def test_yarn_stretches_the_context():
    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    config = {**COUNTS["qwen2"]["config"], "max_position_embeddings": 32768, "rope_scaling": rope}
    assert llm_of_config("m", config, "x/config.json").context_limit == 131072
