# SPDX-License-Identifier: Apache-2.0
"""Plane-level operations become operations of the PHY port."""

from amaranth.hdl import Array, Const, Module, Mux, Signal
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig

from ..signatures import BLOCK_BITS, BUS_REQUEST, BusOp
from .onfi import (
    ADDRESS_CYCLES,
    COLUMN_CYCLES,
    ROW_BITS,
    STATUS_ARRAY_READY,
    STATUS_FAIL,
    STATUS_FAIL_BEFORE,
    BusTimes,
    Command,
    RowAddress,
)


class JobKind(enum.Enum, shape=3):
    """Sequences that the bus knows; ``confirm`` of the job stands for the last command byte."""

    BYTE = 0
    """The confirm byte alone: 3Fh, FFh."""
    READ = 1
    """00h A5 confirm."""
    COLUMN = 2
    """06h A5 confirm."""
    TRANSFER = 3
    """One slot out of the NAND."""
    PROGRAM = 4
    """80h A5, tADL, the slots of a page, confirm."""
    ERASE = 5
    """60h A3 confirm."""
    STATUS = 6
    """70h, one status beat."""


JOB = data.StructLayout({
    "kind": JobKind, "die": 3, "plane": 2, "block": BLOCK_BITS, "page": 12, "slot": 4, "confirm": 8,
})
"""``slot``: where a COLUMN job sets the column; the others begin at a page's first byte."""

BLOCK_LOOKUP = wiring.Signature({
    "die": Out(3), "plane": Out(2), "block": Out(BLOCK_BITS), "physical": In(BLOCK_BITS),
})


