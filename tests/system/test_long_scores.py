# SPDX-License-Identifier: Apache-2.0
"""Scores of 20,000 tokens in the RTL of ``product``: more than its score memory holds, and two blocks of dims
in a channel."""

import numpy as np
import pytest

from instinfer.host import SparF, open_csd
from support import rng
from support.kv import assert_same_bits, random_half
from support.sparf import choice, sparf_attention

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

TOKENS = 20_000


@pytest.mark.parametrize("queries", [4, 8])
def test_sparf_of_twenty_thousand_tokens(queries: int) -> None:
    """One pass, and two, of which the score memory holds half as many tokens. The kept dims are far from the
    average, so that a lost or mixed block changes the choice."""
    random = rng(f"long scores {queries}")
    policy = SparF(dims=16, tokens=500, window=64, sinks=4)
    with open_csd("sim:product", erased=True) as csd:
        kept = csd.config.score_groups // (queries // csd.config.queries)
        sequence = csd.kv_cache(layers=1, kv_heads=1, query_heads=queries, head_dim=128, max_tokens=TOKENS,
                                dims=True).new_sequence()
        k, v = (random_half(random, (TOKENS, 1, 128)) for _ in range(2))
        sequence.write(0, k, v)
        q = random_half(random, (queries, 128), 2)
        before, cycles = csd.counters(), csd.cycles()
        out = sequence.attend(0, q, policy=policy)
        grown = {name: value - before[name] for name, value in csd.counters().items()}
        print(f"{TOKENS} tokens, {queries} queries: {csd.cycles() - cycles} cycles, "
              f"{grown['scores_spilled']} words spilled")
        assert grown["scores_spilled"] == (TOKENS - kept) * queries // csd.config.queries
        assert grown["dim_slots_moved"] > 0
        assert_same_bits(out, sparf_attention(csd.config, q, k, v, policy))
        chosen, _ = choice(q, k, policy)
        assert chosen[0, kept:-64].any()
        assert chosen[0, :kept].any()
        assert np.count_nonzero(chosen) == 568
