# SPDX-License-Identifier: Apache-2.0
"""Query sketches of a head, from host memory to the scorers."""

from typing import Any

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import QUERY_HEADS_MAX, EngineConfig
from instinfer.abi.layout import HOST_BEAT_BYTES, SKETCH_DIMS, SKETCH_OFFSET

from ..selection.ports import EXPONENT_BITS, query_sketch_beat
from ..signatures import BEAT_BITS, MEMORY_READ_DATA, MemoryReadPort
from ..stream.fifo import StreamFIFO
from .headports import SKETCH_LOAD

BUFFER_BEATS = QUERY_HEADS_MAX * -(-(SKETCH_OFFSET + max(SKETCH_DIMS)) // HOST_BEAT_BYTES)
"""The largest head: 8 queries of 64 dims."""
_HALF = BEAT_BITS // 2


class QuerySketchReader(wiring.Component):
    """Reads the query sketches of one KV head and sends their dims (`abi.layout.SketchShape.query_bytes`).

    Parameters
    ----------
    config : the engine's configuration

    Members
    -------
    loads : heads; taken when all of a head's sketches are in the scorers
    queries : to a `SketchQueryLoader`
    idle : that one has written what was sent
    error : pulse with the ``head_slot`` of the load: the host refused a beat (the sketches are sent with what
        came)
    bad_exponent : likewise: an exponent is outside EXPONENT_MIN to EXPONENT_MAX
    loaded : likewise: the load is taken
    memory : host memory

    Latency: a round trip of host memory and 4 cycles. Throughput: eight dims per cycle and a cycle per
    record, one head at a time. Back-pressure: ``queries`` may stall for any time; host data are always taken.
    """

    def __init__(self, *, config: EngineConfig):
        self._config = config
        pulse = wiring.Signature({"valid": Out(1), "head_slot": Out(range(config.head_slots))})
        super().__init__({
            "loads": In(stream.Signature(SKETCH_LOAD)),
            "queries": Out(stream.Signature(query_sketch_beat(config))), "idle": In(1),
            "error": Out(pulse), "bad_exponent": Out(pulse), "loaded": Out(pulse),
            "memory": Out(MemoryReadPort()),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.beats = beats = StreamFIFO(shape=MEMORY_READ_DATA, depth=BUFFER_BEATS)
        wiring.connect(m, wiring.flipped(self.memory.data), beats.i)
        load: Any = self.loads.payload
        beat: Any = self.queries.payload
        source = beats.o
        count, word = Signal(4), Signal(4)
        row, head_slot = Signal.like(beat.query), Signal.like(beat.head_slot)
        kept, exponent = Signal(_HALF), Signal(EXPONENT_BITS)
        now = Signal(BEAT_BITS)
        first, moved = Signal(), Signal()
        m.d.comb += [
            self.memory.request.payload.address.eq(load.address),
            self.memory.request.payload.beats.eq(load.queries * load.beats),
            now.eq(source.payload.data.word_select(word[:2], BEAT_BITS)), first.eq(word == 0),
            # A record's dims begin in the middle of its first word.
            beat.data.eq(Cat(kept, now[:_HALF])), beat.exponent.eq(exponent.as_signed()),
            beat.head_slot.eq(head_slot), beat.query.eq(row), beat.last.eq(word == (load.dims >> 3)),
            beat.size.eq(load.size), beat.bits.eq(load.bits),
            self.loaded.valid.eq(self.loads.valid & self.loads.ready),
            *(pulse.head_slot.eq(load.head_slot) for pulse in (self.loaded, self.error, self.bad_exponent)),
        ]
        with m.FSM():
            with m.State("REQUEST"):
                m.d.comb += self.memory.request.valid.eq(self.loads.valid)
                m.d.sync += [count.eq(0), word.eq(0), row.eq(0), head_slot.eq(load.head_slot)]
                with m.If(self.loads.valid & self.memory.request.ready):
                    m.next = "SEND"
            with m.State("SEND"):
                m.d.comb += [
                    self.queries.valid.eq(source.valid & ~first),
                    moved.eq(source.valid & (first | self.queries.ready)),
                    source.ready.eq(moved & (beat.last | word[:2].all())),
                    self.error.valid.eq(source.ready & source.payload.error),
                    # -64 to 63: the two highest bits are alike.
                    self.bad_exponent.valid.eq(moved & first & (now[7] ^ now[6])),
                ]
                with m.If(moved):
                    m.d.sync += [word.eq(word + 1), kept.eq(now[_HALF:])]
                    with m.If(first):
                        m.d.sync += exponent.eq(now[:EXPONENT_BITS])
                    with m.If(beat.last):
                        m.d.sync += [word.eq(0), row.eq(row + 1), count.eq(count + 1)]
                        with m.If(row == self._config.queries - 1):
                            m.d.sync += [row.eq(0), head_slot.eq(head_slot + 1)]
                        with m.If(count == load.queries - 1):
                            m.next = "LAND"
            with m.State("LAND"), m.If(self.idle):
                m.d.comb += self.loads.ready.eq(1)
                m.next = "REQUEST"
        return m
