# SPDX-License-Identifier: Apache-2.0
"""KV_WRITE, KV_APPEND and the append of APPEND_ATTEND: host rows into stripes, full stripes into flash."""

from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.commands import Status, Table
from instinfer.abi.config import EngineConfig
from instinfer.abi.layout import line_stride

from ..signatures import AXI_BYTES
from .access import ConstantDivider, first_channel, pop, write
from .entries import ENTRY_READ, ENTRY_WRITE
from .ports import (
    COPY_JOB,
    COPY_RESULT,
    DRAM_BITS,
    FLUSH_JOB,
    LINE_BITS,
    STRIPE_BITS,
    WRITE_JOB,
    WRITE_RESULT,
    Geometry,
    TablePort,
)


def modulo(value: Value, divisor: int) -> Value:
    """Of a value below twice the divisor."""
    return Mux(value >= divisor, value - divisor, value)


class WriteEngine(wiring.Component):
    """Writes the rows of one command, stripe by stripe.

    For each stripe that the rows touch: a buffer per head (taken from the pool and entered in the map when
    the stripe is new, read from the map when it is partly filled); K rows, then V rows; the resident count;
    then, where one page's worth of tokens now follows the stripe before, that stripe's buffers may go; then,
    when the stripe is full, a program per head. An error leaves the stripe as it was: the resident count does
    not move, and buffers taken for a new stripe return to the pool.

    Parameters
    ----------
    config : the engine's configuration

    Members
    -------
    jobs, results : one result per job; ``status`` is SUCCESS, NOT_FINITE, TRANSFER_ERROR, CAPACITY (no buffer
        left) or INTERNAL; ``resident`` counts what was stored. A full stripe that finds no flash row stays in
        DRAM for good
    tables : access to the tables
    copies, copied, buffer_write, buffer_head, buffer, lookup_head, lookup_buffer : a `RowCopier`
    entry_writes, entries_written, entry_error, entry_clear : an `EntryWriter` and its ``idle``, ``error``,
        ``clear``
    entry_reads, entries : an `EntryReader`
    flush : jobs of the `FlushEngine`
    settled : nothing is under way that could return a buffer to the pool

    Latency: a one-token append takes one round trip of DRAM for the map, one of host memory and DRAM each for
    K and V, and about 5 cycles per head. Throughput: that of the copier; per stripe about 90 cycles per head
    on top. Back-pressure: waits for everything that it uses; for buffers as long as one can still return.
    """

    def __init__(self, *, config: EngineConfig):
        self.config = config
        heads = range(max(2, config.max_kv_heads))
        super().__init__({
            "jobs": In(stream.Signature(WRITE_JOB)),
            "results": Out(stream.Signature(WRITE_RESULT)),
            "tables": Out(TablePort()),
            "copies": Out(stream.Signature(COPY_JOB)),
            "copied": In(stream.Signature(COPY_RESULT)),
            "buffer_write": Out(1), "buffer_head": Out(heads), "buffer": Out(16),
            "lookup_head": Out(heads), "lookup_buffer": In(16),
            "entry_writes": Out(stream.Signature(ENTRY_WRITE)),
            "entries_written": In(1), "entry_error": In(1), "entry_clear": Out(1),
            "entry_reads": Out(stream.Signature(DRAM_BITS)),
            "entries": In(stream.Signature(ENTRY_READ)),
            "flush": Out(stream.Signature(FLUSH_JOB)),
            "settled": In(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        c = self.config
        g = Geometry(c)
        job, layer = self.jobs.payload, self.jobs.payload.layer
        status, resident = self.results.payload.status, self.results.payload.resident
        left = Signal(16)
        address = Signal(64)
        values = Signal(64)
        row_beats = Signal(12)
        stripe, first, count = Signal(STRIPE_BITS), Signal(9), Signal(10)
        head = Signal(range(c.max_kv_heads + 1))
        entry, stride = Signal(DRAM_BITS), Signal(DRAM_BITS)
        asked = Signal.like(head)
        channel, die = Signal(4), Signal(3)
        line = Signal(range(max(2, c.channels)))
        popped = Signal(16)
        fresh, full, settles, value_turn = Signal(), Signal(), Signal(), Signal()
        was_settled = Signal()
        end = Signal(11)
        first_entry = Signal(DRAM_BITS)
        entered = Signal.like(head)
        m.submodules.channels = channels = ConstantDivider(width=STRIPE_BITS, divisor=c.channels)
        m.submodules.lines = lines = ConstantDivider(width=LINE_BITS, divisor=c.channels)
        m.submodules.dies = dies = ConstantDivider(width=STRIPE_BITS + 2, divisor=c.group_dies)
        last_head = head == layer.kv_heads - 1
        per_page = g.per_page(layer.rows_log2)
        m.d.comb += [
            stride.eq(layer.stripes_max << 3),
            end.eq(first + count),
            fresh.eq(first == 0),
            full.eq(end == g.per_stripe(layer.rows_log2)),
            settles.eq((stripe != 0) & (first < per_page) & (end >= per_page)),
            first_entry.eq(layer.map + (stripe << 3)),
            channels.dividend.eq(stripe), lines.dividend.eq(layer.line),
            dies.dividend.eq(channels.quotient + lines.quotient + lines.remainder),
            self.lookup_head.eq(head),
            self.copies.payload.address.eq(Mux(value_turn, values, address)),
            self.copies.payload.tokens.eq(count), self.copies.payload.first.eq(first),
            self.copies.payload.heads.eq(layer.kv_heads), self.copies.payload.beats.eq(layer.beats),
            self.copies.payload.wide.eq(layer.wide), self.copies.payload.rows_log2.eq(layer.rows_log2),
             self.copies.payload.value.eq(value_turn),
            self.entry_writes.payload.address.eq(entry),
            self.entry_writes.payload.entry.dram.buffer.eq(popped),
            self.entry_writes.payload.entry.dram.valid.eq(1),
            self.entry_reads.payload.eq(entry),
        ]
        self._describe_flush(m, stripe, head, entry, channel, die)
        with m.If(self.buffer_write):
            m.d.sync += entered.eq(self.buffer_head + 1)

        def next_head() -> None:
            m.d.sync += [head.eq(head + 1), entry.eq(entry + stride)]

        def fail(code: Status, *, buffers: bool) -> None:
            m.d.sync += status.eq(code)
            m.next = "END_FAILED" if buffers else "END_JOB"

        with m.FSM():
            with m.State("TAKE_JOB"), m.If(self.jobs.valid):
                m.d.sync += [
                    status.eq(Status.SUCCESS), resident.eq(job.resident), left.eq(job.tokens),
                    address.eq(job.keys), values.eq(job.values), row_beats.eq(layer.kv_heads * layer.beats),
                ]
                m.d.comb += self.entry_clear.eq(1)
                m.next = "SPLIT"
                with m.If(job.tokens == 0):
                    m.next = "END_JOB"
            with m.State("SPLIT"):
                m.d.sync += [
                    stripe.eq(g.stripe_of(resident, layer.rows_log2)),
                    first.eq(g.within(resident, layer.rows_log2)),
                ]
                m.next = "COUNT_TOKENS"
            with m.State("COUNT_TOKENS"):
                room = g.per_stripe(layer.rows_log2) - first
                m.d.sync += [count.eq(Mux(left < room, left, room)), head.eq(0), asked.eq(0),
                             entry.eq(first_entry),
                             entered.eq(0)]
                m.d.comb += [channels.start.eq(1), lines.start.eq(1)]
                m.next = "READ_MAP"
                with m.If(fresh):
                    m.next = "NOTE_POOL"
            self._take_buffers(m, popped, was_settled, last_head, next_head, fail)
            with m.State("READ_MAP"):
                m.d.comb += [self.entry_reads.valid.eq(asked != layer.kv_heads), self.entries.ready.eq(1)]
                with m.If(self.entry_reads.valid & self.entry_reads.ready):
                    m.d.sync += [asked.eq(asked + 1), entry.eq(entry + stride)]
                with m.If(self.entries.valid):
                    m.d.comb += [
                        self.buffer_write.eq(1), self.buffer_head.eq(head),
                        self.buffer.eq(self.entries.payload.entry.dram.buffer),
                    ]
                    m.d.sync += head.eq(head + 1)
                    with m.If(self.entries.payload.error):
                        m.d.sync += status.eq(Status.INTERNAL)
                    with m.If(last_head):
                        m.next = "START_COPY"
            with m.State("START_COPY"):
                m.d.comb += self.copies.valid.eq(status == Status.SUCCESS)
                with m.If(status != Status.SUCCESS):
                    m.next = "END_FAILED"
                with m.Elif(self.copies.ready):
                    m.next = "WAIT_FOR_COPY"
            with m.State("WAIT_FOR_COPY"):
                m.d.comb += self.copied.ready.eq(1)
                with m.If(self.copied.valid):
                    m.d.sync += value_turn.eq(~value_turn)
                    m.next = "START_COPY"
                    with m.If(value_turn):
                        m.next = "WAIT_FOR_MAP"
                    for error, code in (("not_finite", Status.NOT_FINITE),
                                        ("host_error", Status.TRANSFER_ERROR),
                                        ("dram_error", Status.INTERNAL)):
                        with m.If(getattr(self.copied.payload, error)):
                            m.d.sync += [status.eq(code), value_turn.eq(0)]
                            m.next = "END_FAILED"
            with m.State("WAIT_FOR_MAP"), m.If(self.entries_written & channels.done & lines.done):
                m.d.sync += [resident.eq(resident + count), left.eq(left - count)]
                m.d.comb += dies.start.eq(1)
                m.next = "MOVE_RESIDENT"
                with m.If(self.entry_error):
                    m.d.sync += [resident.eq(resident), left.eq(left)]
                    fail(Status.INTERNAL, buffers=True)
            index = layer.sequence * c.max_layers + layer.layer
            with m.State("MOVE_RESIDENT"), m.If(write(m, self.tables, Table.RESIDENT, index, resident)):
                step = (count * row_beats) * AXI_BYTES
                m.d.sync += [
                    address.eq(address + step), values.eq(values + step), head.eq(0),
                    entry.eq(first_entry - 8),
                ]
                m.next = "SETTLE"
            with m.State("SETTLE"):
                m.d.comb += [self.flush.valid.eq(settles & dies.done), self.flush.payload.settle.eq(1),
                             self.flush.payload.stripe.eq(stripe - 1)]
                with m.If(dies.done & (~settles | self.flush.ready)):
                    m.d.sync += [
                        entry.eq(first_entry), line.eq(lines.remainder), die.eq(dies.remainder),
                        channel.eq(modulo(first_channel(c, lines.remainder) + channels.remainder,
                                          c.channels)),
                    ]
                    m.next = "LOOK_UP_BUFFER"
                    with m.If(~full):
                        m.next = "NEXT_STRIPE"
            self._queue_programs(m, line, channel, die, last_head, next_head)
            with m.State("NEXT_STRIPE"):
                m.next = "SPLIT"
                with m.If((left == 0) | (status != Status.SUCCESS)):
                    m.next = "END_JOB"
            self._end_failed(m, head, fresh, entered)
            with m.State("END_JOB"):
                m.d.comb += self.jobs.ready.eq(1)
                m.next = "ANSWER"
            with m.State("ANSWER"):
                m.d.comb += self.results.valid.eq(1)
                with m.If(self.results.ready):
                    m.next = "TAKE_JOB"
        return m

    def _describe_flush(self, m: Module, stripe: Value, head: Value, entry: Value, channel: Value,
                        die: Value) -> None:
        layer, flush = self.jobs.payload.layer, self.flush.payload
        m.d.comb += [
            flush.stripe.eq(stripe), flush.head.eq(head), flush.entry.eq(entry), flush.channel.eq(channel),
            flush.die.eq(die), flush.buffer.eq(self.lookup_buffer),
            *(getattr(flush, name).eq(getattr(layer, name))
              for name in ("sequence", "generation", "layer", "wide", "rows_log2", "kv_heads",
                           "stripes_max")),
        ]

    def _take_buffers(self, m: Module, popped: Signal, was_settled: Signal, last_head: Value, next_head: Any,
                      fail: Any) -> None:
        """A buffer for each head of a new stripe; the pool counts as empty only if nothing could have
        returned before it was asked."""
        head = self.lookup_head
        with m.State("NOTE_POOL"):
            m.d.sync += was_settled.eq(self.settled)
            m.next = "TAKE_BUFFER"
        with m.State("TAKE_BUFFER"), m.If(pop(m, self.tables, Table.BUFFER_FREE)):
            m.d.sync += popped.eq(self.tables.answer)
            m.next = "WRITE_ENTRY"
            with m.If(~self.tables.ok):
                m.next = "NOTE_POOL"
                with m.If(was_settled):
                    fail(Status.CAPACITY, buffers=True)
        with m.State("WRITE_ENTRY"):
            m.d.comb += [
                self.entry_writes.valid.eq(1),
                self.buffer_write.eq(1), self.buffer_head.eq(head), self.buffer.eq(popped),
            ]
            with m.If(self.entry_writes.ready):
                next_head()
                m.next = "NOTE_POOL"
                with m.If(last_head):
                    m.next = "START_COPY"

    def _queue_programs(self, m: Module, line: Signal, channel: Signal, die: Signal, last_head: Value,
                        next_head: Any) -> None:
        """A program for each head of a full stripe; ``line`` is the head's map line modulo channels."""
        c = self.config
        with m.State("LOOK_UP_BUFFER"):
            m.next = "QUEUE_PROGRAM"
        with m.State("QUEUE_PROGRAM"):
            m.d.comb += self.flush.valid.eq(1)
            with m.If(self.flush.ready):
                next_head()
                step = Mux(line == c.channels - 1, (2 - c.channels) % c.group_dies, 1 % c.group_dies)
                m.d.sync += [
                    line.eq(modulo(line + 1, c.channels)),
                    channel.eq(modulo(channel + line_stride(c.channels), c.channels)),
                    die.eq(modulo(die + step, c.group_dies)),
                ]
                m.next = "LOOK_UP_BUFFER"
                with m.If(last_head):
                    m.next = "NEXT_STRIPE"

    def _end_failed(self, m: Module, head: Signal, fresh: Value, entered: Value) -> None:
        """Return the buffers of a new stripe: all those that were entered."""
        with m.State("END_FAILED"):
            m.d.sync += head.eq(0)
            m.next = "END_JOB"
            with m.If(fresh & (entered != 0)):
                m.next = "LOOK_UP"
        with m.State("LOOK_UP"):
            m.next = "RETURN_BUFFER"
        with m.State("RETURN_BUFFER"), m.If(write(m, self.tables, Table.BUFFER_FREE, 0, self.lookup_buffer)):
            m.d.sync += head.eq(head + 1)
            m.next = "LOOK_UP"
            with m.If(head + 1 == entered):
                m.next = "END_JOB"
