# SPDX-License-Identifier: Apache-2.0
"""Row records, as bytes: what crosses PCIe for the rows of K or of V (`layout.record_bytes`).

A record is {header, row}. The header, absent where the cache has neither scales nor sketches, is {row scale
fp16, sketch scale fp16, sketch vector} filled up with zeros; the row is filled up to whole 32-byte beats.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .arith import F16
from .commands import Dtype
from .layout import SCALE_BYTES, SKETCH_OFFSET, RowShape, SketchShape, header_bytes, record_bytes

ELEMENT: Mapping[Dtype, np.dtype[Any]] = {
    Dtype.FP16: np.dtype(np.float16), Dtype.INT8: np.dtype(np.int8),
}
"""Array type of the elements of a row."""


class Records(NamedTuple):
    """Rows (..., head_dim), fp16 or int8, and what their headers carry; None where they carry nothing.

    ``scale`` and ``sketch_scale`` are (...); ``sketch`` is (..., vector_bytes), packed.
    """

    rows: NDArray[Any]
    scale: F16 | None = None
    sketch: NDArray[np.uint8] | None = None
    sketch_scale: F16 | None = None

    def part(self, tokens: slice) -> "Records":
        """Some of the tokens (the first axis)."""
        return Records(*(None if field is None else field[tokens] for field in self))  # type: ignore[arg-type]


def pack_records(shape: RowShape, kind: int, sketch: SketchShape | None,
                 records: Records) -> NDArray[np.uint8]:
    """Bytes (..., record_bytes); what the format has and ``records`` lacks is zero."""
    rows = np.ascontiguousarray(records.rows, ELEMENT[shape.dtype])
    row_bytes = rows.view(np.uint8)
    size, header = record_bytes(shape, kind, sketch), header_bytes(shape, kind, sketch)
    if size == row_bytes.shape[-1]:
        return row_bytes
    data = np.zeros((*rows.shape[:-1], size), np.uint8)
    data[..., header:header + row_bytes.shape[-1]] = row_bytes
    for place, scale in enumerate((records.scale, records.sketch_scale)):
        if scale is not None:
            data[..., place * SCALE_BYTES:(place + 1) * SCALE_BYTES] = (
                np.ascontiguousarray(scale, np.float16)[..., None].view(np.uint8))
    if records.sketch is not None:
        data[..., SKETCH_OFFSET:SKETCH_OFFSET + records.sketch.shape[-1]] = records.sketch
    return data


def unpack_records(shape: RowShape, kind: int, sketch: SketchShape | None,
                   data: NDArray[np.uint8]) -> Records:
    """The inverse of :func:`pack_records`; ``data`` (..., record_bytes), of which views are returned."""
    header = header_bytes(shape, kind, sketch)
    element = ELEMENT[shape.dtype]

    def field(start: int, size: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        return data[..., start:start + size].view(dtype)

    rows = field(header, shape.head_dim * element.itemsize, element)
    half = np.dtype(np.float16)
    scale = field(0, SCALE_BYTES, half)[..., 0] if shape.scaled else None
    if sketch is None or kind:
        return Records(rows, scale)
    return Records(rows, scale, field(SKETCH_OFFSET, sketch.vector_bytes, np.dtype(np.uint8)),
                   field(SCALE_BYTES, SCALE_BYTES, half)[..., 0])
