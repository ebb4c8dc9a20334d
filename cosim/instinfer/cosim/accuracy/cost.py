# SPDX-License-Identifier: Apache-2.0
"""What an attention reads, counted from its masks as if every token lay in flash.

*bytes*: rows that are wanted, with their scales, sketch vectors with theirs, and kept dims with the rows'.
*slots*: codewords that cross the bus. *pages*: pages with a wanted row, sketch pages, pages with a kept dim.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from instinfer.abi.config import EngineConfig
from instinfer.abi.dims import DIMS_PER_PAGE, DimShape
from instinfer.abi.layout import SCALE_BYTES, RowShape, SketchShape


class Cost(NamedTuple):
    bytes: int = 0
    slots: int = 0
    pages: int = 0

    def plus(self, other: "Cost") -> "Cost":
        return Cost(*(int(mine + theirs) for mine, theirs in zip(self, other, strict=True)))

    def percent_of(self, whole: "Cost") -> "Cost":
        """Shares of ``whole`` in percent, as floats in the same fields."""
        return Cost(*(100 * mine / theirs for mine, theirs in zip(self, whole, strict=True)))  # type: ignore[arg-type]


def _row_bytes(shape: RowShape) -> int:
    return 2 * (shape.row_bytes + (SCALE_BYTES if shape.scaled else 0))


def dense_rows(config: EngineConfig, shape: RowShape, contexts: NDArray[np.int64]) -> Cost:
    """All rows of one KV head at each of these contexts."""
    return Cost(int(contexts.sum()) * _row_bytes(shape), 2 * int((-(-contexts // shape.rows_per_slot)).sum()),
                int((-(-contexts // shape.tokens_per_page(config))).sum()))


def chosen_rows(config: EngineConfig, shape: RowShape, masks: NDArray[np.bool_]) -> Cost:
    """The rows that masks (..., tokens) name."""

    def touched(tokens: int) -> int:
        padded = np.pad(masks, [(0, 0)] * (masks.ndim - 1) + [(0, -masks.shape[-1] % tokens)])
        return int(padded.reshape(*masks.shape[:-1], -1, tokens).any(axis=-1).sum())

    return Cost(int(masks.sum()) * _row_bytes(shape), 2 * touched(shape.rows_per_slot),
                touched(shape.tokens_per_page(config)))


def dims(config: EngineConfig, shape: DimShape, kept: NDArray[np.bool_],
         contexts: NDArray[np.int64]) -> Cost:
    """The kept dims (positions, head_dim) of one KV head, with scales where there are some."""
    places = kept.sum(axis=-1) + shape.scale_places
    # The scales, where there are some, share a page.
    pages = np.logical_or.reduce(kept.reshape(len(kept), -1, DIMS_PER_PAGE), axis=-1).sum(axis=-1)
    pages += shape.scale_places > 0
    return Cost(int((places * contexts).sum()) * shape.element_bytes,
                int((places * -(-contexts // shape.tokens_per_slot)).sum()),
                int((pages * -(-contexts // shape.tokens_per_block(config))).sum()))


def sketches(config: EngineConfig, shape: SketchShape, contexts: NDArray[np.int64]) -> Cost:
    """All sketch vectors of one KV head at each of these contexts."""
    return Cost(int(contexts.sum()) * (shape.vector_bytes + SCALE_BYTES),
                int((-(-contexts // shape.vectors_per_slot)).sum()),
                int((-(-contexts // shape.tokens_per_page(config))).sum()))
