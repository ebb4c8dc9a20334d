# SPDX-License-Identifier: Apache-2.0
"""The second, transposed copy of K (SparF): dim pages, when they are built, where they lie.

One definition for models, driver and documents (docs/architecture.md "Dim pages"); words as in `abi.layout`.
"""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arith import F16
from .config import SLOT_DATA_BYTES, EngineConfig
from .layout import ELEMENT_BYTES, SCALE_BYTES, RowShape, placement

DIMS_PER_PAGE = 4


@dataclasses.dataclass(frozen=True)
class DimShape:
    """How the second, transposed copy of K fills slots (SparF).

    A *block* of tokens is stored dim by dim: a page holds DIMS_PER_PAGE *places*, a place the elements of one
    dim for all tokens of the block, in whole slots, so that a kept dim moves its own slots alone. Int8 rows
    have two places more, behind those of the dims: the fp16 scales of the block's rows, which every score
    needs, read like two dims: the slots n of both hold those of the tokens of a dim's slot n, one half after
    the other. (The scale area of a slot is too small for them, DRAM too dear.) A stripe holds neighbouring
    places; those behind the last are zeros. A block is a whole number of row stripes.
    """

    rows: RowShape

    @property
    def element_bytes(self) -> int:
        return ELEMENT_BYTES[self.rows.dtype]

    @property
    def scale_places(self) -> int:
        """Places that the row scales of a block take."""
        return SCALE_BYTES // self.element_bytes if self.rows.scaled else 0

    @property
    def places(self) -> int:
        return self.rows.head_dim + self.scale_places

    @property
    def tokens_per_slot(self) -> int:
        """Elements of a dim in a slot."""
        return SLOT_DATA_BYTES // self.element_bytes

    def tokens_per_block(self, config: EngineConfig) -> int:
        return config.page_bytes // DIMS_PER_PAGE // self.element_bytes

    def slots_per_place(self, config: EngineConfig) -> int:
        return config.slots_per_page // DIMS_PER_PAGE

    def places_per_stripe(self, config: EngineConfig) -> int:
        return DIMS_PER_PAGE * config.planes

    def stripes_per_block(self, config: EngineConfig) -> int:
        return -(-self.places // self.places_per_stripe(config))

    def stripes(self, config: EngineConfig, tokens: int) -> int:
        """Dim stripes of the whole blocks that ``tokens`` tokens fill."""
        return tokens // self.tokens_per_block(config) * self.stripes_per_block(config)

    def place_of(self, config: EngineConfig, place: int, token: int) -> tuple[int, int]:
        """(stripe of the block, slot of the stripe) of a token (counted within the block) in a place."""
        stripe, within = divmod(place, self.places_per_stripe(config))
        return stripe, within * self.slots_per_place(config) + token // self.tokens_per_slot

    def blocks_built(self, config: EngineConfig, resident: int) -> int:
        """Blocks [0, n) of a head whose dim pages are programmed, from token counts alone: the device reads
        the K slots of a block back as soon as its last row stripe is read from flash (`flash_stripes`)."""
        return max(0, resident - self.rows.tokens_per_page(config)) // self.tokens_per_block(config)

    def blocks_read(self, config: EngineConfig, resident: int, context: int) -> int:
        """Blocks [0, n) of a head that an attention may score from dim pages: one row stripe of tokens
        follows them, in which time they are built. The other tokens are scored from their K rows."""
        block = self.tokens_per_block(config)
        settled = max(0, resident - self.rows.tokens_per_stripe(config)) // block
        return min(settled, -(-context // block))


def dim_placement(config: EngineConfig, line: int, block: int, stripe: int) -> tuple[int, int]:
    """(channel, virtual die) of stripe ``stripe`` of a block of dims of a map line.

    All of a block lies in one channel, over its dies: that channel's scorer has all dims of a token, and
    blocks (and heads) use the channels side by side, as row stripes do.
    """
    channel, virtual_die = placement(config, line, block)
    return channel, (virtual_die + stripe) % config.group_dies


def dim_map_index(line: int, stripe: int, *, lines: int, before_max: int, dim_stripes_max: int) -> int:
    """Index of a dim stripe's map entry, counted through its line's blocks: behind the ``before_max`` entries
    of rows and sketches of each line."""
    return lines * before_max + line * dim_stripes_max + stripe


def pack_block(config: EngineConfig, shape: DimShape, k: NDArray[Any],
               scale: F16 | None = None) -> NDArray[np.uint8]:
    """Data bytes (stripes, stripe_data_bytes) of a block: k (tokens, head_dim), scale (tokens,) when int8."""
    size = shape.tokens_per_block(config) * shape.element_bytes
    places = np.zeros((shape.stripes_per_block(config) * shape.places_per_stripe(config), size), np.uint8)
    head_dim = shape.rows.head_dim
    places[:head_dim] = np.ascontiguousarray(k.T).view(np.uint8)
    if scale is not None:
        slots = np.ascontiguousarray(scale, np.float16).view(np.uint8).reshape(
            -1, shape.scale_places, SLOT_DATA_BYTES)
        places[head_dim:shape.places] = slots.swapaxes(0, 1).reshape(shape.scale_places, size)
    return places.reshape(-1, config.stripe_data_bytes)
