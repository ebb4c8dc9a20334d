# SPDX-License-Identifier: Apache-2.0
"""What one die is doing and what it wants next."""

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import enum, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig

from ..signatures import MediaStatus
from .onfi import BusTimes
from .queues import DEPTH

PATIENCE = 4
"""Stripes read from a die while a program or erase waits for it; then one of them has its turn."""
LEAD = 12
"""The scheduler needs more cycles than that to offer a slot that it has chosen."""
TIMEOUT_TICKS = 8
"""The time-out in ticks of the channel's shared timer; it fires up to one tick late."""


POLLS_PER_PROGRAM, POLL_CYCLES_MIN = 256, 64
"""The end of a program that R/B_n does not show is looked for every 1/256 of tPROG, at most this often."""
FIRST_POLL = 15 / 16
"""Share of tPROG before the first look."""


def poll_cycles(config: EngineConfig) -> int:
    return max(POLL_CYCLES_MIN, config.cycles(config.timing.tPROG) // POLLS_PER_PROGRAM)


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


def _result(bad: Value) -> Value:
    return Mux(bad, MediaStatus.FAILED, MediaStatus.OK)


class DieControl(wiring.Component):
    """State of one die: reset, reads and programs through page and cache registers, erases, time-out.

    The *front* stripe is in the cache registers and can be transferred; the *back* stripe is in the page
    registers or on its way there. A sense of the next stripe starts as soon as the back is free, with two
    exceptions: a die whose first run is the only work that the bus could do transfers that run first, and
    after the end of a cache read (3Fh) ONFI wants a new first read (30h), so the front must be gone.
    A write starts when no read is queued, or after PATIENCE stripes; the die is empty then.
    A program ends in 15h, so that the data of the next one move in while the array works, or in 10h when a
    read is queued for the die. The end of a program shows in FAILC once its successor's 15h or 10h lets R/B_n
    rise; without a successor, and behind 15h, the status is polled until the array is at rest. With a read
    queued no further program follows: the read begins when those in the die have ended, two at most.

    Parameters
    ----------
    config : geometry and times

    Members
    -------
    ready : R/B_n
    tick, poll : pulses of the time-out timer, of the timer for looks at a program's end
    read_level, write_level, write_erase, next_erase : of this die's queues
    encoder_free : no program holds the page encoder
    may_claim : no other die goes first to the page encoder
    wants_claim : this die wants it
    running : a program is in the array, the oldest write, and R/B_n does not show it
    held : the die's run is being transferred or is the next one
    bus_served : the bus has a run to transfer
    work, plane, cached, offset : wanted job; ``cached``: a sense behind the front stripe (31h); ``offset`` of
        its request from the oldest queued read or write
    closes : for PROGRAM: its chain of cache programs ends with it (10h); constant while it is asked for
    status : for REPORT
    done : the job is finished; with it ``final`` (that was the last plane), what a STATUS said (``failed``,
        ``failed_before``, ``array_ready``), ``spoilt`` (the program's data are bad)
    position : slot of the front stripe at which the bus goes on
    column_done, run_start : the column change for the run that begins at slot ``run_start`` has started
    slot_done, run_done, stripe_done : a slot, the last one of its run, of the front stripe, was asked for
    transferable : the front has a run of slots to transfer
    prepared : its column is set and tCCS is over in `LEAD` cycles
    columned : its column is set
    arrived : pulse, a stripe became front
    abandon : pulse, the die died while it held the page encoder
    """

    def __init__(self, *, config: EngineConfig):
        self._config = config
        plane, slots = range(max(2, config.planes)), range(config.slots_per_stripe)
        super().__init__({
            "ready": In(1), "tick": In(1), "poll": In(1), "read_level": In(range(DEPTH + 1)),
            "write_level": In(range(DEPTH + 1)), "write_erase": In(1), "next_erase": In(1),
            "encoder_free": In(1), "may_claim": In(1), "wants_claim": Out(1), "running": Out(1),
            "held": In(1), "bus_served": In(1),
            "work": Out(Work), "plane": Out(plane), "cached": Out(1), "offset": Out(range(DEPTH)),
            "closes": Out(1), "status": Out(MediaStatus),
            "done": In(1), "final": In(1), "failed": In(1), "failed_before": In(1), "array_ready": In(1),
            "spoilt": In(1),
            "column_done": In(1), "run_start": In(slots), "slot_done": In(1), "run_done": In(1),
            "stripe_done": In(1), "position": Out(slots),
            "transferable": Out(1), "prepared": Out(1), "columned": Out(1), "arrived": Out(1),
            "abandon": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        times = BusTimes.of(self._config)
        timer, watch = Signal(range(max(times.settle, times.column) + 1)), Signal(range(TIMEOUT_TICKS + 2))
        front, back, begun = Signal(), Signal(), Signal()
        finishing, erasing = Signal(), Signal()
        running = self.running
        # The data of that program are bad; those of the one behind it.
        running_spoilt, spoilt = Signal(), Signal()
        last_status, two_ends, polled = Signal(MediaStatus), Signal(), Signal()
        settled, expired = Signal(), Signal()
        over, soon = Signal(init=1), Signal(init=1)  # the timer is at 0, will be when a job can be offered
        m.d.comb += [
            settled.eq(over & self.ready), expired.eq(watch > TIMEOUT_TICKS),
            self.offset.eq(front + back + running), self.prepared.eq(self.columned & soon),
        ]
        m.d.sync += [over.eq(timer <= 1), soon.eq(timer <= LEAD)]
        with m.If(~over):
            m.d.sync += timer.eq(timer - 1)
        with m.If(self.tick):
            m.d.sync += watch.eq(watch + 1)
        with m.If(self.done):
            m.d.sync += [timer.eq(times.settle), over.eq(0), soon.eq(0), self.columned.eq(0)]
            with m.If(~polled | self.array_ready):
                m.d.sync += watch.eq(0)
        with m.If(self.column_done):
            m.d.sync += [timer.eq(times.column), over.eq(0), soon.eq(0), self.columned.eq(1),
                         self.position.eq(self.run_start)]
        with m.If(self.slot_done):
            m.d.sync += self.position.eq(self.position + 1)
        with m.If(self.run_done):
            m.d.sync += [self.columned.eq(0), begun.eq(1)]
        with m.If(self.stripe_done):
            m.d.sync += [self.position.eq(0), begun.eq(0), front.eq(0)]

        # May a write start, and must reads make way for it?
        # Levels are known a cycle late: REST lets them settle behind what the die has finished.
        waits, write = Signal(), Signal()
        more, turn = Signal(), Signal()
        patience = Signal(range(PATIENCE + 1))
        m.d.comb += [
            write.eq(waits & (self.write_erase | self.encoder_free)),
            turn.eq(write & (patience == PATIENCE)),
        ]
        m.d.sync += [waits.eq(self.write_level != 0), more.eq((self.read_level > self.offset) & ~turn)]
        with m.If(~write):
            m.d.sync += patience.eq(0)
        with m.Elif(self.stripe_done & (patience != PATIENCE)):
            m.d.sync += patience.eq(patience + 1)

        # How long the array has been at work, in looks that would have been in vain.
        program = self._config.cycles(self._config.timing.tPROG)
        in_vain = int(FIRST_POLL * program) // poll_cycles(self._config)
        age = Signal(range(in_vain + 1))
        with m.If(self.poll & (age != in_vain)):
            m.d.sync += age.eq(age + 1)

        with m.FSM(init="ASK RESET"):
            with m.State("ASK RESET"):
                self._ask(m, Work.RESET, "WAIT RESET")
            with m.State("WAIT RESET"):
                self._wait(m, settled, expired, "REST")

            with m.State("REST"):
                m.next = "IDLE"
            with m.State("IDLE"):
                m.d.sync += self.plane.eq(0)
                with m.If(front):
                    # After 3Fh the page registers hold nothing that 31h could move on.
                    with m.If(~back & ~finishing & more & ~self.held & (self.bus_served | begun)):
                        m.d.sync += self.cached.eq(1)
                        m.next = "LEAVE"
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
                    m.d.sync += [erasing.eq(1), patience.eq(0)]
                    m.next = "WRITE"
                with m.Elif(write):
                    m.d.comb += self.wants_claim.eq(1)
                    with m.If(self.may_claim):
                        m.d.sync += [erasing.eq(0), patience.eq(0)]
                        m.next = "CLAIM"

            with m.State("LEAVE"):
                # Not if the bus has just chosen this die.
                m.next = "SENSE"
                with m.If(self.held):
                    m.next = "IDLE"
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
                self._wait(m, settled, expired, "REST")
                with m.If(settled):
                    m.d.sync += [front.eq(1), back.eq(self.cached & ~finishing)]
                    m.d.comb += self.arrived.eq(~front)

            with m.State("CLAIM"):
                m.d.sync += self.closes.eq(self.read_level != 0)
                self._ask(m, Work.CLAIM, "WRITE")
            with m.State("WRITE"):
                m.d.comb += self.work.eq(Mux(erasing, Work.ERASE, Work.PROGRAM))
                with m.If(self.done):
                    m.d.sync += [self.plane.eq(self.plane + 1), spoilt.eq(self.spoilt)]
                    m.next = "WAIT WRITE PLANE"
                    with m.If(self.final):
                        m.next = "WAIT WRITE"
            with m.State("WAIT WRITE PLANE"):
                m.d.sync += self.closes.eq(self.read_level != 0)
                self._wait(m, settled, expired, "WRITE")
                m.d.comb += self.abandon.eq(expired & ~settled & ~erasing)
            with m.State("WAIT WRITE"):
                self._wait(m, settled, expired, "STATUS")
                with m.If(settled):
                    m.d.sync += age.eq(0)
                    with m.If(~(erasing | self.closes | running)):
                        m.d.sync += [running.eq(1), running_spoilt.eq(spoilt)]
                        m.next = "WATCH ARRAY"
            with m.State("STATUS"):
                self._ask(m, Work.STATUS, "REPORT")
                with m.If(self.done):
                    last = _result(self.failed | spoilt)
                    m.d.sync += [
                        self.status.eq(Mux(running, _result(self.failed_before | running_spoilt), last)),
                        last_status.eq(last), two_ends.eq(running & self.closes),
                        running.eq(running & ~self.closes), running_spoilt.eq(spoilt),
                    ]
            with m.State("WATCH ARRAY"):
                m.d.sync += self.plane.eq(0)
                follows = (self.write_level > 1) & ~self.next_erase & (self.read_level == 0)
                with m.If(follows & self.encoder_free):
                    m.d.comb += self.wants_claim.eq(1)
                    with m.If(self.may_claim):
                        m.next = "CLAIM"
                with m.Elif(expired):
                    m.next = "DEAD"
                with m.Elif(self.poll & (age == in_vain)):
                    m.next = "POLL"
            with m.State("POLL"):
                m.d.comb += polled.eq(1)
                self._ask(m, Work.STATUS, "WATCH ARRAY")
                with m.If(self.done & self.array_ready):
                    m.d.sync += [self.status.eq(_result(self.failed | running_spoilt)), running.eq(0)]
                    m.next = "REPORT"
            with m.State("REPORT"):
                self._ask(m, Work.REPORT, "REST")
                with m.If(self.done):
                    m.d.sync += [two_ends.eq(0), self.status.eq(last_status)]
                    with m.If(two_ends):
                        m.next = "REPORT"
                    with m.Elif(running):
                        m.next = "WATCH ARRAY"

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
