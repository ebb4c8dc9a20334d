# SPDX-License-Identifier: Apache-2.0
"""Spare blocks that stand in for bad ones, plane by plane."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig

from ..signatures import BLOCK_BITS, block_replacement


def map_depth(config: EngineConfig) -> int:
    """Entries of a channel's `BlockMap`; as many cycles pass after a reset until all are clear."""
    bits = (config.dies - 1).bit_length() + (config.planes - 1).bit_length() + _block_bits(config)
    return 1 << bits


def _block_bits(config: EngineConfig) -> int:
    return (config.physical_blocks - 1).bit_length()


class BlockMap(wiring.Component):
    """From the block that a request names to the physical block of each plane.

    An entry holds the bits in which the two differ, so a cleared memory maps every block to itself.

    Parameters
    ----------
    config : geometry

    Members
    -------
    die, plane, block : a place
    physical : its block, one cycle later
    replace : from now on ``spare`` is the physical block of the place (itself: as it was)

    Latency: 1 cycle. Throughput: one look-up per cycle. After a reset ``replace`` may come when
    `map_depth` cycles have passed.
    """

    def __init__(self, *, config: EngineConfig):
        self._config = config
        super().__init__({
            "die": In(3), "plane": In(2), "block": In(BLOCK_BITS), "physical": Out(BLOCK_BITS),
            "replace": In(block_replacement()),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        bits = _block_bits(config)
        memory: Memory = Memory(shape=bits, depth=max(2, map_depth(config)), init=[])
        m.submodules.differences = memory
        read, write = memory.read_port(), memory.write_port()
        clear = Signal(range(memory.depth + 1))
        clearing = Signal()
        asked = Signal(bits)

        def place(die: Value, plane: Value, block: Value) -> Value:
            return Cat(block[:bits], plane[:(config.planes - 1).bit_length()],
                       die[:(config.dies - 1).bit_length()])

        change = self.replace
        m.d.comb += [
            read.addr.eq(place(self.die, self.plane, self.block)),
            self.physical.eq(Cat(read.data ^ asked, Const(0, BLOCK_BITS - bits))),
            clearing.eq(clear != memory.depth),
            write.en.eq(clearing | change.valid),
            write.addr.eq(Mux(clearing, clear, place(change.die, change.plane, change.block))),
            write.data.eq(Mux(clearing, 0, change.spare ^ change.block)),
        ]
        m.d.sync += asked.eq(self.block)
        with m.If(clearing):
            m.d.sync += clear.eq(clear + 1)
        return m