class BusSequencer(wiring.Component):
    """Runs one job after the other on the flash bus.

    Parameters
    ----------
    config : geometry and times

    Members
    -------
    job : taken when its last operation starts on the bus; for STATUS when the status is there
    failed, failed_before, array_ready : FAIL, FAILC and ARDY, with the transfer of a STATUS job
    spoilt : with the transfer of a PROGRAM job: the data of its stripe, so far, are bad
    request, busy : of the PHY port
    blocks : look-up of the physical block of ``job``, there when its first address cycle is
    status_beat : a beat arrived that belongs to no slot
    status : that beat
    slots_idle : every slot asked for has arrived
    loaded : a whole slot waits in the page encoder
    take : that slot was asked for by the PHY
    bad_data : the encoder's data are wrong
    waits_for_data : a PROGRAM stands still because ``loaded`` is low

    Latency: an operation is offered in the cycle after the one before has started, so the bus does not pause
    between the operations of a job as long as each lasts 2 cycles. Back-pressure: PROGRAM waits for
    ``loaded`` before each slot.
    """

    def __init__(self, *, config: EngineConfig):
        self._config = config
        super().__init__({
            "job": In(stream.Signature(JOB)), "failed": Out(1), "failed_before": Out(1),
            "array_ready": Out(1), "spoilt": Out(1),
            "request": Out(stream.Signature(BUS_REQUEST)), "busy": In(1),
            "blocks": Out(BLOCK_LOOKUP), "status_beat": In(1), "status": In(8), "slots_idle": In(1),
            "loaded": In(1), "take": Out(1), "bad_data": In(1), "waits_for_data": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        times = BusTimes.of(self._config)
        job, request = self.job.payload, self.request.payload
        cycle = Signal(range(ADDRESS_CYCLES))
        timer = Signal(range(times.column + 1))
        slot = Signal(range(self._config.slots_per_page))
        started = self.request.valid & self.request.ready
        row = Signal(ROW_BITS)
        column = Signal(8 * COLUMN_CYCLES)
        address = Array([column.word_select(i, 8) for i in range(COLUMN_CYCLES)]
                        + [row.word_select(i, 8) for i in range(3)])
        columns = Array(Const(number * self._config.slot_bytes, len(column))
                        for number in range(self._config.slots_per_page))
        blocks = self.blocks
        m.d.comb += [
            blocks.die.eq(job.die), blocks.plane.eq(job.plane), blocks.block.eq(job.block),
            row.eq(RowAddress.of(self._config).value(block=blocks.physical, plane=job.plane, page=job.page)),
        ]
        with m.If(job.kind == JobKind.COLUMN):
            m.d.comb += column.eq(columns[job.slot])
        first = Signal(8)
        m.d.comb += request.die.eq(job.die)
        with m.If(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.Switch(job.kind):
            for kind, byte in ((JobKind.READ, Command.READ), (JobKind.COLUMN, Command.COLUMN),
                               (JobKind.PROGRAM, Command.PROGRAM), (JobKind.ERASE, Command.ERASE),
                               (JobKind.STATUS, Command.STATUS)):
                with m.Case(kind):
                    m.d.comb += first.eq(byte)
            with m.Default():
                m.d.comb += first.eq(job.confirm)

        with m.FSM():
            with m.State("BEGIN"):
                m.d.comb += [self.request.valid.eq(self.job.valid), request.op.eq(BusOp.COMMAND),
                             request.byte.eq(first)]
                m.d.sync += [cycle.eq(Mux(job.kind == JobKind.ERASE, COLUMN_CYCLES, 0)), slot.eq(0)]
                with m.If(job.kind == JobKind.TRANSFER):
                    m.d.comb += [request.op.eq(BusOp.DATA_OUT), request.count.eq(self._config.slot_beats)]
                with m.If(started):
                    m.d.sync += timer.eq(times.settle)
                    with m.If((job.kind == JobKind.TRANSFER) | (job.kind == JobKind.BYTE)):
                        m.d.comb += self.job.ready.eq(1)
                    with m.Elif(job.kind == JobKind.STATUS):
                        m.next = "SETTLE STATUS"
                    with m.Else():
                        m.next = "SEND ADDRESS"
            with m.State("SEND ADDRESS"):
                m.d.comb += [self.request.valid.eq(1), request.op.eq(BusOp.ADDRESS),
                             request.byte.eq(address[cycle])]
                with m.If(started):
                    m.d.sync += [cycle.eq(cycle + 1), timer.eq(times.column)]
                    with m.If(cycle == ADDRESS_CYCLES - 1):
                        with m.If(job.kind == JobKind.PROGRAM):
                            m.next = "LOAD SLOTS"
                        with m.Else():
                            m.next = "CONFIRM"
            with m.State("LOAD SLOTS"):
                m.d.comb += [
                    self.request.valid.eq(self.loaded & (timer == 0)), request.op.eq(BusOp.DATA_IN),
                    request.count.eq(self._config.slot_beats), self.take.eq(started),
                    self.waits_for_data.eq(~self.loaded & ~self.busy),
                ]
                with m.If(started):
                    m.d.sync += slot.eq(slot + 1)
                    with m.If(slot == self._config.slots_per_page - 1):
                        m.next = "CONFIRM"
            with m.State("CONFIRM"):
                m.d.comb += [
                    self.request.valid.eq(1), request.op.eq(BusOp.COMMAND), request.byte.eq(job.confirm),
                    self.job.ready.eq(started),
                    self.spoilt.eq((job.kind == JobKind.PROGRAM) & self.bad_data),
                ]
                with m.If(started):
                    m.next = "BEGIN"
            with m.State("SETTLE STATUS"), m.If((timer == 0) & ~self.busy & self.slots_idle):
                m.next = "ASK STATUS"
            with m.State("ASK STATUS"):
                m.d.comb += [self.request.valid.eq(1), request.op.eq(BusOp.DATA_OUT), request.count.eq(1)]
                with m.If(started):
                    m.next = "TAKE STATUS"
            with m.State("TAKE STATUS"):
                m.d.comb += [
                    self.job.ready.eq(self.status_beat), self.failed.eq(self.status[STATUS_FAIL]),
                    self.failed_before.eq(self.status[STATUS_FAIL_BEFORE]),
                    self.array_ready.eq(self.status[STATUS_ARRAY_READY]),
                ]
                with m.If(self.status_beat):
                    m.next = "BEGIN"
        return m
