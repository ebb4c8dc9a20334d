# SPDX-License-Identifier: Apache-2.0
"""Sums of V of a layer's heads, kept up by every write (``sparf.value_units``, `CacheWord.sum_bytes`)."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig

from ..signatures import AXI_BYTES, MEMORY_READ_DATA, MemoryReadPort, MemoryWritePort
from ..stream.fifo import StreamFIFO
from .dimplaces import UNIT_DIMS
from .pieces import ROW_BEATS_LOG2, SLOT_BEATS
from .ports import DRAM_BITS, ROWS_LOG2, Geometry
from .valueadder import HALF_SUMS, READ_NOTE, SUM_BITS, ReadOp, ValueAdder

SUM_JOB = data.StructLayout({
    "sums": DRAM_BITS, "fresh": 1, "first": 9, "tokens": 10, "heads": 8, "units": 4, "rows_log2": 3,
    "int8": 1,
})
"""``tokens`` rows of V from position ``first`` of a stripe, of all heads, go into the sums from ``sums`` on;
``fresh``: they are the first ones. ``units``: head dim in units of UNIT_DIMS."""
SUM_RESULT = data.StructLayout({"error": 1})
BUFFER_BEATS = 2 * SLOT_BEATS
NOTES = 8
UNIT_BEATS = UNIT_DIMS // HALF_SUMS
UNIT_BYTES_LOG2 = (UNIT_DIMS * SUM_BITS // 8).bit_length() - 1


class ValueSums(wiring.Component):
    """Adds rows of V that have been stored to the sums of their heads in device DRAM, head by head: sums in,
    rows in, sums out.

    Parameters
    ----------
    config : the engine's configuration

    Members
    -------
    jobs, results : one result per job, when DRAM has acknowledged everything; ``error``: DRAM refused a beat,
        and the sums have no meaning
    lookup_head, lookup_buffer : the heads' stripe buffers, 1 cycle later
    read, write : device DRAM

    Latency: per head a round trip of DRAM, 10 cycles, and for each row a cycle per 8 dims, padding included;
    2 for each 8 dims of the sums. At the end one more round trip. Back-pressure: DRAM may stall for any time;
    what is asked for has room here.
    """

    def __init__(self, *, config: EngineConfig):
        self.config = config
        super().__init__({
            "jobs": In(stream.Signature(SUM_JOB)), "results": Out(stream.Signature(SUM_RESULT)),
            "lookup_head": Out(range(max(2, config.max_kv_heads))), "lookup_buffer": In(16),
            "read": Out(MemoryReadPort()), "write": Out(MemoryWritePort()),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        g = Geometry(self.config)
        job: Any = self.jobs.payload
        m.submodules.adder = adder = ValueAdder()
        m.submodules.notes = notes = StreamFIFO(shape=READ_NOTE, depth=NOTES)
        m.submodules.beats = beats = StreamFIFO(shape=MEMORY_READ_DATA, depth=BUFFER_BEATS)
        wiring.connect(m, notes.o, adder.notes)
        wiring.connect(m, beats.o, adder.beats)
        wiring.connect(m, wiring.flipped(self.read.data), beats.i)
        head = Signal(range(self.config.max_kv_heads + 1))
        sums, rows, scales = Signal(DRAM_BITS), Signal(DRAM_BITS), Signal(DRAM_BITS)
        position, left = Signal(9), Signal(10)
        half = Signal(range(2 * BUFFER_BEATS))
        pending = Signal(range(self.config.max_kv_heads + 1))
        m.d.comb += [
            self.lookup_head.eq(head), adder.fresh.eq(job.fresh), adder.wide.eq(job.rows_log2 == (
                ROWS_LOG2[0] + job.int8)), adder.int8.eq(job.int8), adder.half.eq(half),
        ]
        row, room = Signal(max(ROWS_LOG2)), Signal(5)
        pair = Signal(len(position) - ROWS_LOG2[0])
        part = Mux(left < room, left, room)
        m.d.comb += [
            row.eq(g.by_rows(job.rows_log2, *(position[:bits] for bits in ROWS_LOG2))),
            pair.eq(g.by_rows(job.rows_log2, *(position >> bits for bits in ROWS_LOG2))),
            room.eq(g.by_rows(job.rows_log2, *(1 << bits for bits in ROWS_LOG2)) - row),
        ]
        row_beats_log2 = [ROW_BEATS_LOG2 - bits for bits in ROWS_LOG2]
        within = g.by_rows(job.rows_log2, *(row << bits for bits in row_beats_log2))
        span = g.by_rows(job.rows_log2, *(part << bits for bits in row_beats_log2))
        ask = self._asker(m, notes, beats)
        answered = self.write.response.valid & self.write.response.ready
        announced = self.write.request.valid & self.write.request.ready
        m.d.sync += pending.eq(pending + announced - answered)
        failed = self.results.payload.error
        with m.If((answered & self.write.response.payload.error)
                  | (beats.o.valid & beats.o.ready & beats.o.payload.error)):
            m.d.sync += failed.eq(1)
        sum_beats = job.units << (UNIT_BEATS.bit_length() - 1)
        m.d.comb += [
            self.write.request.payload.address.eq(sums), self.write.request.payload.beats.eq(sum_beats),
            self.write.data.payload.data.eq(adder.sums), self.write.data.payload.strobe.eq(~0),
            self.write.data.payload.last.eq(half == sum_beats - 1), self.write.response.ready.eq(1),
        ]

        def read_part() -> None:
            m.next = "READ_ROWS"
            with m.If(job.int8):
                m.next = "READ_SCALES"

        with m.FSM():
            with m.State("TAKE_JOB"):
                m.d.sync += [head.eq(0), sums.eq(job.sums), failed.eq(0)]
                with m.If(self.jobs.valid):
                    m.next = "LOOK_UP"
            with m.State("LOOK_UP"):
                m.next = "BEGIN_HEAD"
            with m.State("BEGIN_HEAD"):
                m.d.comb += adder.start.eq(1)
                m.d.sync += [
                    rows.eq(g.buffer_address(self.lookup_buffer)),
                    scales.eq(g.scale_address(self.lookup_buffer)), half.eq(0),
                    position.eq(job.first), left.eq(job.tokens),
                ]
                m.next = "READ_SUMS"
                with m.If(job.fresh):
                    read_part()
            with m.State("READ_SUMS"), m.If(ask(ReadOp.SUMS, sums, sum_beats)):
                read_part()
            # Of a pair of slots the second one holds V, and so do the second 32 bytes of its scales.
            with m.State("READ_SCALES"), m.If(
                    ask(ReadOp.SCALES, scales + Cat(Const(AXI_BYTES, 6), pair), Const(1))):
                m.next = "READ_ROWS"
            with m.State("READ_ROWS"), m.If(
                    ask(ReadOp.ROWS, rows | Cat(Const(0, 5), within[:5], Const(1, 1), pair), span, row)):
                m.d.sync += [position.eq(position + part), left.eq(left - part)]
                read_part()
                with m.If(left == part):
                    m.next = "ADD"
            with m.State("ADD"), m.If(self._asked == 0), m.If(adder.idle & (notes.level == 0)):
                m.next = "ANNOUNCE_SUMS"
            with m.State("ANNOUNCE_SUMS"):
                m.d.comb += self.write.request.valid.eq(1)
                with m.If(self.write.request.ready):
                    m.next = "WRITE_SUMS"
            with m.State("WRITE_SUMS"):
                m.d.comb += self.write.data.valid.eq(1)
                with m.If(self.write.data.ready):
                    m.d.sync += half.eq(half + 1)
                    with m.If(self.write.data.payload.last):
                        m.d.sync += [head.eq(head + 1), sums.eq(sums + (job.units << UNIT_BYTES_LOG2))]
                        m.next = "LOOK_UP"
                        with m.If(head == job.heads - 1):
                            m.next = "WAIT_FOR_DRAM"
            with m.State("WAIT_FOR_DRAM"), m.If(pending == 0):
                m.d.comb += self.jobs.ready.eq(1)
                m.next = "ANSWER"
            with m.State("ANSWER"):
                m.d.comb += self.results.valid.eq(1)
                with m.If(self.results.ready):
                    m.next = "TAKE_JOB"
        return m

    def _asker(self, m: Module, notes: StreamFIFO, beats: StreamFIFO) -> Any:
        """Reads of DRAM, each noted for the adder, when there is room for all of it."""
        request = self.read.request
        self._asked = asked = Signal(range(BUFFER_BEATS + 1))
        taken = request.valid & request.ready
        m.d.sync += asked.eq(asked + Mux(taken, request.payload.beats, 0)
                             - (beats.o.valid & beats.o.ready))
        m.d.comb += notes.i.valid.eq(taken)

        def ask(op: ReadOp, address: Value, count: Value, row: Any = 0) -> Value:
            """Returns: it is asked for."""
            m.d.comb += [
                request.valid.eq(notes.i.ready & (asked <= BUFFER_BEATS - SLOT_BEATS)),
                request.payload.address.eq(address), request.payload.beats.eq(count),
                notes.i.payload.op.eq(op), notes.i.payload.row.eq(row),
            ]
            return taken

        return ask
