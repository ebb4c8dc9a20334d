# SPDX-License-Identifier: Apache-2.0
"""The quantised queries of all heads, and the order in which those of one head are read."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig

from ..attention.ports import query_tap
from ..numeric.pipeline import stages
from ..numeric.score import RIGHT_BITS
from .ports import query_shape
from .sparfports import FOLDED_BITS, GROUP_BITS, sparf_job


class QueryStore(wiring.Component):
    """The quantised queries of all head slots, as they are written into the cores.

    ``right`` belongs to the ``head_slot`` and ``query`` of the same cycle; ``row``, the dims of ``group``,
    comes a cycle later. A write counts two cycles later. No back-pressure.
    """

    def __init__(self, *, config: EngineConfig) -> None:
        self._config = config
        super().__init__({
            "tap": In(query_tap(config)),
            "head_slot": In(range(config.head_slots)), "query": In(query_shape(config)),
            "group": In(GROUP_BITS),
            "row": Out(FOLDED_BITS), "right": Out(RIGHT_BITS),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        written = stages(m, self.tap.valid, 1, name="written", reset=True)[1]
        target: Any = stages(m, self.tap.query, 1, name="target")[1]
        pairs = [stages(m, pair, 1, name=f"pair_{index}")[1] for index, pair in enumerate(self.tap.pairs)]
        rows = self._config.head_slots << len(self.query)
        memory: Memory = Memory(shape=FOLDED_BITS, depth=rows << GROUP_BITS, init=[])
        rights: Memory = Memory(shape=RIGHT_BITS, depth=rows, init=[])
        m.submodules.memory, m.submodules.rights = memory, rights
        put, get = memory.write_port(), memory.read_port()
        put_right, get_right = rights.write_port(), rights.read_port(domain="comb")
        m.d.comb += [
            put.en.eq(written), put.addr.eq(Cat(target.group, target.query, target.head_slot)),
            put.data.eq(Cat(*pairs)),
            get.addr.eq(Cat(self.group, self.query, self.head_slot)), self.row.eq(get.data),
            put_right.en.eq(written), put_right.addr.eq(Cat(target.query, target.head_slot)),
            put_right.data.eq(target.right),
            get_right.addr.eq(Cat(self.query, self.head_slot)), self.right.eq(get_right.data),
        ]
        return m


class RowSweep(wiring.Component):
    """Where a sweep over the rows of a head, and over the groups of each, is.

    ``step`` goes to the row's next group, from its last to its first; ``first`` to the first row,
    ``next_row`` to the next one (of both the former counts). ``opening``: at the head's first row, ``end``:
    at its last; ``row_end``: at a row's last group. ``job`` is constant over a head.
    """

    def __init__(self, *, config: EngineConfig) -> None:
        self._config = config
        super().__init__({
            "job": In(sparf_job(config)), "first": In(1), "step": In(1), "next_row": In(1),
            "head_slot": Out(range(config.head_slots)), "query": Out(query_shape(config)),
            "group": Out(GROUP_BITS), "opening": Out(1), "row_end": Out(1), "end": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        left = Signal.like(self.job.passes)  # passes after this one
        pass_end = Signal()
        m.d.comb += [
            pass_end.eq(self.query == Mux(left == 0, self.job.queries, self._config.queries) - 1),
            self.row_end.eq(self.group == self.job.last_group), self.end.eq(pass_end & (left == 0)),
        ]
        with m.If(self.step):
            m.d.sync += self.group.eq(Mux(self.row_end, 0, self.group + 1))
        with m.If(self.first):
            m.d.sync += [self.query.eq(0), self.head_slot.eq(self.job.head_slot),
                         left.eq(self.job.passes - 1), self.opening.eq(1)]
        with m.Elif(self.next_row):
            m.d.sync += [self.query.eq(self.query + 1), self.opening.eq(0)]
            with m.If(pass_end):
                m.d.sync += [self.query.eq(0), self.head_slot.eq(self.head_slot + 1), left.eq(left - 1)]
        return m
