# SPDX-License-Identifier: Apache-2.0
"""Row records: where the bytes of rows, scales and sketches are, and that they come back."""

import numpy as np
import pytest

from instinfer.abi.commands import Dtype
from instinfer.abi.layout import KIND_KEY, KIND_VALUE, RowShape, SketchShape, record_bytes
from instinfer.abi.records import Records, pack_records, unpack_records
from support import rng


def test_fp16_rows_without_sketches_are_their_bytes() -> None:
    rows = rng("fp16 records").standard_normal((5, 2, 80)).astype(np.float16)
    data = pack_records(RowShape(80), KIND_KEY, None, Records(rows))
    assert data.tobytes() == rows.tobytes()


def test_every_field_is_where_the_layout_says() -> None:
    random = rng("int8 record")
    rows = random.integers(-128, 128, (3, 80)).astype(np.int8)
    sketch = random.integers(0, 256, (3, 8)).astype(np.uint8)
    records = Records(rows, np.array([1, 2, 3], np.float16), sketch, np.array([4, 5, 6], np.float16))
    data = pack_records(RowShape(80, Dtype.INT8), KIND_KEY, SketchShape(16, 4), records)
    assert data.shape == (3, 32 + 96)
    for token in range(3):
        expected = bytearray(32 + 96)
        expected[0:2] = np.float16(token + 1).tobytes()
        expected[2:4] = np.float16(token + 4).tobytes()
        expected[4:12] = sketch[token].tobytes()
        expected[32:112] = rows[token].tobytes()
        assert data[token].tobytes() == bytes(expected)
    value = pack_records(RowShape(80, Dtype.INT8), KIND_VALUE, SketchShape(16, 4),
                         Records(rows, records.scale))
    assert value[1].tobytes() == np.float16(2).tobytes() + bytes(30) + rows[1].tobytes() + bytes(16)


@pytest.mark.parametrize("dtype", Dtype)
@pytest.mark.parametrize("head_dim", [64, 80, 96, 128])
@pytest.mark.parametrize("sketch", [None, SketchShape(8, 2), SketchShape(16, 4), SketchShape(64, 8)], ids=str)
@pytest.mark.parametrize("kind", [KIND_KEY, KIND_VALUE])
def test_records_survive(dtype: Dtype, head_dim: int, sketch: SketchShape | None, kind: int) -> None:
    random = rng(f"records {dtype} {head_dim} {sketch} {kind}")
    shape, lead = RowShape(head_dim, dtype), (6, 3)
    rows = random.integers(0, 60, (*lead, head_dim)).astype(np.int8 if shape.scaled else np.float16)
    scale = random.uniform(0.1, 9, lead).astype(np.float16)
    keyed = sketch is not None and kind == KIND_KEY
    vectors = random.integers(0, 256, (*lead, sketch.vector_bytes if sketch else 0)).astype(np.uint8)
    records = Records(rows, scale if shape.scaled else None, *((vectors, scale[::-1]) if keyed else ()))
    data = pack_records(shape, kind, sketch, records)
    assert data.shape == (*lead, record_bytes(shape, kind, sketch))
    assert data.shape[-1] % 32 == 0
    for found, expected in zip(unpack_records(shape, kind, sketch, data), records, strict=True):
        assert (found is None) == (expected is None)
        if expected is not None:
            np.testing.assert_array_equal(found, expected)
