# SPDX-License-Identifier: Apache-2.0
"""Shares of what is attended in the approximate softmax (``abi.sparf.alpha``)."""

from amaranth.hdl import Array, C, Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..numeric.pipeline import stages
from .bins import added, tree_levels
from .sparfports import SHARE_BITS
from .terms import TERM_BITS


class QueryShares(wiring.Component):
    """``share`` = sum of a query's attended terms over the sum of all of its terms since ``clear``, for each
    query in turn.

    ``finish``, once the last word's ``latency`` is over, starts the divisions; ``valid`` comes with each
    result, ``cycles`` cycles apart, ``done`` in the cycle of the last one. One word per cycle, no
    back-pressure. A query without terms has a result without meaning.

    Parameters
    ----------
    lanes, queries : of a word
    groups : most groups that are summed
    """

    cycles = SHARE_BITS + 4
    """From one division to the next."""

    def __init__(self, *, lanes: int, queries: int, groups: int) -> None:
        self._lanes, self._queries = lanes, queries
        self._width = TERM_BITS + groups.bit_length()
        self.latency = tree_levels(lanes) + 1
        super().__init__({
            "clear": In(1), "valid_in": In(1), "terms": In(TERM_BITS).array(lanes, queries),
            "attended": In(lanes), "finish": In(1),
            "valid": Out(1), "query": Out(range(max(2, queries))), "share": Out(SHARE_BITS), "done": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        clear = stages(m, self.clear, 1, name="clear", reset=True)[1]
        valid = stages(m, self.valid_in, self.latency - 1, name="valid", reset=True)[-1]
        totals: list[Signal] = []
        parts: list[Signal] = []
        everything = C((1 << self._lanes) - 1, self._lanes)
        for query in range(self._queries):
            for name, sums, wanted in (("all", totals, everything), ("some", parts, self.attended)):
                total = Signal(self._width, name=f"{name}_sum_{query}", reset_less=True)
                word = added(m, [Mux(wanted[lane], self.terms[lane][query], 0)
                                 for lane in range(self._lanes)], name=f"{name}_{query}")
                with m.If(clear):
                    m.d.sync += total.eq(0)
                with m.Elif(valid):
                    m.d.sync += total.eq(total + word)
                sums.append(total)
        # Of twice the rest: the total is subtracted, or added where the step before went below 0.
        rest, total = Signal(self._width + 2), Signal(self._width)
        step = Signal(range(SHARE_BITS + 1))
        fits = ~rest[-1]
        twice, change = Cat(C(0, 1), rest[:-1]), Cat(C(0, 1), total, C(0, 1)) ^ fits.replicate(len(rest))
        last = self.query == self._queries - 1
        part, whole = (stages(m, Array(sums)[self.query], 1, name=name)[1]
                       for sums, name in ((parts, "part"), (totals, "whole")))
        m.d.comb += self.done.eq(self.valid & last)
        with m.FSM():
            with m.State("WAIT"):
                m.d.sync += self.query.eq(0)
                with m.If(self.finish):
                    m.next = "CHOOSE_QUERY"
            with m.State("CHOOSE_QUERY"):
                m.next = "TAKE_SUMS"
            with m.State("TAKE_SUMS"):
                m.d.sync += [rest.eq(part), total.eq(whole), step.eq(SHARE_BITS)]
                m.next = "DIVIDE"
            with m.State("DIVIDE"):
                m.d.sync += [
                    self.share.eq(Cat(fits, self.share)), step.eq(step - 1),
                    rest.eq((Cat(fits, twice) + Cat(fits, change))[1:]),  # with the carry of a subtraction
                ]
                with m.If(step == 0):
                    m.next = "ANSWER"
            with m.State("ANSWER"):
                m.d.comb += self.valid.eq(1)
                m.d.sync += self.query.eq(self.query + 1)
                m.next = "CHOOSE_QUERY"
                with m.If(last):
                    m.next = "WAIT"
        return m
