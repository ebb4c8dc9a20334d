# SPDX-License-Identifier: Apache-2.0
"""Heads with sketches: what goes into a scorer and what must come out."""

import dataclasses

import numpy as np

from instinfer.abi import selection
from instinfer.abi.config import EngineConfig
from instinfer.abi.layout import SketchShape
from instinfer.hw.selection.ports import ElementBits, group_beat, query_sketch_beat, sketch_beat

CODES = {2: ElementBits.TWO, 4: ElementBits.FOUR, 8: ElementBits.EIGHT}


@dataclasses.dataclass(frozen=True)
class Head:
    """One head (or pass) in one head slot."""

    config: EngineConfig
    shape: SketchShape
    group_log2: int
    head_slot: int
    query: selection.I8
    exponent: np.ndarray
    sketch: selection.I8
    scale: selection.F16

    @classmethod
    def random(cls, generator: np.random.Generator, config: EngineConfig, *, dims: int, bits: int,
               context: int, group_log2: int, head_slot: int, extreme: bool = False) -> "Head":
        limit = 1 << (bits - 1)
        query = generator.integers(-127, 128, (config.queries, dims)).astype(np.int8)
        low, high = (selection.EXPONENT_MIN, selection.EXPONENT_MAX) if extreme else (-14, -6)
        exponent = generator.integers(low, high + 1, config.queries).astype(np.int8)
        sketch = generator.integers(-limit, limit, (context, dims)).astype(np.int8)
        if extreme:
            query = np.where(generator.random(query.shape) < 0.5, 127, -127).astype(np.int8)
            sketch[generator.random(context) < 0.3] = -limit
        scale = np.exp2(generator.uniform(-22 if extreme else -4, 8.9, context)).astype(np.float16)
        return cls(config, SketchShape(dims, bits), group_log2, head_slot, query, exponent, sketch, scale)

    @property
    def context(self) -> int:
        return len(self.sketch)

    @property
    def size(self) -> int:
        return self.shape.vector_bytes.bit_length() - 1

    @property
    def slots(self) -> int:
        return -(-self.context // self.shape.vectors_per_slot)

    @property
    def pages(self) -> list[range]:
        per_page = self.config.slots_per_page
        return [range(first, min(first + per_page, self.slots)) for first in range(0, self.slots, per_page)]

    def maxima(self) -> np.ndarray:
        """(queries, groups)"""
        scores = selection.sketch_scores(self.query, self.exponent, self.sketch, self.scale)
        return selection.group_maxima(scores, self.group_log2)

    def query_beats(self) -> list[int]:
        layout = query_sketch_beat(self.config)
        beats = []
        for index, row in enumerate(self.query):
            words = np.frombuffer(row.tobytes(), "<u8")
            beats += [layout.const({
                "data": int(word), "head_slot": self.head_slot, "query": index,
                "exponent": int(self.exponent[index]), "size": self.size, "bits": CODES[self.shape.bits],
                "last": number == len(words) - 1,
            }).as_bits() for number, word in enumerate(words)]
        return beats

    def slot_tokens(self, slot: int) -> range:
        per_slot = self.shape.vectors_per_slot
        return range(slot * per_slot, min((slot + 1) * per_slot, self.context))

    def slot_beats(self, slot: int, *, whole: bool = False, failed: bool = False,
                   source: int = 0) -> list[int]:
        """Beats of a slot: with all beats of its data area (``whole``), or those of the vectors wanted."""
        tokens = self.slot_tokens(slot)
        per_slot, size = self.shape.vectors_per_slot, self.shape.vector_bytes
        area = np.full(1024, 0xA5, np.uint8)
        area[:2 * len(tokens)] = self.scale[tokens.start:tokens.stop].view(np.uint8)
        vectors = selection.pack_vectors(self.sketch[tokens.start:tokens.stop], self.shape.bits, size)
        area[2 * per_slot:2 * per_slot + vectors.size] = vectors.ravel()
        used = (2 * per_slot + (per_slot * size if whole else vectors.size) + 7) // 8
        words = [0xDEAD] if failed else area.view("<u8")[:used].tolist()
        layout = sketch_beat(self.config)
        return [layout.const({
            "data": int(word), "head_slot": self.head_slot, "first_token": tokens.start,
            "vectors": len(tokens), "final": tokens.stop == self.context, "size": self.size,
            "bits": CODES[self.shape.bits], "group_log2": self.group_log2, "failed": failed,
            "last": number == len(words) - 1, "source": source,
        }).as_bits() for number, word in enumerate(words)]

    def group_beats(self, slot: int, maxima: np.ndarray) -> list[int]:
        """The groups that end in a slot."""
        tokens = self.slot_tokens(slot)
        layout = group_beat(self.config)
        mask = (1 << self.group_log2) - 1
        return [layout.const({
            "head_slot": self.head_slot, "group": token >> self.group_log2,
            "maxima": maxima[:, token >> self.group_log2].tolist(), "last": token == self.context - 1,
        }).as_bits() for token in tokens if token & mask == mask or token == self.context - 1]
