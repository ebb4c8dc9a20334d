# SPDX-License-Identifier: Apache-2.0
"""Random heads for the attention benches, their slots as beats, and what the model makes of them."""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instinfer.abi import arith
from instinfer.abi.config import EngineConfig
from instinfer.abi.layout import KIND_KEY, KIND_VALUE
from instinfer.hw.signatures import LANES, query_beat, slot_beat

MAX_HALF = 65504.0


@dataclasses.dataclass
class Pair:
    """Rows of one slot pair on a die, int8 if scales are there; ``stripe_end`` on a stripe's last pair."""

    die: int
    k: NDArray[Any]
    v: NDArray[Any]
    stripe_end: bool
    k_scale: NDArray[np.float16] | None = None
    v_scale: NDArray[np.float16] | None = None


@dataclasses.dataclass
class Head:
    """One attention: ``pairs[core]`` in the order in which the core gets them."""

    q: NDArray[np.float16]
    scale2: np.float32
    pairs: list[list[Pair]]

    @property
    def dim(self) -> int:
        return self.q.shape[1]

    @property
    def stripes(self) -> int:
        return sum(pair.stripe_end for pairs in self.pairs for pair in pairs)

    def expected(self) -> NDArray[np.float16]:
        """(queries, dim) out of the model."""
        qi, exponent = arith.quantise_query(self.q, self.scale2)
        queries = len(self.q)
        partials: dict[tuple[int, int], arith.Partial] = {}
        for core, pairs in enumerate(self.pairs):
            for pair in pairs:
                if not len(pair.k):
                    continue
                state = partials.get((core, pair.die), arith.Partial.empty((queries,), self.dim))
                scores = (arith.score(qi, exponent, pair.k) if pair.k_scale is None
                          else arith.score_int8(qi, exponent, pair.k, pair.k_scale))
                partials[core, pair.die] = arith.update(state, scores, pair.v, scale=pair.v_scale)
        states = [state for state in partials.values() if state.valid.all()]
        if not states:
            return np.zeros((queries, self.dim), np.float16)
        stacked = arith.Partial(*(np.stack(fields) for fields in zip(*states, strict=True)))
        return arith.normalise(arith.merge(stacked))


def half(x: NDArray[np.floating]) -> NDArray[np.float16]:
    return np.clip(x, -MAX_HALF, MAX_HALF).astype(np.float16)


def operands(kind: str, generator: np.random.Generator, shape: tuple[int, int]) -> tuple[
        NDArray[np.float16], NDArray[np.float16], NDArray[np.float16], float]:
    """(q of 8 rows, k, v, softmax scale) of one head of ``shape`` = (tokens, dim)."""
    tokens, dim = shape
    q, k, v = (generator.standard_normal((rows, dim)) for rows in (8, tokens, tokens))
    scale = dim ** -0.5
    match kind:
        case "normal":
            pass
        case "rising":  # every slot moves the maximum
            k = np.abs(q[0]) * np.sign(q[0]) * np.linspace(0.1, 3, tokens)[:, None]
        case "large":  # logits of about +-1e4
            q, k = q * 30, k * 30
            scale *= 10
        case "subnormal":
            q, k, v = q * 2e-6, k * 2e-6, v * 1e-7
        case "equal":
            k = np.repeat(k[:1], tokens, axis=0)
        case "saturated":  # beyond the range of a score
            q, k = np.sign(q) * MAX_HALF, np.sign(k) * MAX_HALF
            scale = 100.0
        case "one-hot":
            k[generator.integers(tokens)] = q[0] * 40
        case "wild":  # all exponents
            q, k, v = (x * np.exp2(generator.uniform(-24, 14, x.shape)) for x in (q, k, v))
        case "zero":
            q = q * 0
        case _:
            raise ValueError(f"no such kind of operands: {kind!r}")
    return half(q), half(k), half(v), scale


def byte_operands(kind: str, generator: np.random.Generator, shape: tuple[int, int]) -> tuple:
    """(q of 8 rows, k, v, softmax scale, scales of k, scales of v) of an int8 head."""
    tokens, dim = shape
    scale = dim ** -0.5
    q = half(generator.standard_normal((8, dim)))
    match kind:
        case "wild":  # all scales, all bytes
            k, v = (generator.integers(-128, 128, shape).astype(np.int8) for _ in range(2))
            k_scale, v_scale = (generator.integers(1, 0x6000, tokens).astype(np.uint16).view(np.float16)
                                for _ in range(2))
        case "subnormal":  # the smallest scales
            k, v = (generator.integers(-128, 128, shape).astype(np.int8) for _ in range(2))
            k_scale, v_scale = (generator.integers(1, 0x0500, tokens).astype(np.uint16).view(np.float16)
                                for _ in range(2))
        case "saturated":  # largest sums, scores beyond their range
            q = half(np.sign(q) * MAX_HALF)
            k, v = (np.where(generator.integers(0, 2, shape), 127, -128).astype(np.int8) for _ in range(2))
            k[::2] = np.where(q[0] > 0, -128, 127)
            k_scale = v_scale = np.full(tokens, np.nextafter(np.float16(512), np.float16(0)))
            scale = 100.0
        case _:
            q, wide_k, wide_v, scale = operands(kind, generator, shape)
            k, k_scale = arith.quantise_rows(wide_k)
            v, v_scale = arith.quantise_rows(wide_v)
    return q, k, v, scale, k_scale, v_scale


