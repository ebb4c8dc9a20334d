# SPDX-License-Identifier: Apache-2.0
"""Words of the CACHE, SEQUENCE, POLICY, REPLACEMENT and READ_COUNT tables (docs/architecture.md "Tables")."""

import dataclasses
from typing import Self

from .commands import Dtype, PolicyKind
from .config import EngineConfig
from .layout import SKETCH_BITS, RowShape, SketchShape
from .selection import SketchPolicy

VALID = 1 << 63
"""Bit of a valid CACHE, SEQUENCE, POLICY or REPLACEMENT word."""

READ_COUNT_BITS = 24
READ_COUNT_MAX = (1 << READ_COUNT_BITS) - 1
"""A counter of READ_COUNT that got here stays: an order of magnitude above what blocks are rated for."""


def read_count_index(config: EngineConfig, *, channel: int, die: int, block: int) -> int:
    """Index in READ_COUNT of the blocks of one number in all planes of a die."""
    return (channel * config.dies + die) * config.blocks + block


@dataclasses.dataclass(frozen=True, kw_only=True)
class CacheWord:
    """Shape of a cache's sequences; ``queries`` are query heads per KV head, ``sketch_dims`` 0 without
    sketches."""

    layers: int
    kv_heads: int
    queries: int
    head_dim: int
    max_tokens: int
    dtype: Dtype = Dtype.FP16
    sketch_dims: int = 0
    sketch_bits: int = 0

    @property
    def shape(self) -> RowShape:
        return RowShape(self.head_dim, self.dtype)

    @property
    def sketch(self) -> SketchShape | None:
        return SketchShape(self.sketch_dims, self.sketch_bits) if self.sketch_dims else None

    def pack(self) -> int:
        width = SKETCH_BITS.index(self.sketch_bits) if self.sketch_dims else 0
        return (self.layers | self.kv_heads << 9 | self.queries << 17 | self.head_dim << 21
                | self.max_tokens << 29 | self.dtype << 47 | self.sketch_dims << 49 | width << 56 | VALID)

    @classmethod
    def unpack(cls, word: int) -> Self:
        dims = word >> 49 & 0x7F
        return cls(layers=word & 0x1FF, kv_heads=word >> 9 & 0xFF, queries=word >> 17 & 15,
                   head_dim=word >> 21 & 0xFF, max_tokens=word >> 29 & 0x3FFFF, dtype=Dtype(word >> 47 & 3),
                   sketch_dims=dims, sketch_bits=SKETCH_BITS[word >> 56 & 3] if dims else 0)


@dataclasses.dataclass(kw_only=True)
class SequenceWord:
    """A sequence: ``base`` is the DRAM offset of its map, ``fault`` says that a program failed for good."""

    generation: int
    cache: int
    base: int
    fault: bool = False

    def pack(self) -> int:
        return self.generation | self.cache << 16 | self.base << 22 | int(self.fault) << 62 | VALID

    @classmethod
    def unpack(cls, word: int) -> Self:
        return cls(generation=word & 0xFFFF, cache=word >> 16 & 63, base=word >> 22 & (1 << 36) - 1,
                   fault=bool(word >> 62 & 1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyWord:
    """A policy descriptor; ``sketch`` of the kind SKETCH alone."""

    sketch: SketchPolicy | None = None

    @property
    def kind(self) -> PolicyKind:
        return PolicyKind.DENSE if self.sketch is None else PolicyKind.SKETCH

    def pack(self) -> int:
        chosen = self.sketch
        if chosen is None:
            return self.kind | VALID
        return (self.kind | chosen.groups << 8 | chosen.group_log2 << 26 | chosen.window << 29
                | chosen.sinks << 45 | VALID)

    @classmethod
    def unpack(cls, word: int) -> Self:
        """Raises ValueError for what no POLICY_SET stores."""
        if PolicyKind(word & 0xFF) is PolicyKind.DENSE:
            return cls()
        return cls(sketch=SketchPolicy(groups=word >> 8 & (1 << 18) - 1, group_log2=word >> 26 & 7,
                                       window=word >> 29 & 0xFFFF, sinks=word >> 45 & 0xFFFF))


@dataclasses.dataclass(frozen=True, kw_only=True, order=True)
class Replacement:
    """A bad block of one plane and the spare block of that plane that stands in for it."""

    channel: int
    die: int
    plane: int
    block: int
    spare: int

    def pack(self) -> int:
        return (self.block | self.plane << 13 | self.die << 15 | self.channel << 18 | self.spare << 22
                | VALID)

    @classmethod
    def unpack(cls, word: int) -> Self:
        return cls(block=word & 0x1FFF, plane=word >> 13 & 3, die=word >> 15 & 7, channel=word >> 18 & 15,
                   spare=word >> 22 & 0x1FFF)

    def within(self, config: EngineConfig) -> bool:
        """The device has such blocks."""
        return (self.channel < config.channels and self.die < config.dies and self.plane < config.planes
                and max(self.block, self.spare) < config.physical_blocks)
