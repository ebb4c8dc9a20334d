# SPDX-License-Identifier: Apache-2.0
"""Heads of queries for the query side of SparF, and what the model makes of them."""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from instinfer.abi import arith, sparf
from instinfer.abi.config import EngineConfig
from instinfer.hw.selection.sparfports import sparf_job
from instinfer.hw.signatures import LANES

KINDS = ("any", "one large", "sparse", "ties", "zero", "one dim", "largest", "far apart")


@dataclasses.dataclass(frozen=True)
class QueryHead:
    """Quantised queries (queries, dims) of a KV head, their exponents, how many dims are kept."""

    qi: NDArray[np.int64]
    exponent: NDArray[np.int64]
    dims: int

    @property
    def rows(self) -> int:
        return len(self.qi)

    @property
    def groups(self) -> int:
        return self.qi.shape[1] // LANES

    @property
    def right(self) -> NDArray[np.int64]:
        return arith.SCORE_SHIFT_BASE - self.exponent

    @property
    def kept(self) -> NDArray[np.bool_]:
        return sparf.choose_dims(self.qi, self.exponent, self.dims)

    def kept_bits(self) -> int:
        return sum(1 << int(dim) for dim in np.flatnonzero(self.kept))

    def job(self, config: EngineConfig, head_slot: int) -> int:
        passes = -(-self.rows // config.queries)
        return sparf_job(config).const({
            "head_slot": head_slot, "passes": passes, "queries": self.rows - (passes - 1) * config.queries,
            "last_group": self.groups - 1, "last_dim": self.dims - 1}).as_bits()

    def place(self, config: EngineConfig, row: int, head_slot: int) -> tuple[int, int]:
        """(head slot, query) of a row."""
        return (head_slot + row // config.queries) % config.head_slots, row % config.queries

    def writes(self, config: EngineConfig, head_slot: int) -> list[tuple[int, int, int, int, int]]:
        """(head slot, query, group, factors, right) of all folded groups."""
        folded, exponent = sparf.fold(self.qi, self.exponent, self.kept)
        right = arith.SCORE_SHIFT_BASE - exponent
        return [(*self.place(config, row, head_slot), group, packed(lanes), int(right[row]))
                for row in range(self.rows)
                for group, lanes in enumerate(folded[row].reshape(-1, LANES))]


def packed(lanes: NDArray[np.int64]) -> int:
    """Query integers side by side, the first in the lowest bits."""
    mask = (1 << arith.QUERY_BITS) - 1
    return sum((int(value) & mask) << arith.QUERY_BITS * lane for lane, value in enumerate(lanes))


def random_rows(generator: np.random.Generator, kind: str, queries: int,
                width: int) -> NDArray[np.float16]:
    """Query rows (queries, width) in fp16, hostile ones among them."""
    q = generator.standard_normal((queries, width))
    match kind:
        case "one large":
            q[generator.integers(queries)] *= 3000
        case "sparse":  # some queries have nothing in the kept dims
            q *= generator.random(q.shape) < 0.05
        case "ties":
            q = np.sign(q) * generator.integers(1, 3, q.shape)
        case "zero":
            q[generator.random(queries) < 0.6] = 0
        case "one dim":  # largest temperatures: next to nothing of the others lies in the dim of the first
            q[:, dim := generator.integers(width)] *= np.exp2(-generator.uniform(10, 18, queries))
            q[0] = 0
            q[0, dim] = 30
        case "largest":
            q = np.sign(q) * 65504
        case "far apart":
            q *= np.exp2(generator.integers(-20, 14, (queries, 1)))
    return np.clip(q, -65504, 65504).astype(np.float16)


def random_head(generator: np.random.Generator, kind: str, *, queries: int, width: int, dims: int,
                scale2: float = 0.125) -> QueryHead:
    return QueryHead(*arith.quantise_query(random_rows(generator, kind, queries, width), np.float32(scale2)),
                     dims)
