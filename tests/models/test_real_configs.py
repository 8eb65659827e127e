"""The configs of $SCEPSY_DATA/model_configs against their exact counts and published sizes."""

import json
import os
from pathlib import Path

import pytest

from scepsy.models.read import read_model

DATA = Path(os.environ.get("SCEPSY_DATA", "/nowhere")) / "model_configs"
pytestmark = [pytest.mark.data, pytest.mark.skipif(not DATA.exists(), reason="needs $SCEPSY_DATA/model_configs")]

PUBLISHED_GB = {
    "Qwen--Qwen3-30B-A3B": 61.1,
    "Qwen--Qwen3-32B": 65.5,
    "Qwen--Qwen3-8B": 16.4,
    "openai--gpt-oss-120b": 65.2,
    "deepseek-ai--DeepSeek-V3": 688.6,  # holds 14 B weights of multi-token prediction too
    "meta-llama--Meta-Llama-3.1-8B": 16.1,
    "meta-llama--Meta-Llama-3.1-70B": 141.1,
    "mistralai--Mixtral-8x7B-v0.1": 93.4,
}
"""total_size of each checkpoint's model.safetensors.index.json on Hugging Face, GB."""

BF16 = 2
KV_BY_HAND = {
    "Qwen--Qwen3-8B": 36 * 2 * 8 * 128 * BF16,
    "Qwen--Qwen3-30B-A3B": 48 * 2 * 4 * 128 * BF16,
    "meta-llama--Meta-Llama-3.1-70B": 80 * 2 * 8 * 128 * BF16,
    "meta-llama--Llama-4-Scout-17B-16E-Instruct": 48 * 2 * 8 * 128 * BF16,
    "mistralai--Mixtral-8x7B-v0.1": 32 * 2 * 8 * 128 * BF16,
    "openai--gpt-oss-120b": 36 * 2 * 8 * 64 * BF16,
    "MiniMaxAI--MiniMax-M2.7": 62 * 2 * 8 * 128 * BF16,
    "MiniMaxAI--MiniMax-M3": 60 * 2 * 4 * 128 * BF16 + 57 * 128 * BF16,  # index keys in 57 sparse layers
    "deepseek-ai--DeepSeek-V3": 61 * (512 + 64) * BF16,
    "deepseek-ai--DeepSeek-V3.2": 61 * ((512 + 64) * BF16 + 132),
    "moonshotai--Kimi-K2.5": 61 * (512 + 64) * BF16,
    "moonshotai--Kimi-K3": 24 * (512 + 64) * BF16,
    "zai-org--GLM-5.1": 78 * ((512 + 64) * BF16 + 132),
    "zai-org--GLM-5.2": 78 * (512 + 64) * BF16 + 21 * 132,  # 21 layers have an indexer of their own
    "Qwen--Qwen3.5-35B-A3B": 10 * 2 * 2 * 256 * BF16,
    "nvidia--NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": 6 * 2 * 2 * 128 * BF16,
    "google--gemma-4-26B-A4B": (25 * 2 * 8 * 256 + 5 * 2 * 2 * 512) * BF16,
    "stepfun-ai--Step-3.7-Flash-FP8": 45 * 2 * 8 * 128 * BF16,
    "Qwen--Qwen3-32B-FP8-Static-PerTensor": 64 * 2 * 8 * 128 * 1,  # the checkpoint asks for an FP8 cache
}


def names():
    return sorted(path.name for path in DATA.iterdir() if path.is_dir()) if DATA.exists() else []


@pytest.mark.parametrize("name", names())
def test_parameters_within_half_a_percent(name):
    known = json.loads((DATA / "parameters.json").read_text())[name].get("params")
    llm = read_model(name, DATA / name)
    assert 0 < llm.active <= llm.parameters
    assert llm.family
    if known is not None:
        assert llm.parameters == pytest.approx(known, rel=0.005)


@pytest.mark.parametrize("name", sorted(PUBLISHED_GB))
def test_weight_bytes_within_three_percent_of_the_published_checkpoint(name):
    assert read_model(name, DATA / name).weight_bytes / 1e9 == pytest.approx(PUBLISHED_GB[name], rel=0.03)


@pytest.mark.parametrize("name", sorted(KV_BY_HAND))
def test_cache_bytes_per_token_by_hand(name):
    assert read_model(name, DATA / name).kv_bytes_per_token == KV_BY_HAND[name]
