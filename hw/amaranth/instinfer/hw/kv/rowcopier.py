# SPDX-License-Identifier: Apache-2.0
"""Rows from host memory into stripe buffers."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig

from ..signatures import AXI_BYTES, MEMORY_READ_DATA, MemoryReadPort, MemoryWritePort
from ..stream.fifo import StreamFIFO
from .ports import COPY_JOB, COPY_RESULT, Geometry

CHUNK_BEATS = 64
"""Beats of one host request (2 KiB): long bursts, and no user of host memory waits long for its turn."""
BUFFER_BEATS = 512
"""Beats asked for and not written yet: covers 2.5 us of host latency at full rate and 200 MHz."""


def not_finite(beat: Value) -> Value:
    """One of a beat's fp16 elements is NaN or Inf."""
    return Cat(beat[low + 10:low + 15].all() for low in range(0, len(beat), 16)).any()


class RowCopier(wiring.Component):
    """Copies rows (tokens, heads, head_dim) of K or V to their places in the heads' stripe buffers.

    Rows of 80 and 96 dims are filled up with zeros. A job with an error is copied to its end all the same.

    Parameters
    ----------
    config : the engine's configuration

    Members
    -------
    jobs, results : one result per job, when DRAM has acknowledged every row
    buffer_write, buffer_head, buffer : table head -> stripe buffer, filled before a job
    lookup_head, lookup_buffer : the same table read by the owner of the jobs, 1 cycle later
    source, target : host memory and device DRAM

    Latency: a round trip of host memory and one of DRAM, plus 8 cycles. Throughput: one 32-byte beat per
    cycle, padding included; one row per 2 cycles at most. Back-pressure: both memories may stall for any
    time; host data are always taken (they are asked for when there is room), and a row is announced to DRAM
    when all of it is here.
    """

    def __init__(self, *, config: EngineConfig):
        self.config = config
        heads = range(max(2, config.max_kv_heads))
        super().__init__({
            "jobs": In(stream.Signature(COPY_JOB)),
            "results": Out(stream.Signature(COPY_RESULT)),
            "buffer_write": In(1), "buffer_head": In(heads), "buffer": In(16),
            "lookup_head": In(heads), "lookup_buffer": Out(16),
            "source": Out(MemoryReadPort()),
            "target": Out(MemoryWritePort()),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        geometry = Geometry(self.config)
        job = self.jobs.payload
        heads = max(2, self.config.max_kv_heads)
        buffers: memory.Memory = memory.Memory(shape=16, depth=heads, init=[])
        m.submodules.buffers = buffers
        table, lookup, write = buffers.read_port(), buffers.read_port(), buffers.write_port()
        m.d.comb += [
            write.en.eq(self.buffer_write), write.addr.eq(self.buffer_head), write.data.eq(self.buffer),
            lookup.addr.eq(self.lookup_head), self.lookup_buffer.eq(lookup.data),
        ]
        start, running = Signal(), Signal()
        rows = Signal(16)
        beats_left = Signal(20)
        rows_left = Signal(16)
        responses_left = Signal(16)
        granted = Signal(17)
        m.submodules.beats = beats = StreamFIFO(shape=MEMORY_READ_DATA, depth=BUFFER_BEATS)
        wiring.connect(m, wiring.flipped(self.source.data), beats.i)
        complete = self._count_beats(m, beats)
        self._read_source(m, start, beats_left, beats)
        self._request_target(m, start, geometry, table, complete)
        data_row_end = self._move_rows(m, granted, beats)
        taken = self.target.request.valid & self.target.request.ready
        m.d.sync += granted.eq(granted + taken - data_row_end)
        with m.If(data_row_end):
            m.d.sync += rows_left.eq(rows_left - 1)
        m.d.comb += self.target.response.ready.eq(running)
        answered = self.target.response.valid & self.target.response.ready
        result = self.results.payload
        with m.If(answered):
            m.d.sync += responses_left.eq(responses_left - 1)
            with m.If(self.target.response.payload.error):
                m.d.sync += result.dram_error.eq(1)
        arrived = self.source.data.valid & self.source.data.ready
        with m.If(arrived):
            m.d.sync += [
                result.host_error.eq(result.host_error | self.source.data.payload.error),
                result.not_finite.eq(result.not_finite | not_finite(self.source.data.payload.data)),
            ]
        with m.FSM():
            with m.State("TAKE_JOB"), m.If(self.jobs.valid):
                m.d.sync += [rows.eq(job.tokens * job.heads), Value.cast(result).eq(0)]
                m.next = "MULTIPLY"
            with m.State("MULTIPLY"):
                m.d.comb += start.eq(1)
                m.d.sync += [beats_left.eq(rows * job.beats), rows_left.eq(rows), responses_left.eq(rows)]
                m.next = "COPY"
            with m.State("COPY"):
                m.d.comb += running.eq(1)
                with m.If((rows_left == 0) & (responses_left == 0)):
                    m.d.comb += self.jobs.ready.eq(1)
                    m.next = "ANSWER"
            with m.State("ANSWER"):
                m.d.comb += self.results.valid.eq(1)
                with m.If(self.results.ready):
                    m.next = "TAKE_JOB"
        return m

    def _count_beats(self, m: Module, beats: StreamFIFO) -> Value:
        """Returns: a whole row has come that was not announced yet."""
        waiting = Signal(range(BUFFER_BEATS + 1))
        came = beats.i.valid & beats.i.ready
        announced = self.target.request.valid & self.target.request.ready
        m.d.sync += waiting.eq(waiting + came - Mux(announced, self.jobs.payload.beats, 0))
        return waiting >= self.jobs.payload.beats

    def _read_source(self, m: Module, start: Signal, beats_left: Signal, beats: StreamFIFO) -> None:
        """Host requests, one chunk after the other, when there is room."""
        request = self.source.request
        reserved = Signal(range(BUFFER_BEATS + 1))
        asked = request.valid & request.ready
        m.d.sync += reserved.eq(
            reserved + Mux(asked, request.payload.beats, 0) - (beats.o.valid & beats.o.ready))
        m.d.comb += [
            request.valid.eq((beats_left != 0) & (reserved <= BUFFER_BEATS - CHUNK_BEATS)),
            request.payload.beats.eq(Mux(beats_left > CHUNK_BEATS, CHUNK_BEATS, beats_left)),
        ]
        with m.If(start):
            m.d.sync += request.payload.address.eq(self.jobs.payload.address)
        with m.If(request.valid & request.ready):
            m.d.sync += [
                beats_left.eq(beats_left - request.payload.beats),
                request.payload.address.eq(request.payload.address + CHUNK_BEATS * AXI_BYTES),
            ]

    def _request_target(self, m: Module, start: Signal, geometry: Geometry, table: Any,
                        complete: Value) -> None:
        """DRAM requests, one per row, tokens outside, heads inside."""
        job, request = self.jobs.payload, self.target.request
        token, head = Signal(9), Signal(range(max(2, self.config.max_kv_heads) + 1))
        position = Signal(9)
        offset = Signal(geometry.stripe_bytes_log2)
        m.d.comb += [
            position.eq(job.first + token),
            offset.eq(Mux(
                job.wide,
                Cat(Const(0, 8), position[:2], job.value, position[2:]),
                Cat(Const(0, 7), position[:3], job.value, position[3:]))),
            table.addr.eq(head),
            request.payload.beats.eq(Mux(job.wide, 8, 4)),
        ]
        with m.FSM(name="rows"):
            with m.State("IDLE"), m.If(start):
                m.d.sync += [token.eq(0), head.eq(0)]
                m.next = "LOOK_UP"
            with m.State("LOOK_UP"):
                m.next = "ADDRESS"
            with m.State("ADDRESS"):
                m.d.sync += request.payload.address.eq(
                    geometry.buffer_address(table.data) | offset)
                m.d.sync += head.eq(head + 1)
                with m.If(head == job.heads - 1):
                    m.d.sync += [head.eq(0), token.eq(token + 1)]
                m.next = "REQUEST"
            with m.State("REQUEST"):
                m.d.comb += request.valid.eq(complete)
                with m.If(request.valid & request.ready):
                    m.next = "ADDRESS"
                    with m.If((head == 0) & (token == job.tokens)):
                        m.next = "IDLE"

    def _move_rows(self, m: Module, granted: Signal, beats: StreamFIFO) -> Value:
        """Data beats, those beyond the row's own are zero. Returns: the last beat of a row moves."""
        job, source, target = self.jobs.payload, beats.o, self.target.data
        beat = Signal(4)
        real = beat < job.beats
        open_row = granted != 0
        m.d.comb += [
            target.valid.eq(open_row & (source.valid | ~real)),
            source.ready.eq(open_row & real & target.ready),
            target.payload.data.eq(Mux(real, source.payload.data, 0)),
            target.payload.strobe.eq(~0),
            target.payload.last.eq(beat == Mux(job.wide, 7, 3)),
        ]
        moved = target.valid & target.ready
        with m.If(moved):
            m.d.sync += beat.eq(Mux(target.payload.last, 0, beat + 1))
        return moved & target.payload.last
