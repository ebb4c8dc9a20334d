# SPDX-License-Identifier: Apache-2.0
"""Memories in block RAM."""

from typing import Any

from amaranth.hdl import Array, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from .numeric.pipeline import stages

COLLISION_FREE: dict[str, Any] = {"no_rw_check": 1}
"""Attributes of a memory of which nobody uses a word that was read in the cycle in which it was written.

An Amaranth memory promises the word as it was before the write. Where block RAM does not (ECP5), Yosys
compares addresses and keeps the old word beside it, in front of whatever reads; with ``no_rw_check`` it does
not. Benches spoil each such word in simulation (``tests/support/collisions.py``).
"""

DISTRIBUTED: dict[str, Any] = {"ram_style": "distributed"}
"""Attributes of a memory that stays in LUTs though a register is behind its read port: a block RAM without
its output register would be slower."""

BLOCK: dict[str, Any] = {"ram_style": "block"}
"""Attributes of a deep memory that is written where it is read. Yosys believes that UltraScale has LUT RAM of
65,536 words for such a memory, and stops over it."""


class BlockMemory(wiring.Component):
    """A memory in block RAMs, each bank with a register in front of it and the one that block RAM has at its
    output; what chooses among them comes behind these, and a register behind that.

    Parameters
    ----------
    width : bits of a word
    depth : words
    bank : words of a bank, a power of two: as many as a block RAM of some width has, 512 to 16,384
    copy : another number for each of several memories that are addressed alike. Synthesis would make one of
        their address registers, for block RAMs all over a chip; what a reset leaves in them keeps them apart

    Members
    -------
    write_enable, write_address, write_data : a word is stored
    read_address, read_data : a word, ``latency`` cycles later. One that is stored in the cycle in which it is
        asked for has no meaning, one stored in the cycle before is there

    Throughput: a word in and a word out per cycle. No back-pressure.
    """

    latency = 4

    def __init__(self, *, width: int, depth: int, bank: int, copy: int = 0) -> None:
        if bank & (bank - 1) or bank < 2:
            raise ValueError(f"a bank of {bank} words is not possible: choose a power of two")
        self._bits, self._banks, self._copy = bank.bit_length() - 1, -(-depth // bank), copy
        address = range(max(2, depth))
        super().__init__({
            "write_enable": In(1), "write_address": In(address), "write_data": In(width),
            "read_address": In(address), "read_data": Out(width),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits, depth = self._bits, min(1 << self._bits, 1 << len(self.read_address))
        write_data = stages(m, self.write_data, 1, name="write_data")[1]
        words = []
        for number in range(self._banks):
            memory: Memory = Memory(shape=len(self.read_data), depth=depth, init=[], attrs=COLLISION_FREE)
            m.submodules[f"ram_{number}"] = memory
            write, read = memory.write_port(), memory.read_port()
            writes = self.write_enable & (self.write_address >> bits == number)
            # Addresses of a bank move for it alone: equal registers would be merged again in synthesis, and
            # the banks lie far apart.
            write_at, read_at = (self._apart(write.addr, name=f"{name}_at_{number}")
                                 for name in ("write", "read"))
            with m.If(writes):
                m.d.sync += write_at.eq(self.write_address)
            with m.If(self.read_address >> bits == number):
                m.d.sync += read_at.eq(self.read_address)
            m.d.comb += [
                write.en.eq(stages(m, writes, 1, name=f"writes_{number}", reset=True)[1]),
                write.addr.eq(write_at), write.data.eq(write_data), read.addr.eq(read_at),
            ]
            words.append(stages(m, read.data, 1, name=f"word_{number}")[1])
        early = stages(m, self.read_address >> bits, self.latency - 2, name="which")[-1]
        which = self._apart(early, name="which")
        m.d.sync += which.eq(early)
        m.d.comb += self.read_data.eq(stages(m, Array(words)[which], 1, name="read_data")[1])
        return m

    def _apart(self, value: Value, *, name: str) -> Signal:
        """A register for `value` that is not equal to that of another copy."""
        return Signal(len(value), init=self._copy % (1 << len(value)), name=name, reset_less=True)
