# SPDX-License-Identifier: Apache-2.0
"""The weight file: where it is looked for, which ones are refused, what the right one holds."""

from pathlib import Path

import numpy as np
import pytest

from instinfer.host.integrations.smollm2 import LlamaShape, ModelFileError, load, weight_path
from instinfer.host.integrations.smollm2.weights import WEIGHT_FILE, load_weights


def test_place_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("INSTINFER_CACHE", str(tmp_path))
    assert weight_path() == tmp_path / "models" / WEIGHT_FILE
    monkeypatch.delenv("INSTINFER_CACHE")
    checkout = Path(__file__).resolve().parents[4]
    assert weight_path() == checkout / ".cache" / "models" / WEIGHT_FILE


def test_a_missing_file_names_the_cure(monkeypatch, tmp_path):
    monkeypatch.setenv("INSTINFER_CACHE", str(tmp_path))
    with pytest.raises(
        ModelFileError, match=r"no weight file at .*: run `make setup`, or set INSTINFER_CACHE"
    ):
        load()


def test_a_file_with_one_bit_flipped_is_refused(tmp_path):
    data = bytearray(weight_path().read_bytes())
    data[len(data) // 2] ^= 1
    damaged = tmp_path / WEIGHT_FILE
    damaged.write_bytes(data)
    with pytest.raises(
        ModelFileError, match=r"has SHA-256 [0-9a-f]{64}, expected b179c952.*run `make setup`"
    ):
        load(damaged)


def test_another_file_is_refused(tmp_path):
    (tmp_path / "other.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelFileError, match="delete the file"):
        load(tmp_path / "other.gguf")


def test_shape_and_sizes():
    weights, vocabulary = load_weights()
    shape = weights.shape
    assert shape == LlamaShape(
        layers=30,
        width=576,
        ffn_width=1536,
        query_heads=9,
        kv_heads=3,
        head_dim=64,
        vocabulary=49152,
        context=8192,
        rope_base=1e5,
        rms_epsilon=pytest.approx(1e-5),
    )
    assert weights.embedding.shape == (49152, 576)
    assert weights.final_norm.shape == (576,)
    assert len(weights.layers) == 30
    for layer in weights.layers:
        assert layer.qkv.shape == ((9 + 3 + 3) * 64, 576)
        assert layer.attention_out.shape == (576, 576)
        assert layer.gate_up.shape == (2 * 1536, 576)
        assert layer.down.shape == (576, 1536)
        assert all(np.isfinite(array).all() for array in vars(layer).values())
    assert len(vocabulary.tokens) == 49152
    assert vocabulary.control == frozenset(range(17))
