"""Damaged configs: one line that names the field, never a guess and never a traceback."""

import copy
import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scepsy.errors import InputError
from scepsy.models.read import llm_of_config, read_model

COUNTS = json.loads((Path(__file__).parent / "transformers_counts.json").read_text(encoding="utf-8"))
QUANTISATIONS = [
    {"quant_method": "fp8", "weight_block_size": [128, 128]},
    {
        "quant_method": "compressed-tensors",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int", "group_size": 32}}},
    },
    {"quant_algo": "NVFP4", "ignore": ["lm_head"], "kv_cache_scheme": {"num_bits": 8, "type": "float"}},
]
BAD = st.sampled_from(
    [
        math.nan,
        math.inf,
        1e308,
        -1,
        0,
        10**308,
        10**30,
        2.5,
        "",
        "x",
        None,
        [],
        [1, 2],
        ["x"],
        [None],
        {},
        {"a": 1},
        True,
        False,
        7,
        "missing",
    ]
)


@settings(max_examples=600, deadline=None)
@given(st.data())
def test_a_damaged_field_is_refused_or_harmless(data):
    family = data.draw(st.sampled_from(sorted(COUNTS)))
    config = json.loads(json.dumps(COUNTS[family]["config"]))
    config["quantization_config"] = json.loads(json.dumps(data.draw(st.sampled_from(QUANTISATIONS))))
    config["rope_scaling"] = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 1024}
    for _ in range(data.draw(st.integers(1, 3))):
        place = config
        while True:
            inner = [key for key, value in place.items() if isinstance(value, dict) and value]
            if not inner or data.draw(st.booleans()):
                break
            place = place[data.draw(st.sampled_from(inner))]
        field = data.draw(st.sampled_from(sorted(place)))
        value = copy.deepcopy(data.draw(BAD))  # what is drawn must not be changed by the next round
        if value == "missing":
            del place[field]
        else:
            place[field] = value
        if not place:
            break
    try:
        llm = llm_of_config("m", config, "x/config.json")
    except InputError as error:
        said = str(error)
        assert "\n" not in said
        assert len(said) < 600
    else:
        assert 0 < llm.parameters < 1e15
        assert math.isfinite(llm.weight_bytes)
        assert llm.weight_bytes > 0
        assert llm.active <= llm.parameters


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a JSON object"),
        ("[1]", "it is list"),
        ('{"model_type": "llama", "model_type": "qwen2"}', "is there twice"),
        ('{"model_type": "llama"}', "hidden_size is missing"),
        ("{}", "model_type is missing"),
        ("[" * 100_000, "not a JSON object"),
    ],
)
def test_files_that_are_no_config(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=message):
        read_model("m", tmp_path)


def test_infinity_and_a_byte_order_mark_are_read(tmp_path):
    config = {**COUNTS["nemotron_h"]["config"], "time_step_limit": [0.0, math.inf]}
    (tmp_path / "config.json").write_text("\ufeff" + json.dumps(config), encoding="utf-8")
    assert read_model("m", tmp_path).parameters == COUNTS["nemotron_h"]["parameters"]


def test_the_index_decides_on_weight_bytes_and_a_difference_is_said(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(COUNTS["llama"]["config"]))
    own = read_model("m", tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": own.weight_bytes}, "weight_map": {}}))
    same = read_model("m", tmp_path)
    assert same.source.startswith("model.safetensors.index.json")
    assert same.notes == own.notes
    index.write_text(json.dumps({"metadata": {"total_size": 2 * own.weight_bytes}}))
    other = read_model("m", tmp_path)
    assert other.weight_bytes == 2 * own.weight_bytes
    assert "-50.0 %" in other.notes[-1]
    index.write_text(json.dumps({"metadata": {"total_size": "many"}}))
    with pytest.raises(InputError, match="total_size is 'many'"):
        read_model("m", tmp_path)


def test_a_single_safetensors_file_tells_its_size(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(COUNTS["llama"]["config"]))
    header = json.dumps({"w": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(12))
    assert read_model("m", tmp_path).weight_bytes == 12
    (tmp_path / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(InputError, match="safetensors"):
        read_model("m", tmp_path)
