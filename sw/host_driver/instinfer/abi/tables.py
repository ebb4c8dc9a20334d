# SPDX-License-Identifier: Apache-2.0
"""Words of the CACHE, SEQUENCE, POLICY, REPLACEMENT and READ_COUNT tables (docs/architecture.md "Tables")."""

import dataclasses
from typing import Self

from .commands import Dtype, PolicyKind
from .config import EngineConfig
from .dims import DimShape
from .layout import SKETCH_BITS, SUM_BYTES, RowShape, SketchShape, map_bytes
from .selection import SketchPolicy
from .sparf import SINKS_MAX, SparfPolicy

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
    sketches; ``dims``: K is stored as dim pages too; ``mean_v``: sums of V are kept."""

    layers: int
    kv_heads: int
    queries: int
    head_dim: int
    max_tokens: int
    dtype: Dtype = Dtype.FP16
    sketch_dims: int = 0
    sketch_bits: int = 0
    dims: bool = False
    mean_v: bool = False

    @property
    def shape(self) -> RowShape:
        return RowShape(self.head_dim, self.dtype)

    @property
    def dim_shape(self) -> DimShape | None:
        return DimShape(self.shape) if self.dims else None

    def stripes_max(self, config: EngineConfig) -> tuple[int, int, int]:
        """Map entries of a line: stripes of rows, of sketches and of dims."""
        sketch, dims = self.sketch, self.dim_shape
        return (self.shape.stripes(config, self.max_tokens),
                0 if sketch is None else sketch.stripes(config, self.max_tokens),
                0 if dims is None else dims.stripes(config, self.max_tokens))

    @property
    def sum_bytes(self) -> int:
        """Sums of V of a line, behind all map entries: ``head_dim`` integers of 8 bytes [2**-24]."""
        return self.head_dim * SUM_BYTES if self.mean_v else 0

    def map_bytes(self, config: EngineConfig) -> int:
        """Device DRAM that a sequence's map takes, sums of V included."""
        return map_bytes(self.layers, self.kv_heads, *self.stripes_max(config), sum_bytes=self.sum_bytes)

    @property
    def sketch(self) -> SketchShape | None:
        return SketchShape(self.sketch_dims, self.sketch_bits) if self.sketch_dims else None

    def pack(self) -> int:
        width = SKETCH_BITS.index(self.sketch_bits) if self.sketch_dims else 0
        return (self.layers | self.kv_heads << 9 | self.queries << 17 | self.head_dim << 21
                | self.max_tokens << 29 | self.dtype << 47 | self.sketch_dims << 49 | width << 56
                | self.dims << 58 | self.mean_v << 59 | VALID)

    @classmethod
    def unpack(cls, word: int) -> Self:
        dims = word >> 49 & 0x7F
        return cls(layers=word & 0x1FF, kv_heads=word >> 9 & 0xFF, queries=word >> 17 & 15,
                   head_dim=word >> 21 & 0xFF, max_tokens=word >> 29 & 0x3FFFF, dtype=Dtype(word >> 47 & 3),
                   sketch_dims=dims, sketch_bits=SKETCH_BITS[word >> 56 & 3] if dims else 0,
                   dims=bool(word >> 58 & 1), mean_v=bool(word >> 59 & 1))


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
    """A policy descriptor; ``sketch`` of the kind SKETCH, ``sparf`` of the kind SPARF alone."""

    sketch: SketchPolicy | None = None
    sparf: SparfPolicy | None = None

    @property
    def kind(self) -> PolicyKind:
        if self.sparf is not None:
            return PolicyKind.SPARF
        return PolicyKind.DENSE if self.sketch is None else PolicyKind.SKETCH

    def pack(self) -> int:
        if self.sparf is not None:
            by_dims = self.sparf
            return (self.kind | by_dims.tokens << 8 | by_dims.window << 29 | by_dims.sinks << 45
                    | by_dims.dims - 1 << 55 | by_dims.mean_v << 62 | VALID)
        chosen = self.sketch
        if chosen is None:
            return self.kind | VALID
        return (self.kind | chosen.groups << 8 | chosen.group_log2 << 26 | chosen.window << 29
                | chosen.sinks << 45 | VALID)

    @classmethod
    def unpack(cls, word: int) -> Self:
        """Raises ValueError for what no POLICY_SET stores."""
        kind, count, window = PolicyKind(word & 0xFF), word >> 8 & (1 << 18) - 1, word >> 29 & 0xFFFF
        if kind is PolicyKind.DENSE:
            return cls()
        if kind is PolicyKind.SPARF:
            return cls(sparf=SparfPolicy(dims=(word >> 55 & 0x7F) + 1, tokens=count, window=window,
                                         sinks=word >> 45 & SINKS_MAX, mean_v=bool(word >> 62 & 1)))
        return cls(sketch=SketchPolicy(groups=count, group_log2=word >> 26 & 7, window=window,
                                       sinks=word >> 45 & 0xFFFF))


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
