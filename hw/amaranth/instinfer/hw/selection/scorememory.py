# SPDX-License-Identifier: Apache-2.0
"""Where group maxima wait for their choice, and keys take their place."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from instinfer.abi.selection import KEY_BITS, SCORE_BITS

from ..numeric.pipeline import stages

STRIDE_BITS = 2
"""Log2 of the words of a group: 1, 2, 4 or 8."""


class ScoreMemory(wiring.Component):
    """A bank per lane; group g has row g // lanes in bank g % lanes.

    Word (row << stride) + pass holds the maxima of a pass. The group's key goes into the lowest bits of its
    word of pass 0. One write and one read per bank and cycle: ``put`` writes the maxima of a group, or
    ``keys`` of a row are written. ``words`` belong to the ``row`` and ``pass_`` of ``latency`` cycles before.

    Parameters
    ----------
    lanes, queries : banks, and maxima of a word
    rows : words of a bank, a power of two
    passes : most passes of a group
    """

    latency = 2

    def __init__(self, *, lanes: int, queries: int, rows: int, passes: int) -> None:
        self._lanes, self._queries, self._rows = lanes, queries, rows
        number = range(max(2, passes))
        super().__init__({
            "stride": In(STRIDE_BITS),
            "put": In(1), "put_group": In(range(lanes * rows)), "put_pass": In(number),
            "maxima": In(signed(SCORE_BITS)).array(queries),
            "key_valid": In(1), "key_row": In(range(rows)), "keys": In(KEY_BITS).array(lanes),
            "row": In(range(rows)), "pass_": In(number),
            "words": Out(signed(SCORE_BITS)).array(lanes, queries),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lane_bits = self._lanes.bit_length() - 1
        write_address, read_address = Signal(range(self._rows)), Signal(range(self._rows))
        m.d.comb += [
            read_address.eq((self.row << self.stride) + self.pass_),
            write_address.eq(Mux(self.put, (self.put_group[lane_bits:] << self.stride) + self.put_pass,
                                 self.key_row << self.stride)),
        ]
        for lane in range(self._lanes):
            memory: Memory = Memory(shape=SCORE_BITS * self._queries, depth=self._rows, init=[])
            m.submodules[f"bank_{lane}"] = memory
            write, read = memory.write_port(granularity=SCORE_BITS), memory.read_port()
            m.d.comb += [
                read.addr.eq(read_address), write.addr.eq(write_address),
                write.data.word_select(0, KEY_BITS).eq(self.keys[lane]),
            ]
            with m.If(self.put):
                m.d.comb += [
                    *(write.data.word_select(query, SCORE_BITS).eq(self.maxima[query])
                      for query in range(self._queries)),
                    write.en.eq(Mux(self.put_group[:lane_bits] == lane, (1 << self._queries) - 1, 0)),
                ]
            with m.Else():
                m.d.comb += write.en.eq(self.key_valid)
            word = stages(m, read.data, 1, name=f"word_{lane}")[1]
            m.d.comb += [self.words[lane][query].eq(word.word_select(query, SCORE_BITS))
                         for query in range(self._queries)]
        return m
