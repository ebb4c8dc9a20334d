# SPDX-License-Identifier: Apache-2.0
"""Where group maxima wait for their choice, and the keys that are made of them."""

from amaranth.hdl import Cat, Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.selection import KEY_BITS, SCORE_BITS

from ..memory import BlockMemory
from ..numeric.pipeline import stages

STRIDE_BITS = 2
"""Log2 of the words of a group: 1, 2, 4 or 8."""
_BANK = 2048


class ScoreMemory(wiring.Component):
    """A bank per lane; group g has row g // lanes in bank g % lanes.

    Word (row << stride) | pass holds the maxima of a pass. Keys have a memory of their own, since the maxima
    are needed once more when shares are made. Per bank and cycle ``put`` writes the maxima of a group, and
    ``keys`` of a row are written. ``words`` and ``found_keys`` belong to the ``row`` and ``pass_`` of
    ``latency`` cycles before.

    Parameters
    ----------
    lanes, queries : banks, and maxima of a word
    rows : words of a bank, a power of two
    passes : most passes of a group
    """

    latency = 1 + BlockMemory.latency

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
        write_address = Signal(range(self._rows), reset_less=True)
        read_address = Signal(range(self._rows), reset_less=True)
        m.d.sync += [
            read_address.eq((self.row << self.stride) | self.pass_),
            write_address.eq((self.put_group[lane_bits:] << self.stride) | self.put_pass),
        ]
        maxima = stages(m, Cat(self.maxima), 1, name="maxima")[1]
        row = stages(m, self.row, 1, name="row")[1]
        key_valid = stages(m, self.key_valid, 1, name="key_valid", reset=True)[1]
        key_row = stages(m, self.key_row, 1, name="key_row")[1]
        for lane in range(self._lanes):
            m.submodules[f"bank_{lane}"] = bank = BlockMemory(
                width=SCORE_BITS * self._queries, depth=self._rows, bank=_BANK, copy=lane)
            m.submodules[f"keys_{lane}"] = keys = BlockMemory(
                width=KEY_BITS, depth=self._rows, bank=_BANK, copy=lane)
            m.d.comb += [
                bank.write_enable.eq(stages(m, self.put & (self.put_group[:lane_bits] == lane), 1,
                                            name=f"put_{lane}", reset=True)[1]),
                bank.write_address.eq(write_address), bank.write_data.eq(maxima),
                bank.read_address.eq(read_address),
                keys.write_enable.eq(key_valid), keys.write_address.eq(key_row),
                keys.write_data.eq(stages(m, self.keys[lane], 1, name=f"key_{lane}")[1]),
                keys.read_address.eq(row),
                self.found_keys[lane].eq(keys.read_data),
                *(self.words[lane][query].eq(bank.read_data.word_select(query, SCORE_BITS))
                  for query in range(self._queries)),
            ]
        return m
