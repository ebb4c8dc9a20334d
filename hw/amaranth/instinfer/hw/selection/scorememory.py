# SPDX-License-Identifier: Apache-2.0
"""Where group maxima wait for their choice, and the keys that are made of them."""

from amaranth.hdl import Cat, Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.selection import KEY_BITS, SCORE_BITS

from ..memory import BlockMemory

STRIDE_BITS = 2
"""Log2 of the words of a group: 1, 2, 4 or 8."""
_BANK = 2048


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

    latency = BlockMemory.latency

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
            m.submodules[f"bank_{lane}"] = bank = BlockMemory(
                width=SCORE_BITS * self._queries, depth=self._rows, bank=_BANK)
            m.submodules[f"keys_{lane}"] = keys = BlockMemory(width=KEY_BITS, depth=self._rows, bank=_BANK)
            m.d.comb += [
                bank.write_enable.eq(self.put & (self.put_group[:lane_bits] == lane)),
                bank.write_address.eq(write_address), bank.write_data.eq(Cat(self.maxima)),
                bank.read_address.eq(read_address),
                keys.write_enable.eq(self.key_valid), keys.write_address.eq(self.key_row),
                keys.write_data.eq(self.keys[lane]), keys.read_address.eq(self.row),
                self.found_keys[lane].eq(keys.read_data),
                *(self.words[lane][query].eq(bank.read_data.word_select(query, SCORE_BITS))
                  for query in range(self._queries)),
            ]
        return m
