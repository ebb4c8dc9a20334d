# SPDX-License-Identifier: Apache-2.0
"""Shapes of models: known sizes, config.json, errors."""

import json

import pytest

from instinfer.abi.errors import ConfigError
from instinfer.perf.models import MODELS, model_of


@pytest.mark.parametrize(("name", "billions"), [
    ("opt-6.7b", 6.7), ("opt-13b", 12.9), ("opt-30b", 30.0), ("opt-66b", 65.7), ("opt-175b", 174.6),
    ("llama-2-7b", 6.7), ("llama-2-13b", 13.0), ("llama-3-8b", 8.0), ("llama-3-70b", 70.6),
    ("qwen2.5-7b", 7.6), ("qwen2.5-32b", 32.8), ("smollm2-135m", 0.135)])
def test_parameters(name, billions):
    assert MODELS[name].parameters / 1e9 == pytest.approx(billions, rel=0.015)


def test_cache_of_a_token():
    assert MODELS["opt-13b"].token_bytes == 819_200
    assert MODELS["llama-3-8b"].kv_token_bytes == 4096
    assert MODELS["smollm2-135m"].token_bytes == 23_040


def test_config_json(tmp_path):
    named = MODELS["llama-3-8b"]
    document = {"num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32,
                "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256,
                "max_position_embeddings": 8192,
                "tie_word_embeddings": False}
    (tmp_path / "config.json").write_text(json.dumps(document))
    for path in (tmp_path, tmp_path / "config.json"):
        found = model_of(str(path))
        assert (found.parameters, found.token_bytes, found.queries) == (
            named.parameters, named.token_bytes, named.queries)
    opt = {"num_hidden_layers": 40, "hidden_size": 5120, "num_attention_heads": 40, "ffn_dim": 20480,
           "vocab_size": 50272, "max_position_embeddings": 2048}
    (tmp_path / "opt.json").write_text(json.dumps(opt))
    assert model_of(str(tmp_path / "opt.json")).parameters == MODELS["opt-13b"].parameters


@pytest.mark.parametrize(("text", "match"), [
    ("{", "JSON"), ("{}", "num_attention_heads"),
    ('{"num_attention_heads": 6, "num_key_value_heads": 4, "hidden_size": 384, "num_hidden_layers": 2, '
     '"intermediate_size": 9, "vocab_size": 9, "max_position_embeddings": 9}', "divisor")])
def test_bad_files(tmp_path, text, match):
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(ConfigError, match=match):
        model_of(str(tmp_path / "bad.json"))


def test_unknown_model():
    with pytest.raises(ConfigError, match=r"opt-13c.*one of opt-6\.7b"):
        model_of("opt-13c")
