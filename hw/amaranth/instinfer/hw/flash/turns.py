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
    transferable : dies with a run to transfer; one that has none any more must not begin anything else before
        it has looked at ``held`` in the next cycle
    arrived : a new stripe of that die can be transferred from now on
    run_done : the current run was wholly asked for
    current : the die whose run is transferred, a bit each, 0: none
    following : the die after it
    held : dies that are one of the two

    Latency: 2 cycles. A choice stays until its run is done.
    """

    def __init__(self, *, dies: int):
        self._dies = dies
        super().__init__({
            "transferable": In(dies), "arrived": In(dies), "run_done": In(1),
            "current": Out(dies), "following": Out(dies), "held": Out(dies),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        dies = range(self._dies)
        # before[a, b]: the stripe of a arrived before that of b.
        before = {(a, b): Signal(init=1, name=f"before_{a}_{b}") for b in dies for a in range(b)}
        for (a, b), signal in before.items():
            with m.If(self.arrived[a] ^ self.arrived[b]):
                m.d.sync += signal.eq(self.arrived[b])
        # The current die competes again for the run after next, not for the next.
        candidates, free, oldest = Signal(self._dies), Signal(self._dies), Signal(self._dies)
        m.d.sync += candidates.eq(self.transferable & ~self.held)
        m.d.comb += [self.held.eq(self.current | self.following), free.eq(candidates & ~self.held)]
        for die in dies:
            earlier = Cat(free[other] & (before[other, die] if other < die else ~before[die, other])
                          for other in dies if other != die)
            m.d.comb += oldest[die].eq(free[die] & (earlier == 0))

        with m.If((self.current == 0) | self.run_done):
            m.d.sync += [self.current.eq(self.following), self.following.eq(0)]
        with m.Elif(self.following == 0):
            m.d.sync += self.following.eq(oldest)
        with m.If((self.current == 0) & (self.following == 0)):
            m.d.sync += self.current.eq(oldest)
        return m
