# SPDX-License-Identifier: Apache-2.0
"""Superblock numbers, die groups and virtual dies (`instinfer.abi.layout.superblock_place`)."""

from amaranth.hdl import Array, Const, Module, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig

from .access import ConstantDivider


def physical_die(config: EngineConfig, group: Value, virtual: Value) -> Value:
    """The die of a virtual die in a die group."""
    return virtual if config.die_groups == 1 else group * config.group_dies + virtual


def virtual_die(config: EngineConfig, die: Value) -> Value:
    """The virtual die of a die, or of a virtual die: that one."""
    width = config.group_dies
    if config.die_groups == 1:
        return die
    if width & (width - 1) == 0:
        return die & (width - 1)
    return Array(Const(number % width, 3) for number in range(config.dies))[die]


class SuperblockPlace(wiring.Component):
    """Splits a superblock number into block number and die group.

    Parameters
    ----------
    config : the engine's configuration

    Members
    -------
    superblock : held from ``start`` for as long as the place is used
    start : for at least one cycle
    done : from the end of the last ``start`` on
    block, group : valid while ``done``

    Latency: none, ``done`` is always 1, when ``die_groups`` is a power of two; else that of a
    `ConstantDivider`.
    """

    def __init__(self, *, config: EngineConfig):
        self.config = config
        super().__init__({
            "superblock": In(range(config.superblocks)), "start": In(1), "done": Out(1),
            "block": Out(range(config.blocks)), "group": Out(range(max(2, config.die_groups))),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        groups = self.config.die_groups
        if groups & (groups - 1) == 0:
            m.d.comb += [
                self.done.eq(1), self.block.eq(self.superblock >> (groups.bit_length() - 1)),
                self.group.eq(self.superblock & (groups - 1)),
            ]
            return m
        m.submodules.divider = divider = ConstantDivider(width=len(self.superblock), divisor=groups)
        m.d.comb += [
            divider.start.eq(self.start), divider.dividend.eq(self.superblock), self.done.eq(divider.done),
            self.block.eq(divider.quotient), self.group.eq(divider.remainder),
        ]
        return m
