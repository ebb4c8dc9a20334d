# SPDX-License-Identifier: Apache-2.0
"""The GGUF reader against the package gguf: files that it writes, and the model's own."""

import struct

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from gguf.quants import dequantize, quantize

from instinfer.host.integrations.smollm2 import weight_path
from instinfer.host.integrations.smollm2.gguf_file import GgufFile
from support.seeds import rng

KINDS = {
    "float": GGMLQuantizationType.F32,
    "four": GGMLQuantizationType.Q4_1,
    "eight": GGMLQuantizationType.Q8_0,
}


@pytest.fixture
def written(tmp_path):
    """A small file of every tensor type and kind of fact, and what its tensors mean."""
    random = rng("gguf file")
    writer = GGUFWriter(tmp_path / "small.gguf", "llama")
    writer.add_uint32("some.count", 7)
    writer.add_float32("some.ratio", 0.25)
    writer.add_bool("some.switch", True)
    writer.add_string("some.name", "Grüße")
    writer.add_array("some.words", ["a", "", "\u4e2d\u6587"])
    writer.add_array("some.numbers", [3, -1, 2])
    expected = {}
    for name, kind in KINDS.items():
        raw = quantize(random.normal(size=(12, 96)).astype(np.float32), kind)
        writer.add_tensor(name, raw, raw_dtype=kind)
        expected[name] = dequantize(raw, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return (tmp_path / "small.gguf").read_bytes(), expected


def read(file, name, **options):
    out = np.full(file.shape(name), np.nan, np.float32)
    file.read(name, out, **options)
    return out


def test_facts(written):
    facts = GgufFile(written[0]).facts
    assert facts["some.count"] == 7
    assert facts["some.ratio"] == 0.25
    assert facts["some.switch"] is True
    assert facts["some.name"] == "Grüße"
    assert facts["some.words"] == ["a", "", "\u4e2d\u6587"]
    assert facts["some.numbers"] == [3, -1, 2]


@pytest.mark.parametrize("name", KINDS)
def test_tensors(written, name, monkeypatch):
    data, expected = written
    np.testing.assert_array_equal(read(GgufFile(data), name), expected[name])
    monkeypatch.setattr("instinfer.host.integrations.smollm2.gguf_file._BLOCKS_AT_ONCE", 5)
    np.testing.assert_array_equal(read(GgufFile(data), name), expected[name])


@pytest.mark.parametrize("name", KINDS)
def test_rope_pairs_become_halves_in_each_head(written, name):
    data, expected = written
    order = [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]
    np.testing.assert_array_equal(read(GgufFile(data), name, pairs_to_halves=2), expected[name][order])


def test_refusals(written):
    data, _ = written
    with pytest.raises(ValueError, match=r"begins with b'ZIP!', not b'GGUF'"):
        GgufFile(b"ZIP!" + data[4:])
    with pytest.raises(ValueError, match="the file has 3 bytes"):
        GgufFile(b"GGU")
    with pytest.raises(ValueError, match="GGUF version 2; this reader knows version 3"):
        GgufFile(data[:4] + struct.pack("<I", 2) + data[8:])
    place = data.index(b"four") + len(b"four") + 4 + 2 * 8
    with pytest.raises(ValueError, match=r"tensor four has type 12 .* knows matrices and vectors of F32"):
        GgufFile(data[:place] + struct.pack("<I", 12) + data[place + 4 :])
    with pytest.raises(ValueError, match=r"four has 12 x 96 weights; .* not float32 of shape \(11, 96\)"):
        GgufFile(data).read("four", np.empty((11, 96), np.float32))


def test_the_real_file():
    reader = GGUFReader(weight_path())
    file = GgufFile(weight_path().read_bytes())
    expected = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    assert file.facts == expected
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert len(tensors) == 272
    for name in ("output_norm.weight", "blk.0.attn_k.weight", "blk.29.ffn_down.weight", "token_embd.weight"):
        tensor = tensors[name]
        values = dequantize(tensor.data, tensor.tensor_type)
        np.testing.assert_array_equal(read(file, name), values.reshape(file.shape(name)), err_msg=name)
