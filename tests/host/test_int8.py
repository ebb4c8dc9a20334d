# SPDX-License-Identifier: Apache-2.0
"""int8 caches through the driver: every bit as abi.arith says, quantised by the driver or given ready."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from instinfer.abi import arith
from instinfer.abi.commands import Dtype, Opcode, Status
from instinfer.abi.layout import RowShape
from instinfer.cosim.state import DriveState
from instinfer.host import Csd, DeviceError, MediaError, Sequence, open_csd
from support import rng
from support.kv import (
    Quantised,
    assert_same_bits,
    exact_attention,
    float_attention,
    part_of,
    random_half,
    widened,
)


def random_rows(random: np.random.Generator, shape: tuple[int, ...], scale: float = 1.0) -> Quantised:
    return arith.quantise_rows(random_half(random, shape, scale))


def same_rows(found: Any, expected: Quantised) -> None:
    assert found[0].dtype == np.int8
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1].view(np.uint16), expected[1].view(np.uint16))


def borders(csd: Csd, head_dim: int) -> list[int]:
    shape = RowShape(head_dim, Dtype.INT8)
    stripe = shape.tokens_per_stripe(csd.config)
    at = (shape.rows_per_slot, shape.tokens_per_page(csd.config), stripe, stripe * csd.config.channels,
          stripe * csd.config.dies_total)
    return sorted({1, 2, *(border + offset for border in at for offset in (-1, 0, 1))})


@pytest.mark.parametrize("head_dim", [64, 128])
def test_int8_context_lengths_grown_by_appends(csd: Csd, head_dim: int) -> None:
    random = rng(f"int8 lengths {head_dim}")
    contexts = borders(csd, head_dim)
    cache = csd.kv_cache(layers=2, kv_heads=2, query_heads=4, head_dim=head_dim, max_tokens=contexts[-1],
                         dtype="int8")
    sequence = cache.new_sequence()
    k, v = (random_rows(random, (contexts[-1], 2, head_dim), 2) for _ in range(2))
    stored = 0
    for context in contexts:
        if context - stored > 1:
            sequence.write(1, *(part_of(rows, slice(stored, context - 1)) for rows in (k, v)))
        q = random_half(random, (4, head_dim), 3)
        out = sequence.attend(1, q, append=(part_of(k, context - 1), part_of(v, context - 1)))
        stored = context
        keys, values = (part_of(rows, slice(context)) for rows in (k, v))
        assert_same_bits(out, exact_attention(csd.config, q, keys, values))
        exact = float_attention(q, keys, values)
        assert np.abs(out - exact).max() <= 2.0 ** -10 * np.abs(widened(values)).max()
    q = random_half(random, (4, head_dim), 3)
    for context in contexts:
        expected = exact_attention(csd.config, q, *(part_of(rows, slice(context)) for rows in (k, v)),
                                   resident=stored)
        assert_same_bits(sequence.attend(1, q, context=context), expected)


@pytest.mark.parametrize("queries", [1, 3, 4, 7, 8])
@pytest.mark.parametrize("head_dim", [64, 80, 96, 128])
def test_int8_shapes(csd: Csd, head_dim: int, queries: int) -> None:
    """Rows that the driver quantises and ready ones are the same; so are those that come back."""
    random = rng(f"int8 shapes {head_dim} {queries}")
    cache = csd.kv_cache(layers=1, kv_heads=2, query_heads=2 * queries, head_dim=head_dim, max_tokens=200,
                         dtype="int8")
    sequence, ready = cache.new_sequence(), cache.new_sequence()
    halves = [random_half(random, (150, 2, head_dim)) for _ in range(2)]
    k, v = (arith.quantise_rows(rows) for rows in halves)
    sequence.write(0, *(rows[:100] for rows in halves))
    sequence.append(0, *(rows[100:149] for rows in halves))
    sequence.append(0, *(rows[149] for rows in halves))
    ready.write(0, part_of(k, slice(100)), part_of(v, slice(100)))
    ready.append(0, part_of(k, slice(100, 149)), part_of(v, slice(100, 149)))
    ready.append(0, part_of(k, 149), part_of(v, 149))
    q = random_half(random, (2 * queries, head_dim), 2)
    expected = exact_attention(csd.config, q, k, v)
    assert_same_bits(sequence.attend(0, q), expected)
    assert_same_bits(ready.attend(0, q), expected)
    assert_same_bits(ready.attend(0, q, scale=0.5), exact_attention(csd.config, q, k, v, scale=0.5))
    for first, tokens in ((0, None), (31, 70), (149, 1), (150, None)):
        place = slice(first, None if tokens is None else first + tokens)
        for found, rows in zip(sequence.read(0, first, tokens), (k, v), strict=True):
            same_rows(found, part_of(rows, place))


def hostile_rows(name: str, shape: tuple[int, int, int]) -> Quantised:
    random = rng(f"int8 hostile {name}")
    rows = random.integers(-128, 128, shape).astype(np.int8)
    scale = random.uniform(0.01, 1, shape[:2])
    if name == "largest":
        rows[:], scale = np.where(rows < 0, -128, 127), np.full(shape[:2], 511.5)
    elif name == "smallest":
        scale[:] = 2.0 ** -24
    elif name == "mixed":
        scale = 2.0 ** random.integers(-24, 9, shape[:2])
    elif name == "zeros":
        rows[:] = 0
    elif name == "equal":
        rows[:], scale[:] = 1, 1
    return rows, np.minimum(scale, 511.5).astype(np.float16)


@pytest.mark.parametrize("values", ["random", "largest", "smallest", "mixed"])
@pytest.mark.parametrize("keys", ["random", "largest", "smallest", "mixed", "zeros", "equal"])
def test_int8_hostile_values(csd: Csd, keys: str, values: str) -> None:
    k, v = hostile_rows(keys, (150, 2, 64)), hostile_rows(values, (150, 2, 64))
    cache = csd.kv_cache(layers=1, kv_heads=2, query_heads=4, head_dim=64, max_tokens=150, dtype="int8")
    sequence = cache.new_sequence()
    sequence.write(0, k, v)
    q = random_half(rng("int8 hostile q"), (4, 64))
    for scale in (None, 1e-5, 60.0):
        expected = exact_attention(csd.config, q, k, v, scale=scale)
        assert_same_bits(sequence.attend(0, q, scale=scale), expected)


def shape_of(dtype: str, **changes: Any) -> dict[str, Any]:
    return {"layers": 2, "kv_heads": 2, "query_heads": 4, "head_dim": 64, "max_tokens": 300, "dtype": dtype,
            **changes}


def test_int8_moves_half_the_slots(csd: Csd) -> None:
    random = rng("int8 counters")
    q = random_half(random, (4, 64))
    grown = {}
    for dtype in ("fp16", "int8"):
        sequence = csd.kv_cache(**shape_of(dtype, max_tokens=1024)).new_sequence()
        rows = random_half(random, (1024, 2, 64))
        sequence.write(0, rows, rows)
        before = csd.counters()
        sequence.attend(0, q, context=960)
        grown[dtype] = {name: value - before[name] for name, value in csd.counters().items()}
    assert grown["fp16"]["slots_moved"] == 2 * grown["int8"]["slots_moved"] == 2 * 2 * 960 // 8
    assert grown["fp16"]["stripes_sensed"] == 2 * grown["int8"]["stripes_sensed"] == 2 * 960 // 32
    assert grown["fp16"]["rows_wanted"] == grown["int8"]["rows_wanted"] == 2 * 2 * 960


def test_int8_tail_beats_are_half(csd: Csd) -> None:
    sequence = csd.kv_cache(**shape_of("int8")).new_sequence()
    rows = random_half(rng("int8 tail"), (30, 2, 64))
    sequence.write(0, rows, rows)
    before = csd.counters()["tail_beats"]
    sequence.attend(0, random_half(rng("q"), (4, 64)))
    assert csd.counters()["tail_beats"] - before == 2 * 2 * 30 * 8


def fill(csd: Csd) -> tuple[Sequence, Quantised, Quantised]:
    """Sequences of int8 and of fp16 in turn; one freed, so that its buffers hold other rows' bytes."""
    random = rng("int8 state")
    first = csd.kv_cache(**shape_of("fp16")).new_sequence()
    for layer in range(2):
        first.write(layer, *(random_half(random, (290, 2, 64)) for _ in range(2)))
    first.free()
    sequence = csd.kv_cache(**shape_of("int8", head_dim=80, max_tokens=200)).new_sequence()
    k, v = (random_rows(random, (170, 2, 80)) for _ in range(2))
    sequence.write(1, k, v)
    return sequence, k, v


