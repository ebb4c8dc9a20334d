# SPDX-License-Identifier: Apache-2.0
"""SparF through the driver: the chosen tokens, every bit of the attention, dim pages in flash, the counts.

A block of `tiny` is 512 tokens of fp16 and 1,024 of int8 rows.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from instinfer.abi import arith, sparf
from instinfer.abi.commands import Dtype, Table
from instinfer.abi.dims import DimShape, dim_placement, pack_block
from instinfer.abi.layout import KIND_DIM, SLOT_DATA_BYTES, TUPLE_OFFSET, MapEntry, RowShape, flash_stripes
from instinfer.abi.registers import Counter
from instinfer.cosim.model.layer import Layer, Region
from instinfer.cosim.state import DriveState
from instinfer.host import PCA, Csd, Dense, MediaError, Sequence, Sketch, SparF, open_csd
from support import rng
from support.kv import assert_same_bits, exact_attention, float_attention, part_of, random_half
from support.sparf import choice, integer_choice, reference, sparf_attention

FEW = SparF(dims=8, tokens=40, window=6, sinks=2)
BLOCK = {"fp16": 512, "int8": 1024}


def shape_of(**changes: Any) -> dict[str, Any]:
    return {"layers": 1, "kv_heads": 2, "query_heads": 4, "head_dim": 64, "max_tokens": 1300, "dims": True,
            **changes}


def rows_of(dtype: str, random: np.random.Generator, shape: tuple[int, ...]) -> Any:
    """Rows some of whose dims matter more than others."""
    rows = (random.standard_normal(shape) * np.exp(random.standard_normal(shape[-1]))).astype(np.float16)
    return arith.quantise_rows(rows) if dtype == "int8" else rows


def filled(csd: Csd, random: np.random.Generator, tokens: int, *, dtype: str = "fp16",
           **changes: Any) -> tuple[Sequence, Any, Any]:
    shape = shape_of(dtype=dtype, **changes)
    sequence = csd.kv_cache(**shape).new_sequence()
    k, v = (rows_of(dtype, random, (tokens, shape["kv_heads"], shape["head_dim"])) for _ in range(2))
    sequence.write(0, k, v)
    return sequence, k, v


def queries(random: np.random.Generator, *shape: int) -> Any:
    return rows_of("fp16", random, shape)


@pytest.mark.parametrize(("dtype", "head_dim", "heads"), [
    ("fp16", 64, 2), ("fp16", 80, 10), ("fp16", 96, 16), ("fp16", 128, 8),
    ("int8", 64, 8), ("int8", 80, 2), ("int8", 96, 6), ("int8", 128, 4)])
def test_shapes(csd: Csd, dtype: str, head_dim: int, heads: int) -> None:
    """Tokens from dim pages, from K slots and from DRAM; one to eight queries per KV head."""
    random = rng(f"sparf shapes {dtype} {head_dim}")
    tokens = BLOCK[dtype] + 100
    sequence, k, v = filled(csd, random, tokens, dtype=dtype, head_dim=head_dim, query_heads=heads)
    q = queries(random, heads, head_dim)
    before = csd.counters()
    out = sequence.attend(0, q, policy=FEW)
    grown = {name: value - before[name] for name, value in csd.counters().items()}
    chosen, _ = choice(q, k, FEW)
    assert (chosen.sum(axis=1) == 48).all()
    assert (chosen[0] != chosen[1]).any(), "heads choose apart"
    assert_same_bits(out, exact_attention(csd.config, q, k, v, chosen=chosen))
    assert (out != sequence.attend(0, q)).any()
    assert grown["dim_slots_moved"] > 0
    assert grown["slots_moved"] > 0
    assert grown["tail_beats"] > 0
    assert_same_bits(sequence.attend(0, q, policy=FEW, scale=0.5),
                     sparf_attention(csd.config, q, k, v, FEW, scale=0.5))


def test_choice_is_that_of_plain_integers(csd: Csd) -> None:
    random = rng("sparf integers")
    sequence, k, v = filled(csd, random, 640)
    q = queries(random, 4, 64)
    chosen = np.zeros((2, 640), np.bool_)
    for head in range(2):
        qi, exponent = arith.quantise_query(q[2 * head:2 * head + 2], arith.scale2_of(1 / 8))
        found = integer_choice(qi, exponent, k[:, head], None, FEW.choice())
        chosen[head, found.tokens] = True
    assert_same_bits(sequence.attend(0, q, policy=FEW),
                     exact_attention(csd.config, q, k, v, chosen=chosen))


@pytest.mark.parametrize("mean_v", [False, True])
def test_against_the_published_algorithm(csd: Csd, mean_v: bool) -> None:
    random = rng("sparf published")
    policy = SparF(dims=16, tokens=80, window=16, sinks=4, mean_v=mean_v)
    sequence, k, v = filled(csd, random, 700, mean_v=mean_v)
    q = queries(random, 4, 64)
    out = sequence.attend(0, q, policy=policy).astype(np.float64)
    chosen, _ = choice(q, k, policy)
    for head in range(2):
        some = slice(2 * head, 2 * head + 2)
        exact = reference(q[some], k[:, head], v[:, head], policy.choice(), chosen=chosen[head])
        own = reference(q[some], k[:, head], v[:, head], policy.choice())
        assert (own.chosen != chosen[head]).sum() <= 4, "only near ties"
        bound = (0.02 if mean_v else 2e-3) * np.abs(v[:, head].astype(float)).max()
        assert np.abs(out[some] - exact.out).max() < bound


@pytest.mark.parametrize("dtype", ["fp16", "int8"])
def test_contexts_grown_by_appends(csd: Csd, dtype: str) -> None:
    grow_contexts(csd, dtype, mean_v=True)


def grow_contexts(csd: Csd, dtype: str, *, mean_v: bool) -> None:
    """Around the borders of page, stripe, slot of dims and block; then shorter contexts of what is stored."""
    random = rng(f"sparf lengths {dtype}")
    config = csd.config
    rows = RowShape(64, Dtype.INT8 if dtype == "int8" else Dtype.FP16)
    block, page, stripe = BLOCK[dtype], rows.tokens_per_page(config), rows.tokens_per_stripe(config)
    at = (page, stripe, block, block + page, block + stripe)
    contexts = sorted({9, *(border + offset for border in at for offset in (-1, 0, 1))})
    sequence = csd.kv_cache(**shape_of(dtype=dtype, layers=2, mean_v=mean_v)).new_sequence()
    k, v = (rows_of(dtype, random, (contexts[-1], 2, 64)) for _ in range(2))
    policy = SparF(dims=8, tokens=20, window=6, sinks=2, mean_v=mean_v)
    stored, dims = 0, []
    for context in contexts:
        if context - stored > 1:
            sequence.write(1, *(part_of(each, slice(stored, context - 1)) for each in (k, v)))
        q = queries(random, 4, 64)
        before = csd.counters()["dim_slots_moved"]
        out = sequence.attend(1, q, append=(part_of(k, context - 1), part_of(v, context - 1)), policy=policy)
        dims.append(csd.counters()["dim_slots_moved"] - before)
        stored = context
        some = [part_of(each, slice(context)) for each in (k, v)]
        assert_same_bits(out, sparf_attention(config, q, *some, policy, layer=1))
    assert [count > 0 for count in dims] == [context >= block + stripe for context in contexts]
    q = queries(random, 4, 64)
    for context in contexts:
        some = [part_of(each, slice(context)) for each in (k, v)]
        expected = sparf_attention(config, q, *some, FEW, layer=1, resident=stored)
        assert_same_bits(sequence.attend(1, q, context=context, policy=FEW), expected)


@pytest.mark.parametrize("dtype", ["fp16", "int8"])
def test_every_token_chosen_gives_the_dense_bits(csd: Csd, dtype: str) -> None:
    choose_every_token(csd, dtype, mean_v=True)


def choose_every_token(csd: Csd, dtype: str, *, mean_v: bool) -> None:
    random = rng(f"sparf all {dtype}")
    sequence, k, v = filled(csd, random, BLOCK[dtype] + 80, dtype=dtype, mean_v=mean_v)
    plain = csd.kv_cache(**shape_of(dtype=dtype, dims=False)).new_sequence()
    plain.write(0, k, v)
    q = queries(random, 4, 64)
    dense = plain.attend(0, q)
    assert_same_bits(sequence.attend(0, q), dense)
    for policy in (SparF(dims=4, tokens=2000), SparF(dims=4, tokens=0, window=2000),
                   SparF(dims=4, tokens=5000, mean_v=mean_v)):
        assert_same_bits(sequence.attend(0, q, policy=policy), dense)


def test_nothing_chosen_leaves_window_and_sinks(csd: Csd) -> None:
    sequence, k, v = filled(csd, rng("sparf k = 0"), 600)
    q = queries(rng("sparf k = 0 q"), 4, 64)
    chosen = np.zeros((2, 600), np.bool_)
    chosen[:, :3] = chosen[:, 595:] = True
    assert_same_bits(sequence.attend(0, q, policy=SparF(dims=4, tokens=0, window=5, sinks=3)),
                     exact_attention(csd.config, q, k, v, chosen=chosen))


def spilled(csd: Csd, context: int, heads: int, passes: int) -> int:
    """Words of scores of ``heads`` heads that the score memory has no place for."""
    return heads * passes * max(0, context - csd.config.score_groups // passes)


@pytest.mark.parametrize(("query_heads", "kv_heads"), [(4, 2), (6, 1)])
def test_scores_that_spill(csd: Csd, query_heads: int, kv_heads: int) -> None:
    """Several blocks of dims in a channel; contexts that end at the border of the score memory, one token
    behind it, and far behind it, in one pass and in two; none, some and all chosen; among equal scores the
    lowest indices win beyond it, too."""
    random = rng(f"scores that spill {query_heads}")
    block, kept = BLOCK["fp16"], csd.config.score_groups
    passes = -(-query_heads // kv_heads // csd.config.queries)
    tokens = 2 * block * csd.config.channels + block + 150
    sequence, k, v = filled(csd, random, tokens, query_heads=query_heads, kv_heads=kv_heads,
                            max_tokens=tokens)
    half, none = SparF(dims=3, tokens=tokens // 2, window=5, sinks=0), SparF(dims=8, tokens=0, window=9)
    for context in (kept // passes, kept // passes + 1, 3 * block + 1, tokens):
        for policy in (FEW, half, none):
            q = queries(random, query_heads, 64)
            before = csd.counters()["scores_spilled"]
            out = sequence.attend(0, q, context=context, policy=policy)
            assert csd.counters()["scores_spilled"] - before == spilled(csd, context, kv_heads, passes)
            assert_same_bits(out, sparf_attention(csd.config, q, k[:context], v[:context], policy,
                                                  resident=tokens))
    q[:] = 0
    chosen = np.zeros((kv_heads, tokens), np.bool_)
    chosen[:, :tokens // 2] = chosen[:, tokens - 5:] = True
    assert_same_bits(sequence.attend(0, q, policy=half), exact_attention(csd.config, q, k, v, chosen=chosen))


def test_equal_scores_go_to_the_lower_index(csd: Csd) -> None:
    random = rng("sparf ties")
    sequence = csd.kv_cache(**shape_of()).new_sequence()
    k = np.broadcast_to(random_half(random, (1, 1, 64)), (600, 2, 64)).astype(np.float16)
    v = random_half(random, (600, 2, 64))
    sequence.write(0, k, v)
    q = random_half(random, (4, 64))
    expected = np.zeros((2, 600), np.bool_)
    expected[:, :2] = expected[:, 2:42] = expected[:, 594:] = True
    assert_same_bits(sequence.attend(0, q, policy=FEW),
                     exact_attention(csd.config, q, k, v, chosen=expected))


def test_a_needle_is_found(csd: Csd) -> None:
    random = rng("sparf needle")
    k, v = (random_half(random, (620, 2, 64)) for _ in range(2))
    q = random_half(random, (4, 64), 2)
    k[100] = (q[::2] + q[1::2]) * 2
    sequence = csd.kv_cache(**shape_of()).new_sequence()
    sequence.write(0, k, v)
    exact = float_attention(q, k, v)
    near, window = (np.abs(sequence.attend(0, q, policy=SparF(tokens=tokens, window=16)) - exact).max()
                    for tokens in (8, 0))
    assert near < 0.02
    assert window > 0.5


@pytest.mark.parametrize("dtype", ["fp16", "int8"])
def test_dim_pages_are_in_flash(csd: Csd, dtype: str, tmp_path: Path) -> None:
    """Every byte, read from the saved drive: transposed K, its scales, kind and place."""
    random = rng(f"dim pages {dtype}")
    config, block = csd.config, BLOCK[dtype]
    sequence, k, _ = filled(csd, random, block + 100, dtype=dtype, head_dim=80)
    csd.save(tmp_path)
    state = DriveState.load(tmp_path)
    shape = DimShape(RowShape(80, Dtype.INT8 if dtype == "int8" else Dtype.FP16))
    keys, scales = k if isinstance(k, tuple) else (k, None)
    pages = {tuple(key): row for key, row in zip(state.nand_keys.tolist(), state.nand_data, strict=True)}
    found = {}
    for (channel, die, plane, _, _), row in pages.items():
        slots = row[:config.slots_per_page * config.slot_bytes].reshape(config.slots_per_page, -1)
        for index, slot in enumerate(slots):
            head, kind = slot[TUPLE_OFFSET + 6:TUPLE_OFFSET + 8].tolist()
            group = int(slot[TUPLE_OFFSET + 8:TUPLE_OFFSET + 12].view("<u4")[0])
            if kind == KIND_DIM:
                stripe, within = divmod(group, config.slots_per_stripe)
                assert within == plane * config.slots_per_page + index
                assert (channel, die) == dim_placement(config, head, 0, stripe)
                assert not slot[SLOT_DATA_BYTES:TUPLE_OFFSET].any()
                found[head, stripe, within] = slot[:SLOT_DATA_BYTES]
    each = shape.stripes_per_block(config)
    assert len(found) == 2 * each * config.slots_per_stripe
    for head in range(2):
        expected = pack_block(config, shape, keys[:block, head],
                              None if scales is None else scales[:block, head])
        read = np.concatenate([found[head, stripe, slot] for stripe in range(each)
                               for slot in range(config.slots_per_stripe)])
        np.testing.assert_array_equal(read, expected.reshape(-1))
    assert csd.counters()["stripes_programmed"] == 2 * (each + (block + 100) // shape.rows.tokens_per_stripe(
        config))
    q = queries(random, 4, 80)
    before = sequence.attend(0, q, policy=FEW)
    with open_csd("model:tiny", state=tmp_path) as again:
        again.save(tmp_path / "again")
        assert not state.differences(DriveState.load(tmp_path / "again"))
        assert_same_bits(again.caches[0].sequences[0].attend(0, q, policy=FEW), before)


@pytest.mark.parametrize("dtype", ["fp16", "int8"])
def test_counts_by_kind(csd: Csd, dtype: str) -> None:
    """A read senses the planes up to the last one that is wanted."""
    random = rng(f"sparf counts {dtype}")
    config, block = csd.config, BLOCK[dtype]
    tokens = block + 100
    sequence, k, _ = filled(csd, random, tokens, dtype=dtype, query_heads=2)
    rows = RowShape(64, Dtype.INT8 if dtype == "int8" else Dtype.FP16)
    shape = DimShape(rows)
    q = queries(random, 2, 64)
    policy = SparF(dims=5, tokens=30, window=6, sinks=2)
    chosen, _ = choice(q, k, policy)
    before = csd.counters()
    completion_stripes = 0
    sequence.attend(0, q, policy=policy)
    grown = {name: value - before[name] for name, value in csd.counters().items()}
    dims: list[set[Any]] = [set(), set(), set()]
    for head in range(2):
        qi, _ = arith.quantise_query(q[head:head + 1], arith.scale2_of(1 / 8))
        kept = sorted(range(64), key=lambda dim: (-abs(int(qi[0, dim])), dim))[:5]
        for place in (*kept, *range(64, shape.places)):
            for token in range(0, block, shape.tokens_per_slot):
                stripe, slot = shape.place_of(config, place, token)
                dims[0].add((head, stripe))
                dims[1].update((head, stripe, plane) for plane in range(slot // config.slots_per_page + 1))
                dims[2].add((head, stripe, slot))
    settled = flash_stripes(config, rows, tokens, tokens)
    per_stripe, per_page, per_slot = (rows.tokens_per_stripe(config), rows.tokens_per_page(config),
                                      rows.rows_per_slot)
    moved = []
    beats = 0
    for kinds, wanted in ((1, np.broadcast_to(np.arange(tokens) >= block, (2, tokens))), (2, chosen)):
        places: list[set[Any]] = [set(), set(), set()]
        for head, token in np.argwhere(wanted).tolist():
            if token // per_stripe < settled:
                stripe, inside = divmod(token, per_stripe)
                places[0].add((head, stripe))
                places[1].update((head, stripe, plane) for plane in range(inside // per_page + 1))
                places[2].add((head, token // per_slot))
            else:
                beats += kinds * rows.row_beats
        moved.append((len(places[0]), len(places[1]), kinds * len(places[2])))
    stripes, pages, slots = (sum(counts) for counts in zip(*moved, strict=True))
    completion_stripes = stripes
    expected = {"dim_stripes_sensed": len(dims[0]), "dim_pages_sensed": len(dims[1]),
                "dim_slots_moved": len(dims[2]), "stripes_sensed": completion_stripes, "pages_sensed": pages,
                "slots_moved": slots, "rows_wanted": 2 * int(chosen.sum()) + 2 * (tokens - block),
                "tail_beats": beats}
    assert {name: grown[name] for name in expected} == expected
    assert min(expected.values()) > 0
    for name in ("sketch_stripes_sensed", "sketch_slots_moved"):
        assert grown[name] == 0


def test_building_counts_its_reads(csd: Csd) -> None:
    random = rng("build counts")
    sequence, k, v = filled(csd, random, 500)
    before, reads = csd.counters(), csd.read_counts().sum()
    sequence.write(0, k[:40], v[:40])
    grown = {name: value - before[name] for name, value in csd.counters().items()}
    assert (grown["stripes_sensed"], grown["slots_moved"]) == (2 * 16, 2 * 16 * 4)
    assert grown["stripes_programmed"] == 2 * (8 + 540 // 32 - 500 // 32)
    assert csd.read_counts().sum() == reads + 2 * 16


def test_senses_of_dim_pages_are_counted_where_they_lie(csd: Csd) -> None:
    """With a stripe of tokens behind the block, in DRAM, and a window, only dim pages are sensed."""
    sequence, _, _ = filled(csd, rng("dim reads"), 544)
    before, counts = csd.counters(), csd.read_counts().astype(np.int64)
    q = queries(rng("dim reads q"), 4, 64)
    sequence.attend(0, q, policy=SparF(dims=20, tokens=0, window=8, sinks=0))
    grown = {name: value - before[name] for name, value in csd.counters().items()}
    assert grown["stripes_sensed"] == 0
    places = csd.read_counts() - counts
    expected = np.zeros_like(places)
    for head in range(2):
        qi, exponent = arith.quantise_query(q[2 * head:2 * head + 2], arith.scale2_of(1 / 8))
        kept = sparf.choose_dims(qi, exponent, 20)
        for stripe in sorted(set((np.flatnonzero(kept) // 8).tolist())):
            entry = entries(csd, sequence, head, 8)[stripe]
            expected[dim_placement(csd.config, head, 0, stripe)[0], entry.die, entry.block] += 1
    np.testing.assert_array_equal(places, expected)
    assert places.sum() == grown["dim_stripes_sensed"] > 4


def test_a_short_context_moves_its_slots_alone() -> None:
    """A dim of a block of `product` fills four slots of 512 tokens."""
    with open_csd("model:product", erased=True) as csd:
        random = rng("short context")
        sequence, k, v = filled(csd, random, 2048 + 256, max_tokens=3000)
        q = queries(random, 4, 64)
        for context, slots in ((512, 1), (513, 2), (2048, 4), (2304, 4)):
            before = csd.counters()["dim_slots_moved"]
            out = sequence.attend(0, q, context=context, policy=FEW)
            assert csd.counters()["dim_slots_moved"] - before == 2 * FEW.dims * slots
            assert_same_bits(out, sparf_attention(csd.config, q, k[:context], v[:context], FEW,
                                                  resident=2304))


def test_dims_beside_sketches(csd: Csd) -> None:
    random = rng("both")
    sequence, k, v = filled(csd, random, 700, sketch=PCA(16, 4), max_tokens=800)
    q = queries(random, 4, 64)
    sequence.attend(0, q, policy=Sketch(keep_tokens=64))
    assert_same_bits(sequence.attend(0, q, policy=FEW), sparf_attention(csd.config, q, k, v, FEW))
    assert_same_bits(sequence.attend(0, q, policy=Dense()), exact_attention(csd.config, q, k, v))


def test_flash_and_buffers_are_given_back(csd: Csd) -> None:
    free = csd.read_table(Table.COUNTS, [0, 1])
    sequence, _, _ = filled(csd, rng("dims conserved"), 700)
    sequence.free()
    assert csd.read_table(Table.COUNTS, [0, 1]) == free


def test_sequences_keep_sums_of_their_own(csd: Csd) -> None:
    """A number that is used again begins anew, layers and heads are apart."""
    random = rng("sums")
    policy = SparF(dims=8, tokens=20, window=4, sinks=0, mean_v=True)
    cache = csd.kv_cache(**shape_of(layers=2, mean_v=True))
    for turn in range(2):
        sequence = cache.new_sequence()
        stored = [tuple(rows_of("fp16", random, (90 + 10 * layer + turn, 2, 64)) for _ in range(2))
                  for layer in range(2)]
        for layer, (k, v) in enumerate(stored):
            sequence.write(layer, k[:50], v[:50])
            sequence.append(layer, k[50:], v[50:])
        for layer, (k, v) in enumerate(stored):
            q = queries(random, 4, 64)
            assert_same_bits(sequence.attend(layer, q, policy=policy),
                             sparf_attention(csd.config, q, k, v, policy, layer=layer))
        sequence.free()


def entries(csd: Csd, sequence: Sequence, head: int, stripes: int) -> list[MapEntry]:
    """Map entries of the first dim stripes of a head of layer 0, from device DRAM."""
    store = csd.transport.device.store  # type: ignore[attr-defined]
    word = store.tables.sequences[sequence.number]
    at = Layer(number=sequence.number, sequence=word, cache=store.tables.caches[word.cache], layer=0)
    words = store.words(at, Region.DIMS, head, 1, stripes)[0]
    return [MapEntry.unpack(int(low) | int(high) << 32) for low, high in words]


@pytest.mark.parametrize("die", [0, 1])
def test_a_program_that_fails_costs_nothing_but_time(csd: Csd, faults: Any, die: int) -> None:
    """A block without all of its dim pages is scored from its K rows: the same bits.

    The stripes of a block take turns on the dies of its channel, so the first or the second one fails.
    """
    random = rng("dims fail")
    sequence, k, v = filled(csd, random, 520)
    faults.fail_program(channel=0, die=die, count=20)
    before = csd.counters()
    sequence.write(0, k[:20], v[:20])
    after = csd.counters()
    faults.fail_program(channel=0, die=die, count=0)
    assert after["program_failures"] - before["program_failures"] == 4 * 3
    given_up = next(head for head in range(2) if dim_placement(csd.config, head, 0, 0)[0] == 0)
    found = entries(csd, sequence, given_up, 8)
    built = [entry.in_flash for entry in found]
    assert built in ([True, False] * 4, [False, True] * 4), "each stripe is given up for itself"
    assert [entry.pinned for entry in found] == [not each for each in built]
    assert all(entry.in_flash for entry in entries(csd, sequence, 1 - given_up, 8))
    assert after["stripes_programmed"] - before["stripes_programmed"] == 8 + sum(built)
    k, v = (np.concatenate((each, each[:20])) for each in (k, v))
    more = [rows_of("fp16", random, (60, 2, 64)) for _ in range(2)]
    sequence.write(0, *more)
    k, v = (np.concatenate(pair) for pair in zip((k, v), more, strict=True))
    q = queries(random, 4, 64)
    before = csd.counters()
    out = sequence.attend(0, q, policy=FEW)
    moved = csd.counters()["dim_slots_moved"] - before["dim_slots_moved"]
    chosen, _ = choice(q, k, FEW)
    assert moved == 8, "of the other head"
    assert_same_bits(out, exact_attention(csd.config, q, k, v, chosen=chosen))


def test_rows_that_stayed_in_dram_are_not_read_where_dims_hold_them(csd: Csd, faults: Any) -> None:
    """Row stripes whose programs failed are in the block all the same."""
    random = rng("dims of pinned rows")
    sequence = csd.kv_cache(**shape_of(kv_heads=1, query_heads=1)).new_sequence()
    k, v = (rows_of("fp16", random, (600, 1, 64)) for _ in range(2))
    faults.fail_program(channel=0, die=0, count=3)
    sequence.write(0, k[:40], v[:40])
    assert csd.counters()["program_failures"] == 3
    with pytest.raises(MediaError, match="WRITE_FAULT"):
        sequence.write(0, k[40:], v[40:])
    sequence.write(0, k[40:], v[40:])
    assert all(entry.in_flash for entry in entries(csd, sequence, 0, 8))
    before = csd.counters()
    sequence.attend(0, queries(random, 1, 64), policy=SparF(dims=8, tokens=0, window=8, sinks=0))
    grown = csd.counters()["tail_beats"] - before["tail_beats"]
    settled = flash_stripes(csd.config, RowShape(64), 600, 600) * 32
    assert grown == (600 - settled + 2 * 8) * RowShape(64).row_beats


def test_counters_have_their_names(csd: Csd) -> None:
    names = {f"dim_{what}" for what in ("stripes_sensed", "pages_sensed", "slots_moved")}
    assert names <= set(csd.counters())
    assert [Counter.DIM_STRIPES_SENSED, Counter.DIM_PAGES_SENSED, Counter.DIM_SLOTS_MOVED] == [27, 28, 29]
