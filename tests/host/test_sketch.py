# SPDX-License-Identifier: Apache-2.0
"""Sketch policies through the driver: the chosen tokens, every bit of the attention, the counts."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from instinfer.abi import arith
from instinfer.abi.commands import Dtype, Table
from instinfer.abi.layout import KIND_SKETCH, TUPLE_OFFSET, RowShape, SketchShape, flash_stripes
from instinfer.cosim.state import DriveState
from instinfer.host import (
    PCA,
    CapacityError,
    ChosenDims,
    Csd,
    Dense,
    DriverError,
    Sequence,
    Sketch,
    Sketcher,
    TruncatedKey,
    open_csd,
)
from instinfer.host.sketches import SAVED
from support import rng
from support.kv import assert_same_bits, exact_attention, float_attention, part_of, random_half
from support.sketches import choice, sketch_attention

SMALL = PCA(64, 8, fit_tokens=8)
"""Sketches of which `tiny` holds 32 a page and 64 a stripe, so that short sequences have several."""
FEW = Sketch(keep_tokens=16, group=4, window=6, sinks=2)


def shape_of(**changes: Any) -> dict[str, Any]:
    return {"layers": 1, "kv_heads": 2, "query_heads": 4, "head_dim": 64, "max_tokens": 400, **changes}


def rows_of(dtype: str, random: np.random.Generator, shape: tuple[int, ...]) -> Any:
    rows = random_half(random, shape)
    return arith.quantise_rows(rows) if dtype == "int8" else rows


def filled(csd: Csd, random: np.random.Generator, tokens: int, sketcher: Sketcher = SMALL, *,
           dtype: str = "fp16", **changes: Any) -> tuple[Sequence, Any, Any]:
    shape = shape_of(dtype=dtype, sketch=sketcher, **changes)
    sequence = csd.kv_cache(**shape).new_sequence()
    k, v = (rows_of(dtype, random, (tokens, shape["kv_heads"], shape["head_dim"])) for _ in range(2))
    sequence.write(0, k, v)
    return sequence, k, v


@pytest.mark.parametrize(("queries", "group"), [(4, 1), (7, 1), (4, 2)])
def test_scores_of_small_groups_that_spill(csd: Csd, queries: int, group: int) -> None:
    """More groups than the score memory has places, one for each pass."""
    random = rng(f"groups that spill {queries} {group}")
    tokens, passes = 3 * csd.config.score_groups + 5, -(-queries // csd.config.queries)
    sequence, k, v = filled(csd, random, tokens, query_heads=2 * queries)
    policy, q = Sketch(keep_tokens=48, group=group, window=6, sinks=2), random_half(random, (2 * queries, 64))
    before = csd.counters()["scores_spilled"]
    expected = sketch_attention(csd.config, sequence, SMALL, q, k, v, policy)
    assert_same_bits(sequence.attend(0, q, policy=policy), expected)
    assert csd.counters()["scores_spilled"] - before == (
        2 * passes * (-(-tokens // group) - csd.config.score_groups // passes))


@pytest.mark.parametrize("queries", [1, 4, 5, 8])
@pytest.mark.parametrize("head_dim", [64, 80, 96, 128])
@pytest.mark.parametrize("dtype", ["fp16", "int8"])
def test_sketch_shapes(csd: Csd, head_dim: int, queries: int, dtype: str) -> None:
    random = rng(f"sketch shapes {head_dim} {queries} {dtype}")
    sequence, k, v = filled(csd, random, 203, dtype=dtype, head_dim=head_dim, query_heads=2 * queries)
    q = random_half(random, (2 * queries, head_dim), 3)
    chosen = choice(sequence, SMALL, q, k, FEW)
    assert (chosen.sum(axis=1) >= 8 + 16 - 2 - 3).all(), "groups 0 and 49 are forced in part"
    assert not chosen.all()
    assert (chosen[0] != chosen[1]).any(), "heads choose apart"
    out = sequence.attend(0, q, policy=FEW)
    assert_same_bits(out, exact_attention(csd.config, q, k, v, chosen=chosen))
    assert (out != sequence.attend(0, q)).any()
    assert_same_bits(sequence.attend(0, q, policy=FEW, scale=0.5),
                     sketch_attention(csd.config, sequence, SMALL, q, k, v, FEW, scale=0.5))


@pytest.mark.parametrize("dtype", ["fp16", "int8"])
def test_sketch_contexts_grown_by_appends(csd: Csd, dtype: str) -> None:
    """Around the borders of slot, page and stripe, of rows and of sketches, and shorter than the window."""
    random = rng(f"sketch lengths {dtype}")
    config, sketch = csd.config, SketchShape(64, 8)
    rows = RowShape(64, Dtype.INT8 if dtype == "int8" else Dtype.FP16)
    at = (8, sketch.vectors_per_slot, rows.tokens_per_page(config), rows.tokens_per_stripe(config),
          sketch.tokens_per_page(config), sketch.tokens_per_stripe(config),
          sketch.tokens_per_stripe(config) + sketch.tokens_per_page(config),
          2 * sketch.tokens_per_stripe(config) + sketch.tokens_per_page(config), 300)
    contexts = sorted({9, 10, *(border + offset for border in at for offset in (-1, 0, 1) if border > 8)})
    cache = csd.kv_cache(**shape_of(dtype=dtype, sketch=SMALL, layers=2))
    sequence = cache.new_sequence()
    k, v = (rows_of(dtype, random, (contexts[-1], 2, 64)) for _ in range(2))
    sequence.write(1, part_of(k, slice(8)), part_of(v, slice(8)))
    stored = 8
    for context in contexts:
        if context - stored > 1:
            sequence.write(1, *(part_of(each, slice(stored, context - 1)) for each in (k, v)))
        q = random_half(random, (4, 64), 3)
        out = sequence.attend(1, q, append=(part_of(k, context - 1), part_of(v, context - 1)), policy=FEW)
        stored = context
        some = [part_of(each, slice(context)) for each in (k, v)]
        assert_same_bits(out, sketch_attention(config, sequence, SMALL, q, *some, FEW, layer=1))
    q = random_half(random, (4, 64), 3)
    for context in contexts:
        some = [part_of(each, slice(context)) for each in (k, v)]
        expected = sketch_attention(config, sequence, SMALL, q, *some, FEW, layer=1, resident=stored)
        assert_same_bits(sequence.attend(1, q, context=context, policy=FEW), expected)


@pytest.mark.parametrize("sketcher", [
    PCA(), PCA(8, 2), PCA(64, 8), PCA(24, 4), TruncatedKey(), TruncatedKey(40, 4), ChosenDims(),
    ChosenDims(56, 8)], ids=str)
def test_sketch_formats(csd: Csd, sketcher: Sketcher) -> None:
    random = rng(f"formats {sketcher}")
    sequence, k, v = filled(csd, random, 1000, sketcher, max_tokens=1100)
    policy = Sketch(keep_tokens=64, group=8, window=16, sinks=4)
    q = random_half(random, (4, 64), 3)
    assert_same_bits(sequence.attend(0, q, policy=policy),
                     sketch_attention(csd.config, sequence, sketcher, q, k, v, policy))


@pytest.mark.parametrize(("group", "head_dim"), [(1, 64), (2, 128), (8, 128), (16, 64)])
def test_group_sizes(csd: Csd, group: int, head_dim: int) -> None:
    random = rng(f"groups {group}")
    sequence, k, v = filled(csd, random, 213, head_dim=head_dim)
    q = random_half(random, (4, head_dim), 3)
    for keep, window, sinks in ((2, 5, 3), (0, 5, 3), (0, 0, 1), (3, 0, 0), (1000, 0, 0), (1, 300, 0)):
        policy = Sketch(keep_tokens=keep * group, group=group, window=window, sinks=sinks)
        found = sequence.attend(0, q, policy=policy)
        assert_same_bits(found, sketch_attention(csd.config, sequence, SMALL, q, k, v, policy))
        if keep == 1000 or window == 300:
            assert_same_bits(found, sequence.attend(0, q))
        csd._policies.pop(policy)  # the device has few descriptors
        assert len(csd._policies) == 1


@pytest.mark.parametrize("dtype", ["fp16", "int8"])
def test_every_row_chosen_gives_the_dense_bits(csd: Csd, dtype: str) -> None:
    random = rng(f"all {dtype}")
    sequence, k, v = filled(csd, random, 333, dtype=dtype)
    plain = csd.kv_cache(**shape_of(dtype=dtype)).new_sequence()
    plain.write(0, k, v)
    q = random_half(random, (4, 64), 3)
    dense = plain.attend(0, q)
    assert_same_bits(dense, exact_attention(csd.config, q, k, v))
    before = csd.counters()
    assert_same_bits(sequence.attend(0, q), dense)
    between = csd.counters()
    assert_same_bits(sequence.attend(0, q, policy=Sketch(keep_tokens=400, group=4)), dense)
    after = csd.counters()
    for name in ("stripes_sensed", "pages_sensed", "slots_moved", "rows_wanted", "tail_beats"):
        assert after[name] - between[name] == between[name] - before[name] > 0
    assert between["sketch_slots_moved"] == before["sketch_slots_moved"], "dense looks at no sketch"


def test_equal_scores_go_to_the_lower_index(csd: Csd) -> None:
    random = rng("ties")
    sequence = csd.kv_cache(**shape_of(sketch=ChosenDims(8, 8))).new_sequence()
    k = np.broadcast_to(random_half(random, (1, 1, 64)), (200, 2, 64)).astype(np.float16)
    v = random_half(random, (200, 2, 64))
    sequence.write(0, k, v)
    q = random_half(random, (4, 64))
    expected = np.zeros((2, 200), np.bool_)
    expected[:, :2] = expected[:, 2:12] = expected[:, 194:] = True
    policy = Sketch(keep_tokens=12, group=4, window=6, sinks=2)
    assert_same_bits(sequence.attend(0, q, policy=policy),
                     exact_attention(csd.config, q, k, v, chosen=expected))


def test_a_needle_is_found(csd: Csd) -> None:
    """What a window alone would miss: the token whose key every query looks for, far back."""
    random = rng("needle")
    k, v = (random_half(random, (390, 2, 64)) for _ in range(2))
    q = random_half(random, (4, 64), 2)
    k[100] = (q[::2] + q[1::2]) * 2
    sequence = csd.kv_cache(**shape_of(sketch=PCA(32, 4))).new_sequence()
    sequence.write(0, k, v)
    exact = float_attention(q, k, v)
    near, window = (np.abs(sequence.attend(0, q, policy=policy) - exact).max() for policy in (
        Sketch(keep_tokens=8, group=8, window=16), Sketch(keep_tokens=0, group=8, window=16)))
    assert near < 0.02
    assert window > 0.5


@pytest.mark.parametrize("dtype", ["fp16", "int8"])
def test_counts_follow_the_mask(csd: Csd, dtype: str) -> None:
    random = rng(f"mask counts {dtype}")
    config, tokens = csd.config, 390
    sequence, k, _ = filled(csd, random, tokens, dtype=dtype)
    shape, sketch = RowShape(64, Dtype.INT8 if dtype == "int8" else Dtype.FP16), SketchShape(64, 8)
    policy = Sketch(keep_tokens=4, group=1, window=3, sinks=1)
    q = random_half(random, (4, 64), 3)
    chosen = choice(sequence, SMALL, q, k, policy)
    before = csd.counters()
    sequence.attend(0, q, policy=policy)
    grown = {name: value - before[name] for name, value in csd.counters().items()}
    expected = dict.fromkeys(("stripes_sensed", "pages_sensed", "slots_moved", "tail_beats"), 0)
    settled = flash_stripes(config, shape, tokens, tokens)
    places = [set(), set(), set()]  # type: list[set[Any]]
    for head, token in np.argwhere(chosen).tolist():
        stripe, inside = divmod(token, shape.tokens_per_stripe(config))
        if stripe < settled:
            places[0].add((head, stripe))
            page = inside // shape.tokens_per_page(config)
            # Planes up to the last wanted one.
            places[1] |= {(head, stripe, each) for each in range(page + 1)}
            places[2].add((head, stripe, inside // shape.rows_per_slot))
        else:
            expected["tail_beats"] += 2 * shape.row_beats
    expected |= {"stripes_sensed": len(places[0]), "pages_sensed": len(places[1]),
                 "slots_moved": 2 * len(places[2]), "rows_wanted": 2 * int(chosen.sum()),
                 "sketch_stripes_sensed": 2 * 5, "sketch_pages_sensed": 2 * 5 * 2,
                 "sketch_slots_moved": 2 * 5 * 8}
    assert sketch.tokens_per_stripe(config) == 64
    assert flash_stripes(config, sketch, tokens, tokens) == 5
    assert {name: grown[name] for name in expected} == expected
    assert expected["slots_moved"] > 0
    before = csd.counters()
    sequence.attend(0, q, policy=policy, context=64 + 9)
    grown = {name: value - before[name] for name, value in csd.counters().items()}
    assert grown["sketch_stripes_sensed"] == 2 * 2
    assert grown["sketch_pages_sensed"] == 2 * (2 + 1)
    assert grown["sketch_slots_moved"] == 2 * (8 + 2)


def test_a_layer_that_begins_with_one_token(csd: Csd) -> None:
    """Too few keys for PCA: the dims of the first token serve, for good."""
    random = rng("one token")
    sketcher = PCA()
    sequence = csd.kv_cache(**shape_of(sketch=sketcher)).new_sequence()
    k, v = (random_half(random, (200, 2, 64)) for _ in range(2))
    q = random_half(random, (4, 64), 3)
    assert_same_bits(sequence.attend(0, q, append=(k[0], v[0]), policy=FEW),
                     exact_attention(csd.config, q, k[:1], v[:1]))
    basis = sequence.sketches.bases[0]
    sequence.write(0, k[1:], v[1:])
    assert sequence.sketches.bases[0] is basis
    np.testing.assert_array_equal(basis.keys, ChosenDims().fit(k[:1]).keys)
    assert_same_bits(sequence.attend(0, q, policy=FEW),
                     sketch_attention(csd.config, sequence, sketcher, q, k, v, FEW))


def test_sequences_have_bases_of_their_own(csd: Csd) -> None:
    random = rng("two bases")
    one, k1, v1 = filled(csd, random, 150)
    cache = csd.caches[0]
    two = cache.new_sequence()
    k2, v2 = (random_half(random, (170, 2, 64)) for _ in range(2))
    two.write(0, k2, v2)
    q = random_half(random, (4, 64), 3)
    for _ in range(2):
        for sequence, k, v in ((one, k1, v1), (two, k2, v2)):
            assert_same_bits(sequence.attend(0, q, policy=FEW),
                             sketch_attention(csd.config, sequence, SMALL, q, k, v, FEW))
    one.free()
    three = cache.new_sequence()
    three.write(0, k2, v2)
    np.testing.assert_array_equal(three.sketches.bases[0].keys, two.sketches.bases[0].keys)
    assert_same_bits(three.attend(0, q, policy=FEW), two.attend(0, q, policy=FEW))


def test_queries_of_the_prompt_shape_the_basis(csd: Csd) -> None:
    random = rng("prompt queries")
    sketcher = PCA()
    cache = csd.kv_cache(**shape_of(sketch=sketcher))
    k, v = (random_half(random, (200, 2, 64)) for _ in range(2))
    queries = random_half(random, (50, 4, 64))
    queries[:, :, 20:] *= np.float16(0.05)
    plain, weighted = cache.new_sequence(), cache.new_sequence()
    plain.write(0, k, v)
    weighted.write(0, k, v, queries)
    grouped = queries.reshape(50, 2, 2, 64)
    expected = sketcher.fit(k.astype(np.float32), grouped)
    for found, each in zip(weighted.sketches.bases[0], expected, strict=True):
        np.testing.assert_array_equal(found, each)
    assert (plain.sketches.bases[0].keys != expected.keys).any()
    q = queries[7]
    for sequence in (plain, weighted):
        assert_same_bits(sequence.attend(0, q, policy=FEW),
                         sketch_attention(csd.config, sequence, sketcher, q, k, v, FEW))
    bad = queries.copy()
    bad[3, 1, 5] = np.nan
    with pytest.raises(ValueError, match="queries: NaN or Inf"):
        cache.new_sequence().write(0, k, v, bad)
    with pytest.raises(ValueError, match=r"queries is float16 \(50, 3, 64\)"):
        plain.write(0, k, v, queries[:, :3])
    plain.write(0, k[:20], v[:20], queries)  # the basis stays
    assert (plain.sketches.bases[0].keys != expected.keys).any()


def test_reading_back_beside_sketches(csd: Csd) -> None:
    for dtype in ("fp16", "int8"):
        sequence, k, v = filled(csd, rng(f"read {dtype}"), 150, dtype=dtype, head_dim=80)
        for found, rows in zip(sequence.read(0, 20, 100), (k, v), strict=True):
            for one, other in zip(*(each if isinstance(each, tuple) else (each,)
                                    for each in (found, part_of(rows, slice(20, 120)))), strict=True):
                np.testing.assert_array_equal(one, other)


def test_buffers_and_flash_of_sketches_are_given_back(csd: Csd) -> None:
    config = csd.config
    free = csd.read_table(Table.COUNTS, [0, 1])
    sequence, k, _ = filled(csd, rng("conserved"), 310)
    sequence.sync()
    rows, sketches = 310 // 32, 310 // 64
    assert csd.counters()["stripes_programmed"] == 2 * (rows + sketches)
    held = 2 * (1 + 1)  # the open stripe of rows and of sketches; the others have a page behind them
    assert csd.read_table(Table.COUNTS, [1]) == [free[1] - held]
    before = csd.counters()["stripes_programmed"]
    sequence.write(0, k[:20], k[:20])
    sequence.sync()
    assert csd.counters()["stripes_programmed"] == before + 2 * (1 + 1)
    sequence.free()
    assert csd.read_table(Table.COUNTS, [0, 1]) == free == [config.blocks, config.stripe_buffers]


def test_buffers_exhausted_by_sketches_lose_nothing(csd: Csd) -> None:
    random = rng("sketch buffers")
    heads, layers = 16, 3
    cache = csd.kv_cache(**shape_of(layers=layers, kv_heads=heads, query_heads=heads, max_tokens=64,
                                    sketch=PCA(8, 2)))
    sequence = cache.new_sequence()
    k, v = (random_half(random, (3, heads, 64)) for _ in range(2))
    for layer in range(2):
        sequence.append(layer, k, v)
    with pytest.raises(CapacityError, match="nothing stored was lost"):
        sequence.append(2, k, v)
    assert sequence.resident(2) == 0
    assert csd.read_table(Table.COUNTS, [1]) == [csd.config.stripe_buffers - 2 * 2 * heads]
    q = random_half(random, (heads, 64))
    for layer in range(2):
        expected = exact_attention(csd.config, q, k, v, layer=layer)
        assert_same_bits(sequence.attend(layer, q, policy=FEW), expected)


def test_programs_of_sketches_that_fail(csd: Csd, faults: Any) -> None:
    """A stripe of sketches that cannot be programmed stays in DRAM and is scored from there."""
    random = rng("pinned")
    with_faults = [(0, die) for die in range(csd.config.dies)]
    for channel, die in with_faults:
        faults.fail_program(channel=channel, die=die, count=1 << 20)
    sequence, k, v = filled(csd, random, 200)
    for channel, die in with_faults:
        faults.fail_program(channel=channel, die=die, count=0)
    q = random_half(random, (4, 64), 3)
    before = csd.counters()["sketch_stripes_sensed"]
    found = sequence.attend(0, q, policy=Sketch(keep_tokens=400, group=4))
    assert 0 < csd.counters()["sketch_stripes_sensed"] - before < 2 * 2
    assert np.abs(found - float_attention(q, k, v)).max() <= 2.0 ** -10 * np.abs(v).max()
    with pytest.raises(DriverError, match="WRITE_FAULT"):
        sequence.sync()


def fill(csd: Csd, label: str) -> tuple[Sequence, Any, Any]:
    """A sequence of which another's bytes were in the buffers before."""
    random = rng(label)
    filled(csd, random, 300, max_tokens=300)[0].free()
    return filled(csd, random, 210, PCA(24, 8), dtype="int8", layers=2)