def test_a_saved_drive_with_int8_goes_on(csd: Csd, csd_kind: str, tmp_path: Path) -> None:
    sequence, k, v = fill(csd)
    csd.save(tmp_path / "one")
    random = rng("after int8")
    q = random_half(random, (4, 80), 2)
    with open_csd(csd_kind, state=tmp_path / "one") as again:
        cache = again.caches[-1]
        assert cache.shape.dtype is Dtype.INT8
        restored = cache.sequences[0]
        for found, rows in zip(restored.read(1), (k, v), strict=True):
            same_rows(found, rows)
        assert_same_bits(restored.attend(1, q), exact_attention(csd.config, q, k, v, layer=1))
        more = random_half(random, (20, 2, 80))
        restored.write(1, more, more)
        sequence.write(1, more, more)
        assert_same_bits(restored.attend(1, q), sequence.attend(1, q))
    with open_csd(csd_kind, erased=True) as twin:
        fill(twin)
        twin.save(tmp_path / "two")
    with open_csd(csd_kind, erased=True) as other:
        fill(other)[0].append(1, more[0], more[1])
        other.save(tmp_path / "three")
    one, two, three = (DriveState.load(tmp_path / name) for name in ("one", "two", "three"))
    assert one.differences(two) == []
    assert any("RESIDENT" in text for text in one.differences(three))
    changed = DriveState.load(tmp_path / "two")
    config = csd.config
    area = config.stripe_buffers * config.stripe_data_bytes
    place = (changed.dram_index * 4096 >= area) & (changed.dram_index * 4096 < config.buffers_bytes)
    changed.dram_data[place] ^= 1
    assert any("buffered rows" in text for text in one.differences(changed))


