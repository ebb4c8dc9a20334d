# SPDX-License-Identifier: Apache-2.0
"""A computational storage drive: bring-up, queues, caches, save and reset."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instinfer.abi.commands import NAMESPACE, AdminOpcode, Completion, Table
from instinfer.abi.config import EngineConfig
from instinfer.abi.layout import page_place
from instinfer.abi.registers import IDENTITY_WORDS, MAGIC, VERSION, Counter, Register, identity_words
from instinfer.abi.tables import SequenceWord

from .bad_blocks import BadBlocks
from .errors import DeviceReset, DriverError, ResourceError
from .kv_cache import CacheShape, KvCache, check_shape
from .memory import DmaMemory, RangeAllocator
from .policy import Dense, Policy
from .queue_pair import Command, QueuePair
from .sketchers import Sketcher
from .sketches import restore_bases, save_sketchers, saved_sketcher
from .tables import owned_superblocks, read_count_indices, read_tables, write_tables
from .transport.base import Tables, Transport, TransportError, open_transport

MAP_ALIGN = 32
ADMIN_ENTRIES = 64
QUEUE_ENTRIES = 64
ARENA_BYTES = 16 << 20
WINDOW_RIGHTS = 3
GENERATIONS = 1 << 16
TIMEOUT_FACTOR = 10
"""Default time-out of a command in units of the device's own longest wait."""


def open_csd(name: str, *, timeout_us: float | None = None, queues: int = 1,
             queue_entries: int = QUEUE_ENTRIES, arena_bytes: int = ARENA_BYTES, erased: bool = False,
             **options: Any) -> "Csd":
    """Open a device, ``kind:argument``: ``model:product``, ``sim:tiny``.

    Args:
        timeout_us: of the device's time without a completion; ten times the device's own when None.
        queues: I/O queue pairs; sequences are spread over them.
        queue_entries: entries of each ring.
        arena_bytes: size of the first DMA window.
        erased: all flash is known to be erased (a new simulated drive): no superblock is erased at first use.
        options: for the transport, for example ``state=folder`` to open a saved drive.
    """
    transport = open_transport(name, **options)
    try:
        return Csd(transport, timeout_us=timeout_us, queues=queues, queue_entries=queue_entries,
                   arena_bytes=arena_bytes, erased=erased)
    except BaseException:
        transport.close()
        raise


