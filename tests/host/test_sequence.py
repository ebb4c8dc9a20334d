# SPDX-License-Identifier: Apache-2.0
"""Attention through the driver: every bit as abi.arith says, close to float64, for every shape and length."""

import numpy as np
import pytest

from instinfer.abi.arith import F16
from instinfer.abi.commands import Table
from instinfer.abi.layout import RowShape, map_line, placement
from instinfer.host import Csd, Dense, open_csd
from support import rng
from support.kv import assert_same_bits, exact_attention, float_attention, random_half


def lengths(csd: Csd, head_dim: int) -> list[int]:
    """Contexts around the borders of slot, page, stripe and a round over all channels and dies."""
    shape = RowShape(head_dim)
    stripe = shape.tokens_per_stripe(csd.config)
    borders = (shape.rows_per_slot, shape.tokens_per_page(csd.config), stripe, stripe * csd.config.channels,
               stripe * csd.config.dies_total)
    return sorted({1, 2, *(border + offset for border in borders for offset in (-1, 0, 1))})


@pytest.mark.parametrize("head_dim", [64, 128])
def test_context_lengths_grown_by_appends(csd: Csd, head_dim: int) -> None:
    random = rng(f"lengths {head_dim}")
    contexts = lengths(csd, head_dim)
    cache = csd.kv_cache(layers=2, kv_heads=2, query_heads=4, head_dim=head_dim, max_tokens=contexts[-1])
    sequence = cache.new_sequence()
    k, v = (random_half(random, (contexts[-1], 2, head_dim), 2) for _ in range(2))
    stored = 0
    for context in contexts:
        if context - stored > 1:
            sequence.write(1, k[stored:context - 1], v[stored:context - 1])
        q = random_half(random, (4, head_dim), 3)
        out = sequence.attend(1, q, append=(k[context - 1], v[context - 1]), policy=Dense())
        stored = context
        assert_same_bits(out, exact_attention(csd.config, q, k[:context], v[:context]))
        exact = float_attention(q, k[:context], v[:context])
        assert np.abs(out - exact).max() <= 2.0 ** -10 * np.abs(v[:context]).max()
    assert sequence.resident(1) == contexts[-1]
    assert sequence.resident(0) == 0
    q = random_half(random, (4, head_dim), 3)
    for context in contexts:
        out = sequence.attend(1, q, context=context)
        expected = exact_attention(csd.config, q, k[:context], v[:context], resident=stored)
        assert_same_bits(out, expected)


@pytest.mark.parametrize("queries", [1, 3, 4, 7, 8])
@pytest.mark.parametrize("head_dim", [64, 80, 96, 128])
def test_shapes(csd: Csd, head_dim: int, queries: int) -> None:
    random = rng(f"shapes {head_dim} {queries}")
    cache = csd.kv_cache(layers=1, kv_heads=2, query_heads=2 * queries, head_dim=head_dim, max_tokens=200)
    sequence = cache.new_sequence()
    k, v = (random_half(random, (75, 2, head_dim)) for _ in range(2))
    sequence.write(0, k[:50], v[:50])
    sequence.append(0, k[50:], v[50:])
    q = random_half(random, (2 * queries, head_dim), 2)
    assert_same_bits(sequence.attend(0, q), exact_attention(csd.config, q, k, v))
    assert_same_bits(sequence.attend(0, q, scale=0.5), exact_attention(csd.config, q, k, v, scale=0.5))


Operands = tuple[F16, F16, F16, float]


def hostile(name: str, tokens: int, dims: int) -> Operands:
    """q (4 query heads), k and v (2 KV heads) that strain the arithmetic, and the softmax scale."""
    random = rng(f"hostile {name}")
    q, k, v = (random.standard_normal(shape) for shape in ((4, dims), (tokens, 2, dims), (tokens, 2, dims)))
    scale = dims ** -0.5
    if name == "one-hot":
        k[77] = q[::2] * 40
    elif name == "equal scores":
        q[:] = 0
    elif name == "equal scores, largest V":
        q[:], k[:], v[:] = 1, 1, np.where(np.arange(dims) % 2, 65504, -65504)
    elif name in ("logits of 10,000", "logits of -10,000"):
        k += 30 * np.sign(q[0]) * (1 if name == "logits of 10,000" else -1)
        q *= 1e4 / 30 / np.abs(q).sum(axis=-1, keepdims=True) / scale
    elif name == "subnormal":
        q, k, v = (2e-6 * each for each in (q, k, v))
    elif name == "subnormal q, large scale":
        q, k, scale = 2e-6 * q, 1e4 * k, 100.0
    return (*(each.astype(np.float16) for each in (q, k, v)), scale)  # type: ignore[return-value]


@pytest.mark.parametrize("name", [
    "one-hot", "equal scores", "equal scores, largest V", "logits of 10,000", "logits of -10,000",
    "subnormal", "subnormal q, large scale"])