def raw_fields(csd: Csd, sequence: Sequence, **changes: int) -> dict[str, int]:
    buffer = csd.memory.allocate(1 << 16)
    buffer.data[:] = 0
    return {"sequence": sequence.number, "generation": sequence.generation, "layer": 0, "heads": 2,
            "prp1": buffer.address, "prp2": buffer.address + (1 << 15), "out_offset": 64, "policy": 0,
            "scale2": 0x3F80_0000, **changes}


def test_a_command_of_another_number_format_is_refused(csd: Csd) -> None:
    rows = random_half(rng("dtype"), (30, 2, 64))
    for number, dtype in enumerate(("fp16", "int8")):
        sequence = csd.kv_cache(**shape_of(dtype)).new_sequence()
        sequence.write(0, rows, rows)
        for opcode in (Opcode.ATTEND, Opcode.KV_APPEND, Opcode.APPEND_ATTEND, Opcode.KV_READ):
            for wrong in {0, 1, 2, 3} - {number}:
                with pytest.raises(DeviceError) as caught:
                    csd.io_command(opcode, **raw_fields(csd, sequence, dtype=wrong, token=30, tokens=1))
                assert caught.value.status is Status.DTYPE


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf, 512.0])
@pytest.mark.parametrize("kind", [0, 1])
def test_scales_are_checked_by_driver_and_device(csd: Csd, scale: float, kind: int) -> None:
    random = rng("scales")
    sequence = csd.kv_cache(**shape_of("int8")).new_sequence()
    good = [random_rows(random, (70, 2, 64)) for _ in range(2)]
    sequence.write(0, *good)
    bad = [(rows.copy(), scales.copy()) for rows, scales in good]
    bad[kind][1][69, 1] = scale
    with pytest.raises(ValueError, match=r"^[kv]: scale .*: it must lie above 0 and below 512"):
        sequence.write(0, *bad)
    fields = raw_fields(csd, sequence, dtype=Dtype.INT8, token=70, tokens=70)
    data = csd.memory.allocate(2 * 70 * 2 * 96)
    records = data.array(np.uint8, (2, 70, 2, 96))
    for each, (rows, scales) in enumerate(bad):
        records[each, ..., :2] = scales[..., None].view(np.uint8)
        records[each, ..., 32:] = rows.view(np.uint8)
    with pytest.raises(DeviceError, match="above 0 and below 512") as caught:
        csd.io_command(Opcode.KV_WRITE, **{**fields, "prp1": data.address,
                                           "prp2": data.address + 70 * 2 * 96})
    assert caught.value.status is Status.SCALE
    assert caught.value.result == 128, "finished stripes stay"
    q = random_half(random, (4, 64))
    k, v = (tuple(np.concatenate([part, part[:58]]) for part in rows) for rows in good)
    assert csd.read_table(2, [sequence.number * csd.config.max_layers])[0] == 128  # type: ignore[list-item]
    sequence._doubtful.add(0)
    assert_same_bits(sequence.attend(0, q), exact_attention(csd.config, q, k, v))


