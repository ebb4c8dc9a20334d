# SPDX-License-Identifier: Apache-2.0
"""Where group maxima wait for their choice, and the keys that are made of them."""

from amaranth.hdl import Cat, Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from instinfer.abi.selection import KEY_BITS, SCORE_BITS

from ..numeric.pipeline import stages

STRIDE_BITS = 2
"""Log2 of the words of a group: 1, 2, 4 or 8."""


class ScoreMemory(wiring.Component):
    """A bank per lane; group g has row g // lanes in bank g % lanes.

    Word (row << stride) + pass holds the maxima of a pass. Keys have a memory of their own, since the maxima
    are needed once more when shares are made. Per bank and cycle ``put`` writes the maxima of a group, and
    ``keys`` of a row are written. ``words`` and ``found_keys`` belong to the ``row`` and ``pass_`` of
    ``latency`` cycles before.

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
            "words": Out(signed(SCORE_BITS)).array(lanes, queries), "found_keys": Out(KEY_BITS).array(lanes),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lane_bits = self._lanes.bit_length() - 1
        write_address, read_address = Signal(range(self._rows)), Signal(range(self._rows))
        m.d.comb += [
            read_address.eq((self.row << self.stride) + self.pass_),
            write_address.eq((self.put_group[lane_bits:] << self.stride) + self.put_pass),
        ]
        for lane in range(self._lanes):
            memory: Memory = Memory(shape=SCORE_BITS * self._queries, depth=self._rows, init=[])
            m.submodules[f"bank_{lane}"] = memory
            write, read = memory.write_port(), memory.read_port()
            made: Memory = Memory(shape=KEY_BITS, depth=self._rows, init=[])
            m.submodules[f"keys_{lane}"] = made
            note, look = made.write_port(), made.read_port()
            m.d.comb += [
                read.addr.eq(read_address), write.addr.eq(write_address), write.data.eq(Cat(self.maxima)),
                write.en.eq(self.put & (self.put_group[:lane_bits] == lane)),
                note.addr.eq(self.key_row), note.data.eq(self.keys[lane]), note.en.eq(self.key_valid),
                look.addr.eq(self.row),
                self.found_keys[lane].eq(stages(m, look.data, 1, name=f"key_{lane}")[1]),
            ]
            word = stages(m, read.data, 1, name=f"word_{lane}")[1]
            m.d.comb += [self.words[lane][query].eq(word.word_select(query, SCORE_BITS))
                         for query in range(self._queries)]
        return m
