# SPDX-License-Identifier: Apache-2.0
"""Group maxima of a head, and the keys that are made of them: on chip, and what has no place there in
DRAM."""

from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, connect, flipped

from instinfer.abi.config import EngineConfig
from instinfer.abi.selection import KEY_BITS, SCORE_BITS

from ..numeric.pipeline import stages
from ..signatures import MemoryReadPort, MemoryWritePort
from ..stream.fifo import BlockFIFO
from ..stream.skid import SkidBuffer
from .linegather import LineGather
from .ports import token_shape
from .scorememory import STRIDE_BITS, ScoreMemory
from .spillports import COLUMNS, keys_beat, spill_write, word_columns
from .spillreader import SpillReader

_SLACK = 12
_PUTS = 3
"""Cycles from a word that is put to the queue for DRAM."""


class ScoreStore(wiring.Component):
    """A `ScoreMemory` for the first rows of a head; those behind them are gathered into lines of device DRAM
    (`LineGather`) and come back row by row for each sweep (`SpillReader`).

    Row r holds groups r * lanes to r * lanes + lanes - 1, each with a word for every pass. On chip are the
    rows before ``score_groups`` / lanes, less those that take places of other passes; heads that end there
    never touch DRAM. Keys have places of their own, so that words stay as they are.

    Parameters
    ----------
    config : the engine's configuration
    lanes : groups of a row
    key_latency : most cycles from a row that is read to its keys

    Members
    -------
    passes, stride : of the head, constant from its first ``put`` on: words of a group, and log2 of its places
        on chip
    rows : of the head
    put, put_ready : the maxima of ``put_group`` for ``put_pass``; on chip they are there for a row that is
        read 2 cycles later
    sweep : pulse: all rows will be read once, in order, the passes of each in order; ``sweep_keys``: their
        keys, one each. A head's words, and later its keys, have to be settled before
    row, pass_, final, read, ready : the row that is read when both are 1, ``final`` its last pass; row is 0
        from the cycle of ``sweep`` on. Once its pass 0 is ready, so are the others in the cycles that follow
    words, found_keys : of the row that was read ``latency`` cycles before
    key_valid, key_row, keys : keys of a row; no back-pressure (``ready`` sees to room)
    settle : nothing more is put, and no key comes, until ``settled``: DRAM has everything
    spilled : pulse, a word went to DRAM
    error : pulse, DRAM refused something; before the last row it concerns is read, or ``settled``

    Throughput: a word per cycle in, a row per cycle out; of rows in DRAM those of `LineGather` and
    `SpillReader`.
    """

    latency = ScoreMemory.latency + 1

    def __init__(self, *, config: EngineConfig, lanes: int, key_latency: int) -> None:
        self._config, self._lanes = config, lanes
        self._kept = config.score_groups // lanes
        self._queue_room = _SLACK - 6
        self._queue_depth = 1 << (key_latency + _SLACK - 1).bit_length()
        self._reader = SpillReader(config=config, lanes=lanes)
        number = range(max(2, config.passes_max))
        rows = -(-config.max_context // lanes)
        super().__init__({
            "passes": In(range(config.passes_max + 1)), "stride": In(STRIDE_BITS),
            "rows": In(range(rows + 1)),
            "put": In(1), "put_ready": Out(1), "put_group": In(token_shape(config)), "put_pass": In(number),
            "maxima": In(signed(SCORE_BITS)).array(config.queries),
            "sweep": In(1), "sweep_keys": In(1),
            "row": In(range(max(2, rows))), "pass_": In(number), "final": In(1),
            "read": In(1), "ready": Out(1),
            "words": Out(signed(SCORE_BITS)).array(lanes, config.queries),
            "found_keys": Out(KEY_BITS).array(lanes),
            "key_valid": In(1), "key_row": In(range(max(2, rows))), "keys": In(KEY_BITS).array(lanes),
            "settle": In(1), "settled": Out(1), "spilled": Out(1), "error": Out(1),
            "source": Out(MemoryReadPort()), "target": Out(MemoryWritePort()),
        })

    @property
    def cycles_per_row(self) -> int:
        """Of a row of words in DRAM, for each pass."""
        return self._reader.cycles_per_row

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lane_bits = self._lanes.bit_length() - 1
        m.submodules.memory = memory = ScoreMemory(
            lanes=self._lanes, queries=self._config.queries, rows=self._kept, passes=self._config.passes_max)
        m.submodules.reader = reader = self._reader
        connect(m, reader.memory, flipped(self.source))
        border = Signal(range(self._kept + 1))
        last_kept = Signal.like(border)
        put = stages(m, self.put, 1, name="put", reset=True)[1]
        group, number = (stages(m, port, 1, name=name)[1] for port, name in (
            (self.put_group, "put_group"), (self.put_pass, "put_pass")))
        maxima = [stages(m, each, 1, name=f"maximum_{query}")[1] for query, each in enumerate(self.maxima)]
        put_out = stages(m, self.put_group[lane_bits:] >= border, 1, name="put_beyond")[1]
        key_out, out = self.key_row >= border, Signal()
        m.d.sync += [
            border.eq(self._kept >> self.stride),
            last_kept.eq(Mux(self._kept >> self.stride == 0, 0, (self._kept >> self.stride) - 1)),
            out.eq(Mux(self.read & self.final, self.row >= last_kept, self.row >= border)),
        ]
        m.d.comb += [
            memory.stride.eq(self.stride),
            memory.put.eq(put & ~put_out), memory.put_group.eq(group),
            memory.put_pass.eq(number), memory.row.eq(self.row), memory.pass_.eq(self.pass_),
            memory.key_valid.eq(self.key_valid & ~key_out), memory.key_row.eq(self.key_row),
            *(mine.eq(given) for mine, given in zip(memory.keys, self.keys, strict=True)),
            *(mine.eq(given) for mine, given in zip(memory.maxima, maxima, strict=True)),
        ]
        key_room = self._write(m, put, group, number, maxima, put_out, key_out)
        beyond, first, words = Signal.like(self.rows), Signal.like(reader.first), Signal.like(reader.rows)
        column_bits = COLUMNS.bit_length() - 1
        more = stages(m, self.rows > border, 1, name="more")[1]
        m.d.sync += [
            beyond.eq(Mux(more, self.rows - border, 0)), words.eq(self._times_passes(beyond)),
            first.eq(self._times_passes(border) * (self._lanes * word_columns(self._config)) >> column_bits),
        ]
        m.d.sync += [
            reader.start.eq(self.sweep & (beyond != 0)), reader.keys.eq(self.sweep_keys),
            reader.rows.eq(Mux(self.sweep_keys, beyond, words)),
            reader.first.eq(Mux(self.sweep_keys,
                                keys_beat(self._config) + (border * self._lanes >> column_bits), first)),
        ]
        self._give(m, memory, reader, out, key_room)
        return m

    def _times_passes(self, rows: Value) -> Value:
        """Words of so many rows, a lane's."""
        return sum((Mux(bit, rows << index, 0) for index, bit in enumerate(self.passes)), start=Value.cast(0))

    def _write(self, m: Module, put_1: Value, group_1: Value, number_1: Value, maxima_1: list[Value],
               put_out: Value, key_out: Value) -> Value:
        """Words and keys that have no place on chip. Returns: room for the keys of one more row."""
        config = self._config
        m.submodules.gather = gather = LineGather(config=config)
        m.submodules.queue = queue = BlockFIFO(shape=spill_write(config), depth=self._queue_depth)
        m.submodules.skid = skid = SkidBuffer(shape=spill_write(config))
        connect(m, queue.o, skid.i)
        connect(m, skid.o, gather.i)
        connect(m, gather.memory, flipped(self.target))
        lane_bits, column_bits = self._lanes.bit_length() - 1, COLUMNS.bit_length() - 1
        wide = word_columns(config)
        word_bits = column_bits - (wide - 1).bit_length()
        waiting: Any = Signal(spill_write(config), reset_less=True)
        waits = Signal()
        put = stages(m, put_1 & put_out, 1, name="put_out", reset=True)[1]
        lane, number = (stages(m, value, 1, name=name)[1] for value, name in (
            (group_1[:lane_bits], "put_lane"), (number_1, "put_number")))
        maxima = [stages(m, each, 1, name=f"maximum_out_{query}")[1] for query, each in enumerate(maxima_1)]
        words = stages(m, self._times_passes(group_1[lane_bits:]), 1, name="words")[1]
        empty, room = Signal(), Signal()
        word = Signal(range(config.passes_max * config.max_context + self._lanes))
        key = Signal(range(config.max_context + self._lanes))
        m.d.comb += [
            word.eq(((words + number) << lane_bits) | lane),
            key.eq(self.key_row << lane_bits),
            self.spilled.eq(put), queue.i.valid.eq(waits), queue.i.payload.eq(waiting),
            self.put_ready.eq(room),
            empty.eq(self.settle & ~put_1 & ~put & ~waits & (queue.level == 0) & (skid.level == 0)),
            self.error.eq(gather.error | self._reader.error),
        ]
        m.d.sync += [
            waits.eq(put | (self.key_valid & key_out)), room.eq(queue.level <= self._queue_depth - _PUTS - 2),
            gather.flush.eq(empty), self.settled.eq(empty & gather.settled),
        ]
        with m.If(put):
            m.d.sync += [
                waiting.beat.eq(word >> word_bits),
                waiting.enable.eq(((1 << wide) - 1) << wide * word[:word_bits]),
                *(waiting.columns[column].eq(maxima[column % wide])
                  for column in range(COLUMNS) if column % wide < config.queries),
            ]
        with m.Else():
            m.d.sync += [
                waiting.beat.eq(keys_beat(config) + (key >> column_bits)),
                waiting.enable.eq(((1 << self._lanes) - 1) << key[:column_bits]),
                *(waiting.columns[column].eq(self.keys[column % self._lanes]) for column in range(COLUMNS)),
            ]
        key_room = Signal()
        m.d.sync += key_room.eq(queue.level <= self._queue_room)
        return key_room

    def _give(self, m: Module, memory: ScoreMemory, reader: SpillReader, out: Value, key_room: Value) -> None:
        """Words of the row that was read, wherever it was. A row in DRAM begins when all of its passes are
        here, since they are read in consecutive cycles."""
        wide = word_columns(self._config)
        depth = 1 << (2 * self._config.passes_max + ScoreMemory.latency + 3).bit_length()
        waiting: Memory = Memory(shape=len(reader.row), depth=depth, init=[])
        m.submodules.waiting = waiting
        write, read = waiting.write_port(), waiting.read_port(domain="comb")
        put, get, level = Signal(range(depth)), Signal(range(depth)), Signal(range(depth + 1))
        keyed, room = Signal(), Signal()
        with m.If(self.sweep):
            m.d.sync += keyed.eq(self.sweep_keys)
        # Its words are here; one that is asked for in this cycle is no longer. It leaves the ring when one
        # from on chip would be there.
        whole, taken, here = Signal(), Signal(), Signal.like(level)
        need = Mux(keyed, 1, self.passes)
        leaves, beyond = stages(m, taken, ScoreMemory.latency, name="beyond", reset=True)[-2:]
        m.d.sync += [
            put.eq(put + reader.valid), get.eq(get + leaves), level.eq(level + reader.valid - leaves),
            room.eq(level < depth - 2), here.eq(here + reader.valid - taken),
            whole.eq(Mux(taken, here > need, here >= need)),
        ]
        m.d.comb += [
            write.addr.eq(put), write.data.eq(reader.row), write.en.eq(reader.valid), read.addr.eq(get),
            reader.room.eq(room),
            self.ready.eq(~out | (self.pass_ != 0) | (whole & key_room)),
            taken.eq(self.read & self.ready & out),
        ]
        late = stages(m, read.data, 1, name="late")[1]
        for lane in range(self._lanes):
            m.d.sync += self.found_keys[lane].eq(
                Mux(beyond, late.word_select(lane, SCORE_BITS), memory.found_keys[lane]))
            for query in range(self._config.queries):
                column = late.word_select(lane * wide + query, SCORE_BITS)
                m.d.sync += self.words[lane][query].eq(Mux(beyond, column, memory.words[lane][query]))
