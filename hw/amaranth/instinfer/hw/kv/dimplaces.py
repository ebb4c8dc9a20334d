# SPDX-License-Identifier: Apache-2.0
"""How dims fill stripes and blocks, as logic: `abi.dims.DimShape` for values that tables hold."""

from amaranth.hdl import Array, Const, Mux, Value, ValueLike

from instinfer.abi.commands import Dtype
from instinfer.abi.config import EngineConfig
from instinfer.abi.dims import DIMS_PER_PAGE, DimShape
from instinfer.abi.layout import HEAD_DIMS, RowShape

UNIT_DIMS = 16
"""Head dims are multiples of it."""
PLACES_LOG2 = DIMS_PER_PAGE.bit_length() - 1


class DimPlaces:
    """Numbers of a cache with dims, from its head dim in units of UNIT_DIMS and ``int8``."""

    def __init__(self, config: EngineConfig):
        self.config = config
        self.place_bytes_log2 = config.page_bytes.bit_length() - 1 - PLACES_LOG2
        """Bytes of a dim in a block: tokens of an int8 block."""

    def stripes_per_block(self, units: Value, int8: Value) -> Value:
        """Stripes of a block."""
        def of(dtype: Dtype) -> Value:
            counts = {dims // UNIT_DIMS: DimShape(RowShape(dims, dtype)).stripes_per_block(self.config)
                      for dims in HEAD_DIMS}
            limit = max(counts.values())
            return Array(Const(counts.get(each, 0), range(limit + 1)) for each in range(16))[units[:4]]

        return Mux(int8, of(Dtype.INT8), of(Dtype.FP16))

    def blocks(self, tokens: Value, int8: Value) -> Value:
        """Whole blocks of tokens."""
        return Mux(int8, tokens >> self.place_bytes_log2, tokens >> self.place_bytes_log2 - 1)

    def row_stripes_log2(self, wide: Value) -> Value:
        """log2 of the row stripes of a block: K has as many slots as its dims, and those of padding."""
        most = (64 // self.config.planes).bit_length() - 1
        return Mux(wide, most, most - 1)

    def in_block(self, stripe: Value, wide: Value) -> Value:
        """Row stripes of its block before ``stripe``."""
        log2 = (64 // self.config.planes).bit_length() - 1
        return Mux(wide, stripe[:log2], stripe[:log2 - 1])

    def unused_places(self, int8: ValueLike) -> Value:
        """Places of a block behind its last one: int8 alone has them, behind the two of its scales."""
        per_stripe = DIMS_PER_PAGE * self.config.planes
        scale_places = DimShape(RowShape(HEAD_DIMS[0], Dtype.INT8)).scale_places
        assert all(dims % per_stripe == 0 for dims in HEAD_DIMS), "others would leave places unused, too"
        return Mux(int8, per_stripe - scale_places, 0)
