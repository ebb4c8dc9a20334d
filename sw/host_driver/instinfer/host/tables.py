# SPDX-License-Identifier: Apache-2.0
"""The device's tables as a JSON-safe dictionary: {table name: [[index, value], ...]}, for saved drives.

Windows and policies are not part of it: they belong to a session. FIFOs are listed from their head.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from instinfer.abi.commands import Table
from instinfer.abi.config import EngineConfig
from instinfer.abi.layout import superblock_place
from instinfer.abi.tables import CacheWord, SequenceWord, read_count_index

from .transport.base import Tables

Read = Callable[[Table, list[int]], list[int]]
"""Values at the indices of a table."""
Write = Callable[[Table, list[tuple[int, int]]], None]
"""Store (index, value) pairs in order."""

SUPERBLOCK_COUNT, BUFFER_COUNT, SEQUENCE_COUNT = 0, 1, 2
"""Indices of Table.COUNTS."""


def owned_superblocks(config: EngineConfig, read: Read) -> dict[int, list[int]]:
    """The superblocks of each sequence that has some, in the order in which it took them."""
    sequences = range(config.max_sequences)
    counts = read(Table.COUNTS, [SEQUENCE_COUNT + number for number in sequences])
    first = config.max_superblocks_per_sequence
    return {number: read(Table.SUPERBLOCK_LIST, [first * number + n for n in range(count)])
            for number, count in zip(sequences, counts, strict=True) if count}


def read_count_indices(config: EngineConfig, superblocks: Iterable[int]) -> list[int]:
    """Indices in READ_COUNT of all blocks of some superblocks, in ascending order."""
    places = [superblock_place(config, superblock, virtual_die) for superblock in superblocks
              for virtual_die in range(config.group_dies)]
    return sorted(read_count_index(config, channel=channel, die=die, block=block) for die, block in places
                  for channel in range(config.channels))


def read_tables(config: EngineConfig, read: Read) -> dict[str, Any]:
    """Everything that lasts; entries that are zero or invalid are left out.

    Blocks that no sequence owns are not read; their counts are zero.
    """
    found: dict[str, Any] = {}

    def take(table: Table, indices: list[int]) -> dict[int, int]:
        values = dict(zip(indices, read(table, indices), strict=True))
        kept = {index: value for index, value in values.items() if value}
        found.setdefault(table.name, []).extend([index, value] for index, value in kept.items())
        return kept

    caches = take(Table.CACHE, list(range(config.max_caches)))
    sequences = take(Table.SEQUENCE, list(range(config.max_sequences)))
    take(Table.REPLACEMENT, list(range(config.max_replacements)))
    take(Table.SUPERBLOCK_ERASED, list(range(config.superblocks)))
    counts = read(Table.COUNTS, [SUPERBLOCK_COUNT, BUFFER_COUNT])
    for table, count in zip((Table.SUPERBLOCK_FREE, Table.BUFFER_FREE), counts, strict=True):
        positions = list(range(count))
        found[table.name] = [[index, value] for index, value in
                             zip(positions, read(table, positions), strict=True)]
    for number, word in sequences.items():
        layers = CacheWord.unpack(caches[SequenceWord.unpack(word).cache]).layers
        take(Table.RESIDENT, [number * config.max_layers + layer for layer in range(layers)])
        take(Table.ROW_COUNT, [number * config.row_counters + n for n in range(config.row_counters)])
        owned = read(Table.COUNTS, [SEQUENCE_COUNT + number])[0]
        first = number * config.max_superblocks_per_sequence
        superblocks = read(Table.SUPERBLOCK_LIST, [first + n for n in range(owned)])
        found.setdefault(Table.SUPERBLOCK_LIST.name, []).extend(
            [first + n, superblock] for n, superblock in enumerate(superblocks))
        found.setdefault(Table.COUNTS.name, []).append([SEQUENCE_COUNT + number, owned])
        take(Table.READ_COUNT, read_count_indices(config, superblocks))
    return found


def write_tables(tables: Tables, write: Write) -> None:
    """The opposite of :func:`read_tables`, onto a device that has just been reset; sequences come last."""

    def pairs(table: Table) -> Iterator[tuple[int, int]]:
        return ((int(index), int(value)) for index, value in tables.get(table.name, ()))

    write(Table.COUNTS, [(SUPERBLOCK_COUNT, 0), (BUFFER_COUNT, 0), *pairs(Table.COUNTS)])
    for table in (Table.REPLACEMENT, Table.SUPERBLOCK_FREE, Table.BUFFER_FREE, Table.SUPERBLOCK_ERASED,
                  Table.SUPERBLOCK_LIST, Table.ROW_COUNT, Table.READ_COUNT, Table.RESIDENT, Table.CACHE,
                  Table.SEQUENCE):
        write(table, list(pairs(table)))
