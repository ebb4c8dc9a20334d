# SPDX-License-Identifier: Apache-2.0
"""KV_WRITE, KV_APPEND and the append of APPEND_ATTEND: host rows into stripes, full stripes into flash."""

from typing import Any

from amaranth.hdl import Array, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.commands import Status, Table
from instinfer.abi.config import EngineConfig

from ..signatures import AXI_BYTES
from .access import pop, write
from .entries import ENTRY_READ, ENTRY_WRITE
from .ports import (
    COPY_JOB,
    COPY_RESULT,
    DIM_BUILD,
    DRAM_BITS,
    FLUSH_JOB,
    STRIPE_BITS,
    WRITE_JOB,
    WRITE_RESULT,
    Geometry,
    TablePort,
)
from .sketchplace import SketchPlace
from .stripeends import StripeEnds
from .valuesums import SUM_JOB, SUM_RESULT


class WriteEngine(wiring.Component):
    """Writes the rows of one command, stripe by stripe.

    For each stripe that the rows touch: a buffer per head (taken from the pool and entered in the map when
    the stripe is new, read from the map when it is partly filled), and likewise for the stripe of sketches;
    K records, then V records; the sums of V of a cache that keeps them; the resident count; then, first of
    rows, then of sketches, where one page's worth of tokens now follows the stripe before, that stripe's
    buffers may go, and when the stripe is full, a program per head. An error leaves the stripe as it was: the
    resident count does not move, and buffers taken for a new stripe return to the pool; only one that DRAM
    gives while sums are made leaves these without meaning. Stripes of sketches end where stripes of rows end.

    Parameters
    ----------
    config : the engine's configuration

    Members
    -------
    jobs, results : one result per job; ``status`` is SUCCESS, NOT_FINITE, SCALE, TRANSFER_ERROR, CAPACITY (no
        buffer left) or INTERNAL; ``resident`` counts what was stored. A full stripe that finds no flash row
        stays in DRAM for good
    tables : access to the tables
    copies, copied, buffer_write, buffer_sketch, buffer_head, buffer, lookup_sketch, lookup_head,
        lookup_buffer : a `RowCopier`
    entry_writes, entries_written, entry_error, entry_clear : an `EntryWriter` and its ``idle``, ``error``,
        ``clear``
    entry_reads, entries : an `EntryReader`
    sums, summed : a `ValueSums`; sum_head : whose buffer it looks up
    flush : jobs of the `FlushEngine`
    builds : blocks of dims that are due, behind those; a write waits until its block is taken
    settled : nothing is under way that could return a buffer to the pool

    Latency: a one-token append takes one round trip of DRAM for the map, one of host memory and DRAM each for
    K and V, and about 5 cycles per head. Throughput: that of the copier; per stripe about 90 cycles per head
    on top. Both with the `ValueSums`' time on top where sums of V are kept. Back-pressure: waits for
    everything that it uses; for buffers as long as one can still return.
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
            "buffer_write": Out(1), "buffer_sketch": Out(1), "buffer_head": Out(heads), "buffer": Out(16),
            "lookup_sketch": Out(1), "lookup_head": Out(heads), "lookup_buffer": In(16),
            "entry_writes": Out(stream.Signature(ENTRY_WRITE)),
            "entries_written": In(1), "entry_error": In(1), "entry_clear": Out(1),
            "entry_reads": Out(stream.Signature(DRAM_BITS)),
            "entries": In(stream.Signature(ENTRY_READ)),
            "sums": Out(stream.Signature(SUM_JOB)), "summed": In(stream.Signature(SUM_RESULT)),
            "sum_head": In(heads),
            "flush": Out(stream.Signature(FLUSH_JOB)), "builds": Out(stream.Signature(DIM_BUILD)),
            "settled": In(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        c = self.config
        g = Geometry(c)
        job, layer = self.jobs.payload, self.jobs.payload.layer
        status, resident = self.results.payload.status, self.results.payload.resident
        left = Signal(16)
        address, values = Signal(64), Signal(64)
        key_beats, value_beats = Signal(12), Signal(12)
        stripe, first, count = Signal(STRIPE_BITS), Signal(9), Signal(10)
        head = Signal(range(c.max_kv_heads + 1))
        entry, stride, first_entry = Signal(DRAM_BITS), Signal(DRAM_BITS), Signal(DRAM_BITS)
        asked = Signal.like(head)
        popped = Signal(16)
        sketch, value_turn, was_settled = Signal(), Signal(), Signal()
        fresh = Signal()
        entered = Array(Signal.like(head, name=name) for name in ("rows_entered", "sketches_entered"))
        last_head = head == layer.kv_heads - 1
        m.submodules.place = place = SketchPlace(config=c)
        m.d.comb += [
            place.tokens.eq(resident), place.size.eq(layer.sketch_size),
            fresh.eq(Mux(sketch, (place.slot == 0) & (place.vector == 0), first == 0)),
            stride.eq(Mux(sketch, layer.sketch_stripes_max, layer.stripes_max) << 3),
            first_entry.eq(Mux(sketch, layer.sketch_map + (place.stripe << 3), layer.map + (stripe << 3))),
            self.buffer_sketch.eq(sketch),
            self.entry_writes.payload.address.eq(entry),
            self.entry_writes.payload.entry.dram.buffer.eq(popped),
            self.entry_writes.payload.entry.dram.valid.eq(1),
            self.entry_reads.payload.eq(entry),
        ]
        self._describe_copy(m, Mux(value_turn, values, address), first, count, value_turn, place)
        self._describe_sums(m, stripe, first, count)
        summing = Signal()
        ends = self._end_stripe(m, stripe, first, count, place, head, sketch, summing)
        with m.If(self.buffer_write):
            m.d.sync += entered[sketch].eq(self.buffer_head + 1)

        def next_head() -> None:
            m.d.sync += [head.eq(head + 1), entry.eq(entry + stride)]

        def fail(code: Status, *, buffers: bool) -> None:
            m.d.sync += status.eq(code)
            m.next = "END_FAILED" if buffers else "END_JOB"

        def move_on() -> None:
            m.d.sync += [resident.eq(resident + count), left.eq(left - count)]
            m.next = "MOVE_RESIDENT"

        def next_region() -> None:
            m.d.sync += sketch.eq(layer.sketch)
            m.next = "BEGIN_REGION"
            with m.If(sketch | ~layer.sketch):
                m.next = "START_COPY"

        with m.FSM():
            with m.State("TAKE_JOB"), m.If(self.jobs.valid):
                m.d.sync += [
                    status.eq(Status.SUCCESS), resident.eq(job.resident), left.eq(job.tokens),
                    address.eq(job.keys), values.eq(job.values),
                    key_beats.eq(layer.kv_heads * (layer.beats + layer.key_header)),
                    value_beats.eq(layer.kv_heads * (layer.beats + layer.value_header)),
                ]
                m.d.comb += self.entry_clear.eq(1)
                m.next = "SPLIT"
                with m.If(job.tokens == 0):
                    m.next = "END_JOB"
            with m.State("SPLIT"):
                m.d.sync += [
                    stripe.eq(g.stripe_of(resident, layer.rows_log2)),
                    first.eq(g.within(resident, layer.rows_log2)),
                    sketch.eq(0), entered[0].eq(0), entered[1].eq(0),
                ]
                m.d.comb += place.start.eq(layer.sketch)
                m.next = "COUNT_TOKENS"
            with m.State("COUNT_TOKENS"), m.If(place.done | ~layer.sketch):
                room = g.per_stripe(layer.rows_log2) - first
                m.d.sync += count.eq(Mux(left < room, left, room))
                m.next = "BEGIN_REGION"
            with m.State("BEGIN_REGION"):
                m.d.sync += [head.eq(0), asked.eq(0), entry.eq(first_entry)]
                m.next = "READ_MAP"
                with m.If(fresh):
                    m.next = "NOTE_POOL"
            self._take_buffers(m, head, popped, was_settled, last_head, next_head, next_region, fail)
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
                        next_region()
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
                    for error, code in (("not_finite", Status.NOT_FINITE), ("bad_scale", Status.SCALE),
                                        ("host_error", Status.TRANSFER_ERROR),
                                        ("dram_error", Status.INTERNAL)):
                        with m.If(getattr(self.copied.payload, error)):
                            m.d.sync += [status.eq(code), value_turn.eq(0)]
                            m.next = "END_FAILED"
            with m.State("WAIT_FOR_MAP"), m.If(self.entries_written):
                with m.If(self.entry_error):
                    fail(Status.INTERNAL, buffers=True)
                with m.Elif(layer.mean_v):
                    m.next = "START_SUMS"
                with m.Else():
                    move_on()
            with m.State("START_SUMS"):
                m.d.comb += [self.sums.valid.eq(1), summing.eq(1)]
                with m.If(self.sums.ready):
                    m.next = "WAIT_FOR_SUMS"
            with m.State("WAIT_FOR_SUMS"):
                m.d.comb += [self.summed.ready.eq(1), summing.eq(1)]
                with m.If(self.summed.valid):
                    move_on()
                    with m.If(self.summed.payload.error):
                        m.d.sync += resident.eq(resident)
                        fail(Status.INTERNAL, buffers=True)
            index = layer.sequence * c.max_layers + layer.layer
            with m.State("MOVE_RESIDENT"), m.If(write(m, self.tables, Table.RESIDENT, index, resident)):
                m.d.sync += [
                    address.eq(address + (count * key_beats) * AXI_BYTES),
                    values.eq(values + (count * value_beats) * AXI_BYTES),
                ]
                m.next = "END_STRIPE"
            with m.State("END_STRIPE"):
                m.d.comb += ends.jobs.valid.eq(1)
                with m.If(ends.jobs.ready):
                    m.next = "SPLIT"
                    with m.If(left == 0):
                        m.next = "END_JOB"
            self._end_failed(m, head, sketch, fresh, entered[sketch])
            with m.State("END_JOB"):
                m.d.comb += self.jobs.ready.eq(1)
                m.next = "ANSWER"
            with m.State("ANSWER"):
                m.d.comb += self.results.valid.eq(1)
                with m.If(self.results.ready):
                    m.next = "TAKE_JOB"
        return m

    def _describe_copy(self, m: Module, address: Value, first: Value, count: Value, value: Value,
                       place: SketchPlace) -> None:
        """Of 80 dims in int8 the last of three beats is half filled."""
        layer, copy = self.jobs.payload.layer, self.copies.payload
        m.d.comb += [
            copy.address.eq(address), copy.tokens.eq(count), copy.first.eq(first), copy.value.eq(value),
            copy.heads.eq(layer.kv_heads), copy.half.eq(layer.int8 & layer.query_beats[0]),
            copy.header.eq(Mux(value, layer.value_header, layer.key_header)),
            copy.sketch.eq(layer.sketch & ~value), copy.sketch_slot.eq(place.slot),
            copy.sketch_vector.eq(place.vector),
            *(getattr(copy, name).eq(getattr(layer, name))
              for name in ("beats", "rows_log2", "int8", "sketch_size")),
        ]

    def _describe_sums(self, m: Module, stripe: Value, first: Value, count: Value) -> None:
        """The first rows of all begin the sums: a new sequence need not clear any."""
        layer, job = self.jobs.payload.layer, self.sums.payload
        m.d.comb += [
            job.sums.eq(layer.sum_map), job.fresh.eq((stripe == 0) & (first == 0)), job.first.eq(first),
            job.tokens.eq(count), job.heads.eq(layer.kv_heads), job.units.eq(layer.query_beats),
            job.rows_log2.eq(layer.rows_log2), job.int8.eq(layer.int8),
        ]

    def _end_stripe(self, m: Module, stripe: Value, first: Value, count: Value, place: SketchPlace,
                    head: Value, sketch: Value, summing: Value) -> StripeEnds:
        """A region settles when the write makes its first page full, and is full at its last slot."""
        c = self.config
        g = Geometry(c)
        m.submodules.ends = ends = StripeEnds(config=c)
        layer, told = self.jobs.payload.layer, ends.jobs.payload
        end, per_page = Signal(11), g.per_page(layer.rows_log2)
        slots = Signal(range(c.slots_per_stripe + 1))
        with m.If(self.copied.valid & self.copied.ready & self.copies.payload.sketch):
            m.d.sync += slots.eq(self.copied.payload.slots_filled)
        m.d.comb += [
            end.eq(first + count), told.layer.eq(layer),
            told.rows.stripe.eq(stripe), told.rows.full.eq(end == g.per_stripe(layer.rows_log2)),
            told.rows.settles.eq((stripe != 0) & (first < per_page) & (end >= per_page)),
            told.sketches.stripe.eq(place.stripe),
            told.sketches.full.eq(layer.sketch & (slots == c.slots_per_stripe)),
            told.sketches.settles.eq(layer.sketch & (place.stripe != 0) & (place.slot < c.slots_per_page)
                                     & (slots >= c.slots_per_page)),
            self.lookup_head.eq(Mux(ends.jobs.valid, ends.lookup_head,
                                    Mux(summing, self.sum_head, head))),
            self.lookup_sketch.eq(Mux(ends.jobs.valid, ends.lookup_sketch, sketch & ~summing)),
            ends.lookup_buffer.eq(self.lookup_buffer),
        ]
        wiring.connect(m, ends.flush, wiring.flipped(self.flush))
        wiring.connect(m, ends.builds, wiring.flipped(self.builds))
        return ends

    def _take_buffers(self, m: Module, head: Value, popped: Signal, was_settled: Signal, last_head: Value,
                      next_head: Any, next_region: Any, fail: Any) -> None:
        """A buffer for each head of a new stripe; the pool counts as empty only if nothing could have
        returned before it was asked."""
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
                    next_region()

    def _end_failed(self, m: Module, head: Signal, sketch: Signal, fresh: Value, entered: Value) -> None:
        """Return the buffers of new stripes: all those that were entered, of rows and of sketches."""
        def next_region() -> None:
            m.d.sync += sketch.eq(1)
            m.next = "RETURN_REGION"
            with m.If(sketch | ~self.jobs.payload.layer.sketch):
                m.next = "END_JOB"

        with m.State("END_FAILED"):
            m.d.sync += sketch.eq(0)
            m.next = "RETURN_REGION"
        with m.State("RETURN_REGION"):
            m.d.sync += head.eq(0)
            m.next = "LOOK_UP"
            with m.If(~fresh | (entered == 0)):
                next_region()
        with m.State("LOOK_UP"):
            m.next = "RETURN_BUFFER"
        with m.State("RETURN_BUFFER"), m.If(write(m, self.tables, Table.BUFFER_FREE, 0, self.lookup_buffer)):
            m.d.sync += head.eq(head + 1)
            m.next = "LOOK_UP"
            with m.If(head + 1 == entered):
                next_region()
