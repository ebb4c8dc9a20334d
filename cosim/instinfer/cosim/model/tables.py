# SPDX-License-Identifier: Apache-2.0
"""On-chip tables of the device (docs/architecture.md "Tables") and the words that move in and out of them."""

from collections import deque
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from instinfer.abi.commands import Status, Table
from instinfer.abi.config import EngineConfig
from instinfer.abi.layout import HEAD_DIMS, SKETCH_BITS, SKETCH_DIMS
from instinfer.abi.tables import READ_COUNT_MAX, VALID, CacheWord, PolicyWord, Replacement, SequenceWord

from .nand import Nand, PlaneBlock

T = TypeVar("T")

QUERIES_MAX = 8
"""Query heads per KV head that a cache may have."""


class CommandError(Exception):
    """A command ends with this status; ``result`` is the completion's {DW1, DW0}."""

    def __init__(self, status: Status, result: int = 0):
        self.status = status
        self.result = result
        super().__init__(status.name)


def check(ok: bool, status: Status) -> None:
    if not ok:
        raise CommandError(status)


class Cache(CacheWord):
    """Shape of the sequences made in a cache."""

    def valid(self, config: EngineConfig) -> bool:
        return (1 <= self.layers <= config.max_layers and 1 <= self.kv_heads <= config.max_kv_heads
                and 1 <= self.queries <= min(QUERIES_MAX, config.queries * config.head_slots)
                and self.head_dim in HEAD_DIMS and self.head_dim <= config.head_dim_max
                and 1 <= self.max_tokens <= config.max_context
                and (self.dims or not self.mean_v) and (config.sparf_policy or not self.dims)
                and (self.sketch_dims == self.sketch_bits == 0
                     or (config.sketch_policy and self.sketch_dims in SKETCH_DIMS
                         and self.sketch_bits in SKETCH_BITS)))


