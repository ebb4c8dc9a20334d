# SPDX-License-Identifier: Apache-2.0
"""A layer of a sequence, and the regions of stripes that it has."""

import dataclasses
import enum

from instinfer.abi.dims import DimShape
from instinfer.abi.layout import RowShape, SketchShape, map_line
from instinfer.abi.tables import SequenceWord

from .tables import Cache


class Region(enum.Enum):
    """What the stripes of a layer hold; each region has map entries of its own."""

    ROWS = 0
    SKETCHES = 1
    DIMS = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer of a sequence, as commands name it."""

    number: int
    sequence: SequenceWord
    cache: Cache
    layer: int

    @property
    def shape(self) -> RowShape:
        return self.cache.shape

    @property
    def line(self) -> int:
        """Map line of head 0."""
        return map_line(self.layer, 0, kv_heads=self.cache.kv_heads)

    @property
    def regions(self) -> tuple[Region, ...]:
        """Those that stripe buffers collect, in the order in which buffers are taken, stripes programmed and
        buffers given back."""
        return (Region.ROWS,) if self.cache.sketch is None else (Region.ROWS, Region.SKETCHES)

    @property
    def dim_shape(self) -> DimShape:
        """Of a cache with dims."""
        dims = self.cache.dim_shape
        assert dims is not None
        return dims

    def shape_of(self, region: Region) -> RowShape | SketchShape:
        """Of a region that stripe buffers collect."""
        if region is Region.ROWS:
            return self.cache.shape
        sketch = self.cache.sketch
        assert sketch is not None
        return sketch
