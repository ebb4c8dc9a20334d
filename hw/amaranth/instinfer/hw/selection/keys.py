# SPDX-License-Identifier: Apache-2.0
"""Sums of powers of two over groups and over queries (``selection.log_sums``, ``selection.group_keys``)."""

import functools
from operator import or_
from typing import Any

from amaranth.hdl import C, Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from instinfer.abi.selection import KEY_BITS, SCORE_BITS, SCORE_FRACTION, SCORE_HIGHEST, SCORE_LOWEST

from ..numeric.pipeline import stages
from .bins import RUNNING_CYCLES, added, largest, running_largest, tree_levels
from .terms import DISTANCE_BITS, TERM_BITS, Exp2Term, Log2OfSum

RELATIVE_BITS = SCORE_BITS + 2
"""Of a maximum less a log sum."""
TOP_BITS = RELATIVE_BITS - SCORE_FRACTION
NOWHERE = -(1 << RELATIVE_BITS - 1)
"""Stands for what does not count: 2**NOWHERE is nothing beside every other term."""
MARKS = data.StructLayout({"valid": 1, "first": 1, "final": 1})
"""A word with the maxima of a pass; ``first`` and ``final`` pass of its groups."""


class TermArray(wiring.Component):
    """``terms`` = 2**(value - offset - top) of a word of maxima per lane and query.

    ``top`` is the integer part of the largest value - offset of a group over the words of its passes, which
    come in consecutive cycles, or ``fixed_tops`` of each query, given ``lead`` cycles after the word, where
    ``fixed``, which stays while words are inside. A lane or a query that is not in use gives 0.

    Latency ``latency`` (``marks_out`` too), one word per cycle, no back-pressure.

    Parameters
    ----------
    lanes, queries : of a word
    passes : most words of a group
    """

    def __init__(self, *, lanes: int, queries: int, passes: int) -> None:
        self._lanes, self._queries, self._passes = lanes, queries, passes
        self._settle = 2 * tree_levels(queries) - 1 + RUNNING_CYCLES
        self.lead = passes + self._settle + 3
        self.latency = self.lead + 3 + Exp2Term.latency
        super().__init__({
            "marks": In(MARKS), "values": In(signed(SCORE_BITS)).array(lanes, queries),
            "offsets": In(signed(RELATIVE_BITS)).array(queries),
            "use_lane": In(lanes), "use_query": In(queries),
            "fixed": In(1), "fixed_tops": In(signed(TOP_BITS)).array(queries),
            "marks_out": Out(MARKS), "terms": Out(TERM_BITS).array(lanes, queries),
            "tops": Out(signed(TOP_BITS)).array(lanes),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        wait = self.lead  # of a value, for its top
        marks: list[Any] = stages(m, self.marks, self.latency, name="marks", reset=True)
        m.d.comb += self.marks_out.eq(marks[-1])
        relative = [[Signal(signed(RELATIVE_BITS), name=f"relative_{lane}_{query}", reset_less=True)
                     for query in range(self._queries)] for lane in range(self._lanes)]
        use_lane = stages(m, self.use_lane, 1, name="use_lane")[1]
        use_query = stages(m, self.use_query, 1, name="use_query")[1]
        for query in range(self._queries):
            offset = stages(m, self.offsets[query], 1, name=f"offset_{query}")[1]
            for lane in range(self._lanes):
                value = stages(m, self.values[lane][query], 1, name=f"value_{lane}_{query}")[1]
                m.d.sync += relative[lane][query].eq(
                    Mux(use_lane[lane] & use_query[query], value - offset, NOWHERE))
        tops = self._tops(m, relative, marks)
        fixed_tops = [stages(m, self.fixed_tops[query], 1, name=f"fixed_{query}")[1]
                      for query in range(self._queries)]
        for lane in range(self._lanes):
            m.d.comb += self.tops[lane].eq(stages(
                m, tops[lane], 2 + Exp2Term.latency, name=f"top_{lane}")[-1])
            for query in range(self._queries):
                value = stages(m, relative[lane][query], wait, name=f"late_{lane}_{query}")[wait]
                m.submodules[f"term_{lane}_{query}"] = term = Exp2Term()
                top = stages(m, Mux(self.fixed, fixed_tops[query], tops[lane]), 1,
                             name=f"from_{lane}_{query}")[1]
                distance = (top - value[SCORE_FRACTION:].as_signed())[:DISTANCE_BITS]
                m.d.comb += [
                    term.fraction.eq(stages(m, value[:SCORE_FRACTION], 1, name=f"part_{lane}_{query}")[1]),
                    term.distance.eq(stages(m, distance, 1, name=f"distance_{lane}_{query}")[1]),
                    self.terms[lane][query].eq(term.term),
                ]
        return m

    def _tops(self, m: Module, relative: list[list[Signal]], marks: list[Any]) -> list[Value]:
        """Top of each lane's group, in the cycle in which the waiting value leaves: the tops go through a
        queue of their own, as they are known with a group's last word only."""
        depth = 1 << self._passes.bit_length()
        memory: Memory = Memory(shape=TOP_BITS * self._lanes, depth=depth, init=[])
        m.submodules.tops = memory
        write, read = memory.write_port(), memory.read_port()
        put, take = Signal(range(depth)), Signal(range(depth))
        found, known = marks[2 + 2 * tree_levels(self._queries)], marks[2 + self._settle]
        best = []
        for lane in range(self._lanes):
            word = largest(m, [value[SCORE_FRACTION:].as_signed() for value in relative[lane]],
                           name=f"top_{lane}")
            best.append(running_largest(m, word, first=found.first, name=f"group_top_{lane}"))
        leaves = marks[self.lead]
        m.d.comb += [
            write.addr.eq(put), write.data.eq(Cat(*best)),
            write.en.eq(stages(m, known.valid & known.final, 1, name="known", reset=True)[1]),
            read.addr.eq(take),
        ]
        with m.If(write.en):
            m.d.sync += put.eq(put + 1)
        with m.If(leaves.valid & leaves.final):
            m.d.sync += take.eq(take + 1)
        return [Value.cast(read.data).word_select(lane, TOP_BITS).as_signed() for lane in range(self._lanes)]


class GroupKey(wiring.Component):
    """``key`` of one lane's group: log2 of the sum of its terms, over the words of its passes, clipped and
    made unsigned (``selection.group_keys``).

    ``valid`` comes ``latency`` cycles after the group's final word. One word per cycle, no back-pressure.

    Parameters
    ----------
    queries : terms of a word
    passes : most words of a group
    """

    def __init__(self, *, queries: int, passes: int) -> None:
        self._queries = queries
        self._width = TERM_BITS + (queries * passes).bit_length()
        self._log2 = Log2OfSum(width=self._width)
        self._levels = tree_levels(queries)
        self.latency = self._levels + 3 + self._log2.latency
        super().__init__({
            "marks": In(MARKS), "terms": In(TERM_BITS).array(queries), "top": In(signed(TOP_BITS)),
            "valid": Out(1), "key": Out(KEY_BITS),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        marks: list[Any] = stages(m, self.marks, self.latency, name="marks", reset=True)
        top = stages(m, self.top, self.latency - 2, name="top")[-1]
        word = added(m, [self.terms[query] for query in range(self._queries)], name="word")
        total = Signal(self._width, reset_less=True)
        m.submodules.log2 = log2 = self._log2
        with m.If(marks[self._levels].valid):
            m.d.sync += total.eq(Mux(marks[self._levels].first, 0, total) + word)
        exact = Signal(signed(RELATIVE_BITS + 1), reset_less=True)
        m.d.sync += exact.eq(Cat(C(0, SCORE_FRACTION), top).as_signed() + log2.value)
        m.d.comb += [
            log2.total.eq(total),
            self.valid.eq(marks[-1].valid & marks[-1].final),
        ]
        with m.If(exact < SCORE_LOWEST):
            m.d.sync += self.key.eq(0)
        with m.Elif(exact > SCORE_HIGHEST):
            m.d.sync += self.key.eq(SCORE_HIGHEST - SCORE_LOWEST)
        with m.Else():
            m.d.sync += self.key.eq(exact - Const(SCORE_LOWEST))
        return m


class QuerySums(wiring.Component):
    """``results`` = log2 of the sum of each query's terms over all words of its pass since ``clear``, plus
    its top.

    ``finish``, once the last word's ``latency`` is over, starts the logarithms of ``passes``, one query per
    cycle; ``done`` comes with the last of them, ``queries`` * ``passes`` + ``settle`` cycles later.
    ``results`` stay until the next ``finish``. One word per cycle, no back-pressure.

    Parameters
    ----------
    lanes, queries : of a word
    groups : most groups that are summed
    passes : most passes
    """

    def __init__(self, *, lanes: int, queries: int, groups: int, passes: int) -> None:
        self._lanes, self._queries, self._passes = lanes, queries, passes
        self._width = TERM_BITS + groups.bit_length()
        self._log2 = Log2OfSum(width=self._width)
        self.latency = tree_levels(lanes) + 1
        self.settle = 3 + self._log2.latency
        super().__init__({
            "clear": In(1), "valid": In(1), "pass_": In(range(max(2, passes))),
            "terms": In(TERM_BITS).array(lanes, queries),
            "tops": In(signed(TOP_BITS)).array(passes, queries),
            "finish": In(1), "passes": In(range(passes + 1)),
            "results": Out(signed(RELATIVE_BITS)).array(passes, queries), "done": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.log2 = log2 = self._log2
        valid = stages(m, self.valid, self.latency - 1, name="valid", reset=True)[-1]
        at = stages(m, self.pass_, self.latency - 1, name="at")[-1]
        words = [added(m, [self.terms[lane][query] for lane in range(self._lanes)], name=f"word_{query}")
                 for query in range(self._queries)]
        places = [(number, query) for number in range(self._passes) for query in range(self._queries)]
        # The first of each place is up a cycle behind ``finish``.
        turns: list[Any] = stages(m, self.finish, len(places) + self.settle, name="turn", reset=True)[1:]
        totals, tops = [], []
        value = Signal(signed(RELATIVE_BITS), reset_less=True)
        for index, (number, query) in enumerate(places):
            total = Signal(self._width, name=f"total_{number}_{query}", reset_less=True)
            with m.If(self.clear):
                m.d.sync += total.eq(0)
            with m.Elif(valid & (at == number)):
                m.d.sync += total.eq(total + words[query])
            totals.append(Mux(turns[index], total, 0))
            tops.append(Mux(turns[index + log2.latency], self.tops[number][query], 0))
            with m.If(turns[index + log2.latency + 2]):
                m.d.sync += self.results[number][query].eq(value)
        m.d.comb += log2.total.eq(stages(m, functools.reduce(or_, totals), 1, name="total")[1])
        top = stages(m, functools.reduce(or_, tops), 1, name="top")[1]
        m.d.sync += value.eq(Cat(C(0, SCORE_FRACTION), top).as_signed() + log2.value)
        for number in range(self._passes):
            with m.If(self.passes == number + 1):
                m.d.comb += self.done.eq(turns[(number + 1) * self._queries - 1 + self.settle])
        return m