class Csd:
    """An open device; a context manager that closes it. See :func:`open_csd` for the arguments."""

    def __init__(self, transport: Transport, *, timeout_us: float | None = None, queues: int = 1,
                 queue_entries: int = QUEUE_ENTRIES, arena_bytes: int = ARENA_BYTES,
                 erased: bool = False) -> None:
        self.transport = transport
        self.config: EngineConfig = transport.config
        config = self.config
        if not 1 <= queues <= config.io_queues:
            raise ValueError(f"queues = {queues}: this device has 1 to {config.io_queues} I/O queues")
        if not 2 <= queue_entries <= config.queue_entries_max:
            raise ValueError(f"queue_entries = {queue_entries}: this device takes 2 to "
                             f"{config.queue_entries_max}")
        self._timeout_us = TIMEOUT_FACTOR * config.timeout_us if timeout_us is None else timeout_us
        self._queue_shape = (queues, queue_entries)
        self.epoch = 0
        self.restoring = False
        self._generation = 0
        self.admin: QueuePair
        self.queues: list[QueuePair] = []
        self.memory = DmaMemory(transport, self._add_window, windows=config.max_windows,
                                arena_bytes=arena_bytes)
        self.bad_blocks = BadBlocks(config, self.read_table, self.write_table, self.peek)
        self._check_identity()
        self._start()
        tables = transport.saved_tables()
        if tables is not None:
            write_tables(tables, self.write_table)
            self._adopt_state(tables)
        elif erased:
            self.admin_command(AdminOpcode.FORMAT, cdw10=1)

    # -- bring-up ------------------------------------------------------------------------------
    def _check_identity(self) -> None:
        read = self.transport.bar_read32
        magic, version = read(Register.IDENTITY), read(Register.VS)
        if magic != MAGIC or version != VERSION:
            raise TransportError(f"the device answers {magic:#010x}, version {version:#x} instead of "
                                 f"{MAGIC:#010x}, version {VERSION:#x}: no InstInfer device of this version")
        words = zip(IDENTITY_WORDS, identity_words(self.config), strict=True)
        for index, (name, expected) in enumerate(words, start=1):
            found = read(Register.IDENTITY + 4 * index)
            if found != expected:
                raise TransportError(f"the device was generated with {name} = {found}, the configuration "
                                     f"says {expected}: open it with the one it was generated from")

    def _start(self) -> None:
        write = self.transport.bar_write32
        write(Register.CC, 0)
        self._await_ready(0)
        self._caches: dict[int, KvCache] = {}
        self._policies: dict[Policy, int] = {}
        self._numbers = set(range(self.config.max_sequences))
        buffers = self.config.buffers_bytes
        self.device_dram = RangeAllocator(buffers, self.config.dram_bytes - buffers, MAP_ALIGN)
        entries = min(ADMIN_ENTRIES, self.config.queue_entries_max)
        self.admin = QueuePair(self.transport, 0, entries, self._timeout_us)
        write(Register.AQA, (entries - 1) << 16 | (entries - 1))
        rings = ((Register.ASQ_LO, self.admin.submissions), (Register.ACQ_LO, self.admin.completions))
        for low, buffer in rings:
            write(low, buffer.address & 0xFFFF_FFFF)
            write(low + 4, buffer.address >> 32)
        write(Register.CC, 1)
        self._await_ready(1)
        self.memory.register()
        self.bad_blocks.restore()
        count, size = self._queue_shape
        self.queues = [self._create_queue(number + 1, size) for number in range(count)]
        self.policy_number(Dense())

    def _await_ready(self, ready: int) -> None:
        if not self.transport.wait(lambda: self.transport.bar_read32(Register.CSTS) & 1 == ready,
                                   self._timeout_us):
            raise TransportError(f"CSTS.RDY did not become {ready} within {self._timeout_us:g} us: the "
                                 "device does not answer")

    def _create_queue(self, number: int, entries: int) -> QueuePair:
        queue = QueuePair(self.transport, number, entries, self._timeout_us)
        shape = (entries - 1) << 16 | number
        self.admin_command(AdminOpcode.CREATE_CQ, cdw10=shape, prp1=queue.completions.address)
        self.admin_command(AdminOpcode.CREATE_SQ, cdw10=shape, cdw11=number << 16,
                           prp1=queue.submissions.address)
        return queue

    def _add_window(self, index: int, address: int, size: int) -> None:
        self.admin_command(AdminOpcode.WINDOW_SET, index=index, prp1=address, prp2=size, cdw10=WINDOW_RIGHTS)

    # -- commands ------------------------------------------------------------------------------
    def admin_command(self, opcode: int, **fields: int) -> Completion:
        """Send one admin command and wait; DeviceError unless it succeeds."""
        return _ended(self.admin, self.admin.submit(opcode, fields))

    def io_command(self, opcode: int, *, queue: int = 0, **fields: int) -> Completion:
        """Send one raw I/O command and wait; DeviceError unless it succeeds. For tests and tools."""
        pair = self.queues[queue]
        return _ended(pair, pair.submit(opcode, {"nsid": NAMESPACE, **fields}))

    def read_table(self, table: Table, indices: list[int]) -> list[int]:
        """Values of a device table."""
        commands = [self.admin.submit(AdminOpcode.TABLE_READ, {"cdw10": table, "cdw11": index})
                    for index in indices]
        return [_ended(self.admin, command).result for command in commands]

    def write_table(self, table: Table, pairs: Iterable[tuple[int, int]]) -> None:
        """Store (index, value) pairs into a device table, in order."""
        commands = [self.admin.submit(AdminOpcode.TABLE_WRITE, {
            "cdw10": table, "cdw11": index, "cdw12": value & 0xFFFF_FFFF, "cdw13": value >> 32,
        }) for index, value in pairs]
        for command in commands:
            _ended(self.admin, command)

    def peek(self, places: Iterable[tuple[int, int, int, int]], *, column: int) -> NDArray[np.uint8]:
        """Bytes ``column`` (even) and ``column`` + 1 of pages, spare area included, as the NAND holds them.

        Args:
            places: (channel, die, block, page); spare blocks lie behind ``config.blocks``. Of a block that
                was replaced the spare one answers.
        Returns:
            (places, planes, 2)
        """
        slot, offset = page_place(self.config, column)
        if column % 2:
            raise ValueError(f"column = {column}: bytes are read in pairs from an even column on")
        commands = [self.admin.submit(AdminOpcode.PAGE_PEEK, {
            "index": block, "cdw10": page << 16 | die << 8 | channel, "cdw11": offset << 16 | slot,
        }) for channel, die, block, page in places]
        words = [_ended(self.admin, command).result for command in commands]
        return np.array(words, "<u8").view(np.uint8).reshape(-1, 4, 2)[:, :self.config.planes]

    # -- caches ----------------------------------------------------------------------------------
    def kv_cache(self, *, layers: int, kv_heads: int, query_heads: int, head_dim: int, max_tokens: int,
                 dtype: str = "fp16", sketch: Sketcher | None = None, dims: bool = False,
                 mean_v: bool = False) -> KvCache:
        """A cache of this shape.

        Args:
            dtype: "fp16", or "int8" with an fp16 scale for each row of K and of V: half the flash traffic.
            sketch: how sketches of K are made, for example ``PCA(dims=16, bits=4)``; without them there is no
                sketch policy.
            dims: K is stored a second time, transposed, for SparF; costs half as much flash again.
            mean_v: sums of V are kept, for SparF(mean_v=True).

        Raises:
            ConfigError: the device cannot hold it.
            ResourceError: all handles are in use.
        """
        shape = check_shape(self, layers=layers, kv_heads=kv_heads, query_heads=query_heads,
                            head_dim=head_dim, max_tokens=max_tokens, dtype=dtype,
                            sketch=sketch, dims=dims, mean_v=mean_v)
        free = [handle for handle in range(self.config.max_caches) if handle not in self._caches]
        if not free:
            raise ResourceError(f"all {self.config.max_caches} cache handles are in use: free a cache")
        self.admin_command(AdminOpcode.KV_CONFIG, index=free[0],
                           cdw10=shape.kv_heads << 16 | shape.layers,
                           cdw11=shape.head_dim << 16 | shape.queries, cdw12=max_tokens,
                           cdw13=(shape.mean_v << 25 | shape.dims << 24 | shape.sketch_bits << 16
                                  | shape.sketch_dims << 8 | shape.dtype))
        self._caches[free[0]] = cache = KvCache(self, free[0], shape, sketch)
        return cache

    @property
    def caches(self) -> tuple[KvCache, ...]:
        """Caches that were not freed, by handle; those of a saved drive too."""
        return tuple(self._caches[handle] for handle in sorted(self._caches))

    def forget_cache(self, handle: int) -> None:
        """The handle may be used again."""
        del self._caches[handle]

    def take_sequence_number(self) -> int:
        """The lowest free sequence number."""
        if not self._numbers:
            raise ResourceError(f"all {self.config.max_sequences} sequences of the device are in use: "
                                "free one")
        number = min(self._numbers)
        self._numbers.discard(number)
        return number

    def give_sequence_number(self, number: int) -> None:
        self._numbers.add(number)

    def next_generation(self) -> int:
        """A 16-bit counter over the device's sequences, never 0."""
        self._generation = self._generation % (GENERATIONS - 1) + 1
        return self._generation

    def queue_of(self, sequence: int) -> QueuePair:
        """The I/O queue that keeps a sequence's commands in order."""
        return self.queues[sequence % len(self.queues)]

    def policy_number(self, policy: Policy) -> int:
        """The descriptor of a policy, set at its first use."""
        if policy not in self._policies:
            number = len(self._policies)
            if number == self.config.max_policies:
                raise ResourceError(f"all {self.config.max_policies} policy descriptors are in use: use "
                                    "fewer different policies")
            self.admin_command(AdminOpcode.POLICY_SET, index=number, **policy.descriptor)
            self._policies[policy] = number
        return self._policies[policy]

    # -- the whole drive ---------------------------------------------------------------------------
    def counters(self) -> dict[str, int]:
        """All event counters at one moment, by lower-case name."""
        self.transport.bar_write32(Register.COUNTER_LATCH, 1)
        read = self.transport.bar_read32
        return {counter.name.lower(): read(Register.COUNTERS + 8 * counter)
                | read(Register.COUNTERS + 8 * counter + 4) << 32 for counter in Counter}

    def read_counts(self) -> NDArray[np.uint32]:
        """How often each block was sensed since its erase: (channels, dies, blocks).

        The planes of a stripe are sensed together, so they share a counter. Blocks of free superblocks
        have 0. Commands under way may be counted already.
        """
        config = self.config
        counts = np.zeros((config.channels, config.dies, config.blocks), np.uint32)
        owned = owned_superblocks(config, self.read_table)
        indices = read_count_indices(config, [each for superblocks in owned.values() for each in superblocks])
        counts.reshape(-1)[indices] = self.read_table(Table.READ_COUNT, indices)
        return counts

    def cycles(self) -> int | None:
        """Simulated clock cycles, None where there is no simulated clock."""
        return self.transport.cycles()

    def save(self, folder: str | Path) -> None:
        """Write the drive at rest; ``open_csd(..., state=folder)`` goes on from there."""
        for queue in self.queues:
            queue.drain()
        for cache in self.caches:
            for sequence in cache.sequences:
                sequence.sync()
        tables = read_tables(self.config, self.read_table)
        self.transport.save_state(Path(folder), {**tables, **save_sketchers(self.caches)})

    def _adopt_state(self, tables: Tables) -> None:
        """Make objects for the caches and sequences of a drive that was opened from a saved state."""
        self.restoring = True
        config = self.config
        self.bad_blocks.adopt()
        for handle, word in enumerate(self.read_table(Table.CACHE, list(range(config.max_caches)))):
            if word:
                self._caches[handle] = KvCache(self, handle, CacheShape.unpack(word),
                                               saved_sketcher(tables, handle))
        numbers = list(range(config.max_sequences))
        for number, word in zip(numbers, self.read_table(Table.SEQUENCE, numbers), strict=True):
            if word:
                saved = SequenceWord.unpack(word)
                cache = self._caches[saved.cache]
                if not self.device_dram.reserve(saved.base, cache.map_bytes):
                    raise DriverError(f"the map of sequence {number} overlaps another or a stripe buffer: "
                                      "the saved state is damaged")
                self._numbers.discard(number)
                self._generation = max(self._generation, saved.generation)
                restore_bases(tables, cache.adopt(number, saved.generation, saved.base))
        self.restoring = False

    def require_epoch(self, epoch: int) -> None:
        """Refuse objects from before a reset."""
        if epoch != self.epoch:
            raise DeviceReset("this object belongs to the time before the device was reset: make a new cache")

    def reset(self) -> None:
        """Reset the controller, whatever it does: commands under way fail, caches and sequences are gone."""
        self.transport.bar_write32(Register.CC, 0)
        self._await_ready(0)
        for queue in (self.admin, *self.queues):
            queue.abandon()
        self.epoch += 1
        self._start()

    def close(self) -> None:
        """Stop the device and give its memory back."""
        self.transport.close()

    def __enter__(self) -> "Csd":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _ended(queue: QueuePair, command: Command) -> Completion:
    queue.wait(command)
    if command.error is not None:
        raise command.error
    assert command.completion is not None
    return command.completion
