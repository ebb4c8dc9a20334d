# SPDX-License-Identifier: Apache-2.0
"""Raw bytes, and the scan for factory-bad blocks; over the model and (tests/system) the RTL."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from instinfer.abi.commands import AdminOpcode, Table
from instinfer.abi.errors import ConfigError
from instinfer.abi.layout import RowShape, encode_stripe
from instinfer.abi.tables import SequenceWord
from instinfer.cosim.transport import make_factory_bad_blocks
from instinfer.host import Csd, MediaError, ResourceError, open_csd
from instinfer.host.errors import DeviceError
from support import rng
from support.kv import assert_same_bits, exact_attention, random_half

TOKENS = 600
"""Of one layer and two heads: three superblocks."""


def fills(csd: Csd, label: str) -> None:
    """Use every superblock, and find no block that does not program."""
    random = rng(label)
    cache = csd.kv_cache(layers=1, kv_heads=2, query_heads=2, head_dim=64, max_tokens=TOKENS)
    q = random_half(random, (2, 64), 3)
    sequences = [cache.new_sequence() for _ in range(5)]
    rows = [[random_half(random, (TOKENS, 2, 64)) for _ in range(2)] for _ in sequences]
    for sequence, (k, v) in zip(sequences, rows, strict=True):
        sequence.write(0, k, v)
        sequence.sync()
    for sequence, (k, v) in zip(sequences, rows, strict=True):
        assert_same_bits(sequence.attend(0, q), exact_attention(csd.config, q, k, v))
        sequence.free()
    assert csd.counters()["program_failures"] == 0


def test_a_scan_finds_what_the_factory_marked(csd: Csd, faults: Any) -> None:
    config = csd.config
    bad = make_factory_bad_blocks(faults, config, seed=24, count=9)
    marked = {tuple(place.values()) for place in bad}
    found = csd.bad_blocks.scan()
    wanted = {place for place in marked if place[3] < config.blocks}
    assert {(each.channel, each.die, each.plane, each.block) for each in found} == wanted
    assert len({place[:3] for place in wanted}) > 3
    for each in found:  # the first good spare, counted from the first one
        spares = [block for block in range(config.blocks, config.physical_blocks)
                  if (each.channel, each.die, each.plane, block) not in marked]
        others = [other.spare for other in found if other != each and (
            other.channel, other.die, other.plane) == (each.channel, each.die, each.plane)]
        assert each.spare in spares
        assert each.spare not in others
    assert csd.bad_blocks.replaced == found
    assert csd.bad_blocks.scan() == ()
    fills(csd, "after the scan")


def test_the_mark_is_the_first_spare_byte_and_no_other(csd: Csd, csd_kind: str, tmp_path: Path) -> None:
    config = csd.config
    size, spare = config.page_bytes + config.spare_bytes, config.page_bytes
    pages = {}
    for place, byte in {(0, 1, 1, 7, 0): spare, (0, 1, 1, 8, 0): spare - 1, (1, 0, 0, 3, 0): spare + 1,
                        (1, 0, 0, 4, 1): spare, (1, 1, 0, 6, 0): 0}.items():
        pages[place] = np.full(size, 0xFF, np.uint8)
        pages[place][byte] = 0xFE
    csd.save(tmp_path)
    np.savez(tmp_path / "nand.npz", keys=np.array(list(pages), np.int32), data=np.stack(list(pages.values())))
    with open_csd(csd_kind, state=tmp_path) as again:
        entry, = again.bad_blocks.scan()
        assert (entry.channel, entry.die, entry.plane, entry.block) == (0, 1, 1, 7)


def test_a_marked_spare_block_is_passed_over(csd: Csd, faults: Any) -> None:
    place = {"channel": 1, "die": 0, "plane": 1}
    for block in (5, csd.config.blocks):
        faults.bad_block(**place, block=block)
    entry, = csd.bad_blocks.scan()
    assert (entry.block, entry.spare) == (5, csd.config.blocks + 1)
    assert csd.bad_blocks.replaced == (entry,)


def test_a_drive_without_marks_stays_as_it_is(csd: Csd) -> None:
    assert csd.bad_blocks.scan() == csd.bad_blocks.replaced == ()
    assert csd.counters()["stripes_sensed"] == csd.config.dies_total * csd.config.blocks
    assert not csd.read_counts().any()


def test_more_marks_than_spare_blocks(csd: Csd, faults: Any) -> None:
    for block in (1, 4, 9):
        faults.bad_block(channel=0, die=1, plane=0, block=block)
    with pytest.raises(ResourceError, match="block 9 cannot be replaced: all 2 spare blocks of channel 0, "
                                            "die 1, plane 0 are in use; .* needs more spare_blocks"):
        csd.bad_blocks.scan()
    assert [entry.block for entry in csd.bad_blocks.replaced] == [1, 4]


def test_data_are_never_taken_for_marks(csd: Csd) -> None:
    sequence = csd.kv_cache(layers=1, kv_heads=1, query_heads=1, head_dim=64, max_tokens=64).new_sequence()
    with pytest.raises(ResourceError, match="sequence 0 exists: .* before anything is stored"):
        csd.bad_blocks.scan()
    sequence.write(0, *(random_half(rng("data"), (60, 1, 64)) for _ in range(2)))
    sequence.free()
    assert csd.bad_blocks.scan() == ()
    csd.reset()
    with pytest.raises(ResourceError, match="block 0 is not known to be erased: .* opened with erased=True"):
        csd.bad_blocks.scan()
    assert csd.bad_blocks.replaced == ()
    assert csd.counters()["stripes_sensed"] == 0


def test_raw_bytes_of_a_page(csd: Csd) -> None:
    """Every slot of a stored stripe, K and V, first and last word, past the check of tuples."""
    config = csd.config
    random = rng("raw")
    sequence = csd.kv_cache(layers=1, kv_heads=1, query_heads=1, head_dim=64, max_tokens=64).new_sequence()
    k, v = (random_half(random, (60, 1, 64)) for _ in range(2))
    sequence.write(0, k, v)
    sequence.sync()
    data = np.stack([array[:32, 0].reshape(-1, 8, 64) for array in (k, v)], axis=1).view(np.uint8)
    word = SequenceWord.unpack(csd.read_table(Table.SEQUENCE, [0])[0])
    slots = encode_stripe(config, data.reshape(-1), generation=word.generation, layer=0, head=0, stripe=0)
    assert RowShape(64).tokens_per_stripe(config) == 32
    block = csd.read_table(Table.SUPERBLOCK_LIST, [0])[0]
    for slot, at in itertools.product(range(config.slots_per_page), (0, 6, 514, 1022)):
        column = slot * config.slot_bytes + at
        first, erased = csd.peek([(0, 0, block, 0), (1, 1, config.blocks, 3)], column=column)
        np.testing.assert_array_equal(first, slots[:, slot, at:at + 2])
        assert (erased == 0xFF).all()
    assert csd.counters()["errors"] == csd.counters()["tuple_errors"] == 0
    q = random_half(random, (1, 64), 3)
    assert_same_bits(sequence.attend(0, q), exact_attention(config, q, k, v))


def test_places_that_cannot_be_looked_at(csd: Csd) -> None:
    good = {"index": 17, "cdw10": 7 << 16 | 1 << 8 | 1, "cdw11": 1022 << 16 | 3}
    csd.admin_command(AdminOpcode.PAGE_PEEK, **good)
    for change in ({"index": 18}, {"cdw10": 7 << 16 | 1 << 8 | 2}, {"cdw10": 7 << 16 | 2 << 8 | 1},
                   {"cdw10": 8 << 16}, {"cdw11": 4}, {"cdw11": 1024 << 16}, {"cdw11": 1 << 16}):
        with pytest.raises(DeviceError, match="BAD_FIELD"):
            csd.admin_command(AdminOpcode.PAGE_PEEK, **{**good, **change})
    with pytest.raises(ValueError, match="column = 5: bytes are read in pairs"):
        csd.peek([(0, 0, 0, 0)], column=5)
    for column in (-2, 1024, 4352):
        with pytest.raises(ConfigError, match=f"column = {column} is not possible: in the first 1024 of"):
            csd.peek([(0, 0, 0, 0)], column=column)


def test_a_die_that_does_not_answer_has_no_marks(csd: Csd, faults: Any) -> None:
    faults.stick_die(channel=1, die=1)
    with pytest.raises(MediaError, match="UNRECOVERED_READ"):
        csd.bad_blocks.scan()
    assert csd.bad_blocks.replaced == ()
    faults.stick_die(channel=1, die=1, stuck=False)
    csd.reset()
    csd.admin_command(AdminOpcode.FORMAT, cdw10=1)
    assert csd.bad_blocks.scan() == ()


def test_bad_blocks_by_seed(csd_kind: str) -> None:
    chosen = []
    for _ in range(2):
        with open_csd(csd_kind) as csd:
            faults: Any = csd.transport.faults  # type: ignore[attr-defined]
            chosen.append([make_factory_bad_blocks(faults, csd.config, seed=seed, count=5)
                           for seed in (1, 2)])
            with pytest.raises(ValueError, match="count = 145: this device has 144 blocks; give 0 to 144"):
                make_factory_bad_blocks(faults, csd.config, seed=1, count=145)
    assert chosen[0] == chosen[1]
    assert chosen[0][0] != chosen[0][1]