@pytest.mark.parametrize("dims", [64, 128])
def test_hostile_values(csd: Csd, name: str, dims: int) -> None:
    q, k, v, scale = hostile(name, 150, dims)
    cache = csd.kv_cache(layers=1, kv_heads=2, query_heads=4, head_dim=dims, max_tokens=150)
    sequence = cache.new_sequence()
    sequence.write(0, k, v)
    out = sequence.attend(0, q, scale=scale)
    assert_same_bits(out, exact_attention(csd.config, q, k, v, scale=scale))
    half_a_step = 1.001 * 2.0 ** -25  # of the smallest fp16 numbers
    bound = max(2.0 ** -10 * np.abs(v.astype(float)).max(), half_a_step)
    assert np.abs(out - float_attention(q, k, v, scale=scale)).max() <= bound


@pytest.mark.parametrize("head_dim", [64, 80, 96, 128])
def test_reading_back(csd: Csd, head_dim: int) -> None:
    random = rng(f"read {head_dim}")
    cache = csd.kv_cache(layers=1, kv_heads=2, query_heads=2, head_dim=head_dim, max_tokens=200)
    sequence = cache.new_sequence()
    k, v = (random_half(random, (150, 2, head_dim)) for _ in range(2))
    sequence.write(0, k, v)
    for first, tokens in ((0, None), (0, 1), (31, 20), (149, 1), (150, None), (64, 32)):
        keys, values = sequence.read(0, first, tokens)
        place = slice(first, None if tokens is None else first + tokens)
        np.testing.assert_array_equal(keys.view(np.uint16), k[place].view(np.uint16))
        np.testing.assert_array_equal(values.view(np.uint16), v[place].view(np.uint16))
    q = random_half(random, (2, head_dim))
    attentions = [sequence.attend_async(0, q) for _ in range(2)]
    assert_same_bits(sequence.read(0)[0], k)
    for each in attentions:
        assert_same_bits(each.result(), exact_attention(csd.config, q, k, v))


def test_sequences_interleaved_freed_and_reused(csd: Csd) -> None:
    random = rng("interleaved")
    cache = csd.kv_cache(layers=2, kv_heads=1, query_heads=2, head_dim=64, max_tokens=400)
    other = csd.kv_cache(layers=1, kv_heads=3, query_heads=3, head_dim=128, max_tokens=100)
    live = {}
    for step in range(60):
        if len(live) < 4 and random.random() < 0.4:
            shape = (2, 1, 64, 2) if random.random() < 0.6 else (1, 3, 128, 3)
            sequence = (cache if shape[0] == 2 else other).new_sequence()
            live[sequence] = (shape, [(np.zeros((0, *shape[1:3]), np.float16),) * 2 for _ in range(shape[0])])
            continue
        if not live:
            continue
        sequence = list(live)[random.integers(len(live))]
        (layers, heads, dims, query_heads), stored = live[sequence]
        if random.random() < 0.12:
            sequence.free()
            del live[sequence]
            continue
        layer = int(random.integers(layers))
        room = (400 if dims == 64 else 100) - len(stored[layer][0])
        tokens = min(int(random.integers(1, 60)), room)
        if tokens:
            new = [random_half(random, (tokens, heads, dims)) for _ in range(2)]
            sequence.write(layer, *new)
            stored[layer] = tuple(np.concatenate(pair) for pair in zip(stored[layer], new, strict=True))
        q = random_half(random, (query_heads, dims), 3)
        expected = exact_attention(csd.config, q, *stored[layer], layer=layer)
        assert_same_bits(sequence.attend(layer, q), expected)
        print(f"step {step}: sequence {sequence.number} layer {layer} holds {len(stored[layer][0])} tokens")
    for sequence in list(live):
        sequence.free()
    assert cache.sequences == other.sequences == ()
    generations = {cache.new_sequence().generation for _ in range(3)}
    assert len(generations) == 3
    assert 0 not in generations


def test_many_commands_in_flight(csd: Csd) -> None:
    random = rng("in flight")
    layers = 6
    cache = csd.kv_cache(layers=layers, kv_heads=2, query_heads=4, head_dim=64, max_tokens=128)
    sequence = cache.new_sequence()
    k, v = (random_half(random, (layers, 70, 2, 64)) for _ in range(2))
    q = random_half(random, (layers, 4, 64), 3)
    writes = [sequence.write_async(layer, k[layer, :69], v[layer, :69]) for layer in range(layers)]
    steps = [sequence.attend_async(layer, q[layer], append=(k[layer, 69], v[layer, 69]))
             for layer in range(layers)]
    again = [sequence.attend_async(layer, q[layer]) for layer in range(layers)]
    assert [pending.result() for pending in writes] == [69] * layers
    for layer in reversed(range(layers)):
        expected = exact_attention(csd.config, q[layer], k[layer], v[layer], layer=layer)
        assert_same_bits(steps[layer].result(), expected)
        assert_same_bits(again[layer].result(), expected)
        assert steps[layer].done
    sequence.sync()


