# SPDX-License-Identifier: Apache-2.0
"""One lane of one query: multiplier, aligner, adder and its part of the accumulator memory."""

from amaranth.hdl import C, Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from instinfer.abi.arith import QUERY_BITS, SUM_BITS
from instinfer.abi.errors import require

from ..numeric.fp16 import MANTISSA_BITS
from ..numeric.product import POSITION_SHAPE, AlignedProduct
from ..numeric.shift import AMOUNT_BITS, FloorShift


class AccumulatorLane(wiring.Component):
    """Multiplies one element of a beat by one query's factor and adds it where it belongs.

    Three uses, chosen by control signals that the core delays to the right cycle (cycle 0 = ``mantissa``
    and ``position``):

    - dot product: ``loop`` adds the product to the running sum, or starts it; ``capture`` keeps a row's sum;
    - accumulation: the word at ``read_address`` is shifted (``amount``, ``drop``), the product is added,
      ``write`` stores it;
    - merge: ``addend`` feeds the shifted word into the running sum instead of a product.

    ========================== =====================================
    cycle                      signals
    ========================== =====================================
    0                          mantissa, position
    1                          factor
    ``read_cycle``             read_address of an accumulation
    ``read_cycle`` - 1         read_address of a merge
    two after read_address     amount, drop
    ``adder_cycle`` - 1        addend
    ``adder_cycle``            enable, shifted, loop
    ``adder_cycle`` + 1        write, write_address, capture
    ``adder_cycle`` + 2        captured; a read sees the written word
    ========================== =====================================

    One operation per cycle; a word may be read again seven cycles after its last read.

    Parameters
    ----------
    depth : words of the accumulator memory.
    """

    adder_cycle = AlignedProduct.latency
    read_cycle = adder_cycle - FloorShift.latency - 2

    def __init__(self, *, depth: int) -> None:
        require(isinstance(depth, int) and depth >= 2, "depth", depth, "at least 2 words",
                "One word per group of dims and context.")
        self._depth = depth
        super().__init__({
            "mantissa": In(signed(MANTISSA_BITS)), "position": In(POSITION_SHAPE),
            "factor": In(signed(QUERY_BITS)),
            "read_address": In(range(depth)), "amount": In(AMOUNT_BITS), "drop": In(1),
            "addend": In(1), "enable": In(1), "shifted": In(1), "loop": In(1),
            "write": In(1), "write_address": In(range(depth)), "capture": In(1),
            "captured": Out(signed(SUM_BITS)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        memory: Memory = Memory(shape=signed(SUM_BITS), depth=self._depth, init=[])
        m.submodules.memory = memory
        m.submodules.shift = shift = FloorShift(width=SUM_BITS)
        m.submodules.product = product = AlignedProduct()
        read, write = memory.read_port(), memory.write_port()
        word = Signal(signed(SUM_BITS), reset_less=True)  # the block RAM's output register
        total = Signal(signed(SUM_BITS), reset_less=True)
        other = Signal(signed(SUM_BITS))
        m.d.comb += [
            read.addr.eq(self.read_address),
            shift.value.eq(word), shift.amount.eq(self.amount), shift.drop.eq(self.drop),
            product.mantissa.eq(self.mantissa), product.position.eq(self.position),
            product.factor.eq(self.factor),
            product.bypass.eq(self.addend), product.addend.eq(shift.result),
            other.eq(Mux(self.shifted, shift.result, Mux(self.loop, total, 0))),
            write.addr.eq(self.write_address), write.data.eq(total), write.en.eq(self.write),
        ]
        m.d.sync += word.eq(read.data)
        with m.If(self.enable):
            # value + other + carry, written as a difference: the multiplexer then shares the adder's LUTs.
            m.d.sync += total.eq((Cat(product.carry, product.value) - Cat(C(1, 1), ~other))[1:])
        with m.If(self.capture):
            m.d.sync += self.captured.eq(total)
        return m
