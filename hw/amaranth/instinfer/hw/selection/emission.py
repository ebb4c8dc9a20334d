# SPDX-License-Identifier: Apache-2.0
"""Which groups are chosen, in their order, once the threshold is known (``selection.top``)."""

from typing import Any

from amaranth.hdl import Array, C, Module, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.selection import KEY_BITS

from ..numeric.pipeline import stages
from ..stream.fifo import StreamFIFO
from .ports import KEEP_BITS, choice_beat
from .sweep import sweep_mark

_FIFO_DEPTH = 16


class ChoiceEmitter(wiring.Component):
    """Compares the keys of a sweep with the threshold and offers the choice, a row a beat.

    Parameters
    ----------
    lanes, rows, passes : of the `GroupChooser`
    ahead : most cycles from a word that is asked for to its ``mark``: so many more come after ``go`` falls

    Members
    -------
    emitting : marks are those of the emission
    mark, keys : a row of candidates and their keys
    threshold, ties, ties_valid : keys above it are chosen, and the first ``ties`` that are equal to it;
        ``ties_valid`` gives their number, before the emission
    everything, nothing : all candidates are chosen, or none; keys are not looked at
    choice : the beats; they wait in a queue of 16
    go : there is room for what is on its way
    end : pulse, the last beat went into the queue; empty : the queue is
    note : pulse with a row: what is attended of it. What is in use and no candidate is forced in

    Latency ``latency`` from ``mark`` to the queue, a row per cycle. Back-pressure: ``go``.
    """

    latency = 4

    def __init__(self, *, lanes: int, rows: int, passes: int, ahead: int) -> None:
        self._lanes, self._reserve = lanes, ahead + self.latency + 2
        self._mark = sweep_mark(lanes=lanes, rows=rows, passes=passes)
        super().__init__({
            "emitting": In(1), "mark": In(self._mark),
            "keys": In(KEY_BITS).array(lanes), "threshold": In(KEY_BITS),
            "ties": In(KEEP_BITS), "ties_valid": In(1), "everything": In(1), "nothing": In(1),
            "choice": Out(stream.Signature(choice_beat(lanes))), "go": Out(1), "end": Out(1),
            "empty": Out(1),
            "note": Out(data.StructLayout({"valid": 1, "row": range(rows), "attended": lanes})),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes = self._lanes
        m.submodules.fifo = fifo = StreamFIFO(shape=choice_beat(lanes), depth=_FIFO_DEPTH)
        wiring.connect(m, fifo.o, wiring.flipped(self.choice))
        mark: Any = Signal(self._mark)
        m.d.comb += [mark.eq(self.mark), mark.valid.eq(self.mark.valid & self.emitting)]
        marks: list[Any] = stages(m, mark, self.latency, name="emitted", reset=True)
        half = KEY_BITS // 2
        over, equal = Signal(lanes, reset_less=True), Signal(lanes, reset_less=True)
        counts = Signal(lanes, reset_less=True)  # candidates of which the keys are looked at
        above, upper, lower_half = (Signal(lanes, reset_less=True) for _ in range(3))
        for lane in range(lanes):
            key, candidate = self.keys[lane], mark.candidates[lane] & ~self.nothing
            all_of_them = stages(m, candidate & self.everything, 1, name=f"all_{lane}")[1]
            m.d.sync += [
                above[lane].eq(key > self.threshold), counts[lane].eq(candidate & ~self.everything),
                upper[lane].eq(key[half:] == self.threshold[half:]),
                lower_half[lane].eq(key[:half] == self.threshold[:half]),
                over[lane].eq(all_of_them | (counts[lane] & above[lane])),
                equal[lane].eq(counts[lane] & upper[lane] & lower_half[lane]),
            ]
        # How many before each lane are equal, and in all; then how many are left to be chosen, which may
        # fall below 0.
        over_2, equal_2 = (stages(m, value, 1, name=name)[1] for value, name in (
            (over, "over"), (equal, "equal")))
        lower: list[Any] = [C(0, 1)]
        lower += [stages(m, _ones(equal[:lane]), 1, name=f"lower_{lane}")[1] for lane in range(1, lanes + 1)]
        left = Signal(signed(KEEP_BITS + 1))
        chosen = Signal(lanes, reset_less=True)
        m.d.sync += [chosen[lane].eq(over_2[lane] | (equal_2[lane] & (lower[lane] < left)))
                     for lane in range(lanes)]
        with m.If(self.ties_valid):
            m.d.sync += left.eq(self.ties)
        with m.Elif(marks[3].valid):
            m.d.sync += left.eq(left - lower[lanes])
        emitted: Any = marks[4]
        note: Any = self.note
        m.d.sync += self.go.eq(~self.emitting | (fifo.level < _FIFO_DEPTH - self._reserve))
        m.d.comb += [
            self.end.eq(emitted.valid & emitted.end), self.empty.eq(fifo.level == 0),
            fifo.i.valid.eq(emitted.valid), fifo.i.payload.chosen.eq(chosen),
            fifo.i.payload.last.eq(emitted.end),
            note.valid.eq(emitted.valid), note.row.eq(emitted.row),
            note.attended.eq(emitted.in_use & (chosen | ~emitted.candidates)),
        ]
        return m


def _ones(bits: Value) -> Value:
    """How many are set."""
    return Array(C(number.bit_count(), len(bits).bit_length()) for number in range(1 << len(bits)))[bits]
