# SPDX-License-Identifier: Apache-2.0
"""Query rows to integers with a common exponent (``arith.quantise_query``)."""

from typing import Any

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from instinfer.abi.arith import EXPONENT_MIN, FP16_UNIT, QUERY_FRACTION, SCORE_SHIFT_BASE
from instinfer.abi.config import EngineConfig

from ..numeric.fp16 import Fp16, fp16
from ..numeric.pipeline import stages
from ..numeric.quantise import PRODUCT_BITS, RIGHT_BITS, SCALE_BITS, QueryElement
from ..numeric.score import RIGHT_BITS as SCORE_RIGHT_BITS
from ..signatures import BEAT_BITS, LANES, query_beat
from .ports import GROUP_BITS, PAIR_BITS, query_shape, query_write

_MAGNITUDE_BITS = 15
_POWER_BIAS = 150
"""fp32: value = mantissa * 2**(exponent field - 150)."""
_ZERO_RIGHT = SCORE_SHIFT_BASE - EXPONENT_MIN


class QueryQuantiser(wiring.Component):
    """Reads each row twice: the largest magnitude first, then every element against it.

    Members: ``queries`` (signatures.query_beat); ``scale2``, fp32 bits in the range that commands are checked
    for, constant while rows of a head are inside; ``write_valid``, ``write``, ``write_pairs``: the query
    write of ports.CorePort, without back-pressure; ``not_finite_valid`` with ``not_finite_slot``: a pulse
    when an element of this head slot was NaN or Inf (its row is then written without meaning); ``idle``:
    every row taken has been written.

    Throughput: a row of n beats is taken in n cycles and written in 2 n (every second cycle, as the cores
    ask), while the next row is taken. Latency of a row: 10 cycles from its last beat to its first write.
    """

    def __init__(self, *, config: EngineConfig) -> None:
        self._config = config
        super().__init__({
            "queries": In(stream.Signature(query_beat(config))),
            "scale2": In(32),
            "write_valid": Out(1), "write": Out(query_write(config)),
            "write_pairs": Out(PAIR_BITS).array(LANES // 2),
            "not_finite_valid": Out(1), "not_finite_slot": Out(range(config.head_slots)),
            "idle": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        # The fields of a row that the second pass needs.
        descriptor = data.StructLayout({
            "head_slot": range(config.head_slots), "query": query_shape(config), "last_group": GROUP_BITS,
            "right": RIGHT_BITS, "score_right": SCORE_RIGHT_BITS,
        })
        rows: Memory = Memory(shape=BEAT_BITS, depth=2 << GROUP_BITS, init=[])
        m.submodules.rows = rows
        store, fetch = rows.write_port(), rows.read_port()

        # First pass: keep the beat, track the largest magnitude (one cycle later).
        beat = self.queries.payload
        bank = Signal()
        taken, tracked, closing = Signal(), Signal(), Signal()
        owned, ready = Signal(2), Signal(2)  # banks that hold a row; of these, with known exponents
        row: Any = Signal(data.ArrayLayout(descriptor, 2), reset_less=True)
        m.d.comb += [
            self.queries.ready.eq(~owned.bit_select(bank, 1) & ~closing),
            taken.eq(self.queries.valid & self.queries.ready),
            store.addr.eq(Cat(beat.group, bank)), store.data.eq(beat.data), store.en.eq(taken),
        ]
        elements = [fp16(beat.data.word_select(lane, 16)) for lane in range(LANES)]
        low, high = (_larger(*(element.as_value()[:_MAGNITUDE_BITS] for element in pair))
                     for pair in (elements[:2], elements[2:]))
        of_beat = Signal(_MAGNITUDE_BITS, reset_less=True)
        running = Signal(_MAGNITUDE_BITS)
        m.d.sync += [of_beat.eq(_larger(low, high)), tracked.eq(taken), closing.eq(taken & beat.last)]
        with m.If(tracked):
            m.d.sync += running.eq(Mux(closing, 0, _larger(of_beat, running)))
        with m.If(taken & beat.last):
            m.d.sync += [row[bank].head_slot.eq(beat.head_slot), row[bank].query.eq(beat.query),
                         row[bank].last_group.eq(beat.group)]
        broken = Cat(~element.finite for element in elements).any()
        m.d.sync += [self.not_finite_valid.eq(taken & broken), self.not_finite_slot.eq(beat.head_slot)]

        # Between the passes, three cycles: product of the largest magnitude, its length, shifts of the row.
        scale = Cat(self.scale2[:SCALE_BITS - 1], C(1, 1))
        power = self.scale2[SCALE_BITS - 1:31]
        known = stages(m, closing, 3, name="known", reset=True)[-1]
        closed = Signal()
        top = Signal(Fp16, reset_less=True)
        product = Signal(PRODUCT_BITS, reset_less=True)
        length = Signal(range(PRODUCT_BITS + 1), reset_less=True)
        m.d.sync += [product.eq(top.magnitude * scale), length.eq(_bit_length(product))]
        with m.If(closing):
            m.d.sync += [top.eq(_larger(of_beat, running)), closed.eq(bank), bank.eq(~bank)]
            m.d.sync += owned.bit_select(bank, 1).eq(1)
        # x = product * 2**(shift - 24 + power - 150), E = its bit length plus that power of two.
        exponent = Signal(signed(10))
        m.d.comb += exponent.eq(length + top.shift + power - (FP16_UNIT + _POWER_BIAS))
        with m.If(known):
            m.d.sync += [
                row[closed].right.eq(length + top.shift - QUERY_FRACTION),
                row[closed].score_right.eq(Mux(product == 0, _ZERO_RIGHT, SCORE_SHIFT_BASE - exponent)),
                ready.bit_select(closed, 1).eq(1),
            ]

        # Second pass: a beat every second cycle.
        current, pause = Signal(), Signal()
        group = Signal(GROUP_BITS)
        asked = Signal()
        source = row[current]
        with m.If(ready.bit_select(current, 1)):
            m.d.comb += asked.eq(~pause)
            m.d.sync += pause.eq(~pause)
            with m.If(pause):
                m.d.sync += group.eq(group + 1)
                with m.If(group == source.last_group):
                    m.d.sync += [group.eq(0), current.eq(~current), owned.bit_select(current, 1).eq(0),
                                 ready.bit_select(current, 1).eq(0)]
        m.d.comb += fetch.addr.eq(Cat(group, current))
        right = stages(m, source.right, 1, name="right")[1]

        quantised = []
        for lane in range(LANES):
            m.submodules[f"element_{lane}"] = element = QueryElement()
            m.d.comb += [
                element.element.eq(fetch.data.word_select(lane, 16)), element.scale.eq(scale),
                element.right.eq(right),
            ]
            quantised.append(element.result.as_unsigned())
        target = Signal(query_write(config))
        m.d.comb += [
            target.head_slot.eq(source.head_slot), target.query.eq(source.query), target.group.eq(group),
            target.right.eq(source.score_right),
        ]
        delay = 1 + QueryElement.latency
        writing = stages(m, asked, delay, name="writing", reset=True)
        m.d.comb += [
            self.write_valid.eq(writing[-1]), self.write.eq(stages(m, target, delay, name="target")[-1]),
            *(self.write_pairs[i].eq(Cat(quantised[2 * i:2 * i + 2])) for i in range(LANES // 2)),
        ]
        quiet = Signal()
        m.d.comb += quiet.eq(~(owned.any() | closing | Cat(writing).any()))
        started = Signal()  # a row is partly taken
        with m.If(taken):
            m.d.sync += started.eq(~beat.last)
        m.d.comb += self.idle.eq(quiet & ~started & ~self.queries.valid)
        return m


def _larger(a: Value, b: Value) -> Value:
    return Mux(a > b, a, b)


def _bit_length(value: Value) -> Value:
    """1 + index of the leading one; 0 for 0."""
    length: Value = C(0, range(len(value) + 1))
    for index in range(len(value)):
        length = Mux(value[index], index + 1, length)
    return length
