# SPDX-License-Identifier: Apache-2.0
"""What follows a write to a stripe: buffers that may go, programs when it is full."""

from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig
from instinfer.abi.layout import line_stride

from .access import ConstantDivider, first_channel
from .dimplaces import DimPlaces
from .ports import DIM_BUILD, DRAM_BITS, FLUSH_JOB, LAYER, LINE_BITS, STRIPE_BITS

REGION_END = data.StructLayout({"stripe": STRIPE_BITS, "settles": 1, "full": 1})
STRIPE_END = data.StructLayout({"layer": LAYER, "rows": REGION_END, "sketches": REGION_END})
"""Of rows and of sketches the stripe that was written: the buffers of the one before may go now, since enough
tokens follow it (``settles``); it is ``full``. Without sketches neither is said of them."""


def modulo(value: Value, divisor: int) -> Value:
    """Of a value below twice the divisor."""
    return Mux(value >= divisor, value - divisor, value)


class StripeEnds(wiring.Component):
    """Tells the `FlushEngine` what a write means for a stripe of rows and one of sketches: rows first, in
    each region the stripe that settles, then a program per head of a full one. Then, when the last row stripe
    of a block settles, the `DimBuilder` of the block, and waits for it.

    Parameters
    ----------
    config : the engine's configuration

    Members
    -------
    jobs : taken when all of it was told
    flush : jobs of the `FlushEngine`
    builds : blocks of dims that are due
    lookup_sketch, lookup_head, lookup_buffer : the buffers of the stripes, 1 cycle later

    Latency: 2 cycles, and for a region that has something to tell 3 and two divisions. Throughput: a
    program per 2 cycles. Back-pressure: ``flush`` may stall for any time.
    """

    def __init__(self, *, config: EngineConfig):
        self.config = config
        super().__init__({
            "jobs": In(stream.Signature(STRIPE_END)),
            "flush": Out(stream.Signature(FLUSH_JOB)), "builds": Out(stream.Signature(DIM_BUILD)),
            "lookup_sketch": Out(1), "lookup_head": Out(range(max(2, config.max_kv_heads))),
            "lookup_buffer": In(16),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        c = self.config
        job: Any = self.jobs.payload
        layer = job.layer
        sketch = Signal()
        region: Any = Signal(REGION_END)
        head = Signal(range(c.max_kv_heads + 1))
        first_entry, entry, stripes_max = Signal(DRAM_BITS), Signal(DRAM_BITS), Signal(STRIPE_BITS)
        channel, die = Signal(4), Signal(3)
        line = Signal(range(max(2, c.channels)))
        m.submodules.channels = channels = ConstantDivider(width=STRIPE_BITS, divisor=c.channels)
        m.submodules.lines = lines = ConstantDivider(width=LINE_BITS, divisor=c.channels)
        m.submodules.dies = dies = ConstantDivider(width=STRIPE_BITS + 2, divisor=c.group_dies)
        m.d.comb += [
            Value.cast(region).eq(Mux(sketch, job.sketches, job.rows)),
            stripes_max.eq(Mux(sketch, layer.sketch_stripes_max, layer.stripes_max)),
            first_entry.eq(Mux(sketch, layer.sketch_map, layer.map) + (region.stripe << 3)),
            channels.dividend.eq(region.stripe), lines.dividend.eq(layer.line),
            dies.dividend.eq(channels.quotient + lines.quotient + lines.remainder),
            self.lookup_sketch.eq(sketch), self.lookup_head.eq(head),
        ]
        settle = Signal()
        self._describe(m, region, settle, head, entry, stripes_max, channel, die)
        places, due = DimPlaces(c), Signal()
        m.d.comb += [
            due.eq(layer.dims & job.rows.settles & (places.in_block(job.rows.stripe, layer.wide) == 0)),
            self.builds.payload.layer.eq(layer),
            self.builds.payload.block.eq((job.rows.stripe >> places.row_stripes_log2(layer.wide)) - 1),
        ]
        with m.FSM():
            with m.State("TAKE_JOB"):
                m.d.sync += sketch.eq(0)
                with m.If(self.jobs.valid):
                    m.next = "LOOK_AT_REGION"
            with m.State("LOOK_AT_REGION"):
                m.d.sync += [head.eq(0), entry.eq(first_entry - 8)]
                m.d.comb += [channels.start.eq(1), lines.start.eq(1)]
                m.next = "DIVIDE"
                with m.If(~region.settles & ~region.full):
                    m.next = "END_REGION"
            with m.State("DIVIDE"), m.If(channels.done & lines.done):
                m.d.comb += dies.start.eq(1)
                m.next = "SETTLE"
            with m.State("SETTLE"):
                m.d.comb += [self.flush.valid.eq(region.settles & dies.done), settle.eq(1)]
                with m.If(dies.done & (~region.settles | self.flush.ready)):
                    m.d.sync += [
                        entry.eq(first_entry), line.eq(lines.remainder), die.eq(dies.remainder),
                        channel.eq(modulo(first_channel(c, lines.remainder) + channels.remainder,
                                          c.channels)),
                    ]
                    m.next = "LOOK_UP_BUFFER"
                    with m.If(~region.full):
                        m.next = "END_REGION"
            with m.State("LOOK_UP_BUFFER"):
                m.next = "QUEUE_PROGRAM"
            with m.State("QUEUE_PROGRAM"):
                m.d.comb += self.flush.valid.eq(1)
                with m.If(self.flush.ready):
                    step = Mux(line == c.channels - 1, (2 - c.channels) % c.group_dies, 1 % c.group_dies)
                    m.d.sync += [
                        head.eq(head + 1), entry.eq(entry + (stripes_max << 3)),
                        line.eq(modulo(line + 1, c.channels)),
                        channel.eq(modulo(channel + line_stride(c.channels), c.channels)),
                        die.eq(modulo(die + step, c.group_dies)),
                    ]
                    m.next = "LOOK_UP_BUFFER"
                    with m.If(head == layer.kv_heads - 1):
                        m.next = "END_REGION"
            with m.State("END_REGION"):
                m.d.sync += sketch.eq(1)
                m.next = "LOOK_AT_REGION"
                with m.If(sketch | ~layer.sketch):
                    m.next = "BUILD_DIMS"
            with m.State("BUILD_DIMS"):
                m.d.comb += self.builds.valid.eq(due)
                with m.If(~due | self.builds.ready):
                    m.d.comb += self.jobs.ready.eq(1)
                    m.next = "TAKE_JOB"
        return m

    def _describe(self, m: Module, region: Any, settle: Value, head: Value, entry: Value,
                  stripes_max: Value, channel: Value, die: Value) -> None:
        """``line`` of a job is the head's map line modulo channels."""
        layer, flush = self.jobs.payload.layer, self.flush.payload
        m.d.comb += [
            flush.settle.eq(settle), flush.stripe.eq(region.stripe - settle), flush.head.eq(head),
            flush.entry.eq(entry),
            flush.stripes_max.eq(stripes_max), flush.channel.eq(channel), flush.die.eq(die),
            flush.buffer.eq(self.lookup_buffer), flush.sketch.eq(self.lookup_sketch),
            flush.int8.eq(layer.int8 & ~self.lookup_sketch),
            *(getattr(flush, name).eq(getattr(layer, name))
              for name in ("sequence", "generation", "layer", "wide", "rows_log2", "kv_heads",
                           "sketch_size")),
        ]