KINDS = ("normal", "rising", "large", "subnormal", "equal", "saturated", "one-hot", "wild", "zero")


def random_head(config: EngineConfig, cores: int, generator: np.random.Generator, *, kind: str, dim: int,
                queries: int, pairs: int, full: bool = False, int8: bool = False) -> Head:
    """A head of up to ``pairs`` pairs per core, dies mixed, rows 0 to a slot's worth (``full``: all full)."""
    limit = (1024 if int8 else 512) // dim
    counts = [[limit if full else int(generator.integers(0, limit + 1))
               for _ in range(pairs if full else generator.integers(0, pairs + 1))] for _ in range(cores)]
    if not sum(map(sum, counts)):
        counts[int(generator.integers(cores))] = [1]
    shape = sum(map(sum, counts)), dim
    if int8:
        q, k, v, scale, k_scale, v_scale = byte_operands(kind, generator, shape)
    else:
        q, k, v, scale = operands(kind, generator, shape)
    order = generator.permutation(len(k)) if kind != "rising" else np.arange(len(k))
    result: list[list[Pair]] = []
    used = 0
    for rows_of_core in counts:
        listed = []
        for rows in rows_of_core:
            chosen = order[used:used + rows]
            used += rows
            pair = Pair(int(generator.integers(config.dies)), k[chosen], v[chosen],
                        bool(generator.integers(3) == 0))
            if int8:
                pair.k_scale, pair.v_scale = k_scale[chosen], v_scale[chosen]
            listed.append(pair)
        if listed:
            listed[-1].stripe_end = True
        result.append(listed)
    return Head(q[:queries], arith.scale2_of(scale), result)


def words(rows: NDArray[Any]) -> NDArray[np.uint64]:
    return np.ascontiguousarray(rows).view(np.uint64).reshape(len(rows), -1)


def slot_payloads(config: EngineConfig, pair: Pair, head_slot: int, base_slot: int) -> list[int]:
    """Beats of a pair as integers."""
    layout = slot_beat(config)
    payloads = []
    for kind, rows, scales in ((KIND_KEY, pair.k, pair.k_scale), (KIND_VALUE, pair.v, pair.v_scale)):
        int8 = scales is not None
        fields = layout.const({
            "head_slot": head_slot, "base_slot": base_slot, "die": pair.die, "kind": kind, "rows": len(rows),
            "wide": rows.shape[1] > 64, "stripe_end": pair.stripe_end and kind == KIND_VALUE, "int8": int8,
        }).as_value().value
        last = layout.const({"last": 1}).as_value().value
        beats = [fields | 0x5A5A]
        if len(rows):
            scale_bits = scales.view(np.uint16) if scales is not None else np.full(len(rows), 0x7FFF)
            beats = [fields | layout.const({"scale": int(bits)}).as_value().value | int(word)
                     for bits, row in zip(scale_bits, words(rows), strict=True) for word in row]
        payloads += [*beats[:-1], beats[-1] | last]
    return payloads


def query_payloads(config: EngineConfig, head: Head, head_slot: int) -> list[int]:
    layout = query_beat(config)
    payloads = []
    for query, row in enumerate(words(head.q)):
        for group, word in enumerate(row):
            payloads.append(layout.const({
                "data": int(word), "head_slot": head_slot, "query": query, "group": group,
                "last": group + 1 == len(row),
            }).as_value().value)
    return payloads


def result_rows(config: EngineConfig, layout: object, beats: list[int], queries: int,
                dim: int) -> NDArray[np.float16]:
    """Rows out of result beats; checks that each place is written once and ``last`` ends them."""
    rows = np.zeros((queries, dim // LANES), np.uint64)
    seen = np.zeros(rows.shape, np.bool_)
    for index, bits in enumerate(beats):
        beat = layout.from_bits(bits)
        place = (beat.query, beat.group)
        assert not seen[place], f"result {place} came twice"
        assert beat.last == (index + 1 == len(beats)), f"last = {beat.last} on beat {index}"
        seen[place], rows[place] = True, beat.data
    assert seen.all(), f"{np.count_nonzero(~seen)} result beats are missing"
    return rows.view(np.float16).reshape(queries, dim)
