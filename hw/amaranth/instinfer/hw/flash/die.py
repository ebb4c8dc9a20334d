# SPDX-License-Identifier: Apache-2.0
"""What one die is doing and what it wants next."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import enum, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig

from ..signatures import MediaStatus
from .onfi import BusTimes
from .queues import DEPTH

PATIENCE = 4
"""Stripes read from a die while a program or erase waits for it."""
TIMEOUT_TICKS = 8
"""The time-out in ticks of the channel's shared timer; it fires up to one tick late."""


class Work(enum.Enum, shape=4):
    """What a die asks the scheduler for."""

    NONE = 0
    RESET = 1
    SENSE = 2
    """Read command of plane ``plane``."""
    FINISH = 3
    """End of a cache read."""
    CLAIM = 4
    """The page encoder, for the program at the head of the queue."""
    PROGRAM = 5
    ERASE = 6
    STATUS = 7
    REPORT = 8
    """The end of the write at the head of the queue."""
    FORGO = 9
    """The die is dead: the read at the head of the queue fails."""


class DieControl(wiring.Component):
    """State of one die: reset, reads through page and cache registers, programs, erases, time-out.

    The *front* stripe is in the cache registers and can be transferred; the *back* stripe is in the page
    registers or on its way there. A sense of the next stripe starts as soon as the back is free, with two
    exceptions: a die whose first page is the only work that the bus could do transfers that page first, and
    after the end of a cache read (3Fh) ONFI wants a new first read (30h), so the front must be gone.
    A write starts when no read is queued, or after PATIENCE stripes; the die is empty then.

    Parameters
    ----------
    config : geometry and times

    Members
    -------
    ready : R/B_n
    tick : pulse of the time-out timer
    read_level, write_level, write_erase : of this die's queues
    encoder_free : no program holds the page encoder
    may_claim : no other die is about to take the page encoder
    wants_claim : this die is
    held : the die's page is being transferred or is the next one
    bus_served : the bus has a page to transfer
    work, plane, cached, offset : wanted job; ``cached``: a sense behind the front stripe (31h); ``offset`` of
        its request from the oldest queued read
    status : for REPORT
    done : the job is finished; with it ``final`` (that was the last plane), ``failed``, ``aborted``
    column_done : the column change for page ``page`` has started on the bus
    page_done, stripe_done : that page, the front stripe, was wholly asked for
    transferable : the front has a page to transfer
    prepared : its column is set and tCCS is over
    columned : its column is set
    arrived : pulse, a stripe became front
    abandon : pulse, the die died while it held the page encoder
    """

    def __init__(self, *, config: EngineConfig):
        self._config = config
        plane = range(max(2, config.planes))
        super().__init__({
            "ready": In(1), "tick": In(1), "read_level": In(range(DEPTH + 1)),
            "write_level": In(range(DEPTH + 1)), "write_erase": In(1),
            "encoder_free": In(1), "may_claim": In(1), "wants_claim": Out(1),
            "held": In(1), "bus_served": In(1),
            "work": Out(Work), "plane": Out(plane), "cached": Out(1), "offset": Out(range(DEPTH)),
            "status": Out(MediaStatus),
            "done": In(1), "final": In(1), "failed": In(1), "aborted": In(1),
            "column_done": In(1), "page_done": In(1), "stripe_done": In(1), "page": Out(plane),
            "transferable": Out(1), "prepared": Out(1), "columned": Out(1), "arrived": Out(1),
            "abandon": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        times = BusTimes.of(self._config)
        timer, watch = Signal(range(max(times.settle, times.column) + 1)), Signal(range(TIMEOUT_TICKS + 2))
        front, back = Signal(), Signal()
        finishing, erasing, aborted = Signal(), Signal(), Signal()
        settled, expired = Signal(), Signal()
        m.d.comb += [
            settled.eq((timer == 0) & self.ready), expired.eq(watch > TIMEOUT_TICKS),
            self.offset.eq(front + back), self.prepared.eq(self.columned & (timer == 0)),
        ]
        with m.If(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.If(self.tick):
            m.d.sync += watch.eq(watch + 1)
        with m.If(self.done):
            m.d.sync += [timer.eq(times.settle), watch.eq(0), self.columned.eq(0)]
        with m.If(self.column_done):
            m.d.sync += [timer.eq(times.column), self.columned.eq(1)]
        with m.If(self.page_done):
            m.d.sync += [self.page.eq(self.page + 1), self.columned.eq(0)]
        with m.If(self.stripe_done):
            m.d.sync += [self.page.eq(0), front.eq(0)]

        # May a write start, and must reads make way for it?
        write, turn = Signal(), Signal()
        patience = Signal(range(PATIENCE + 1))
        m.d.comb += [
            write.eq((self.write_level != 0) & (self.write_erase | self.encoder_free)),
            turn.eq(write & (patience == PATIENCE)),
        ]
        with m.If(~write):
            m.d.sync += patience.eq(0)
        with m.Elif(self.stripe_done & ~turn):
            m.d.sync += patience.eq(patience + 1)

        more = (self.read_level > self.offset) & ~turn
        with m.FSM(init="ASK RESET"):
            with m.State("ASK RESET"):
                self._ask(m, Work.RESET, "WAIT RESET")
            with m.State("WAIT RESET"):
                self._wait(m, settled, expired, "IDLE")

            with m.State("IDLE"):
                m.d.sync += self.plane.eq(0)
                with m.If(front):
                    # After 3Fh the page registers hold nothing that 31h could move on.
                    with m.If(~back & ~finishing & more & ~self.held & (self.bus_served | (self.page != 0))):
                        m.d.sync += self.cached.eq(1)
                        m.next = "SENSE"
                    with m.Else():
                        m.d.comb += self.transferable.eq(1)
                with m.Elif(back):
                    with m.If(more):
                        m.d.sync += self.cached.eq(1)
                        m.next = "SENSE"
                    with m.Else():
                        m.next = "FINISH"
                with m.Elif(more):
                    m.d.sync += self.cached.eq(0)
                    m.next = "SENSE"
                with m.Elif(write & self.write_erase):
                    m.d.sync += erasing.eq(1)
                    m.next = "WRITE"
                with m.Elif(write):
                    m.d.comb += self.wants_claim.eq(1)
                    with m.If(self.may_claim):
                        m.d.sync += erasing.eq(0)
                        m.next = "CLAIM"

            with m.State("SENSE"):
                self._ask(m, Work.SENSE, "WAIT PLANE")
                with m.If(self.done):
                    m.d.sync += [self.plane.eq(self.plane + 1), finishing.eq(0)]
                    with m.If(self.final):
                        m.next = "WAIT SENSE"
            with m.State("WAIT PLANE"):
                self._wait(m, settled, expired, "SENSE")
            with m.State("FINISH"):
                m.d.sync += finishing.eq(1)
                self._ask(m, Work.FINISH, "WAIT SENSE")
            with m.State("WAIT SENSE"):
                self._wait(m, settled, expired, "IDLE")
                with m.If(settled):
                    m.d.sync += [front.eq(1), back.eq(self.cached & ~finishing)]
                    m.d.comb += self.arrived.eq(~front)

            with m.State("CLAIM"):
                self._ask(m, Work.CLAIM, "WRITE")
            with m.State("WRITE"):
                m.d.comb += self.work.eq(Mux(erasing, Work.ERASE, Work.PROGRAM))
                with m.If(self.done):
                    m.d.sync += [self.plane.eq(self.plane + 1), aborted.eq(self.aborted)]
                    m.next = "WAIT WRITE PLANE"
                    with m.If(self.final | self.aborted):
                        m.next = "WAIT WRITE"
            with m.State("WAIT WRITE PLANE"):
                self._wait(m, settled, expired, "WRITE")
                m.d.comb += self.abandon.eq(expired & ~erasing)
            with m.State("WAIT WRITE"):
                self._wait(m, settled, expired, "STATUS")
                with m.If(settled & aborted):
                    m.d.sync += self.status.eq(MediaStatus.FAILED)
                    m.next = "REPORT"
            with m.State("STATUS"):
                self._ask(m, Work.STATUS, "REPORT")
                with m.If(self.done):
                    m.d.sync += self.status.eq(Mux(self.failed, MediaStatus.FAILED, MediaStatus.OK))
            with m.State("REPORT"):
                self._ask(m, Work.REPORT, "IDLE")

            with m.State("DEAD"):
                m.d.sync += self.status.eq(MediaStatus.TIMEOUT)
                with m.If(self.read_level != 0):
                    m.d.comb += self.work.eq(Work.FORGO)
                with m.Elif(self.write_level != 0):
                    m.d.comb += self.work.eq(Work.REPORT)
        return m

    def _ask(self, m: Module, work: Work, then: str) -> None:
        m.d.comb += self.work.eq(work)
        with m.If(self.done):
            m.next = then

    def _wait(self, m: Module, settled: Signal, expired: Signal, then: str) -> None:
        with m.If(settled):
            m.next = then
        with m.Elif(expired):
            m.next = "DEAD"