class Tables:
    """All tables, in their state after reset."""

    def __init__(self, config: EngineConfig, nand: Nand) -> None:
        self._config = config
        self._nand = nand
        nand.restore_blocks()
        self.replacements: dict[int, Replacement] = {}
        self.caches: dict[int, Cache] = {}
        self.policies: dict[int, PolicyWord] = {}
        self.windows: dict[int, tuple[int, int]] = {}
        """Base address; bytes 61:0, read 62, write 63."""
        self.format(erased=False)

    def format(self, *, erased: bool) -> None:
        """Forget all sequences; every superblock and buffer is free."""
        config = self._config
        self.sequences: dict[int, SequenceWord] = {}
        self.resident = np.zeros((config.max_sequences, config.max_layers), np.int64)
        self.superblocks: list[list[int]] = [[] for _ in range(config.max_sequences)]
        self.row_count = np.zeros((config.max_sequences, config.row_counters), np.int64)
        self.superblock_free = deque(range(config.superblocks))
        self.erased = np.full(config.superblocks, erased)
        self.buffer_free = deque(range(config.stripe_buffers))
        self.read_counts = np.zeros((config.channels, config.dies, config.blocks), np.uint32)

    def count_reads(self, channel: NDArray[np.int64], die: NDArray[np.int64],
                    block: NDArray[np.int64]) -> None:
        """One sense of each of these blocks; a block may be named more than once."""
        np.add.at(self.read_counts, (channel, die, block), 1)
        np.minimum(self.read_counts, READ_COUNT_MAX, out=self.read_counts)

    def read(self, table: int, index: int) -> int:
        """Raises CommandError BAD_FIELD outside a table."""
        config = self._config
        match table:
            case Table.CACHE:
                self._within(index, config.max_caches)
                return self.caches[index].pack() if index in self.caches else 0
            case Table.SEQUENCE:
                self._within(index, config.max_sequences)
                return self.sequences[index].pack() if index in self.sequences else 0
            case Table.RESIDENT:
                self._within(index, self.resident.size)
                return int(self.resident.flat[index])
            case Table.SUPERBLOCK_LIST:
                self._within(index, config.max_sequences * config.max_superblocks_per_sequence)
                sequence, n = divmod(index, config.max_superblocks_per_sequence)
                owned = self.superblocks[sequence]
                return owned[n] if n < len(owned) else 0
            case Table.ROW_COUNT:
                self._within(index, self.row_count.size)
                return int(self.row_count.flat[index])
            case Table.SUPERBLOCK_FREE:
                self._within(index, len(self.superblock_free))
                return self.superblock_free[index]
            case Table.SUPERBLOCK_ERASED:
                self._within(index, config.superblocks)
                return int(self.erased[index])
            case Table.BUFFER_FREE:
                self._within(index, len(self.buffer_free))
                return self.buffer_free[index]
            case Table.COUNTS:
                self._within(index, 2 + config.max_sequences)
                return len((self.superblock_free, self.buffer_free, *self.superblocks)[index])
            case Table.POLICY:
                self._within(index, config.max_policies)
                return self.policies[index].pack() if index in self.policies else 0
            case Table.WINDOW:
                self._within(index, 2 * config.max_windows)
                return self.windows.get(index // 2, (0, 0))[index & 1]
            case Table.REPLACEMENT:
                self._within(index, config.max_replacements)
                return self.replacements[index].pack() if index in self.replacements else 0
            case Table.READ_COUNT:
                self._within(index, self.read_counts.size)
                return int(self.read_counts.flat[index])
        raise CommandError(Status.BAD_FIELD)

    def write(self, table: int, index: int, value: int) -> None:
        """The opposite of :meth:`read`; pushes onto the FIFOs."""
        config = self._config
        if table == Table.SUPERBLOCK_FREE:
            check(value < config.superblocks and len(self.superblock_free) < config.superblocks,
                  Status.BAD_FIELD)
            self.superblock_free.append(value)
            return
        if table == Table.BUFFER_FREE:
            check(value < config.stripe_buffers and len(self.buffer_free) < config.stripe_buffers,
                  Status.BAD_FIELD)
            self.buffer_free.append(value)
            return
        if table != Table.SUPERBLOCK_LIST:
            self.read(table, index)
        valid = bool(value & VALID)
        match table:
            case Table.CACHE:
                _store(self.caches, index, Cache.unpack(value) if valid else None)
            case Table.SEQUENCE:
                _store(self.sequences, index, SequenceWord.unpack(value) if valid else None)
            case Table.RESIDENT:
                self.resident.flat[index] = value
            case Table.SUPERBLOCK_LIST:
                sequence, n = divmod(index, config.max_superblocks_per_sequence)
                check(sequence < config.max_sequences and value < config.superblocks, Status.BAD_FIELD)
                owned = self.superblocks[sequence]
                owned.extend([0] * (n + 1 - len(owned)))
                owned[n] = value
            case Table.ROW_COUNT:
                self.row_count.flat[index] = value
            case Table.SUPERBLOCK_ERASED:
                self.erased[index] = bool(value & 1)
            case Table.COUNTS:
                self._write_count(index, value)
            case Table.POLICY:
                try:
                    _store(self.policies, index, PolicyWord.unpack(value) if valid else None)
                except ValueError as error:
                    raise CommandError(Status.BAD_FIELD) from error
            case Table.WINDOW:
                base, size = self.windows.get(index // 2, (0, 0))
                self.windows[index // 2] = (base, value) if index & 1 else (value, size)

            case Table.REPLACEMENT:
                word = Replacement.unpack(value)
                check(word.within(config), Status.BAD_FIELD)
                self._nand.replace(PlaneBlock(word.channel, word.die, word.plane, word.block),
                                   word.spare if valid else None)
                _store(self.replacements, index, word if valid else None)
            case Table.READ_COUNT:
                self.read_counts.flat[index] = value & READ_COUNT_MAX

    def _write_count(self, index: int, value: int) -> None:
        if index < 2:
            check(value == 0, Status.BAD_FIELD)
            (self.superblock_free, self.buffer_free)[index].clear()
            return
        check(value <= self._config.max_superblocks_per_sequence, Status.BAD_FIELD)
        owned = self.superblocks[index - 2]
        owned.extend([0] * (value - len(owned)))
        del owned[value:]

    @staticmethod
    def _within(index: int, size: int) -> None:
        check(index < size, Status.BAD_FIELD)


def _store(table: dict[int, T], index: int, value: T | None) -> None:
    if value is None:
        table.pop(index, None)
    else:
        table[index] = value
