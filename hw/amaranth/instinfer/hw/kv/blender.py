# SPDX-License-Identifier: Apache-2.0
"""Mean-V at the end of a head: the mean of V, and its blend with the attention (``sparf.mean``,
``sparf.blend``)."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi import arith
from instinfer.abi.arith import ACC_FRACTION, FP16_UNIT, SUM_BITS, SUM_FRACTION
from instinfer.abi.config import EngineConfig
from instinfer.abi.sparf import ALPHA_FRACTION, BLEND_FRACTION

from ..attention.ports import QUOTIENT_LATENCY, QuotientPort
from ..numeric.fp16 import fp16
from ..numeric.pipeline import stages
from ..numeric.reciprocal import Reciprocal
from ..selection.sparfports import SHARE_BITS, share_report
from ..signatures import LANES, MEMORY_READ_DATA, MemoryReadPort, result_beat
from ..stream.fifo import StreamFIFO
from .ports import DRAM_BITS, TOKEN_BITS, WIDE_DIMS

MEAN_JOB = data.StructLayout({"sums": DRAM_BITS, "beats": 6, "tokens": TOKEN_BITS})
"""``beats`` 32-byte beats of sums of V from ``sums`` on, over ``tokens`` tokens."""
GROUPS = WIDE_DIMS // LANES
BLEND_LATENCY = 4 + QUOTIENT_LATENCY
RESULTS = 2 * GROUPS
ONE = SUM_FRACTION + BLEND_FRACTION - ACC_FRACTION
"""log2 of what blends are divided by."""
PRODUCT_BITS = SHARE_BITS + 13


class MeanBlender(wiring.Component):
    """Makes the mean of V of a head, and blends each result of its passes with it. Both go through the
    merger's quotients, between merges.

    Parameters
    ----------
    config : the engine's configuration

    Members
    -------
    share : attended tokens' shares, kept for each query of each head slot until the next one comes
    means, failed : one mean before each merge whose results are blended, taken when it is made; ``failed``
        says of the last one that DRAM refused a beat
    blends, head_slot : results are blended, with the shares of this head slot; they may change between merges
        alone
    results, blended : of the merger, on their way to an `OutputWriter`
    memory : device DRAM
    quotient : see `QuotientPort`

    Latency: a mean takes a round trip of DRAM, or up to ``Reciprocal.cycles_max`` if that is more, and a
    cycle per 4 dims and 14 more; blends 16 cycles once the merge is over, else results pass in the same
    cycle. Throughput: a beat per cycle. Back-pressure: results wait for the end of their merge and for
    ``blended``.
    """

    def __init__(self, *, config: EngineConfig):
        self.config = config
        results = stream.Signature(result_beat(config))
        super().__init__({
            "share": In(share_report(config)),
            "means": In(stream.Signature(MEAN_JOB)), "failed": Out(1),
            "blends": In(1), "head_slot": In(range(config.head_slots)),
            "results": In(results), "blended": Out(results),
            "memory": Out(MemoryReadPort()), "quotient": Out(QuotientPort()),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lent = self.quotient
        mean: memory.Memory = memory.Memory(shape=LANES * 16, depth=GROUPS, init=[])
        m.submodules.mean = mean
        averaging = Signal()
        values, inverse, exponent = self._average(m, mean, averaging)
        mixed = self._blend(m, mean)
        m.d.comb += [
            lent.borrow.eq(averaging | (self.blends & lent.free)),
            lent.inverse.eq(Mux(averaging, inverse, 1 << arith.RECIPROCAL_BITS)),
            lent.exponent.eq(Mux(averaging, exponent, ONE)),
            *(lent.values[lane].eq(Mux(averaging, values[lane], mixed[lane])) for lane in range(LANES)),
        ]
        return m

    def _average(self, m: Module, mean: memory.Memory, averaging: Signal) -> tuple[list[Value], Value, Value]:
        """Sums as they come into the quotients, words of the mean out of them."""
        job: Any = self.means.payload
        lent, beat, request = self.quotient, self.memory.data, self.memory.request
        m.submodules.reciprocal = reciprocal = Reciprocal()
        m.submodules.beats = beats = StreamFIFO(shape=MEMORY_READ_DATA, depth=GROUPS)
        wiring.connect(m, wiring.flipped(beat), beats.i)
        group, written = Signal(range(GROUPS + 1)), Signal(range(GROUPS + 1))
        moving = Signal()
        put = mean.write_port()
        arrived = stages(m, moving, QUOTIENT_LATENCY, name="arrived", reset=True)[-1]
        m.d.comb += [
            reciprocal.total.eq(job.tokens << SUM_FRACTION),
            request.payload.address.eq(job.sums), request.payload.beats.eq(job.beats),
            beats.o.ready.eq(moving),
            put.addr.eq(written), put.data.eq(Cat(lent.results)), put.en.eq(arrived),
        ]
        m.d.sync += [group.eq(group + moving), written.eq(written + arrived)]
        with m.If(moving & beats.o.payload.error):
            m.d.sync += self.failed.eq(1)
        with m.FSM():
            with m.State("TAKE_JOB"):
                m.d.sync += [group.eq(0), written.eq(0)]
                m.d.comb += request.valid.eq(self.means.valid)
                with m.If(request.valid & request.ready):
                    m.d.comb += reciprocal.start.eq(1)
                    m.d.sync += self.failed.eq(0)
                    m.next = "DIVIDE"
            with m.State("DIVIDE"):
                m.d.comb += [averaging.eq(lent.free & ~reciprocal.busy), moving.eq(averaging & beats.o.valid)]
                with m.If(written == job.beats):
                    m.d.comb += self.means.ready.eq(1)
                    m.next = "TAKE_JOB"
        sums = [beats.o.payload.data.word_select(lane, SUM_BITS).as_signed() for lane in range(LANES)]
        return ([(each << (ACC_FRACTION - FP16_UNIT))[:SUM_BITS].as_signed() for each in sums],
                reciprocal.inverse, reciprocal.exponent)

    def _blend(self, m: Module, mean: memory.Memory) -> list[Value]:
        """Results into the quotients, four cycles later; out of them into a queue that has room for them."""
        c, lent = self.config, self.quotient
        result: Any = self.results.payload
        shares: memory.Memory = memory.Memory(shape=SHARE_BITS, depth=c.head_slots * c.queries, init=[])
        m.submodules.shares = shares
        put, look = shares.write_port(), shares.read_port(domain="comb")
        get = mean.read_port(domain="comb")
        m.submodules.queue = queue = StreamFIFO(shape=result_beat(c), depth=RESULTS)
        inside = Signal(range(RESULTS + 1))
        moving, left = Signal(), Signal()
        m.d.comb += [
            put.addr.eq(self.share.query + self.share.head_slot * c.queries),
            put.data.eq(self.share.share), put.en.eq(self.share.valid),
            look.addr.eq(result.query + self.head_slot * c.queries), get.addr.eq(result.group),
            moving.eq(self.blends & lent.free & self.results.valid & (inside < RESULTS)),
            left.eq(queue.o.valid & queue.o.ready),
        ]
        m.d.sync += inside.eq(inside + moving - left)
        with m.If(self.blends):
            m.d.comb += [self.results.ready.eq(moving), self.blended.valid.eq(queue.o.valid),
                         self.blended.payload.eq(queue.o.payload), queue.o.ready.eq(self.blended.ready)]
        with m.Else():
            m.d.comb += [self.results.ready.eq(self.blended.ready),
                         self.blended.valid.eq(self.results.valid), self.blended.payload.eq(result)]
        names = ("query", "group", "last")
        late = stages(m, Cat(getattr(result, name) for name in names), BLEND_LATENCY, name="late")[-1]
        at = 0
        for name in names:
            width = len(getattr(result, name))
            m.d.comb += getattr(queue.i.payload, name).eq(late[at:at + width])
            at += width
        m.d.comb += [
            queue.i.payload.data.eq(Cat(lent.results)),
            queue.i.valid.eq(stages(m, moving, BLEND_LATENCY, name="moved", reset=True)[-1]),
        ]
        one = 1 << ALPHA_FRACTION
        share = stages(m, look.data, 1, name="share")[1]
        rest = Signal(SHARE_BITS)
        m.d.comb += rest.eq(Const(one, SHARE_BITS) - share)
        mixed: list[Value] = []
        for lane in range(LANES):
            parts = []
            for source, word, factor in (("out", result.data, share), ("mean", get.data, rest)):
                name = f"{source}_{lane}"
                element = fp16(stages(m, word.word_select(lane, 16), 1, name=name)[1])
                product = Signal(signed(PRODUCT_BITS), name=f"product_{name}", reset_less=True)
                shift = Signal(len(element.shift), name=f"shift_{name}", reset_less=True)
                unit = Signal(signed(SUM_BITS), name=f"unit_{name}", reset_less=True)
                m.d.sync += [product.eq(element.mantissa * factor), shift.eq(element.shift),
                             unit.eq(product << shift)]
                parts.append(unit)
            total = Signal(signed(SUM_BITS), name=f"mixed_{lane}", reset_less=True)
            m.d.sync += total.eq(parts[0] + parts[1])
            mixed.append(total)
        return mixed