def test_more_commands_than_the_ring_holds(csd_kind: str) -> None:
    random = rng("ring")
    with open_csd(csd_kind, erased=True, queue_entries=4, queues=2) as csd:
        cache = csd.kv_cache(layers=1, kv_heads=1, query_heads=1, head_dim=64, max_tokens=64)
        sequences = [cache.new_sequence() for _ in range(3)]
        k, v = (random_half(random, (3, 40, 1, 64)) for _ in range(2))
        pending = [sequence.append_async(0, k[index, token], v[index, token])
                   for token in range(40) for index, sequence in enumerate(sequences)]
        assert [each.result() for each in pending] == [token + 1 for token in range(40) for _ in range(3)]
        q = random_half(random, (1, 64))
        for index, sequence in enumerate(sequences):
            assert_same_bits(sequence.attend(0, q), exact_attention(csd.config, q, k[index], v[index]))


def test_writes_longer_than_a_command(csd_kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from instinfer.host import sequence as module

    monkeypatch.setattr(module, "STAGING_BYTES", 40 * 64 * 2)
    random = rng("long write")
    with open_csd(csd_kind, erased=True, arena_bytes=4096) as csd:
        cache = csd.kv_cache(layers=1, kv_heads=1, query_heads=1, head_dim=64, max_tokens=500)
        sequence = cache.new_sequence()
        k, v = (random_half(random, (500, 1, 64)) for _ in range(2))
        sequence.write(0, k, v)
        assert sequence.resident(0) == 500
        q = random_half(random, (1, 64), 3)
        assert_same_bits(sequence.attend(0, q), exact_attention(csd.config, q, k, v))
        nothing = np.zeros((0, 1, 64), np.float16)
        sequence.write(0, nothing, nothing)
        assert sequence.resident(0) == 500


@pytest.mark.parametrize(("head_dim", "tokens"), [(64, 10_000), (128, 10_000), (64, 131_072)])
def test_long_contexts_on_product(head_dim: int, tokens: int) -> None:
    random = rng(f"long {head_dim} {tokens}")
    with open_csd("model:product", erased=True) as csd:
        cache = csd.kv_cache(layers=1, kv_heads=1, query_heads=2, head_dim=head_dim, max_tokens=131_072)
        sequence = cache.new_sequence()
        k, v = (random_half(random, (tokens, 1, head_dim)) for _ in range(2))
        sequence.write(0, k[:-1], v[:-1])
        q = random_half(random, (2, head_dim), 4)
        out = sequence.attend(0, q, append=(k[-1], v[-1]))
        assert_same_bits(out, exact_attention(csd.config, q, k, v))
        assert np.abs(out - float_attention(q, k, v)).max() <= 2.0 ** -10 * np.abs(v).max()


@pytest.mark.parametrize("head_dim", [64, 128])
def test_borders_on_product(head_dim: int) -> None:
    random = rng(f"product {head_dim}")
    with open_csd("model:product", erased=True) as csd:
        contexts = lengths(csd, head_dim)
        cache = csd.kv_cache(layers=1, kv_heads=1, query_heads=3, head_dim=head_dim, max_tokens=contexts[-1])
        sequence = cache.new_sequence()
        k, v = (random_half(random, (contexts[-1], 1, head_dim)) for _ in range(2))
        stored = 0
        for context in contexts:
            sequence.write(0, k[stored:context], v[stored:context])
            stored = context
            q = random_half(random, (3, head_dim), 4)
            assert_same_bits(sequence.attend(0, q),
                             exact_attention(csd.config, q, k[:context], v[:context]))


def test_more_heads_than_channels_are_placed_in_turn(csd: Csd) -> None:
    """Rows lie where `layout.placement` says, also where the heads of a layer wrap round the channels.

    One stripe a head: with as many stripes as channels a die's rows add up to the same wherever a head began.
    """
    random = rng("placement")
    config, layers, heads = csd.config, 3, 5
    tokens = RowShape(64).tokens_per_stripe(config) + 8
    cache = csd.kv_cache(layers=layers, kv_heads=heads, query_heads=heads, head_dim=64, max_tokens=tokens)
    sequence = cache.new_sequence()
    rows = [0] * config.row_counters
    for layer in range(layers):
        k, v = (random_half(random, (tokens, heads, 64)) for _ in range(2))
        sequence.write(layer, k, v)
        q = random_half(random, (heads, 64), 3)
        assert_same_bits(sequence.attend(layer, q), exact_attention(config, q, k, v, layer=layer))
        for head in range(heads):
            for stripe in range(tokens // RowShape(64).tokens_per_stripe(config)):
                channel, die = placement(config, map_line(layer, head, kv_heads=heads), stripe)
                rows[channel * config.group_dies + die] += 1
        sequence.sync()
        first = sequence.number * config.row_counters
        assert csd.read_table(Table.ROW_COUNT, [first + n for n in range(config.row_counters)]) == rows
