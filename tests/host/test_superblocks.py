# SPDX-License-Identifier: Apache-2.0
"""Superblocks narrower than a channel, over the model and (tests/system) the RTL: what sequences own, where
it lies, what happens to it."""

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from instinfer.abi.arith import F16
from instinfer.abi.commands import Table
from instinfer.abi.layout import RowShape, map_line, superblock_of, superblock_place
from instinfer.cosim.state import StateError
from instinfer.host import Csd, Sequence, open_csd
from instinfer.host.errors import DeviceError, ResourceError
from support import rng
from support.configurations import NARROW, odd_configurations
from support.kv import assert_same_bits, exact_attention, random_half, stripe_dies

CONFIG = odd_configurations()[NARROW]
LAYERS = KV_HEADS = 2
DIMS = 64
STRIPE = RowShape(DIMS).tokens_per_stripe(CONFIG)
SOME = 2 * STRIPE + 1
"""Tokens of two full stripes of each head, of which attention reads the first from flash at least."""


@pytest.fixture
def csd(csd_kind: str) -> Iterator[Csd]:
    """A new drive whose flash is erased."""
    with open_csd(csd_kind, config=CONFIG, erased=True) as device:
        yield device


class Story:
    """What was written to a sequence, and the order in which its stripes filled."""

    def __init__(self, sequence: Sequence, label: str) -> None:
        self.sequence = sequence
        self.random = rng(label)
        self.rows: list[list[tuple[F16, F16]]] = [[] for _ in range(LAYERS)]
        self.filled: list[tuple[int, int]] = []

    def write(self, layer: int, tokens: int) -> None:
        k, v = (random_half(self.random, (tokens, KV_HEADS, DIMS)) for _ in range(2))
        before = self.sequence.resident(layer)
        self.sequence.write(layer, k, v)
        self.rows[layer].append((k, v))
        self.filled += [(map_line(layer, head, kv_heads=KV_HEADS), stripe)
                        for stripe in range(before // STRIPE, (before + tokens) // STRIPE)
                        for head in range(KV_HEADS)]

    def check(self, csd: Csd, *, in_flash: int | None = None) -> None:
        """Rows lie where the layout says, and attention is exact to the bit."""
        self.sequence.sync()
        config = csd.config
        dies: dict[tuple[int, int], int] = {}
        if in_flash is None:
            dies, rows = stripe_dies(config, owned(csd, self.sequence), self.filled)
            first = self.sequence.number * config.row_counters
            assert csd.read_table(Table.ROW_COUNT, list(range(first, first + config.row_counters))) == rows
        for layer, pieces in enumerate(self.rows):
            if pieces:
                k, v = (np.concatenate(column) for column in zip(*pieces, strict=True))
                q = random_half(self.random, (KV_HEADS * 2, DIMS), 3)
                expected = exact_attention(config, q, k, v, layer=layer, dies=dies, in_flash=in_flash)
                assert_same_bits(self.sequence.attend(layer, q), expected)


def owned(csd: Csd, sequence: Sequence) -> list[int]:
    """Superblocks of a sequence."""
    count = csd.read_table(Table.COUNTS, [2 + sequence.number])[0]
    first = sequence.number * csd.config.max_superblocks_per_sequence
    return csd.read_table(Table.SUPERBLOCK_LIST, list(range(first, first + count)))


def keep_free(csd: Csd, superblocks: Iterable[int]) -> None:
    """Let no others be free."""
    csd.write_table(Table.COUNTS, [(0, 0)])
    csd.write_table(Table.SUPERBLOCK_FREE, [(0, superblock) for superblock in superblocks])


def new_cache(csd: Csd) -> Any:
    return csd.kv_cache(layers=LAYERS, kv_heads=KV_HEADS, query_heads=2 * KV_HEADS, head_dim=DIMS,
                        max_tokens=100 * STRIPE)


def write_both(stories: list[Story], rows: int) -> None:
    """About ``rows`` rows each, in turn, in pieces that end anywhere."""
    random = rng("pieces")
    while any(len(story.filled) < rows for story in stories):
        for story in stories:
            story.write(int(random.integers(LAYERS)), int(random.integers(1, 5 * STRIPE)))


def test_sequences_interleaved_freed_and_reused(csd: Csd) -> None:
    config = csd.config
    keep_free(csd, range(1, 20))
    cache = new_cache(csd)
    stories = [Story(cache.new_sequence(), f"narrow {number}") for number in range(2)]
    write_both(stories, config.pages * config.row_counters * 3 // 2)
    for story in stories:
        story.check(csd)
    lists = [owned(csd, story.sequence) for story in stories]
    assert all(len(superblocks) >= 2 for superblocks in lists)
    taken = len(lists[0]) + len(lists[1])
    assert sorted([*lists[0], *lists[1]]) == list(range(1, 1 + taken)), "taken in turn"
    stories[0].sequence.free()
    stories[1].check(csd)
    assert csd.counters()["stripes_erased"] == len(lists[0]) * config.row_counters
    free = csd.read_table(Table.SUPERBLOCK_FREE, list(range(19 - len(lists[1]))))
    assert free == [*range(1 + taken, 20), *lists[0]], "the last to be used again"
    group = lists[1][0] % config.die_groups
    keep_free(csd, [superblock for superblock in range(20, 35) if superblock % config.die_groups != group])
    write_both([stories[1]], config.pages * config.row_counters * 5 // 2)
    assert len({superblock % config.die_groups for superblock in owned(csd, stories[1].sequence)}) > 1
    keep_free(csd, [*lists[0], *range(35, 40)])
    again = Story(cache.new_sequence(), "narrow again")
    write_both([again], config.pages * config.row_counters * 3 // 2)
    assert owned(csd, again.sequence)[:2] == lists[0][:2], "used again"
    for story in (again, stories[1]):
        story.check(csd)
    assert csd.counters()["program_failures"] == 0


def test_more_sequences_fit_than_superblocks_of_full_width(csd: Csd) -> None:
    """One block number: flash of one sequence if superblocks spanned all dies."""
    config = csd.config
    keep_free(csd, range(config.die_groups))
    cache = new_cache(csd)
    stories = []
    for number in range(config.die_groups):
        story = Story(cache.new_sequence(), f"many {number}")
        story.write(0, SOME)
        story.check(csd)
        assert owned(csd, story.sequence) == [number]
        stories.append(story)
    programmed = 2 * KV_HEADS * config.die_groups
    assert csd.counters()["stripes_programmed"] == programmed
    late = Story(cache.new_sequence(), "too many")
    late.write(1, SOME)
    late.check(csd, in_flash=0)
    assert csd.counters()["stripes_programmed"] == programmed
    stories.pop().sequence.free()  # erases no block of the others
    for story in stories:
        story.check(csd)


def test_senses_are_counted_on_the_dies_of_the_superblock(csd: Csd) -> None:
    config = csd.config
    keep_free(csd, range(config.die_groups))
    cache = new_cache(csd)
    stories = [Story(cache.new_sequence(), f"senses {number}") for number in range(2)]
    for story in stories:
        story.write(0, 2 * STRIPE + STRIPE // 2)
        story.sequence.sync()
        story.check(csd)
    groups = csd.read_counts()[:, :, 0].reshape(config.channels, config.die_groups, config.group_dies)
    assert groups.sum() == csd.counters()["stripes_sensed"] > 0
    assert groups.any(axis=(0, 2)).tolist() == [True, True] + [False] * (config.die_groups - 2)
    stories[0].sequence.free()
    assert csd.read_counts()[:, :, 0].reshape(groups.shape)[:, 0].max() == 0
    at_channel_0 = list(range(0, config.dies * config.blocks, config.blocks))
    assert [bool(word) for word in csd.read_table(Table.READ_COUNT, at_channel_0)] \
        == (csd.read_counts()[0, :, 0] > 0).tolist()
    assert (csd.read_counts()[:, :, 0].reshape(groups.shape)[:, 1] == groups[:, 1]).all()


def test_superblocks_are_erased_alone(csd_kind: str) -> None:
    """A superblock not known to be erased: as many erases as it has dies, and its neighbours stay unknown."""
    with open_csd(csd_kind, config=CONFIG) as csd:
        story = Story(new_cache(csd).new_sequence(), "erased")
        story.write(0, SOME)
        story.check(csd)
        assert csd.counters()["stripes_erased"] == csd.config.row_counters
        assert csd.read_table(Table.SUPERBLOCK_ERASED, list(range(csd.config.die_groups))) \
            == [0] * csd.config.die_groups
        story.sequence.free()
        assert csd.counters()["stripes_erased"] == 2 * csd.config.row_counters
        last = csd.config.superblocks - 1
        assert csd.read_table(Table.SUPERBLOCK_FREE, [0, last]) == [1, 0]
        assert csd.read_table(Table.SUPERBLOCK_ERASED, [0, 1]) == [1, 0]


def test_a_bad_block_costs_the_superblock_of_its_die_group(csd: Csd, faults: Any) -> None:
    config = csd.config
    superblock, virtual = config.die_groups + 1, config.group_dies - 1
    die, block = superblock_place(config, superblock, virtual)
    bad = {"channel": 2, "die": die, "plane": csd.config.planes - 1, "block": block}
    assert superblock_of(config, die, block) == superblock
    keep_free(csd, range(superblock, superblock + 2))
    cache = new_cache(csd)
    stories = [Story(cache.new_sequence(), f"bad {number}") for number in range(2)]
    for story in stories:
        story.write(0, SOME)
        story.sequence.sync()
    faults.bad_block(**bad)
    with pytest.raises(ResourceError, match=f"belongs to sequence {stories[0].sequence.number}"):
        csd.bad_blocks.replace(**bad)
    stories[0].sequence.free()
    stories[1].check(csd)
    assert csd.read_table(Table.COUNTS, [0]) == [0], "dropped, since it cannot be erased"
    csd.bad_blocks.replace(**bad)
    assert csd.read_table(Table.SUPERBLOCK_FREE, [0]) == [superblock]
    assert csd.read_table(Table.SUPERBLOCK_ERASED, [superblock]) == [0]
    again = Story(cache.new_sequence(), "bad again")
    again.write(1, (config.pages - 1) * config.row_counters // KV_HEADS * STRIPE)
    again.check(csd)
    assert owned(csd, again.sequence) == [superblock]
    assert csd.counters()["program_failures"] == 0


def test_the_scan_for_marks_knows_die_groups(csd: Csd, faults: Any) -> None:
    config = csd.config
    faults.bad_block(channel=0, die=config.dies - 1, plane=0, block=7)
    entry, = csd.bad_blocks.scan()
    bad = superblock_of(config, entry.die, entry.block)
    erased = csd.read_table(Table.SUPERBLOCK_ERASED, list(range(config.superblocks)))
    assert [superblock for superblock, known in enumerate(erased) if not known] == [bad]
    assert csd.bad_blocks.scan() == ()
    csd.write_table(Table.SUPERBLOCK_ERASED, [(bad - 1, 0)])
    with pytest.raises(ResourceError, match="block 7 is not known to be erased"):
        csd.bad_blocks.scan()
    csd.write_table(Table.SUPERBLOCK_ERASED, [(bad - 1, 1), (config.superblocks - 1, 0)])
    with pytest.raises(ResourceError, match=f"block {config.blocks - 1} is not known to be erased"):
        csd.bad_blocks.scan()


def test_failed_programs_are_repeated_in_the_die_group(csd: Csd, faults: Any) -> None:
    keep_free(csd, range(1, 2))
    story = Story(new_cache(csd).new_sequence(), "failed")
    die, _ = superblock_place(csd.config, 1, 0)
    faults.fail_program(channel=0, die=die, count=2)
    story.write(0, STRIPE)
    story.sequence.sync()
    assert csd.counters()["program_failures"] == 2
    first = story.sequence.number * csd.config.row_counters
    assert csd.read_table(Table.ROW_COUNT, [first]) == [3]
    story.write(0, STRIPE)
    k, v = (np.concatenate(column) for column in zip(*story.rows[0], strict=True))
    q = random_half(story.random, (2 * KV_HEADS, DIMS), 3)
    assert_same_bits(story.sequence.attend(0, q), exact_attention(csd.config, q, k, v))


def test_a_saved_drive_goes_on(csd: Csd, csd_kind: str, tmp_path: Path) -> None:
    stories = [Story(sequence, "saved") for sequence in [new_cache(csd).new_sequence()]]
    write_both(stories, csd.config.pages * csd.config.row_counters * 4 // 3)
    csd.save(tmp_path / "drive")
    other = dataclasses.replace(CONFIG, superblock_dies=CONFIG.dies)
    with pytest.raises(StateError, match=f"saved with group_dies = {CONFIG.group_dies}, the device has 6"):
        open_csd("model:tiny", config=other, state=tmp_path / "drive")
    with open_csd(csd_kind, config=CONFIG, state=tmp_path / "drive") as again:
        every = list(range(CONFIG.superblocks))
        erased = again.read_table(Table.SUPERBLOCK_ERASED, every)
        assert erased == csd.read_table(Table.SUPERBLOCK_ERASED, every)
        assert erased[-1] == 1
        stories[0].sequence = again.caches[0].sequences[0]
        stories[0].check(again)
        write_both(stories, csd.config.pages * csd.config.row_counters * 8 // 3)
        stories[0].check(again)


def test_superblocks_that_are_not_there_are_refused(csd: Csd) -> None:
    last = csd.config.superblocks - 1
    csd.write_table(Table.SUPERBLOCK_ERASED, [(last, 1)])
    csd.write_table(Table.SUPERBLOCK_LIST, [(0, last)])
    csd.write_table(Table.SUPERBLOCK_LIST, [(0, 0)])
    csd.write_table(Table.COUNTS, [(2, 0)])
    rows = csd.config.max_sequences * csd.config.row_counters
    assert csd.read_table(Table.ROW_COUNT, [rows - 1]) == [0]
    keep_free(csd, range(last, last + 1))
    for table, word in ((Table.SUPERBLOCK_ERASED, (last + 1, 1)), (Table.SUPERBLOCK_LIST, (0, last + 1)),
                        (Table.SUPERBLOCK_FREE, (0, last + 1)), (Table.ROW_COUNT, (rows, 0))):
        with pytest.raises(DeviceError, match="BAD_FIELD"):
            csd.write_table(table, [word])