def test_a_saved_drive_with_sketches_goes_on(csd: Csd, csd_kind: str, tmp_path: Path) -> None:
    sequence, k, v = fill(csd, "saved sketches")
    csd.save(tmp_path / "drive")
    random = rng("after sketches")
    q = random_half(random, (4, 64), 3)
    more = random_half(random, (90, 2, 64))
    with open_csd(csd_kind, state=tmp_path / "drive") as again:
        cache = again.caches[-1]
        assert cache.sketcher == PCA(24, 8)
        restored = cache.sequences[0]
        assert_same_bits(restored.attend(0, q, policy=FEW),
                         sketch_attention(csd.config, sequence, PCA(24, 8), q, k, v, FEW))
        for each in (restored, sequence):
            each.write(0, more, more)
            each.write(1, more, more)
            each.append(1, more[0], more[0])
        for layer in range(2):
            assert_same_bits(restored.attend(layer, q, policy=FEW), sequence.attend(layer, q, policy=FEW))
    state = DriveState.load(tmp_path / "drive")
    bare = {name: value for name, value in state.tables.items() if name != SAVED}
    DriveState(**{**vars(state), "tables": bare}).save(tmp_path / "bare")
    with open_csd(csd_kind, state=tmp_path / "bare") as again:
        restored = again.caches[-1].sequences[0]
        assert again.caches[-1].sketcher is None
        for use in (lambda: restored.attend(0, q, policy=FEW), lambda: restored.write(0, more, more),
                    lambda: restored.write(1, more, more)):
            with pytest.raises(DriverError, match=r"without what its sketches of layer \d were made with"):
                use()
        assert_same_bits(restored.attend(0, q, policy=Dense()), exact_attention(csd.config, q, k, v))


