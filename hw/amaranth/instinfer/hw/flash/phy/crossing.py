# SPDX-License-Identifier: Apache-2.0
"""A flash bus whose PHY has a clock of its own."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import cdc, wiring
from amaranth.lib.fifo import AsyncFIFO
from amaranth.lib.wiring import In, Out

from ...signatures import BEAT_BITS, BUS_REQUEST, BusOp, PhyPort

REQUESTS, WRITES, READS = 4, 4, 8
"""Depths of the queues between the clocks."""
RATIO_MAX = 2
"""The PHY's clock may be this much faster: its beats, four of its cycles apart, then find room."""
RESET_CYCLES = 16
"""How long ``sync`` has to be reset, and for how long the PHY stays so behind it."""
ORDER = 4
"""Cycles of the PHY by which ``busy`` outlasts it: the last beat is on its way by then."""
COUNT_BITS = 3
"""For the requests in the queue and those whose start is not known yet."""


class PhyCrossing(wiring.Component):
    """Between the engine's clock (domain ``sync``) and a PHY's (``phy``): any rates up to `RATIO_MAX`, any
    phase.

    Requests, data in and data out go through an `AsyncFIFO` each; R/B_n, ``busy`` and the number of requests
    that the PHY has started (a Gray code, sent after the other two) through synchronisers.

    Parameters
    ----------
    dies : of the bus

    Members
    -------
    near : a channel connects here; clocked by ``sync``
    far : the PHY; clocked by ``phy``
    phy_ready : the PHY's clock runs; may change at any time
    restart : resets ``phy``, through a synchroniser of the owner's (`cdc.ResetSynchronizer`)
    lost : ``phy_ready`` fell under way

    ``near`` keeps the rules of `PhyPort`, but a request is taken when it enters its queue, so times that
    count from it must be kept by the PHY, as `BusGuard` does. None is taken while data of a DATA_IN are
    owed, or while a data request before it has not started: at most one waits behind a transfer.
    ``near.ready`` of a die is 0, and ``near.busy`` 1, from a request that is taken until the PHY says so.

    Reset: ``sync`` for at least `RESET_CYCLES` and as many cycles of ``phy``, in any state; both sides begin
    anew, and the NAND is powered up again. When ``phy_ready`` falls the PHY is reset and stays so; until
    ``sync`` is reset, too, ``near`` answers alone: requests and data in are taken, every beat of data out is
    all ones (a status that says FAIL, a slot whose guard is wrong), all dies are ready. Nobody is left
    waiting, and no program that was lost counts as done.

    Latency: a request, or a beat of data in, one cycle of ``sync`` and up to 3 of ``phy``; a beat of data out
    one of ``phy`` and up to 3 of ``sync``; R/B_n, ``busy`` up to 5 of ``phy`` and 3 of ``sync``, the count 5
    and 3. Throughput: a beat of data out per cycle of ``sync``; four beats of data in per round trip, so
    that a PHY that takes one in four cycles does not pause. Back-pressure: ``near.write`` stalls while its
    queue is full; ``far.read`` cannot be stalled, and need not be: beats lie four cycles of ``phy`` apart.
    """

    def __init__(self, *, dies: int):
        self._dies = dies
        super().__init__({
            "near": In(PhyPort(dies)), "far": Out(PhyPort(dies)), "phy_ready": In(1),
            "restart": Out(1, init=1),  # type: ignore[call-arg]  # the stubs are older
            "lost": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        near = self.near
        m.submodules.requests = requests = AsyncFIFO(
            width=BUS_REQUEST.size, depth=REQUESTS, w_domain="sync", r_domain="phy")
        m.submodules.writes = writes = AsyncFIFO(
            width=BEAT_BITS, depth=WRITES, w_domain="sync", r_domain="phy")
        m.submodules.reads = reads = AsyncFIFO(width=BEAT_BITS, depth=READS, w_domain="phy", r_domain="sync")
        ready, busy, started, clocked = (Signal(width, name=name) for width, name in (
            (self._dies, "ready"), (1, "busy"), (COUNT_BITS, "started"), (1, "clocked")))
        self._far(m, requests, writes, reads, ready, busy, started)
        m.submodules.clocked = cdc.FFSynchronizer(self.phy_ready, clocked)

        alive = self._supervise(m, clocked)
        request = near.request.payload
        taken, gives, takes = (Signal(name=name) for name in ("taken", "gives", "takes"))
        issued, pending, holds = Signal(COUNT_BITS), Signal(), Signal()
        owed_in, owed_out = (Signal(request.count.shape().width + COUNT_BITS, name=name)
                             for name in ("owed_in", "owed_out"))
        m.d.comb += [
            taken.eq(near.request.valid & near.request.ready), pending.eq(issued != started),
            near.request.ready.eq(Mux(
                self.lost, (owed_in == 0) & (owed_out == 0),
                alive & requests.w_rdy & (owed_in == 0) & ~(holds & pending))),
            requests.w_data.eq(request.as_value()), requests.w_en.eq(taken & ~self.lost),
            near.write.ready.eq((owed_in != 0) & (writes.w_rdy | self.lost)),
            takes.eq(near.write.valid & near.write.ready),
            writes.w_data.eq(near.write.payload), writes.w_en.eq(takes & ~self.lost),
            reads.r_en.eq(1), gives.eq(Mux(self.lost, owed_out != 0, reads.r_rdy & (owed_out != 0))),
            near.read.valid.eq(gives),
            near.read.payload.eq(Mux(self.lost, Const(-1, BEAT_BITS), reads.r_data)),
            near.busy.eq(Mux(self.lost, (owed_in != 0) | (owed_out != 0),
                             ~alive | pending | busy)),
        ]
        m.d.sync += [
            owed_in.eq(owed_in - takes + Mux(taken & (request.op == BusOp.DATA_IN), request.count, 0)),
            owed_out.eq(owed_out - gives + Mux(taken & (request.op == BusOp.DATA_OUT), request.count, 0)),
        ]
        with m.If(taken & ~self.lost):
            m.d.sync += [issued.eq(issued + 1), holds.eq(request.op.as_value()[1])]
        for die in range(self._dies):
            fresh = Signal(name=f"fresh_{die}")
            with m.If(taken & (request.die == die)):
                m.d.sync += fresh.eq(1)
            with m.Elif(~pending):
                m.d.sync += fresh.eq(0)
            m.d.comb += near.ready[die].eq(self.lost | alive & ready[die] & ~fresh)
        return m

    def _supervise(self, m: Module, clocked: Value) -> Signal:
        """Holds the PHY in reset behind that of ``sync``, and for ever once its clock was lost."""
        hold, alive = Signal(range(RESET_CYCLES), init=RESET_CYCLES - 1), Signal()
        down, up = Signal(), Signal()
        m.submodules.down = cdc.AsyncFFSynchronizer(self.restart, down, o_domain="phy")
        m.submodules.up = cdc.FFSynchronizer(~down, up)
        m.d.sync += [self.restart.eq((hold != 0) | ~clocked | self.lost),
                     alive.eq(up & ~self.restart & ~self.lost)]
        with m.If(~clocked & ~alive):
            m.d.sync += hold.eq(RESET_CYCLES - 1)
        with m.Elif(hold != 0):
            m.d.sync += hold.eq(hold - 1)
        with m.If(alive & ~clocked):
            m.d.sync += [self.lost.eq(1), alive.eq(0)]
        return alive

    def _far(self, m: Module, requests: AsyncFIFO, writes: AsyncFIFO, reads: AsyncFIFO, ready: Signal,
             busy: Signal, started: Signal) -> None:
        """The PHY's side, and what it tells the other one."""
        far = self.far
        starts = far.request.valid & far.request.ready
        count, gray = Signal(COUNT_BITS), Signal(COUNT_BITS)
        sent = [Signal(COUNT_BITS, name=f"sent_{index}") for index in range(RATIO_MAX + 1)]
        r_b_n, line, tail = Signal(self._dies), Signal(ORDER), Signal(init=1)
        m.d.comb += [
            far.request.payload.eq(requests.r_data), far.request.valid.eq(requests.r_rdy),
            requests.r_en.eq(far.request.ready),
            far.write.payload.eq(writes.r_data), far.write.valid.eq(writes.r_rdy),
            writes.r_en.eq(far.write.ready),
            reads.w_data.eq(far.read.payload), reads.w_en.eq(far.read.valid),
        ]
        # The count leaves more than a cycle of ``sync`` behind what it stands for: R/B_n and busy of that
        # request.
        m.d.phy += [
            count.eq(count + starts), gray.eq(count ^ count >> 1), Cat(sent).eq(Cat(gray, *sent[:-1])),
            r_b_n.eq(far.ready), line.eq(Cat(far.busy, line)), tail.eq(far.busy | line.any()),
        ]
        seen = Signal(COUNT_BITS)
        m.submodules.count = cdc.FFSynchronizer(sent[-1], seen)
        m.submodules.ready = cdc.FFSynchronizer(r_b_n, ready)
        m.submodules.busy = cdc.FFSynchronizer(tail, busy)
        m.d.comb += [started[index].eq(seen[index:].xor()) for index in range(COUNT_BITS)]
