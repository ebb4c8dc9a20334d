# SPDX-License-Identifier: Apache-2.0
"""Sweeps of a `GroupChooser` over the words of a head's groups, row by row."""

from typing import Any

from amaranth.hdl import C, Cat, Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig

from ..numeric.pipeline import stages
from .ports import choice_job


def sweep_mark(*, lanes: int, rows: int, passes: int) -> data.StructLayout:
    """What is read: the ``pass`` of a row; ``final``: the last one of this row that is read; ``candidates``
    may be chosen, those ``in_use`` are groups of the head; ``end``: the sweep's last."""
    return data.StructLayout({
        "valid": 1, "row": range(rows), "pass": range(max(2, passes)), "final": 1, "candidates": lanes,
        "in_use": lanes, "end": 1,
    })


class ScoreSweep(wiring.Component):
    """Asks for the words of all passes of a row, then for those of the next row, or for one word per row.

    Parameters
    ----------
    config : the engine's configuration
    lanes, rows, passes : of the `GroupChooser`; latency : cycles from a row's address to its words

    Members
    -------
    job : lies still during a sweep
    start : begins one, over ``all_passes`` of that cycle or over one word per row
    go : 1 when the next word may be asked for
    reading, row, pass_, final : a word is asked for; its address; the row's last
    mark : of the word that was asked for ``latency`` cycles ago

    A word per cycle while ``go``, from the cycle after ``start`` on.
    """

    def __init__(self, *, config: EngineConfig, lanes: int, rows: int, passes: int, latency: int) -> None:
        self._lanes, self._latency = lanes, latency
        self._mark = sweep_mark(lanes=lanes, rows=rows, passes=passes)
        super().__init__({
            "job": In(choice_job(config)), "start": In(1), "all_passes": In(1), "go": In(1),
            "reading": Out(1), "row": Out(range(rows)), "pass_": Out(range(max(2, passes))), "final": Out(1),
            "mark": Out(self._mark),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        job: Any = self.job
        lane_bits = self._lanes.bit_length() - 1
        sweeping, all_passes = Signal(), Signal()
        asked: Any = Signal(self._mark)
        # Looked at a row ahead: of the row that is asked for, whether it is the last one.
        last_row, before_last = Signal.like(self.row), Signal.like(self.row)
        at_last, last_pass = Signal(), Signal.like(self.pass_)
        m.d.sync += [last_row.eq((job.groups - 1)[lane_bits:]), before_last.eq(last_row - 1),
                     last_pass.eq(job.passes - 1)]
        final = ~all_passes | (self.pass_ == last_pass)
        end = final & at_last
        m.d.comb += [
            self.final.eq(final),
            self.reading.eq(sweeping & self.go),
            asked.valid.eq(self.reading), asked.row.eq(self.row), asked["pass"].eq(self.pass_),
            asked.final.eq(final), asked.end.eq(end & self.reading),
            self.mark.eq(stages(m, asked, self._latency, name="asked", reset=True)[-1]),
        ]
        for lane in range(self._lanes):
            group = Cat(C(lane, lane_bits), self.row)
            m.d.comb += [
                asked.in_use[lane].eq(group < job.groups),
                asked.candidates[lane].eq((group >= job.first) & (group < job.end) & (group < job.groups)),
            ]
        with m.If(self.reading):
            with m.If(end):
                m.d.sync += [sweeping.eq(0), self.row.eq(0), self.pass_.eq(0)]
            with m.Elif(final):
                m.d.sync += [self.row.eq(self.row + 1), at_last.eq(self.row == before_last)]
                with m.If(all_passes):
                    m.d.sync += self.pass_.eq(0)
            with m.Else():
                m.d.sync += self.pass_.eq(self.pass_ + 1)
        with m.If(self.start):
            m.d.sync += [sweeping.eq(1), all_passes.eq(self.all_passes), at_last.eq(last_row == 0)]
        return m
