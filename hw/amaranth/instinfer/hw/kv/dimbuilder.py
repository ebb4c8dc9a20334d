# SPDX-License-Identifier: Apache-2.0
"""Dim pages of the blocks that are due: K slots read back, transposed, handed to the `FlushEngine`."""

from typing import Any

from amaranth.hdl import Array, Const, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import DIM_BLOCKS_AHEAD, EngineConfig
from instinfer.abi.layout import line_stride

from ..signatures import ChannelOp, MemoryWritePort, channel_request, slot_beat
from .access import ConstantDivider, first_channel
from .dimplaces import DimPlaces
from .entries import ENTRY_READ
from .ports import (
    DIM_BUILD,
    DRAM_BITS,
    FLUSH_JOB,
    LINE_BITS,
    STRIPE_BITS,
    Geometry,
    routed,
    tail_job,
)
from .stripeends import modulo
from .transposer import KeyTransposer

POLL_CYCLES = 64
"""Between two looks at the entry of a row stripe that is still being programmed."""


class DimBuilder(wiring.Component):
    """Builds the dim pages of a block, head by head.

    The key slots of the block's row stripes are read back, from flash, or from DRAM where the stripe is
    pinned there, and transposed into one of DIM_BLOCKS_AHEAD areas behind the stripe buffers. Then a
    `FlushEngine` is told of each stripe, so that flash rows are allocated, and programs begin, behind those
    of the append that made the block due, heads ascending, stripes ascending. While a head's stripes are
    programmed the next head's keys are read into the other area. The areas are no stripe buffers of the pool,
    so nothing here waits for the pool, and no append finds it emptier. A block of which a key slot is damaged
    is told of as ``lost``.

    Parameters
    ----------
    config : the engine's configuration

    Members
    -------
    builds : blocks that are due, one at a time; taken when its last head was told
    flush : jobs of the `FlushEngine`
    ended : the `FlushEngine` is done with a stripe of ``area``
    requests : reads for the channels, counted like those of attentions
    tail : reads of stripe buffers
    slots : the key slots of both
    spoilt : DRAM refused a read of ``tail``
    entry_reads, entries : an `EntryReader`
    memory : device DRAM, for the areas

    Latency: per head the time to read and to transpose its keys (`KeyTransposer`), which hides tR; from the
    third head on the programs of the second last one may take longer. Throughput: one block at a time.
    Back-pressure: waits for channels, DRAM and the `FlushEngine`, which wait for no append.
    """

    def __init__(self, *, config: EngineConfig):
        self.config = config
        super().__init__({
            "builds": In(stream.Signature(DIM_BUILD)),
            "flush": Out(stream.Signature(FLUSH_JOB)),
            "ended": In(wiring.Signature({"valid": Out(1), "area": Out(range(DIM_BLOCKS_AHEAD))})),
            "requests": Out(stream.Signature(routed(channel_request(config)))),
            "tail": Out(stream.Signature(tail_job(config))),
            "slots": In(stream.Signature(slot_beat(config))),
            "spoilt": In(1),
            "entry_reads": Out(stream.Signature(DRAM_BITS)),
            "entries": In(stream.Signature(ENTRY_READ)),
            "memory": Out(MemoryWritePort()),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        c = self.config
        job, layer = self.builds.payload, self.builds.payload.layer
        m.submodules.keys = keys = KeyTransposer(config=c)
        wiring.connect(m, wiring.flipped(self.slots), keys.slots)
        wiring.connect(m, keys.memory, wiring.flipped(self.memory))
        first, first_dims = Signal(STRIPE_BITS), Signal(STRIPE_BITS)  # the block's stripes, rows and dims
        stripe, asked = Signal(7), Signal(7)
        part, head = Signal(6), Signal(range(c.max_kv_heads + 1))
        entry, dim_entry = Signal(DRAM_BITS), Signal(DRAM_BITS)
        found: Any = Signal(ENTRY_READ)
        pause = Signal(range(POLL_CYCLES + 1))
        lost = Signal()
        area = Signal(range(DIM_BLOCKS_AHEAD))
        under_way = Array(Signal(7, name=f"under_way_{n}") for n in range(DIM_BLOCKS_AHEAD))
        told = Signal()
        for number, count in enumerate(under_way):
            m.d.sync += count.eq(count + (told & (area == number)) - (self.ended.valid
                                                                      & (self.ended.area == number)))
        row_stripes = Signal(7)
        log2 = DimPlaces(c).row_stripes_log2(layer.wide)
        m.d.comb += [row_stripes.eq(1 << log2), self.entry_reads.payload.eq(entry + (stripe << 3))]
        m.d.sync += [first.eq(job.block << log2), first_dims.eq(job.block * layer.dim_stripes)]
        with m.If(self.spoilt):
            m.d.sync += lost.eq(1)
        placed, next_head, row_channel = self._place(m, first)
        self._describe(m, area, found, first + stripe, row_channel, part, head)
        flush = self.flush.payload
        m.d.comb += [flush.lost.eq(lost | keys.lost), flush.stripe.eq(first_dims + part),
                     flush.entry.eq(dim_entry + (part << 3))]
        m.d.comb += [
            keys.units.eq(layer.query_beats), keys.int8.eq(layer.int8),
            keys.base.eq(Array(
                Const((c.dim_buffers_first + number * c.dim_buffers) * c.stripe_data_bytes, DRAM_BITS)
                for number in range(DIM_BLOCKS_AHEAD))[area]),
        ]
        with m.FSM():
            with m.State("TAKE_BLOCK"), m.If(self.builds.valid):
                m.d.sync += head.eq(0)
                m.next = "PLACE"
            with m.State("PLACE"), m.If(placed):
                m.d.sync += [
                    entry.eq(layer.map + (first << 3)),
                    dim_entry.eq(layer.dim_map + (first_dims << 3)),
                ]
                m.next = "TAKE_AREA"
            with m.State("TAKE_AREA"):
                m.d.sync += [stripe.eq(0), asked.eq(0), part.eq(0), lost.eq(0)]
                with m.If(under_way[area] == 0):
                    m.d.comb += keys.start.eq(1)
                    m.next = "READ_ENTRY"
            with m.State("READ_ENTRY"):
                m.d.comb += self.entry_reads.valid.eq(pause == 0)
                with m.If(pause != 0):
                    m.d.sync += pause.eq(pause - 1)
                with m.Elif(self.entry_reads.ready):
                    m.next = "TAKE_ENTRY"
            with m.State("TAKE_ENTRY"):
                m.d.comb += self.entries.ready.eq(1)
                m.d.sync += found.eq(self.entries.payload)
                with m.If(self.entries.valid):
                    m.next = "READ_KEYS"
            with m.State("READ_KEYS"):
                where, taken = found.entry, Signal()
                with m.If(found.error | ~(where.flash.valid | where.dram.valid)):
                    m.d.sync += lost.eq(1)
                    m.d.comb += taken.eq(1)
                with m.Elif(where.dram.pinned):
                    m.d.comb += [self.tail.valid.eq(1), taken.eq(self.tail.ready)]
                with m.Elif(where.flash.valid):
                    m.d.comb += [self.requests.valid.eq(1), taken.eq(self.requests.ready)]
                with m.Else():
                    m.d.sync += pause.eq(POLL_CYCLES)
                    m.next = "READ_ENTRY"
                m.d.sync += asked.eq(asked + (taken & (self.tail.valid | self.requests.valid)))
                with m.If(taken):
                    m.d.sync += stripe.eq(stripe + 1)
                    m.next = "READ_ENTRY"
                    with m.If(stripe + 1 == row_stripes):
                        m.next = "WAIT_FOR_KEYS"
            with m.State("WAIT_FOR_KEYS"), m.If((keys.stripes == asked) & keys.idle):
                m.next = "TELL"
            with m.State("TELL"):
                m.d.comb += self.flush.valid.eq(1)
                with m.If(self.flush.ready):
                    m.d.comb += told.eq(~self.flush.payload.lost)
                    m.d.sync += part.eq(part + 1)
                    with m.If(part + 1 == layer.dim_stripes):
                        m.next = "NEXT_HEAD"
            with m.State("NEXT_HEAD"):
                m.d.comb += next_head.eq(1)
                m.d.sync += [
                    head.eq(head + 1), entry.eq(entry + (layer.stripes_max << 3)),
                    dim_entry.eq(dim_entry + (layer.dim_stripes_max << 3)),
                    area.eq(Mux(area == DIM_BLOCKS_AHEAD - 1, 0, area + 1)),
                ]
                m.next = "TAKE_AREA"
                with m.If(head + 1 == layer.kv_heads):
                    m.d.comb += self.builds.ready.eq(1)
                    m.next = "TAKE_BLOCK"
        return m

    def _place(self, m: Module, first: Value) -> tuple[Value, Signal, Signal]:
        """(the first head's places are known, give the next head's, channel of the row stripe at hand).

        Heads follow each other as in `StripeEnds`; row stripes of a head turn over the channels, stripes of
        dims over the dies of one.
        """
        c = self.config
        job, layer = self.builds.payload, self.builds.payload.layer
        dividers = {}
        for name, dividend, width, divisor in (
                ("blocks", job.block, STRIPE_BITS, c.channels), ("lines", layer.line, LINE_BITS, c.channels),
                ("stripes", first, STRIPE_BITS, c.channels)):
            m.submodules[name] = dividers[name] = each = ConstantDivider(width=width, divisor=divisor)
            m.d.comb += each.dividend.eq(dividend)
        blocks, lines, stripes = dividers.values()
        m.submodules.dies = dies = ConstantDivider(width=STRIPE_BITS + 2, divisor=c.group_dies)
        m.d.comb += dies.dividend.eq(blocks.quotient + lines.quotient + lines.remainder)
        line = Signal(range(max(2, c.channels)))
        # Of part 0 and stripe 0 of the head; of those at hand.
        first_die, first_row = Signal(3), Signal(4)
        channel, die, row_channel = (Signal(width, name=name)
                                     for name, width in (("channel", 4), ("die", 3), ("row_channel", 4)))
        placed, next_head = Signal(), Signal()
        with m.FSM(name="place"):
            with m.State("WAIT"), m.If(self.builds.valid):
                m.next = "DIVIDE"
            with m.State("DIVIDE"):
                m.d.comb += [each.start.eq(1) for each in dividers.values()]
                m.next = "DIVIDE_LINES"
            with m.State("DIVIDE_LINES"), m.If(blocks.done & lines.done & stripes.done):
                m.d.comb += dies.start.eq(1)
                m.next = "DIVIDE_DIES"
            with m.State("DIVIDE_DIES"), m.If(dies.done):
                start = first_channel(c, lines.remainder)
                m.d.sync += [
                    line.eq(lines.remainder), first_die.eq(dies.remainder), die.eq(dies.remainder),
                    channel.eq(modulo(start + blocks.remainder, c.channels)),
                    first_row.eq(modulo(start + stripes.remainder, c.channels)),
                    row_channel.eq(modulo(start + stripes.remainder, c.channels)),
                ]
                m.d.comb += placed.eq(1)
                m.next = "STEP"
            with m.State("STEP"):
                with m.If((self.requests.valid & self.requests.ready) | (self.tail.valid & self.tail.ready)):
                    m.d.sync += row_channel.eq(modulo(row_channel + 1, c.channels))
                with m.If(self.flush.valid & self.flush.ready):
                    m.d.sync += die.eq(modulo(die + 1, c.group_dies))
                with m.If(next_head):
                    stride = line_stride(c.channels)
                    step = Mux(line == c.channels - 1, (2 - c.channels) % c.group_dies, 1 % c.group_dies)
                    m.d.sync += [
                        line.eq(modulo(line + 1, c.channels)),
                        channel.eq(modulo(channel + stride, c.channels)),
                        first_die.eq(modulo(first_die + step, c.group_dies)),
                        die.eq(modulo(first_die + step, c.group_dies)),
                        first_row.eq(modulo(first_row + stride, c.channels)),
                        row_channel.eq(modulo(first_row + stride, c.channels)),
                    ]
                with m.If(self.builds.ready):
                    m.next = "WAIT"
        flush = self.flush.payload
        m.d.comb += [flush.channel.eq(channel), flush.die.eq(die)]
        return placed, next_head, row_channel

    def _describe(self, m: Module, area: Value, found: Any, stripe: Value, row_channel: Value, part: Value,
                  head: Value) -> None:
        """Reads of row stripe ``stripe``; the job for part ``part`` of the block."""
        c = self.config
        layer = self.builds.payload.layer
        request, tail, flush = self.requests.payload.request, self.tail.payload, self.flush.payload
        per_stripe = Geometry(c).per_stripe(layer.rows_log2)
        first_buffer = Array(
            Const(c.dim_buffers_first + number * c.dim_buffers, len(flush.buffer))
            for number in range(DIM_BLOCKS_AHEAD))[area]
        m.d.comb += [
            self.requests.payload.channel.eq(row_channel), request.op.eq(ChannelOp.READ),
            *(request[name].eq(found.entry.flash[name]) for name in ("die", "block", "page")),
            request.owner.generation.eq(layer.generation), request.owner.layer.eq(layer.layer),
            request.owner.head.eq(head), request.owner.stripe.eq(stripe),
            tail.buffer.eq(found.entry.dram.buffer), tail.stripe.eq(stripe),
            *(line for target in (request, tail) for line in (
                target.tokens.eq(per_stripe), target.passes.eq(1), target.keys.eq(1), target.read_back.eq(1),
                target.wide.eq(layer.wide), target.int8.eq(layer.int8))),
            flush.dims.eq(1), flush.area.eq(area), flush.head.eq(head),
            flush.buffer.eq(first_buffer + part),
            *(flush[name].eq(layer[name]) for name in ("sequence", "generation", "layer", "kv_heads")),
        ]
