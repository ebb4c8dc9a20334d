# SPDX-License-Identifier: Apache-2.0
"""Where rows live: stripe buffers and map in DRAM, programming, superblocks, release and free.

Order-exact with the RTL as long as the host waits for the commands that free flash: rows, superblocks, NAND
contents, resident counts. Equivalent only: which stripe buffer a stripe uses and when it is released
(programs end at once here), and which row a repeated program lands on.
"""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from instinfer.abi.arith import I64
from instinfer.abi.commands import Status
from instinfer.abi.config import EngineConfig
from instinfer.abi.dims import dim_map_index, dim_placement
from instinfer.abi.layout import (
    MAP_ALIGN,
    MAP_ENTRY_BYTES,
    MapEntry,
    SketchShape,
    encode_stripe,
    entries_bytes,
    placement,
    sketch_map_index,
    superblock_place,
    whole,
)
from instinfer.abi.records import Records
from instinfer.abi.registers import Counter
from instinfer.abi.sparf import value_units

from .dims import LayerDims
from .layer import Layer, Region
from .memory import Dram
from .nand import Nand, Row
from .rows import Bytes, LayerRows, LayerSketches, place_rows, place_sketches
from .tables import CommandError, Tables

PROGRAM_ATTEMPTS = 3


class KvStore:
    """Tables, DRAM and NAND, and what moves between them.

    Bytes of a slot that no row, scale or sketch fills are zero in flash: stripe buffers are cleared when
    they are taken for stripes that leave such bytes.
    """

    def __init__(self, config: EngineConfig, dram: Dram, nand: Nand, counters: NDArray[np.uint64]) -> None:
        self.config = config
        self.dram = dram
        self.nand = nand
        self.tables = Tables(config, nand)
        self._counters = counters
        self._arrays: dict[tuple[int, int, Region], LayerRows | LayerSketches] = {}
        self._dims: dict[tuple[int, int], LayerDims] = {}
        self._dead: set[tuple[int, int]] = set()
        """(channel, die) that timed out once: given up until the next reset."""

    def count(self, counter: Counter, amount: int = 1) -> None:
        self._counters[counter] += np.uint64(amount)

    # -- map ---------------------------------------------------------------------------------
    def _entry_address(self, at: Layer, region: Region, head: int, stripe: int) -> int:
        cache = at.cache
        rows, sketches, dims = cache.stripes_max(self.config)
        line, lines = at.line + head, cache.layers * cache.kv_heads
        if region is Region.ROWS:
            index = line * rows + stripe
        elif region is Region.SKETCHES:
            index = sketch_map_index(line, stripe, lines=lines, stripes_max=rows,
                                     sketch_stripes_max=sketches)
        else:
            index = dim_map_index(line, stripe, lines=lines, before_max=rows + sketches, dim_stripes_max=dims)
        return at.sequence.base + index * MAP_ENTRY_BYTES

    def _sum_address(self, at: Layer, head: int) -> int:
        cache = at.cache
        entries = entries_bytes(cache.layers, cache.kv_heads, *cache.stripes_max(self.config))
        return at.sequence.base + whole(entries, MAP_ALIGN) + (at.line + head) * cache.sum_bytes

    def sums(self, at: Layer, head: int, heads: int) -> I64:
        """Sums of all resident rows of V (heads, head_dim) [2**-24]."""
        data = self.dram.read(self._sum_address(at, head), heads * at.cache.sum_bytes)
        return data.view("<i8").astype(np.int64).reshape(heads, -1)

    def _add_to_sums(self, at: Layer, first: int, v: Records) -> None:
        """Rows (tokens, heads) from token ``first`` on; token 0 begins the sums."""
        heads = at.cache.kv_heads
        total = value_units(v.rows, v.scale).sum(axis=0)
        if first:
            total += self.sums(at, 0, heads)
        self.dram.write(self._sum_address(at, 0), total.astype("<i8").view(np.uint8).reshape(-1))

    def _entry(self, at: Layer, region: Region, head: int, stripe: int) -> MapEntry:
        word = self.dram.read(self._entry_address(at, region, head, stripe), MAP_ENTRY_BYTES)
        return MapEntry.unpack(int.from_bytes(word.tobytes(), "little"))

    def set_entry(self, at: Layer, region: Region, head: int, stripe: int, entry: MapEntry) -> None:
        word = entry.pack().to_bytes(MAP_ENTRY_BYTES, "little")
        self.dram.write(self._entry_address(at, region, head, stripe), np.frombuffer(word, np.uint8))

    def words(self, at: Layer, region: Region, head: int, heads: int, stripes: int) -> NDArray[np.uint32]:
        """Map entries (heads, stripes, 2) of the first stripes: flash word, DRAM word."""
        return np.stack([self.dram.read(self._entry_address(at, region, head + each, 0),
                                        stripes * MAP_ENTRY_BYTES)
                         .view("<u4").reshape(stripes, 2) for each in range(heads)])

    # -- rows and sketches as arrays -------------------------------------------------------------
    def drop_arrays(self, number: int) -> None:
        for key in [key for key in self._arrays if key[0] == number]:
            del self._arrays[key]
        for place in [place for place in self._dims if place[0] == number]:
            del self._dims[place]

    def forget_arrays(self) -> None:
        """The tables were changed by hand: decode everything anew."""
        self._arrays.clear()
        self._dims.clear()

    def rows(self, at: Layer) -> LayerRows:
        """The layer's K and V; see :meth:`arrays`."""
        found = self.arrays(at, Region.ROWS)
        assert isinstance(found, LayerRows)
        return found

    def sketches(self, at: Layer) -> LayerSketches:
        """The layer's sketches; see :meth:`arrays`."""
        found = self.arrays(at, Region.SKETCHES)
        assert isinstance(found, LayerSketches)
        return found

    def dims(self, at: Layer) -> LayerDims:
        """What the layer's dim pages hold, once a read refreshed it."""
        key = (at.number, at.layer)
        if key not in self._dims:
            self._dims[key] = LayerDims(self.config, at.dim_shape, at.cache.kv_heads, at.cache.max_tokens)
        return self._dims[key]

    def arrays(self, at: Layer, region: Region) -> LayerRows | LayerSketches:
        """The layer's arrays; what is in DRAM is up to date, what is in flash once a read refreshed it."""
        key = (at.number, at.layer, region)
        if key not in self._arrays:
            shape, heads = at.shape_of(region), at.cache.kv_heads
            made = (LayerSketches(self.config, shape, heads) if isinstance(shape, SketchShape)
                    else LayerRows(self.config, shape, heads))
            resident = int(self.tables.resident[at.number, at.layer])
            made.reserve(resident)
            for head in range(heads):
                for stripe in range(shape.stripes(self.config, resident)):
                    entry = self._entry(at, region, head, stripe)
                    if entry.in_dram:
                        made.store(head, stripe, self._data(entry.buffer), self._scales(entry.buffer))
            self._arrays[key] = made
        return self._arrays[key]

    def _data(self, buffer: int) -> Bytes:
        size = self.config.stripe_data_bytes
        return self.dram.store(buffer * size, size)

    def _scales(self, buffer: int) -> Bytes:
        """The scale area of a stripe buffer: behind the data of all of them."""
        config = self.config
        start = config.stripe_buffers * config.stripe_data_bytes
        return self.dram.store(start + buffer * config.stripe_scale_bytes, config.stripe_scale_bytes)

    def peek(self, row: Row) -> NDArray[np.uint8]:
        """Raw slots of a row; CommandError when its die does not answer."""
        if not self.alive(row.channel, row.die):
            raise CommandError(Status.UNRECOVERED_READ)
        self.count(Counter.STRIPES_SENSED)
        self.count(Counter.PAGES_SENSED, self.config.planes)
        self.count(Counter.SLOTS_MOVED, self.config.slots_per_stripe)
        return self.nand.read(row)

    def alive(self, channel: int, die: int) -> bool:
        """A stuck die costs one time-out, then it is dead."""
        if (channel, die) in self.nand.stuck:
            self._dead.add((channel, die))
        return (channel, die) not in self._dead

    @property
    def disturbed(self) -> bool:
        """Flash is not as it was programmed: what was checked once has to be looked at again."""
        return bool(self.nand.changed or self.nand.stuck or self._dead)

    def row(self, at: Layer, region: Region, head: int, stripe: int, entry: MapEntry) -> Row:
        """The flash place that a map entry names."""
        line = at.line + head
        if region is Region.DIMS:
            block, part = divmod(stripe, at.dim_shape.stripes_per_block(self.config))
            channel, _ = dim_placement(self.config, line, block, part)
        else:
            channel, _ = placement(self.config, line, stripe)
        return Row(channel, entry.die, entry.block, entry.page)

    # -- writing -------------------------------------------------------------------------------
    def append(self, at: Layer, k: Records, v: Records) -> None:
        """Append records (tokens, heads) of one stripe; resident count, program, release follow.

        Sketch stripes end where a row stripe ends, so tokens within one row stripe lie within one of those.

        Raises:
            CommandError: CAPACITY when new stripes find too few buffers; nothing is changed then.
        """
        key = (at.number, at.layer)
        resident = int(self.tables.resident[key])
        tokens = len(k.rows)
        heads = range(at.cache.kv_heads)
        places = {region: (self.arrays(at, region), *divmod(resident, self.arrays(at, region).stripe_tokens))
                  for region in at.regions}
        new = [region for region, (_, _, first) in places.items() if first == 0]
        if len(self.tables.buffer_free) < len(new) * len(heads):
            raise CommandError(Status.CAPACITY, resident)
        for region in new:
            for head in heads:
                self._take_buffer(at, region, head, places[region][1])
        for region, (arrays, stripe, first) in places.items():
            arrays.reserve(resident + tokens)
            arrays.append(resident, k, v)
            for head in heads:
                buffer = self._entry(at, region, head, stripe).buffer
                if at.cache.sketch is not None and region is Region.SKETCHES:
                    place_sketches(self._data(buffer), at.cache.sketch, first, k, head)
                else:
                    place_rows(self._data(buffer), self._scales(buffer), at.shape, first, k, v, head)
        if at.cache.mean_v:
            self._add_to_sums(at, resident, v)
        self.tables.resident[key] = resident + tokens
        for region, (arrays, stripe, first) in places.items():
            if first + tokens == arrays.stripe_tokens:
                for head in heads:
                    self._flush(at, region, head, stripe)
        for region in at.regions:
            self._release(at, region, resident, resident + tokens)

    def _take_buffer(self, at: Layer, region: Region, head: int, stripe: int) -> None:
        buffer = self.tables.buffer_free.popleft()
        if region is Region.SKETCHES:
            self._data(buffer)[:] = 0
        elif at.shape.scaled:
            self._scales(buffer)[:] = 0
        self.set_entry(at, region, head, stripe, MapEntry(buffer=buffer, in_dram=True))

    def _flush(self, at: Layer, region: Region, head: int, stripe: int) -> None:
        """Program a full stripe; pin it in DRAM when that fails or flash is exhausted."""
        entry = self._entry(at, region, head, stripe)
        sketch = region is Region.SKETCHES
        scaled = at.shape.scaled and not sketch
        slots = encode_stripe(self.config, self._data(entry.buffer), generation=at.sequence.generation,
                              layer=at.layer, head=head, stripe=stripe, sketch=sketch,
                              scales=self._scales(entry.buffer) if scaled else None)
        row, failed = self.program(at.number, placement(self.config, at.line + head, stripe), slots)
        if row is None:
            at.sequence.fault |= failed
            self.set_entry(at, region, head, stripe, dataclasses.replace(entry, pinned=True))
            return
        entry = dataclasses.replace(entry, in_flash=True, die=row.die, block=row.block, page=row.page)
        self.set_entry(at, region, head, stripe, entry)
        self.arrays(at, region).source[head, stripe] = entry.pack() & 0xFFFF_FFFF

    def program(self, number: int, place: tuple[int, int], slots: Bytes) -> tuple[Row | None, bool]:
        """(row, False): where the slots of a stripe went on this (channel, virtual die); (None, whether
        programs failed) when it stays in DRAM: otherwise flash is exhausted."""
        for _ in range(PROGRAM_ATTEMPTS):
            row = self._allocate_row(number, *place)
            if row is None:
                return None, False
            if self.alive(row.channel, row.die) and self.nand.program(row, slots):
                self.count(Counter.STRIPES_PROGRAMMED)
                return row, False
            self.count(Counter.PROGRAM_FAILURES)
        return None, True

    def _allocate_row(self, number: int, channel: int, virtual_die: int) -> Row | None:
        index = (number, channel * self.config.group_dies + virtual_die)
        n, page = divmod(int(self.tables.row_count[index]), self.config.pages)
        owned = self.tables.superblocks[number]
        if n >= len(owned):
            room = len(owned) < self.config.max_superblocks_per_sequence
            superblock = self._take_superblock() if room else None
            if superblock is None:
                return None
            owned.append(superblock)
        self.tables.row_count[index] += 1
        die, block = superblock_place(self.config, owned[n], virtual_die)
        return Row(channel, die, block, page)

    def _take_superblock(self) -> int | None:
        """The next free superblock, erased; one that does not erase is dropped for good."""
        while self.tables.superblock_free:
            superblock = self.tables.superblock_free.popleft()
            if self.tables.erased[superblock] or self._erase(superblock):
                self.tables.erased[superblock] = False
                return superblock
        return None

    def _erase(self, superblock: int) -> bool:
        config = self.config
        places = [superblock_place(config, superblock, virtual) for virtual in range(config.group_dies)]
        done = [self.alive(channel, die) and self.nand.erase(channel, die, block)
                for die, block in places for channel in range(config.channels)]
        for die, block in places:
            self.tables.read_counts[:, die, block] = 0
        self.count(Counter.STRIPES_ERASED, sum(done))
        return all(done)

    def _release(self, at: Layer, region: Region, before: int, after: int) -> None:
        """Return the buffers of stripes that are read from flash from now on."""
        shape = at.shape_of(region)
        page, stripe_tokens = shape.tokens_per_page(self.config), shape.tokens_per_stripe(self.config)
        for stripe in range(max(0, before - page) // stripe_tokens, max(0, after - page) // stripe_tokens):
            for head in range(at.cache.kv_heads):
                entry = self._entry(at, region, head, stripe)
                if entry.in_flash:
                    self.tables.buffer_free.append(entry.buffer)
                    self.set_entry(at, region, head, stripe,
                                    dataclasses.replace(entry, buffer=0, in_dram=False))

    # -- freeing -------------------------------------------------------------------------------
    def free(self, number: int) -> None:
        """Drop a sequence: buffers in map order, then superblocks, erased, in list order."""
        sequence = self.tables.sequences.pop(number)
        cache = self.tables.caches[sequence.cache]
        layers = [Layer(number=number, sequence=sequence, cache=cache, layer=layer)
                  for layer in range(cache.layers)]
        for region in layers[0].regions:
            for at in layers:
                resident = int(self.tables.resident[number, at.layer])
                for head in range(cache.kv_heads):
                    for stripe in range(at.shape_of(region).stripes(self.config, resident)):
                        entry = self._entry(at, region, head, stripe)
                        if entry.in_dram:
                            self.tables.buffer_free.append(entry.buffer)
        for superblock in self.tables.superblocks[number]:
            if self._erase(superblock):
                self.tables.erased[superblock] = True
                self.tables.superblock_free.append(superblock)
        self.clear(number)

    def clear(self, number: int) -> None:
        """Empty tables of a sequence number."""
        self.tables.superblocks[number] = []
        self.tables.row_count[number] = 0
        self.tables.resident[number] = 0
        self.drop_arrays(number)
