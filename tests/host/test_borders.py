# SPDX-License-Identifier: Apache-2.0
"""Every command that carries tokens around every border of slot, page and stripe, by each policy.

Over the model and (tests/system) the RTL; `make coverage` counts what is seen here.
"""

from typing import Any

import numpy as np
import pytest

from instinfer.abi.layout import RowShape
from instinfer.host import Csd, Dense, Sequence, Sketch, SparF
from instinfer.host.policy import Policy
from instinfer.host.sketchers import TruncatedKey
from support import rng
from support.kv import assert_same_bits, exact_attention, random_half

DIMS, HEADS = 64, 1
POLICIES: dict[str, Policy] = {
    "dense": Dense(),
    "sketch": Sketch(keep_tokens=8, group=1, window=64, sinks=1),
    "sparf": SparF(dims=8, tokens=8, window=64, sinks=1),
}
"""Their windows hold every context here, so that each must give the bits of dense attention."""


def ends(csd: Csd) -> list[int]:
    """The first token, and one before, on and behind each border."""
    shape = RowShape(DIMS)
    sizes = (shape.rows_per_slot, shape.tokens_per_page(csd.config), shape.tokens_per_stripe(csd.config))
    assert sizes == (8, 16, 32), "the first slot's, page's and stripe's ends are three"
    return sorted({1, *(size + offset for size in sizes for offset in (-1, 0, 1))})


@pytest.fixture
def rows(csd: Csd) -> tuple[Any, Any, Any]:
    """K, V, and a query, for the longest context."""
    random = rng("borders")
    k, v = (random_half(random, (ends(csd)[-1], HEADS, DIMS)) for _ in range(2))
    return k, v, random_half(random, (HEADS, DIMS), 3)


def sequence_of(csd: Csd) -> Sequence:
    """For all policies."""
    return csd.kv_cache(layers=1, kv_heads=HEADS, query_heads=HEADS, head_dim=DIMS, max_tokens=64,
                        sketch=TruncatedKey(dims=16, bits=4), dims=True).new_sequence()


@pytest.mark.parametrize("command", ["write", "append"])
def test_written_and_read_back(csd: Csd, rows: tuple[Any, Any, Any], command: str) -> None:
    k, v, _ = rows
    sequence, start = sequence_of(csd), 0
    for end in ends(csd):
        getattr(sequence, command)(0, k[start:end], v[start:end])
        start = end
        for first in {0, end - 1}:
            stored = sequence.read(0, first, end - first)
            for found, given in zip(stored, (k, v), strict=True):
                assert np.array_equal(found, given[first:end]), (command, first, end)


@pytest.mark.parametrize("policy", POLICIES)
def test_attended(csd: Csd, rows: tuple[Any, Any, Any], policy: str) -> None:
    k, v, q = rows
    sequence = sequence_of(csd)
    sequence.write(0, k, v)
    for end in ends(csd):
        expected = exact_attention(csd.config, q, k[:end], v[:end], resident=len(k))
        assert_same_bits(sequence.attend(0, q, policy=POLICIES[policy], context=end), expected)


@pytest.mark.parametrize("policy", POLICIES)
def test_appended_and_attended(csd: Csd, rows: tuple[Any, Any, Any], policy: str) -> None:
    k, v, q = rows
    sequence = sequence_of(csd)
    for token in range(ends(csd)[-1]):
        end = token + 1
        out = sequence.attend(0, q, append=(k[token], v[token]), policy=POLICIES[policy])
        assert_same_bits(out, exact_attention(csd.config, q, k[:end], v[:end]))
