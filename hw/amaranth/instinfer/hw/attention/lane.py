# SPDX-License-Identifier: Apache-2.0
"""One lane of one query: multiplier, aligner, adder and its part of the accumulators."""

from amaranth.hdl import C, Cat, Module, Mux, Signal, signed
from amaranth.lib import enum, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from instinfer.abi.arith import SUM_BITS
from instinfer.abi.errors import require

from ..memory import COLLISION_FREE
from ..numeric.fp16 import MANTISSA_BITS
from ..numeric.pipeline import stages
from ..numeric.product import (
    BYTE_BITS,
    BYTE_DOT_BITS,
    BYTE_SUM_BITS,
    FACTOR_BITS,
    POSITION_SHAPE,
    AlignedProduct,
    ByteProduct,
)
from ..numeric.shift import AMOUNT_BITS, FloorShift

_HALF = SUM_BITS // 2
_BYTE_HALF = BYTE_SUM_BITS // 2


class Source(enum.Enum, shape=2):
    """What the adder of a lane adds to."""

    NOTHING = 0
    WORD = 1
    TOTAL = 2
    PARTIAL = 3


class AccumulatorLane(wiring.Component):
    """Multiplies one element of a beat by one query's factor and adds it where it belongs.

    Four uses, chosen by control signals that the core delays to the right cycle (cycle 0 = ``element``):

    - dot product: the product is added to the running sum (TOTAL), or starts it; ``capture`` keeps it;
    - accumulation: the word at ``read_address`` is shifted (``amount``, ``drop``), the product is added to it
      (WORD), ``write`` stores it;
    - merge: ``addend`` feeds the shifted word into the running sum instead of a product;
    - fold: ``addend`` as in a merge, added to ``partial`` (PARTIAL), ``write`` stores it.

    ========================== =====================================
    cycle                      signals
    ========================== =====================================
    0                          element, position, factor
    ``read_cycle``             read_address of an accumulation
    ``read_cycle`` - 1         read_address of a merge or fold
    one after read_address     amount, drop
    ``adder_cycle`` - 2        addend
    ``adder_cycle`` - 1        enable, source, high_word, high_nothing
    ``adder_cycle``            partial
    ``store_cycle`` - 1        write, write_address, capture
    ``store_cycle`` + 1        captured; a read sees the written word
    ========================== =====================================

    One operation per cycle; a word may be read again eight cycles after its last read. The upper half of a
    sum is added a cycle behind the lower one: ``high_word`` (source is WORD) and ``high_nothing`` (neither
    WORD nor PARTIAL) tell it what to add to. What all lanes are told in a cycle ends in registers of each:
    one for all of them, or for both halves, would drive many sinks far apart.

    Without ``moves`` registers hold still: it has to be up while an operation is under way. It is the clock
    enable of data and of what the lane is told; what that enables or resets in turn has no LUT for both.

    Parameters
    ----------
    depth : words of the accumulator memory.
    """

    adder_cycle = AlignedProduct.latency
    read_cycle = adder_cycle - FloorShift.latency - 2
    store_cycle = adder_cycle + 2

    def __init__(self, *, depth: int) -> None:
        require(isinstance(depth, int) and depth >= 2, "depth", depth, "at least 2 words",
                "One word per group of dims and context.")
        self._depth = depth
        super().__init__({
            "element": In(signed(MANTISSA_BITS)), "position": In(POSITION_SHAPE),
            "factor": In(signed(FACTOR_BITS)),
            "read_address": In(range(depth)), "amount": In(AMOUNT_BITS), "drop": In(1),
            "addend": In(1), "enable": In(1), "source": In(Source),
            "high_word": In(1), "high_nothing": In(1),
            "partial": In(signed(BYTE_SUM_BITS)),
            "write": In(1), "write_address": In(range(depth)), "capture": In(1),
            "moves": In(1), "captured": Out(signed(SUM_BITS)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        memory: Memory = Memory(shape=signed(SUM_BITS), depth=self._depth, init=[], attrs=COLLISION_FREE)
        m.submodules.memory = memory
        m.submodules.shift = shift = FloorShift(width=SUM_BITS)
        m.submodules.product = product = AlignedProduct()
        read, write = memory.read_port(), memory.write_port()
        word = Signal(signed(SUM_BITS), reset_less=True)  # the block RAM's output register
        with m.If(self.moves):
            enable, write_enable, capture = (
                stages(m, port, 1, name=name, reset=True)[1] for port, name in (
                    (self.enable, "enables"), (self.write, "writes"), (self.capture, "captures")))
            write_address = stages(m, self.write_address, 1, name="writes_at")[1]
            source, high_word, high_nothing, addend, amount, drop = (
                stages(m, port, 1, name=name)[1] for port, name in (
                    (self.source, "from"), (self.high_word, "high_words"),
                    (self.high_nothing, "high_nothings"), (self.addend, "addends"),
                    (self.amount, "amounts"), (self.drop, "drops")))
        low, high = Signal(_HALF, reset_less=True), Signal(_HALF, reset_less=True)
        other = Signal(_HALF)
        other_high = Signal(_HALF, reset_less=True)
        with m.If(self.moves):
            m.d.sync += word.eq(read.data)
            total = Cat(stages(m, low, 1, name="low")[1], high)
            loop = stages(m, source == Source.TOTAL, 1, name="loop")[1]
            m.d.sync += other_high.eq(Mux(high_word, shift.result, self.partial)[_HALF:])
            value_high = stages(m, product.value[_HALF:], 1, name="value_high")[1]
            enable_high = stages(m, enable, 1, name="enable", reset=True)[1]
        with m.If(high_nothing):
            m.d.sync += other_high.eq(0)
        m.d.comb += [
            read.addr.eq(self.read_address), read.en.eq(self.moves),
            shift.value.eq(word), shift.amount.eq(amount), shift.drop.eq(drop), shift.moves.eq(self.moves),
            product.moves.eq(self.moves),
            product.element.eq(self.element), product.position.eq(self.position),
            product.factor.eq(self.factor),
            product.bypass.eq(addend), product.addend.eq(shift.result),
            write.addr.eq(write_address), write.data.eq(total), write.en.eq(write_enable),
        ]
        with m.Switch(source):
            with m.Case(Source.WORD):
                m.d.comb += other.eq(shift.result[:_HALF])
            with m.Case(Source.TOTAL):
                m.d.comb += other.eq(low)
            with m.Case(Source.PARTIAL):
                m.d.comb += other.eq(self.partial[:_HALF])
        # value + other + carry, written as differences: the multiplexers then share the adders' LUTs.
        carry = Signal(reset_less=True)
        with m.If(enable):
            added = Cat(product.carry, product.value[:_HALF]) - Cat(C(1, 1), ~other, C(1, 1))
            m.d.sync += Cat(low, carry).eq(added[1:])
        with m.If(enable_high):
            m.d.sync += high.eq((Cat(carry, value_high) - Cat(C(1, 1), ~Mux(loop, high, other_high)))[1:])
        captured = Signal(signed(SUM_BITS), reset_less=True)
        m.d.comb += self.captured.eq(captured)
        with m.If(capture):
            m.d.sync += captured.eq(total)
        return m


class ByteLane(wiring.Component):
    """As AccumulatorLane, of the elements that int8 beats have beyond four; it keeps one slot's sums.

    Key rows: products are summed (``loop``), ``capture`` keeps the sum. Value slots: ``first`` starts the sum
    of a column, later rows add to it. Afterwards the sums are read out, for an AccumulatorLane to add them to
    its words: ``partial``.

    ========================== =====================================
    cycle                      signals
    ========================== =====================================
    0                          element, position, factor
    1                          enable, loop
    2                          coarse, first, capture, read_address
    3                          place
    4                          captured; partial of the word at read_address
    5                          write, write_address
    ========================== =====================================

    One operation per cycle; a word may be read again four cycles after its last read. The upper half of a sum
    is added a cycle behind the lower one. ``moves`` as in AccumulatorLane.
    """

    def __init__(self, *, depth: int) -> None:
        require(isinstance(depth, int) and depth >= 2, "depth", depth, "at least 2 words",
                "One word per group of dims.")
        self._depth = depth
        super().__init__({
            "element": In(signed(BYTE_BITS)), "position": In(POSITION_SHAPE),
            "factor": In(signed(FACTOR_BITS)),
            "enable": In(1), "loop": In(1), "coarse": In(2), "place": In(2),
            "first": In(1), "read_address": In(range(depth)),
            "capture": In(1), "captured": Out(signed(BYTE_DOT_BITS)),
            "write": In(1), "write_address": In(range(depth)),
            "moves": In(1), "partial": Out(signed(BYTE_SUM_BITS)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        memory: Memory = Memory(shape=signed(BYTE_SUM_BITS), depth=self._depth, init=[])
        m.submodules.memory = memory
        m.submodules.product = product = ByteProduct()
        read, write = memory.read_port(domain="comb"), memory.write_port()
        word = Signal(signed(BYTE_SUM_BITS), reset_less=True)
        low, high = Signal(_BYTE_HALF, reset_less=True), Signal(BYTE_SUM_BITS - _BYTE_HALF, reset_less=True)
        carry = Signal(reset_less=True)
        with m.If(self.moves):
            enable, loop, first, capture, write_enable, coarse, place = (
                stages(m, port, 1, name=name, reset=True)[1] for port, name in (
                    (self.enable, "enables"), (self.loop, "loops"), (self.first, "firsts"),
                    (self.capture, "captures"), (self.write, "writes"),
                    (self.coarse, "coarsely"), (self.place, "places")))
            read_address, write_address = (stages(m, port, 1, name=name)[1] for port, name in (
                (self.read_address, "read_address"), (self.write_address, "write_address")))
            low_1 = stages(m, low, 1, name="low")[1]
            word_high = stages(m, word[_BYTE_HALF:], 1, name="word_high")[1]
            m.d.sync += [
                word.eq(read.data),
                Cat(low, carry).eq((Cat(product.carry, product.value[:_BYTE_HALF])
                                    + Cat(C(1, 1), word[:_BYTE_HALF]))[1:]),
                high.eq((Cat(carry, product.late[_BYTE_HALF:]) + Cat(C(1, 1), word_high))[1:]),
            ]
        with m.If(first):
            m.d.sync += word.eq(0)
        m.d.comb += [
            read.addr.eq(read_address),
            product.element.eq(self.element), product.position.eq(self.position),
            product.factor.eq(self.factor), product.enable.eq(enable), product.loop.eq(loop),
            product.coarse.eq(coarse), product.place.eq(place), product.moves.eq(self.moves),
            write.addr.eq(write_address), write.en.eq(write_enable), write.data.eq(Cat(low_1, high)),
            self.partial.eq(word),
        ]
        captured = Signal(signed(BYTE_DOT_BITS), reset_less=True)
        m.d.comb += self.captured.eq(captured)
        with m.If(capture):
            m.d.sync += captured.eq(product.product)
        return m