@pytest.mark.parametrize("opcode", [Opcode.KV_WRITE, Opcode.KV_APPEND, Opcode.APPEND_ATTEND])
def test_a_wrong_scale_ends_each_command_that_stores(csd: Csd, opcode: Opcode) -> None:
    random = rng("wrong scale")
    sequence = csd.kv_cache(**shape_of("int8")).new_sequence()
    k, v = (random_rows(random, (70, 2, 64)) for _ in range(2))
    sequence.write(0, k, v)
    data = csd.memory.allocate(2 * 2 * 96)
    records = data.array(np.uint8, (2, 2, 96))
    records[..., :2] = np.array([1, 0], np.float16)[:, None, None].view(np.uint8)  # that of V
    records[..., 32:] = 1
    fields = raw_fields(csd, sequence, dtype=Dtype.INT8, token=70, tokens=1)
    if opcode is Opcode.APPEND_ATTEND:
        fields["prp2"] = data.address
    else:
        fields |= {"prp1": data.address, "prp2": data.address + 2 * 96}
    with pytest.raises(DeviceError) as caught:
        csd.io_command(opcode, **fields)
    assert caught.value.status is Status.SCALE
    assert sequence.resident(0) == 70
    q = random_half(random, (4, 64))
    assert_same_bits(sequence.attend(0, q), exact_attention(csd.config, q, k, v))


def test_rows_of_the_wrong_kind(csd: Csd) -> None:
    half, int8 = (csd.kv_cache(**shape_of(dtype)).new_sequence() for dtype in ("fp16", "int8"))
    rows = np.zeros((5, 2, 64), np.float16)
    ready = arith.quantise_rows(rows)
    with pytest.raises(ValueError, match="k is a tuple; this cache holds float16 rows: .*dtype='int8'"):
        half.write(0, ready, rows)
    for bad, message in (((ready[0],), r"k has 1 parts"), ((rows, ready[1]), r"k\[0\] is float16"),
                         ((ready[0], ready[1][:4]), r"k\[1\] is float16 \(4, 2\).*one scale per row"),
                         ((ready[0], ready[1].astype(float)), r"k\[1\] is float64"),
                         (rows.astype(np.float32), "k is float32")):
        with pytest.raises(ValueError, match=message):
            int8.write(0, bad, rows)  # type: ignore[arg-type]
    worse = rows.copy()
    for value, message in ((np.nan, "v: NaN or Inf in a row"), (65504, "v: scale 516")):
        worse[3, 1, 5] = value
        with pytest.raises(ValueError, match=message):
            int8.write(0, rows, worse)
    with pytest.raises(ValueError, match="k1"):
        int8.attend(0, np.zeros((4, 64), np.float16), append=(ready, ready))
    int8.write(0, ready, rows)  # one kind each is fine
    nothing = rows[:0]
    int8.write(0, nothing, nothing)
    assert int8.resident(0) == 5


def damaged_scale(csd: Csd, status: Status) -> None:
    sequence = csd.kv_cache(**shape_of("int8")).new_sequence()
    k, v = (random_rows(rng("damage"), (150, 2, 64)) for _ in range(2))
    sequence.write(0, k, v)
    place = {"channel": 0, "die": 0, "plane": 0, "block": 0, "page": 0, "byte": 1024 + 2 * 3 + 1, "bit": 7}
    csd.transport.faults.flip_bit(**place)  # type: ignore[attr-defined]
    q = random_half(rng("q"), (4, 64))
    with pytest.raises(DeviceError) as caught:
        sequence.attend(0, q)
    assert caught.value.status is status
    assert isinstance(caught.value, MediaError) == (status is Status.GUARD)
    csd.transport.faults.flip_bit(**place)  # type: ignore[attr-defined]
    assert_same_bits(sequence.attend(0, q), exact_attention(csd.config, q, k, v))


def test_damaged_scales_are_noticed(csd: Csd) -> None:
    """Scales lie under the slot's checksum."""
    damaged_scale(csd, Status.GUARD)


def test_damaged_scales_that_nobody_checks() -> None:
    """The model refuses what is no scale."""
    with open_csd("model:tiny", erased=True, overrides={"check_tuples": False}) as csd:
        damaged_scale(csd, Status.SCALE)


@pytest.mark.parametrize("head_dim", [64, 128])
def test_int8_long_contexts_on_product(head_dim: int) -> None:
    random = rng(f"int8 long {head_dim}")
    tokens = 131_072 if head_dim == 64 else 10_000
    with open_csd("model:product", erased=True) as csd:
        cache = csd.kv_cache(layers=1, kv_heads=1, query_heads=2, head_dim=head_dim, max_tokens=131_072,
                             dtype="int8")
        sequence = cache.new_sequence()
        k, v = (random_rows(random, (tokens, 1, head_dim)) for _ in range(2))
        sequence.write(0, k, v)
        q = random_half(random, (2, head_dim), 4)
        assert_same_bits(sequence.attend(0, q), exact_attention(csd.config, q, k, v))
