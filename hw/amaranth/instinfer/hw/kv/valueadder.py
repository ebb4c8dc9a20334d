# SPDX-License-Identifier: Apache-2.0
"""Rows of V added up exactly (``sparf.value_units``)."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, enum, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.layout import SUM_BYTES

from ..numeric.fp16 import fp16
from ..numeric.pipeline import stages
from ..signatures import AXI_BYTES, MEMORY_READ_DATA
from .ports import WIDE_DIMS

LANES = 8
"""Elements that are added per cycle."""
SUM_BITS = 8 * SUM_BYTES
WORDS = WIDE_DIMS // LANES
HALF_SUMS = AXI_BYTES // SUM_BYTES
"""Sums of a 32-byte beat: half a word of LANES."""
HALVES = WIDE_DIMS // HALF_SUMS
FACTOR_BITS = 12
PRODUCT_BITS = 19
"""Of an int8 element times its scale's mantissa; a mantissa of fp16 has fewer."""
UNITS_BITS = 42
"""Of an element in units of 2**-24, signed."""


class ReadOp(enum.Enum, shape=2):
    """What the beats of a read hold: sums as they are, scales of a slot, rows."""

    SUMS = 0
    SCALES = 1
    ROWS = 2


READ_NOTE = data.StructLayout({"op": ReadOp, "row": 4})
"""``row``: of rows, the number of the first one within its slot."""


class ValueAdder(wiring.Component):
    """Adds rows of V to the sums of one head, ``LANES`` dims per cycle, without rounding.

    Members
    -------
    start : a head begins; with ``fresh`` its first row takes the place of the sums. ``wide`` (rows of 128
        dims, with their padding) and ``int8`` are constant while a head is inside
    notes, beats : reads of device DRAM in order: what each is about, and its beats; scales come before the
        rows of their slot
    idle : all that came is in the sums
    half, sums : four sums from dim 4 * ``half`` on, valid while ``idle``

    Latency: 4 cycles. Throughput: a beat of rows in 2 cycles (fp16) or 4 (int8), others in one.
    Back-pressure: ``beats`` wait for that alone.
    """

    def __init__(self) -> None:
        super().__init__({
            "start": In(1), "fresh": In(1), "wide": In(1), "int8": In(1),
            "notes": In(stream.Signature(READ_NOTE)), "beats": In(stream.Signature(MEMORY_READ_DATA)),
            "idle": Out(1), "half": In(range(HALVES)), "sums": Out(8 * AXI_BYTES),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        note: Any = self.notes.payload
        beat = self.beats.payload
        scales = Signal(8 * AXI_BYTES)
        row, begun = Signal(4), Signal()
        part, word, half = Signal(2), Signal(range(WORDS)), Signal(range(HALVES))
        replace = Signal()
        here = self.notes.valid & self.beats.valid
        is_row = note.op == ReadOp.ROWS
        entering = here & is_row
        last_part = part == Mux(self.int8, 3, 1)
        last_word = word == Mux(self.wide, WORDS - 1, WORDS // 2 - 1)
        taken = here & (~is_row | last_part)
        at_row = Signal(4)
        m.d.comb += [
            self.beats.ready.eq(self.notes.valid & (~is_row | last_part)),
            self.notes.ready.eq(taken & beat.last), at_row.eq(Mux(begun, row, note.row)),
        ]
        with m.If(taken):
            m.d.sync += begun.eq(~beat.last)
        with m.If(here & (note.op == ReadOp.SCALES)):
            m.d.sync += scales.eq(beat.data)
        with m.If(entering):
            m.d.sync += [part.eq(Mux(last_part, 0, part + 1)), word.eq(Mux(last_word, 0, word + 1)),
                         row.eq(at_row + last_word)]
            with m.If(last_word):
                m.d.sync += replace.eq(0)
        loading = here & (note.op == ReadOp.SUMS)
        with m.If(loading):
            m.d.sync += half.eq(half + 1)
        with m.If(self.start):
            m.d.sync += [half.eq(0), replace.eq(self.fresh)]
        units = self._units(m, beat.data, part, scales.word_select(at_row, 16))
        at = stages(m, Cat(word, replace), 3, name="at")[3]
        valid = stages(m, entering, 3, name="valid", reset=True)
        m.d.comb += self.idle.eq(~self.notes.valid & ~Cat(valid[1:]).any())
        self._accumulate(m, units, at, valid[3], loading, half)
        return m

    def _units(self, m: Module, beat: Value, part: Value, scale: Value) -> list[Value]:
        """The elements of a part of a beat in units of 2**-24, three cycles later."""
        shape = fp16(stages(m, scale, 1, name="scale")[1])
        int8 = self.int8
        wide = stages(m, beat.word_select(part[0], LANES * 16), 1, name="halves")[1]
        narrow = stages(m, beat.word_select(part, LANES * 8), 1, name="bytes")[1]
        units: list[Value] = []
        for lane in range(LANES):
            element = fp16(wide.word_select(lane, 16))
            factor = Signal(signed(FACTOR_BITS), name=f"factor_{lane}")
            product = Signal(signed(PRODUCT_BITS), name=f"product_{lane}", reset_less=True)
            shift = Signal(len(element.shift), name=f"shift_{lane}", reset_less=True)
            unit = Signal(signed(UNITS_BITS), name=f"unit_{lane}", reset_less=True)
            m.d.comb += factor.eq(Mux(int8, narrow.word_select(lane, 8).as_signed(), element.mantissa))
            m.d.sync += [
                product.eq(factor * Mux(int8, shape.magnitude, 1)),
                shift.eq(Mux(int8, shape.shift, element.shift)), unit.eq(product << shift),
            ]
            units.append(unit)
        return units

    def _accumulate(self, m: Module, units: list[Value], at: Value, valid: Value, loading: Value,
                    half: Value) -> None:
        """A word of sums is read and written in the same cycle; sums are loaded before rows come."""
        cells: memory.Memory = memory.Memory(shape=LANES * SUM_BITS, depth=WORDS, init=[])
        m.submodules.cells = cells
        put, get = cells.write_port(granularity=SUM_BITS), cells.read_port(domain="comb")
        word, replace = at[:-1], at[-1]
        beat = self.beats.payload.data
        m.d.comb += [
            get.addr.eq(Mux(valid, word, self.half >> 1)), put.addr.eq(Mux(valid, word, half >> 1)),
            put.en.eq(Mux(valid, ~Const(0, LANES),
                          Cat(Mux(half[0], 0, loading).replicate(HALF_SUMS),
                              (half[0] & loading).replicate(HALF_SUMS)))),
            put.data.eq(Mux(valid, Cat(
                (Mux(replace, 0, get.data.word_select(lane, SUM_BITS)) + unit)[:SUM_BITS]
                for lane, unit in enumerate(units)), beat.replicate(2))),
            self.sums.eq(get.data.word_select(self.half[0], 8 * AXI_BYTES)),
        ]
