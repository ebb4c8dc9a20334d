# SPDX-License-Identifier: Apache-2.0
"""The RTL of ``product`` itself: long contexts bit by bit, and the contract of dense attention."""

import json
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from host.test_sequence import lengths
from instinfer.abi.layout import RowShape
from instinfer.cli import main
from instinfer.host import Csd, open_csd
from support import rng
from support.kv import assert_same_bits, exact_attention, float_attention, random_half

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]


def contexts(csd: Csd, head_dim: int) -> list[int]:
    """Those of tests/host/test_sequence.py up to a stripe on every channel, and 10,000 tokens."""
    stripe = RowShape(head_dim).tokens_per_stripe(csd.config)
    return [*(each for each in lengths(csd, head_dim) if each <= stripe * csd.config.channels + 1), 10_000]


@pytest.mark.parametrize("head_dim", [64, 128])
def test_context_lengths(head_dim: int) -> None:
    random = rng(f"product {head_dim}")
    with open_csd("sim:product", erased=True) as csd:
        cache = csd.kv_cache(layers=1, kv_heads=1, query_heads=3, head_dim=head_dim, max_tokens=10_000)
        sequence = cache.new_sequence()
        k, v = (random_half(random, (10_000, 1, head_dim)) for _ in range(2))
        stored = 0
        for context in contexts(csd, head_dim):
            sequence.write(0, k[stored:context], v[stored:context])
            stored = context
            q = random_half(random, (3, head_dim), 4)
            out = sequence.attend(0, q)
            assert_same_bits(out, exact_attention(csd.config, q, k[:context], v[:context]))
            error = np.abs(out - float_attention(q, k[:context], v[:context])).max()
            assert error <= 2.0 ** -10 * np.abs(v[:context]).max()
            print(f"{context} tokens of {head_dim}: largest error {error:.1e}, cycle {csd.cycles()}")


def bench(*arguments: str) -> Any:
    result = CliRunner().invoke(main.app, [
        "bench", "dense", "--preset", "product", "--tokens", "4096", "--kv-heads", "8", "--queries", "4",
        "--head-dim", "128", *arguments, "--json", "-"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize(("commands", "efficiency"), [(1, 0.93), (8, 0.95)])
def test_dense_attention_keeps_the_buses_busy(commands: int, efficiency: float) -> None:
    found = bench("--commands", str(commands))
    assert found["bit_exact"] is True
    assert found["values_compared"] == commands * 8 * 4 * 128
    assert found["efficiency"] == found["ideal_cycles"] / found["cycles"] >= efficiency
    assert found["bound_cycles"] <= found["cycles"]
    names = {"bytes_moved", "stripes_sensed", "slots_moved", "array_wait_cycles", "stall_cycles", "max_error",
             "sim_cycles_per_second", "timing"}
    assert names <= found.keys(), f"{names - found.keys()} are missing"
