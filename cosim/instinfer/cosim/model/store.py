# SPDX-License-Identifier: Apache-2.0
"""Where rows live: stripe buffers and map in DRAM, programming, superblocks, release and free.

Order-exact with the RTL as long as the host waits for the commands that free flash: rows, superblocks, NAND
contents, resident counts. Equivalent only: which stripe buffer a stripe uses and when it is released
(programs end at once here), and which row a repeated program lands on.
"""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from instinfer.abi.arith import F16
from instinfer.abi.commands import Status
from instinfer.abi.config import EngineConfig
from instinfer.abi.layout import (
    MAP_ENTRY_BYTES,
    MapEntry,
    RowShape,
    encode_stripe,
    map_index,
    map_line,
    placement,
)
from instinfer.abi.registers import Counter
from instinfer.abi.tables import SequenceWord

from .memory import Dram
from .nand import Nand, Row
from .rows import LayerRows, check_slots, place_rows, stripe_data
from .tables import Cache, CommandError, Tables

PROGRAM_ATTEMPTS = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer of a sequence, as commands name it."""

    number: int
    sequence: SequenceWord
    cache: Cache
    layer: int

    @property
    def shape(self) -> RowShape:
        return self.cache.shape

    @property
    def line(self) -> int:
        """Map line of head 0."""
        return map_line(self.layer, 0, kv_heads=self.cache.kv_heads)


class KvStore:
    """Tables, DRAM and NAND, and what moves between them."""

    def __init__(self, config: EngineConfig, dram: Dram, nand: Nand, counters: NDArray[np.uint64]) -> None:
        self.config = config
        self.dram = dram
        self.nand = nand
        self.tables = Tables(config, nand)
        self._counters = counters
        self._rows: dict[tuple[int, int], LayerRows] = {}
        self._dead: set[tuple[int, int]] = set()
        """(channel, die) that timed out once: given up until the next reset."""

    def count(self, counter: Counter, amount: int = 1) -> None:
        self._counters[counter] += np.uint64(amount)

    # -- map ---------------------------------------------------------------------------------
    def _entry_address(self, at: Layer, head: int, stripe: int) -> int:
        stripes_max = at.shape.stripes(self.config, at.cache.max_tokens)
        index = map_index(at.layer, head, stripe, kv_heads=at.cache.kv_heads, stripes_max=stripes_max)
        return at.sequence.base + index * MAP_ENTRY_BYTES

    def _entry(self, at: Layer, head: int, stripe: int) -> MapEntry:
        word = self.dram.read(self._entry_address(at, head, stripe), MAP_ENTRY_BYTES)
        return MapEntry.unpack(int.from_bytes(word.tobytes(), "little"))

    def _set_entry(self, at: Layer, head: int, stripe: int, entry: MapEntry) -> None:
        word = entry.pack().to_bytes(MAP_ENTRY_BYTES, "little")
        self.dram.write(self._entry_address(at, head, stripe), np.frombuffer(word, np.uint8))

    def words(self, at: Layer, head: int, heads: int, stripes: int) -> NDArray[np.uint32]:
        """Map entries (heads, stripes, 2) of the first stripes: flash word, DRAM word."""
        return np.stack([self.dram.read(self._entry_address(at, head + each, 0), stripes * MAP_ENTRY_BYTES)
                         .view("<u4").reshape(stripes, 2) for each in range(heads)])

    # -- rows ----------------------------------------------------------------------------------
    def drop_rows(self, number: int) -> None:
        for key in [key for key in self._rows if key[0] == number]:
            del self._rows[key]

    def forget_rows(self) -> None:
        """The tables were changed by hand: decode everything anew."""
        self._rows.clear()

    def rows(self, at: Layer) -> LayerRows:
        """The layer's arrays; rows in DRAM are up to date, rows in flash once :meth:`refresh` saw them."""
        key = (at.number, at.layer)
        if key not in self._rows:
            rows = self._rows[key] = LayerRows(self.config, at.shape, at.cache.kv_heads)
            resident = int(self.tables.resident[key])
            rows.reserve(resident)
            for head in range(at.cache.kv_heads):
                for stripe in range(at.shape.stripes(self.config, resident)):
                    entry = self._entry(at, head, stripe)
                    if entry.in_dram:
                        rows.store(head, stripe, self._buffer(entry.buffer))
        return self._rows[key]

    def _buffer(self, buffer: int) -> NDArray[np.uint8]:
        size = self.config.stripe_data_bytes
        return self.dram.store(buffer * size, size)

    def refresh(self, at: Layer, head: int, heads: int, flash: NDArray[np.bool_], words: NDArray[np.uint32],
                tokens: int) -> None:
        """Make the arrays show what flash holds for the stripes marked in ``flash`` (heads, stripes).

        Raises:
            CommandError: a stripe cannot be read or fails its tuple check.
        """
        rows = self.rows(at)
        stripes = flash.shape[1]
        source = rows.source[head:head + heads, :stripes]
        stale = flash & ((source != words[..., 0]) | (words[..., 0] >> 31 == 0))
        if self.nand.changed or self.nand.stuck or self._dead:
            stale |= flash
        guard = tag = 0
        for each, stripe in np.argwhere(stale).tolist():
            entry = MapEntry.unpack(int(words[each, stripe, 0]))
            row = self._row(at, head + each, stripe, entry)
            if not entry.in_flash:
                raise CommandError(Status.INTERNAL)
            if not self._alive(row.channel, row.die):
                raise CommandError(Status.UNRECOVERED_READ)
            if row not in self.nand.changed and source[each, stripe] == words[each, stripe, 0]:
                continue
            moved = self.slots_moved(at.shape, tokens - stripe * rows.stripe_tokens)
            slots = self.nand.read(row)
            wrong = check_slots(slots, moved, generation=at.sequence.generation, layer=at.layer,
                                head=head + each, stripe=stripe) if self.config.check_tuples else (0, 0)
            guard, tag = guard + wrong[0], tag + wrong[1]
            data = stripe_data(slots)
            if not any(wrong) and not np.isfinite(data.view(np.float16)).all():
                raise CommandError(Status.NOT_FINITE)
            rows.store(head + each, stripe, data)
            proven = moved == self.config.slots_per_stripe and not any(wrong)
            source[each, stripe] = words[each, stripe, 0] if proven else 0
        if guard or tag:
            self.count(Counter.TUPLE_ERRORS, guard + tag)
            raise CommandError(Status.GUARD if guard else Status.REFERENCE_TAG)

    def slots_moved(self, shape: RowShape, tokens: int) -> int:
        """Slots of a stripe that ``tokens`` of its tokens (perhaps more than it has) need."""
        return 2 * -(-min(tokens, shape.tokens_per_stripe(self.config)) // shape.rows_per_slot)

    def _alive(self, channel: int, die: int) -> bool:
        """A stuck die costs one time-out, then it is dead."""
        if (channel, die) in self.nand.stuck:
            self._dead.add((channel, die))
        return (channel, die) not in self._dead

    def _row(self, at: Layer, head: int, stripe: int, entry: MapEntry) -> Row:
        channel, _ = placement(self.config, at.line + head, stripe)
        return Row(channel, entry.die, entry.block, entry.page)

    # -- writing -------------------------------------------------------------------------------
    def append(self, at: Layer, k: F16, v: F16) -> None:
        """Append (tokens, heads, dims) that lie within one stripe; resident count, program, release follow.

        Raises:
            CommandError: CAPACITY when a new stripe finds too few buffers; nothing is changed then.
        """
        key = (at.number, at.layer)
        resident = int(self.tables.resident[key])
        tokens = len(k)
        rows = self.rows(at)
        stripe, first = divmod(resident, rows.stripe_tokens)
        heads = range(at.cache.kv_heads)
        if first == 0:
            if len(self.tables.buffer_free) < len(heads):
                raise CommandError(Status.CAPACITY, resident)
            for head in heads:
                buffer = self.tables.buffer_free.popleft()
                self._set_entry(at, head, stripe, MapEntry(buffer=buffer, in_dram=True))
        rows.reserve(resident + tokens)
        rows.k[:, resident:resident + tokens] = k.swapaxes(0, 1)
        rows.v[:, resident:resident + tokens] = v.swapaxes(0, 1)
        for head in heads:
            buffer_data = self._buffer(self._entry(at, head, stripe).buffer)
            for kind, array in enumerate((k, v)):
                place_rows(buffer_data, at.shape, first, array[:, head], kind)
        self.tables.resident[key] = resident + tokens
        if first + tokens == rows.stripe_tokens:
            for head in heads:
                self._flush(at, head, stripe)
        self._release(at, resident, resident + tokens)

    def _flush(self, at: Layer, head: int, stripe: int) -> None:
        """Program a full stripe; pin it in DRAM when that fails or flash is exhausted."""
        entry = self._entry(at, head, stripe)
        channel, die = placement(self.config, at.line + head, stripe)
        for _ in range(PROGRAM_ATTEMPTS):
            row = self._allocate_row(at.number, channel, die)
            if row is None:
                break
            slots = encode_stripe(self.config, self._buffer(entry.buffer), generation=at.sequence.generation,
                                  layer=at.layer, head=head, stripe=stripe)
            if self._alive(channel, die) and self.nand.program(row, slots):
                self.count(Counter.STRIPES_PROGRAMMED)
                entry = dataclasses.replace(entry, in_flash=True, die=die, block=row.block, page=row.page)
                self._set_entry(at, head, stripe, entry)
                self.rows(at).source[head, stripe] = entry.pack() & 0xFFFF_FFFF
                return
            self.count(Counter.PROGRAM_FAILURES)
        else:
            at.sequence.fault = True
        self._set_entry(at, head, stripe, dataclasses.replace(entry, pinned=True))

    def _allocate_row(self, number: int, channel: int, die: int) -> Row | None:
        index = (number, channel * self.config.dies + die)
        superblock, page = divmod(int(self.tables.row_count[index]), self.config.pages)
        blocks = self.tables.superblocks[number]
        if superblock >= len(blocks):
            room = len(blocks) < self.config.max_superblocks_per_sequence
            block = self._take_superblock() if room else None
            if block is None:
                return None
            blocks.append(block)
        self.tables.row_count[index] += 1
        return Row(channel, die, blocks[superblock], page)

    def _take_superblock(self) -> int | None:
        """The next free superblock, erased; one that does not erase is dropped for good."""
        while self.tables.superblock_free:
            block = self.tables.superblock_free.popleft()
            if self.tables.erased[block] or self._erase(block):
                self.tables.erased[block] = False
                return block
        return None

    def _erase(self, block: int) -> bool:
        config = self.config
        done = [self._alive(channel, die) and self.nand.erase(channel, die, block)
                for die in range(config.dies) for channel in range(config.channels)]
        self.tables.read_counts[:, :, block] = 0
        self.count(Counter.STRIPES_ERASED, sum(done))
        return all(done)

    def _release(self, at: Layer, before: int, after: int) -> None:
        """Return the buffers of stripes that are read from flash from now on."""
        page, stripe_tokens = at.shape.tokens_per_page(self.config), at.shape.tokens_per_stripe(self.config)
        for stripe in range(max(0, before - page) // stripe_tokens, max(0, after - page) // stripe_tokens):
            for head in range(at.cache.kv_heads):
                entry = self._entry(at, head, stripe)
                if entry.in_flash:
                    self.tables.buffer_free.append(entry.buffer)
                    self._set_entry(at, head, stripe, dataclasses.replace(entry, buffer=0, in_dram=False))

    # -- freeing -------------------------------------------------------------------------------
    def free(self, number: int) -> None:
        """Drop a sequence: buffers in map order, then superblocks, erased, in list order."""
        sequence = self.tables.sequences.pop(number)
        cache = self.tables.caches[sequence.cache]
        for layer in range(cache.layers):
            at = Layer(number=number, sequence=sequence, cache=cache, layer=layer)
            stripes = cache.shape.stripes(self.config, int(self.tables.resident[number, layer]))
            for head in range(cache.kv_heads):
                for stripe in range(stripes):
                    entry = self._entry(at, head, stripe)
                    if entry.in_dram:
                        self.tables.buffer_free.append(entry.buffer)
        for block in self.tables.superblocks[number]:
            if self._erase(block):
                self.tables.erased[block] = True
                self.tables.superblock_free.append(block)
        self.clear(number)

    def clear(self, number: int) -> None:
        """Empty tables of a sequence number."""
        self.tables.superblocks[number] = []
        self.tables.row_count[number] = 0
        self.tables.resident[number] = 0
        self.drop_rows(number)