def test_equal_sketches_leave_equal_drives(csd_kind: str, tmp_path: Path) -> None:
    for name, label in (("one", "same"), ("two", "same"), ("three", "other")):
        with open_csd(csd_kind, erased=True) as csd:
            fill(csd, label)
            csd.save(tmp_path / name)
    one, two, three = (DriveState.load(tmp_path / name) for name in ("one", "two", "three"))
    assert one.differences(two) == []
    assert any("NAND page" in text for text in one.differences(three))
    size = one.config.stripe_data_bytes
    found = [base for where, base, _, shape in two._stripes() if isinstance(shape, SketchShape)]
    entries = [int(two.dram(base, 8).view("<u8")[0]) for base in found]
    buffer = next(entry >> 32 & 0xFFFF for entry in entries if entry >> 63)
    two.dram_data[np.searchsorted(two.dram_index, buffer * size // 4096), 0] ^= 1
    assert [text for text in one.differences(two) if "buffered sketches" in text]


def test_bytes_that_hold_nothing_are_zero_in_flash(csd: Csd, tmp_path: Path) -> None:
    """Whatever the stripe buffers held before: here rows, scales and sketches that fill their slots."""
    random = rng("unused bytes")
    filled(csd, random, 2000, dtype="int8", max_tokens=2000)[0].free()
    filled(csd, random, 400, PCA(24, 8), dtype="int8", head_dim=128)
    csd.save(tmp_path)
    config = csd.config
    data = DriveState.load(tmp_path).nand_data[:, :config.slots_per_page * config.slot_bytes]
    slots = data.reshape(-1, config.slot_bytes)
    of_sketches = slots[:, TUPLE_OFFSET + 7] == KIND_SKETCH
    sketches, rows = slots[of_sketches], slots[~of_sketches]
    assert len(sketches)
    assert sketches[:, :24 * 34].any(axis=1).all()
    assert not sketches[:, 24 * 34:TUPLE_OFFSET].any()
    assert rows[:, 1024:1040].any(axis=1).all()
    assert not rows[:, 1040:TUPLE_OFFSET].any()


@pytest.mark.parametrize(("dtype", "queries"), [("int8", 4), ("fp16", 8)])
def test_long_sketches_on_product(dtype: str, queries: int) -> None:
    random = rng(f"long sketch {dtype}")
    tokens = 131_072 if dtype == "int8" else 20_000
    with open_csd("model:product", erased=True) as csd:
        sketcher = PCA()
        sequence, k, v = filled(csd, random, tokens, sketcher, dtype=dtype, kv_heads=1, query_heads=queries,
                                max_tokens=131_072)
        q = random_half(random, (queries, 64), 4)
        policy = Sketch(keep_tokens=tokens // 16 // 8 * 8, group=8)
        assert_same_bits(sequence.attend(0, q, policy=policy),
                         sketch_attention(csd.config, sequence, sketcher, q, k, v, policy))


def test_scores_are_those_of_the_driver_and_of_nobody_else(csd: Csd) -> None:
    """The device reads its own stored sketches: other ones would choose other tokens."""
    random = rng("own sketches")
    sequence = filled(csd, random, 300)[0]
    q = random_half(random, (4, 64), 3)
    basis = sequence.sketches.bases[0]
    sequence.sketches.bases[0] = basis._replace(queries=-basis.queries)
    out = sequence.attend(0, q, policy=FEW)
    sequence.sketches.bases[0] = basis
    assert (out != sequence.attend(0, q, policy=FEW)).any()
