# SPDX-License-Identifier: Apache-2.0
"""Query rows of a head, from host memory to the cores."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig

from ..signatures import MEMORY_READ_DATA, MemoryReadPort, query_beat
from ..stream.fifo import StreamFIFO

BUFFER_BEATS = 64
"""The largest head: 8 queries of 128 dims."""
QUERY_LOAD = data.StructLayout({
    "address": 64, "queries": 4, "beats": 4, "wide": 1, "head_slot": 3, "scale2": 32,
})


class QueryLoader(wiring.Component):
    """Reads the query rows of one KV head and sends them, rows filled up with zero beats.

    Query n goes to row n mod Q of head slot (``head_slot`` + n div Q), Q queries to a pass.

    Parameters
    ----------
    config : the engine's configuration

    Members
    -------
    loads : heads; taken when all rows of the head are in the cores
    queries : the rows
    scale2 : of the head whose rows are being sent
    idle : the cores have every row that was sent
    error : pulse with the ``head_slot`` of the load: the host refused a beat (the rows are sent with what
        came)
    loaded : pulse with the ``head_slot`` of the load: it is taken
    memory : host memory

    Latency: a round trip of host memory, 4 cycles, and what ``idle`` takes. Throughput: one query beat per
    cycle, one head at a time. Back-pressure: ``queries`` may stall for any time; host data are always taken.
    """

    def __init__(self, *, config: EngineConfig):
        self.config = config
        pulse = wiring.Signature({"valid": Out(1), "head_slot": Out(range(config.head_slots))})
        super().__init__({
            "loads": In(stream.Signature(QUERY_LOAD)),
            "queries": Out(stream.Signature(query_beat(config))),
            "scale2": Out(32), "idle": In(1),
            "error": Out(pulse), "loaded": Out(pulse),
            "memory": Out(MemoryReadPort()),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        c = self.config
        m.submodules.beats = beats = StreamFIFO(shape=MEMORY_READ_DATA, depth=BUFFER_BEATS)
        wiring.connect(m, wiring.flipped(self.memory.data), beats.i)
        load, beat, source = self.loads.payload, self.queries.payload, beats.o
        count = Signal(4)
        row, head_slot = Signal(range(max(2, c.queries))), Signal.like(beat.head_slot)
        group = Signal(5)
        real = group[2:] < load.beats
        m.d.comb += [
            self.memory.request.payload.address.eq(load.address),
            self.memory.request.payload.beats.eq(load.queries * load.beats),
            beat.head_slot.eq(head_slot), beat.query.eq(row), beat.group.eq(group),
            beat.data.eq(Mux(real, source.payload.data.word_select(group[:2], 64), 0)),
            beat.last.eq(group == Mux(load.wide, 31, 15)),
            self.scale2.eq(load.scale2),
            self.error.head_slot.eq(load.head_slot), self.loaded.head_slot.eq(load.head_slot),
            self.loaded.valid.eq(self.loads.valid & self.loads.ready),
        ]
        with m.FSM():
            with m.State("REQUEST"):
                m.d.comb += self.memory.request.valid.eq(self.loads.valid)
                m.d.sync += [count.eq(0), row.eq(0), head_slot.eq(load.head_slot), group.eq(0)]
                with m.If(self.loads.valid & self.memory.request.ready):
                    m.next = "SEND"
            with m.State("SEND"):
                m.d.comb += self.queries.valid.eq(source.valid | ~real)
                with m.If(self.queries.valid & self.queries.ready):
                    m.d.sync += group.eq(group + 1)
                    with m.If(real & (group[:2] == 3)):
                        m.d.comb += [source.ready.eq(1), self.error.valid.eq(source.payload.error)]
                    with m.If(beat.last):
                        m.d.sync += [group.eq(0), row.eq(row + 1), count.eq(count + 1)]
                        with m.If(row == c.queries - 1):
                            m.d.sync += [row.eq(0), head_slot.eq(head_slot + 1)]
                        with m.If(count == load.queries - 1):
                            m.next = "LAND"
            with m.State("LAND"), m.If(self.idle):
                m.d.comb += self.loads.ready.eq(1)
                m.next = "REQUEST"
        return m
