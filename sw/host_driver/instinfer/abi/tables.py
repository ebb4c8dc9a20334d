# SPDX-License-Identifier: Apache-2.0
"""Words of the CACHE and SEQUENCE tables (docs/architecture.md "Tables")."""

import dataclasses
from typing import Self

from .layout import RowShape

VALID = 1 << 63
"""Bit of a valid CACHE, SEQUENCE or POLICY word."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CacheWord:
    """Shape of a cache's sequences; ``queries`` are query heads per KV head."""

    layers: int
    kv_heads: int
    queries: int
    head_dim: int
    max_tokens: int

    @property
    def shape(self) -> RowShape:
        return RowShape(self.head_dim)

    def pack(self) -> int:
        return (self.layers | self.kv_heads << 9 | self.queries << 17 | self.head_dim << 21
                | self.max_tokens << 29 | VALID)

    @classmethod
    def unpack(cls, word: int) -> Self:
        return cls(layers=word & 0x1FF, kv_heads=word >> 9 & 0xFF, queries=word >> 17 & 15,
                   head_dim=word >> 21 & 0xFF, max_tokens=word >> 29 & 0x3FFFF)


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
