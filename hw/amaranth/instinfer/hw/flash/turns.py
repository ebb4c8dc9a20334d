# SPDX-License-Identifier: Apache-2.0
"""Whose run of slots the bus transfers now, and whose next."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out


class Turns(wiring.Component):
    """Chooses dies for the transfer of a run (neighbouring slots of a page): the one whose stripe arrived
    first, but two different ones in a row where possible, so that one die's column change hides behind the
    other's run.

    Parameters
    ----------
    dies : number of dies

    Members
    -------
    transferable : dies with a run to transfer
    arrived : a new stripe of that die can be transferred from now on
    run_done : the current run was wholly asked for
    current, current_valid : the die whose run is transferred
    following, following_valid : the die after it
    held : dies that are one of the two

    Latency: 1 cycle. A choice stays until its run is done.
    """

    def __init__(self, *, dies: int):
        self._dies = dies
        super().__init__({
            "transferable": In(dies), "arrived": In(dies), "run_done": In(1),
            "current": Out(3), "current_valid": Out(1), "following": Out(3), "following_valid": Out(1),
            "held": Out(dies),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        dies = range(self._dies)
        # older[a] bit b: the stripe of a arrived before that of b.
        older = [Signal(self._dies, name=f"older_{die}") for die in dies]
        for die in dies:
            for other in dies:
                with m.If(self.arrived[die] & ~self.arrived[other]):
                    m.d.sync += [older[die][other].eq(0), older[other][die].eq(1)]
            m.d.comb += self.held[die].eq((self.current_valid & (self.current == die))
                                          | (self.following_valid & (self.following == die)))
        # The current die competes again for the run after next, not for the next.
        free = Signal(self._dies)
        oldest = Signal(3)
        m.d.comb += free.eq(self.transferable & ~self.held)
        for die in reversed(dies):
            earlier = Cat(free[other] & older[other][die] for other in dies if other != die)
            with m.If(free[die] & (earlier == 0)):
                m.d.comb += oldest.eq(die)

        promote = ~self.current_valid | self.run_done
        with m.If(promote):
            m.d.sync += [self.current.eq(self.following), self.current_valid.eq(self.following_valid),
                         self.following_valid.eq(0)]
        with m.Elif(~self.following_valid & (free != 0)):
            m.d.sync += [self.following.eq(oldest), self.following_valid.eq(1)]
        with m.If(~self.current_valid & ~self.following_valid & (free != 0)):
            m.d.sync += [self.current.eq(oldest), self.current_valid.eq(1)]
        return m
