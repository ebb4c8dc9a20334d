# SPDX-License-Identifier: Apache-2.0
"""Which groups are chosen, in their order, once the threshold is known (``selection.top``)."""

from typing import Any

from amaranth.hdl import C, Module, Mux, Signal, Value
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
    latency : most cycles from a word that is asked for to its ``mark``; so many beats come after ``go`` falls

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

    Latency 2 from ``mark`` to the queue, a row per cycle. Back-pressure: ``go``.
    """

    def __init__(self, *, lanes: int, rows: int, passes: int, latency: int) -> None:
        self._lanes, self._reserve = lanes, latency + 3
        super().__init__({
            "emitting": In(1), "mark": In(sweep_mark(lanes=lanes, rows=rows, passes=passes)),
            "keys": In(KEY_BITS).array(lanes), "threshold": In(KEY_BITS),
            "ties": In(KEEP_BITS), "ties_valid": In(1), "everything": In(1), "nothing": In(1),
            "choice": Out(stream.Signature(choice_beat(lanes))), "go": Out(1), "end": Out(1), "empty": Out(1),
            "note": Out(data.StructLayout({"valid": 1, "row": range(rows), "attended": lanes})),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes = self._lanes
        m.submodules.fifo = fifo = StreamFIFO(shape=choice_beat(lanes), depth=_FIFO_DEPTH)
        wiring.connect(m, fifo.o, wiring.flipped(self.choice))
        marks: list[Any] = stages(m, self.mark, 1, name="emitted", reset=True)
        over, equal = Signal(lanes, reset_less=True), Signal(lanes, reset_less=True)
        left = Signal(KEEP_BITS)
        for lane in range(lanes):
            key, candidate = self.keys[lane], marks[0].candidates[lane] & ~self.nothing
            m.d.sync += [
                over[lane].eq(candidate & (self.everything | (key > self.threshold))),
                equal[lane].eq(candidate & ~self.everything & (key == self.threshold)),
            ]
        chosen = Signal(lanes)
        lower: Value = C(0, 1)
        for lane in range(lanes):
            m.d.comb += chosen[lane].eq(over[lane] | (equal[lane] & (lower < left)))
            lower = lower + equal[lane]
        emitted = Signal()
        with m.If(self.ties_valid):
            m.d.sync += left.eq(self.ties)
        with m.Elif(emitted):
            m.d.sync += left.eq(Mux(lower < left, left - lower, 0))
        note: Any = self.note
        room = Signal()
        m.d.sync += room.eq(fifo.level < _FIFO_DEPTH - self._reserve)
        m.d.comb += [
            self.go.eq(~self.emitting | room),
            emitted.eq(marks[1].valid & self.emitting), self.end.eq(emitted & marks[1].end),
            self.empty.eq(fifo.level == 0),
            fifo.i.valid.eq(emitted), fifo.i.payload.chosen.eq(chosen), fifo.i.payload.last.eq(marks[1].end),
            note.valid.eq(emitted), note.row.eq(marks[1].row),
            note.attended.eq(marks[1].in_use & (chosen | ~marks[1].candidates)),
        ]
        return m
