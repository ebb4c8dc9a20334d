# SPDX-License-Identifier: Apache-2.0
"""Random heads for the attention benches, their slots as beats, and what the model makes of them."""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from instinfer.abi import arith
from instinfer.abi.config import EngineConfig
from instinfer.abi.layout import KIND_KEY, KIND_VALUE
from instinfer.hw.signatures import LANES, query_beat, slot_beat

MAX_HALF = 65504.0


@dataclasses.dataclass
class Pair:
    """Rows of one slot pair on a die; ``stripe_end`` on the last pair of a stripe."""

    die: int
    k: NDArray[np.float16]
    v: NDArray[np.float16]
    stripe_end: bool


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
                scores = arith.score(qi, exponent, pair.k)
                partials[core, pair.die] = arith.update(state, scores, pair.v)
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


KINDS = ("normal", "rising", "large", "subnormal", "equal", "saturated", "one-hot", "wild", "zero")


def random_head(config: EngineConfig, cores: int, generator: np.random.Generator, *, kind: str, dim: int,
                queries: int, pairs: int, full: bool = False) -> Head:
    """A head of up to ``pairs`` pairs per core, dies mixed, rows 0 to a slot's worth (``full``: all full)."""
    limit = 512 // dim
    counts = [[limit if full else int(generator.integers(0, limit + 1))
               for _ in range(pairs if full else generator.integers(0, pairs + 1))] for _ in range(cores)]
    if not sum(map(sum, counts)):
        counts[int(generator.integers(cores))] = [1]
    q, k, v, scale = operands(kind, generator, (sum(map(sum, counts)), dim))
    order = generator.permutation(len(k)) if kind != "rising" else np.arange(len(k))
    result: list[list[Pair]] = []
    used = 0
    for rows_of_core in counts:
        listed = []
        for rows in rows_of_core:
            chosen = order[used:used + rows]
            used += rows
            listed.append(Pair(int(generator.integers(config.dies)), k[chosen], v[chosen],
                               bool(generator.integers(3) == 0)))
        if listed:
            listed[-1].stripe_end = True
        result.append(listed)
    return Head(q[:queries], arith.scale2_of(scale), result)


def words(rows: NDArray[np.float16]) -> NDArray[np.uint64]:
    return np.ascontiguousarray(rows).view(np.uint64).reshape(len(rows), -1)


def slot_payloads(config: EngineConfig, pair: Pair, head_slot: int, base_slot: int) -> list[int]:
    """Beats of a pair as integers."""
    layout = slot_beat(config)
    payloads = []
    for kind, rows in ((KIND_KEY, pair.k), (KIND_VALUE, pair.v)):
        fields = layout.const({
            "head_slot": head_slot, "base_slot": base_slot, "die": pair.die, "kind": kind, "rows": len(rows),
            "wide": rows.shape[1] > 64, "stripe_end": pair.stripe_end and kind == KIND_VALUE,
        }).as_value().value
        last = layout.const({"last": 1}).as_value().value
        beats = [int(word) for word in words(rows).ravel()] if len(rows) else [0x5A5A]
        payloads += [fields | word for word in beats[:-1]] + [fields | last | beats[-1]]
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
