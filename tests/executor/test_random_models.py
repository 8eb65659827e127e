import json

import pytest

from executor.random_models import END_TOKEN, RandomModel, llm_of, parameters, tokenizer, write_model


def test_a_written_model_names_its_architecture_and_no_weights(tmp_path):
    path = write_model(RandomModel(name="reranker", kind="rerank"), tmp_path)
    config = json.loads((path / "config.json").read_text())
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    assert len(config["id2label"]) == config["num_labels"] == 1
    assert sorted(p.name for p in path.iterdir()) == ["config.json", "tokenizer.json", "tokenizer_config.json"]


def test_the_tokenizer_has_one_token_per_byte():
    vocabulary = tokenizer()["model"]["vocab"]
    assert sorted(vocabulary.values()) == [*range(256), END_TOKEN]
    assert vocabulary["A"] == ord("A")
    assert vocabulary["Ġ"] == ord(" ")  # GPT-2's alphabet writes a space so


def test_parameters_are_counted_layer_by_layer():
    one, two = (RandomModel(name="m", layers=n, hidden_size=64, attention_heads=4, kv_heads=2) for n in (1, 2))
    # q and o: 64·64 each; k and v: 64·32 each; gate, up and down: 64·256 each; two norms
    assert parameters(two) - parameters(one) == 2 * 4096 + 2 * 2048 + 3 * 16384 + 128


def test_kv_bytes_follow_from_heads_and_layers():
    llm = llm_of(RandomModel(name="m", layers=3, hidden_size=64, attention_heads=4, kv_heads=2))
    assert llm.kv_bytes_per_token == 2 * 3 * 2 * 16 * 2
    assert llm_of(RandomModel(name="e", kind="embed")).kv_bytes_per_token == 0


@pytest.mark.parametrize("wrong", [{"kind": "chat"}, {"hidden_size": 130}, {"kv_heads": 3}, {"layers": 0}])
def test_an_impossible_shape_is_refused(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong)) if 'kv_heads' not in wrong else 'attention_heads'} is"):
        RandomModel(name="m", **wrong)
