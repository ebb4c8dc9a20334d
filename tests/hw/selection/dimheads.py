# SPDX-License-Identifier: Apache-2.0
"""KV heads scored by SparF: what goes into a scorer and what must come out."""

import dataclasses
import functools
import itertools
from collections.abc import Collection

import numpy as np

from instinfer.abi import arith, selection, sparf
from instinfer.abi.config import SLOT_DATA_BYTES, EngineConfig
from instinfer.abi.dims import DimShape, pack_block
from instinfer.abi.layout import Dtype, RowShape
from instinfer.hw.kv.dimslots import DIM_SETUP
from instinfer.hw.selection.dimports import HALF_TOKENS, dim_beat, parts
from instinfer.hw.selection.ports import group_beat
from instinfer.hw.selection.sparfports import folded_write
from instinfer.hw.signatures import slot_beat


def bits_of(layout, *names: str) -> int:
    """Bits of some fields."""
    return sum(((1 << layout[name].width) - 1) << layout[name].offset for name in names)


KINDS = ("plain", "zeros", "huge", "one huge query", "extreme rows")


@dataclasses.dataclass(frozen=True)
class DimHead:
    """A KV head in head slots from ``head_slot`` on; its first ``blocks`` blocks are read from dim pages."""

    config: EngineConfig
    shape: DimShape
    head_slot: int
    context: int
    blocks: int
    kept: np.ndarray
    folded: np.ndarray
    exponent: np.ndarray
    k: np.ndarray
    scale: np.ndarray | None

    @classmethod
    def random(cls, generator: np.random.Generator, config: EngineConfig, *, kind: str, head_dim: int,
               dims: int, int8: bool, passes: int, context: int, blocks: int, head_slot: int) -> "DimHead":
        shape = DimShape(RowShape(head_dim, Dtype.INT8 if int8 else Dtype.FP16))
        tokens = max(context, blocks * shape.tokens_per_block(config))
        q = generator.standard_normal((passes * config.queries, head_dim)) * 4
        k = generator.standard_normal((tokens, head_dim)) * np.exp(generator.uniform(-2, 3, head_dim))
        if kind == "zeros":
            q[:] = 0
        elif kind == "huge":
            q[:] = np.where(q < 0, -65504, 65504)
        elif kind == "one huge query":
            q[1] = q[1] * 10_000
        q, k = (np.clip(each, -65504, 65504).astype(np.float16) for each in (q, k))
        scale = None
        if int8:
            k, scale = arith.quantise_rows(k)
        if kind == "extreme rows":
            bits = generator.integers(0, 0x7C00, k.shape) | generator.integers(0, 2, k.shape) << 15
            k = np.where(generator.random(k.shape) < 0.5, -128, 127).astype(np.int8) if int8 else (
                bits.astype(np.uint16).view(np.float16))
            scale = generator.integers(1, 0x6000, tokens).astype(np.uint16).view(np.float16) if int8 else None
        qi, exponent = arith.quantise_query(q, arith.scale2_of(head_dim ** -0.5))
        kept = sparf.choose_dims(qi, exponent, dims)
        folded, exponent = sparf.fold(qi, exponent, kept)
        return cls(config, shape, head_slot, context, blocks, kept, folded, exponent, k, scale)

    @property
    def int8(self) -> bool:
        return self.scale is not None

    @property
    def passes(self) -> int:
        return len(self.folded) // self.config.queries

    @property
    def block_tokens(self) -> int:
        return self.shape.tokens_per_block(self.config)

    def scores(self) -> np.ndarray:
        """(queries of all passes, context)"""
        scale = None if self.scale is None else self.scale[:self.context]
        return sparf.scores(self.folded, self.exponent, self.k[:self.context], scale)

    def fold_writes(self) -> list[dict[str, int]]:
        """Fields of `folded_write`, row by row."""
        writes = []
        for row, line in enumerate(self.folded):
            for group in range(len(line) // 4):
                words = (int(each) & 0x3FFFF for each in line[4 * group:4 * group + 4])
                writes.append({
                    "head_slot": self.head_slot + row // self.config.queries,
                    "query": row % self.config.queries, "group": group,
                    "right": arith.SCORE_SHIFT_BASE - int(self.exponent[row]),
                    "factors": sum(word << 18 * lane for lane, word in enumerate(words))})
        assert set(writes[0]) < set(folded_write(self.config).members)
        return writes

    # -- blocks ------------------------------------------------------------------------------------
    def block_slots(self, block: int) -> list[tuple[int, int]]:
        """(place, part) of a block's slots that are read, in order."""
        inside = min(self.block_tokens, self.context - block * self.block_tokens)
        places = [*np.flatnonzero(self.kept).tolist(),
                  *range(self.shape.rows.head_dim, self.shape.places)]
        return [(place, part) for place in places
                for part in range(-(-inside // self.shape.tokens_per_slot))]

    def dim_slot(self, block: int, place: int, part: int) -> np.ndarray:
        """Bytes of a slot."""
        tokens = slice(block * self.block_tokens, (block + 1) * self.block_tokens)
        data = pack_block(self.config, self.shape, self.k[tokens],
                          None if self.scale is None else self.scale[tokens])
        each = self.shape.slots_per_place(self.config)
        return data.reshape(-1, SLOT_DATA_BYTES)[place * each + part]

    def halves(self, place: int, part: int) -> int:
        """Bit per half part that a slot's failure costs."""
        if self.int8 and place >= self.shape.rows.head_dim:
            return 1 << 2 * part + place - self.shape.rows.head_dim
        return 3 << 2 * part if self.int8 else 1 << part

    def block_beats(self, block: int, order: list[tuple[int, int]],
                    failed: Collection[tuple[int, int]] = ()) -> tuple[list[int], list[int]]:
        """Beats of a block's slots in some order, each for all passes, and the tokens that come of them;
        ``failed`` slots have a single beat."""
        layout, beats, found = dim_beat(self.config), [], []
        first = block * self.block_tokens
        tokens = min(self.block_tokens, self.context - first)
        lost, seen = 0, set()
        for number, (place, part) in enumerate(order):
            bad, scales = (place, part) in failed, place >= self.shape.rows.head_dim
            lost |= self.halves(place, part) if bad else 0
            words = [0xDEAD] if bad else self.dim_slot(block, place, part).view("<u8").tolist()
            for number_of_pass in range(self.passes):
                beats += [layout.const({
                    "data": int(word), "head_slot": self.head_slot + number_of_pass, "int8": self.int8,
                    "wide": self.shape.rows.head_dim > 64,
                    "dim": place - self.shape.rows.head_dim if scales else place, "scales": scales,
                    "part": part, "pass_": number_of_pass, "start": part not in seen, "empty": bad,
                    "complete": number == len(order) - 1, "failed": lost, "first_token": first,
                    "tokens": tokens, "final": first + tokens == self.context,
                    "last": index == len(words) - 1}).as_bits() for index, word in enumerate(words)]
            if not bad and not scales:
                seen.add(part)
        scores = self.scores()
        for half in range(2 * parts(self.config)):
            if lost >> half & 1:
                start = first + half * HALF_TOKENS
                scores[:, start:start + HALF_TOKENS] = selection.SCORE_LOWEST
        for number_of_pass in range(self.passes):
            found += self.token_beats(number_of_pass, range(first, first + tokens), scores)
        return beats, found

    def block_turns(self, block: int, order: list[tuple[int, int]],
                    failed: Collection[tuple[int, int]] = ()) -> list[tuple[list[int], list[int]]]:
        """The same slot by slot and pass by pass: the last slot of each pass brings its tokens."""
        beats, tokens = self.block_beats(block, order, failed)
        last, each = dim_beat(self.config)["last"].offset, len(tokens) // self.passes
        ends = [0, *(index + 1 for index, beat in enumerate(beats) if beat >> last & 1)]
        found = [[]] * (len(ends) - 1 - self.passes) + [
            tokens[each * number:each * (number + 1)] for number in range(self.passes)]
        return [(beats[low:high], those)
                for (low, high), those in zip(itertools.pairwise(ends), found, strict=True)]

    # -- rows of keys ------------------------------------------------------------------------------
    @property
    def key_slots(self) -> list[int]:
        """Pairs whose keys are read."""
        per_slot = self.shape.rows.rows_per_slot
        return list(range(self.blocks * self.block_tokens // per_slot, -(-self.context // per_slot)))

    def key_rows(self, slot: int) -> range:
        per_slot = self.shape.rows.rows_per_slot
        return range(slot * per_slot, min((slot + 1) * per_slot, self.context))

    def row_words(self, token: int) -> list[int]:
        width = 128 if self.shape.rows.head_dim > 64 else 64
        row = np.zeros(width, self.k.dtype)
        row[:self.k.shape[1]] = self.k[token]
        return [int(word) for word in row.view("<u8")]

    def key_beats(self, slot: int, *, failed: bool = False) -> tuple[list[int], list[int]]:
        """Beats of a slot of keys for all passes, and its tokens."""
        layout, beats, found = dim_beat(self.config), [], []
        tokens, scores = self.key_rows(slot), self.scores()
        if failed:
            scores[:, tokens.start:tokens.stop] = selection.SCORE_LOWEST
        words = [(word, 0 if self.scale is None else int(self.scale[token].view(np.uint16)))
                 for token in tokens for word in self.row_words(token)]
        for number_of_pass in range(self.passes):
            those = words[:1] if failed else words
            beats += [layout.const({
                "data": word, "scale": scale, "head_slot": self.head_slot + number_of_pass, "rows": 1,
                "int8": self.int8, "wide": self.shape.rows.head_dim > 64, "pass_": number_of_pass,
                "empty": failed, "first_token": tokens.start, "tokens": len(tokens),
                "final": tokens.stop == self.context, "last": index == len(those) - 1}).as_bits()
                for index, (word, scale) in enumerate(those)]
            found += self.token_beats(number_of_pass, tokens, scores)
        return beats, found

    def token_beats(self, number_of_pass: int, tokens: range, scores: np.ndarray) -> list[int]:
        layout, queries = group_beat(self.config), self.config.queries
        rows = scores[number_of_pass * queries:(number_of_pass + 1) * queries]
        return [layout.const({
            "head_slot": self.head_slot + number_of_pass, "group": token, "maxima": rows[:, token].tolist(),
            "last": token == self.context - 1}).as_bits() for token in tokens]

    # -- as the channel gives them -----------------------------------------------------------------
    def setup(self) -> int:
        return DIM_SETUP.const({
            "context": self.context, "dims": int(self.kept.sum()), "head_dim": self.shape.rows.head_dim,
            "stripes": self.shape.stripes_per_block(self.config),
            "rows_log2": self.shape.rows.rows_per_slot.bit_length() - 1}).as_bits()

    def dim_group(self, block: int, place: int, part: int) -> int:
        """Number of a slot within the head."""
        stripe, slot = self.shape.place_of(self.config, place, part * self.shape.tokens_per_slot)
        stripe += block * self.shape.stripes_per_block(self.config)
        return stripe * self.config.slots_per_stripe + slot

    def slot_beats(self, beats: list[int], stripe_ends: Collection[int] = (), *,
                   source: int = 0) -> list[int]:
        """`slot_beat` of beats of `dim_beat`, above it the source; the last slot of a stripe is one of
        ``stripe_ends``."""
        of_dim, layout = dim_beat(self.config), slot_beat(self.config)

        @functools.cache
        def constant(word: int) -> int:
            beat = of_dim.from_bits(word)
            place = beat.dim + (self.shape.rows.head_dim if beat.scales else 0)
            group = (beat.first_token // self.shape.rows.rows_per_slot if beat.rows else
                     self.dim_group(beat.first_token // self.block_tokens, place, beat.part))
            return layout.const({
                "head_slot": beat.head_slot, "base_slot": self.head_slot,
                "rows": 0 if beat.empty else beat.tokens if beat.rows else 16, "wide": beat.wide,
                "int8": beat.int8, "dims": not beat.rows, "keys": beat.rows, "group": group,
                "stripe_end": group in stripe_ends and beat.pass_ == self.passes - 1}).as_bits() | (
                    source << layout.size)

        own, found = ("data", "scale", "last"), []
        for word in beats:
            fields = {name: word >> of_dim[name].offset & (1 << of_dim[name].width) - 1 for name in own}
            found.append(constant(word & ~bits_of(of_dim, *own)) | sum(
                value << layout[name].offset for name, value in fields.items()))
        return found
