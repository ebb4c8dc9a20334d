# SPDX-License-Identifier: Apache-2.0
"""One flash channel: stripe requests in, checked slots out."""

from amaranth.hdl import Module, Mux, ResetInserter, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig

from ..events import BusActivity
from ..signatures import (
    CHANNEL_EVENT,
    BusOp,
    MemoryReadPort,
    PhyPort,
    block_replacement,
    channel_request,
    read_fault,
    row_mask,
    slot_beat,
)
from .blockmap import BlockMap
from .encoder import PageEncoder
from .queues import RequestQueues
from .ring import SlotRing
from .scheduler import PULSES, Scheduler
from .sequencer import BusSequencer

ACTIVITY = ("data_cycle", "command_cycle", "array_wait_cycle", "buffer_wait_cycle", "idle_cycle")
BUS_TRACE = data.StructLayout({"bus": BusActivity, "die": 3})
QUIET_CYCLES = 15


class FlashChannel(wiring.Component):
    """Request queues, scheduler, bus sequencer, slot ring and page encoder of one flash bus.

    Parameters
    ----------
    config : geometry, times, slot buffers

    Members
    -------
    enable : 0 resets the channel; at 1 it waits for a quiet bus, resets the dies (FFh) and takes requests.
        A program or erase cut short leaves a page or block that must not be relied on
    requests : stripe operations; ``tokens`` at least 1, ``die`` below ``dies``. Order is kept among the reads
        of a die and among its programs and erases; reads overtake those two
    masks : row masks of masked reads, all of them before their request
    slots : slots for the core: those of a stripe in order, stripes of a die in order, pages of different dies
        interleaved
    fault : a slot failed its check or never came. The first time-out makes a die dead until ``enable``
        falls: its reads then yield one pair of slots without rows each, those of single slots all that
        are to come without rows, programs and erases end in TIMEOUT
    events : ends of programs and erases
    program_data : stripe buffers in DRAM, at ``buffer * stripe_data_bytes``
    phy : the flash bus
    replace : see `BlockMap`, which outlives ``enable``
    data_cycle, command_cycle, array_wait_cycle, buffer_wait_cycle, idle_cycle : what the bus does,
        exactly one per cycle while enabled
    stripes_sensed, pages_sensed, slots_moved : one pulse per event, of rows; with ``sketch_`` or ``dim_``
        before: of sketches, of dims
    programmed, program_failures, erased, tuple_errors : likewise
    trace : the same for a timeline, with the die of the latest bus operation

    Latency of a read on an idle channel: ``planes`` read commands with tDBSY between, tR, a column change
    with tCCS, a slot, about 10 cycles. Throughput with enough requests on two or more dies: all bus cycles
    but 14 command cycles per run move data. Back-pressure: ``slots`` may stall at will, the bus then pauses
    between slots.
    """

    def __init__(self, *, config: EngineConfig):
        self._config = config
        super().__init__({
            "enable": In(1), "requests": In(stream.Signature(channel_request(config))),
            "masks": In(stream.Signature(row_mask(config))),
            "slots": Out(stream.Signature(slot_beat(config))), "fault": Out(read_fault(config)),
            "events": Out(stream.Signature(CHANNEL_EVENT)), "program_data": Out(MemoryReadPort()),
            "phy": Out(PhyPort(config.dies)), "replace": In(block_replacement()), "trace": Out(BUS_TRACE),
            **{name: Out(1) for name in (*ACTIVITY, *PULSES, "tuple_errors")},
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, phy = self._config, self.phy
        quiet = Signal(range(QUIET_CYCLES + 1))
        run = Signal()
        with m.If(~self.enable | phy.busy & ~run):
            m.d.sync += [quiet.eq(0), run.eq(0)]
        with m.Elif(quiet != QUIET_CYCLES):
            m.d.sync += quiet.eq(quiet + 1)
        with m.Else():
            m.d.sync += run.eq(1)
        queues, scheduler = RequestQueues(config=config), Scheduler(config=config)
        sequencer, ring = BusSequencer(config=config), SlotRing(config=config)
        parts = {"queues": queues, "scheduler": scheduler, "sequencer": sequencer, "ring": ring}
        for name, part in parts.items():
            m.submodules[name] = ResetInserter(~run)(part)
        # The encoder outlives a reset: it knows what the DRAM still owes.
        m.submodules.encoder = encoder = PageEncoder(config=config)
        m.submodules.blocks = blocks = BlockMap(config=config)
        wiring.connect(m, wiring.flipped(self.replace), blocks.replace)

        m.d.comb += [
            # Requests
            queues.requests.payload.eq(self.requests.payload),
            queues.requests.valid.eq(self.requests.valid & run),
            self.requests.ready.eq(queues.requests.ready & run),
            queues.die.eq(scheduler.die), queues.write.eq(scheduler.write),
            queues.offset.eq(scheduler.offset), queues.pop.eq(scheduler.pop),
            scheduler.entry.eq(queues.entry), queues.pair.eq(scheduler.pair), scheduler.rows.eq(queues.rows),
            queues.masks.payload.eq(self.masks.payload), queues.masks.valid.eq(self.masks.valid & run),
            self.masks.ready.eq(queues.masks.ready & run),
            scheduler.write_erase.eq(queues.write_erase), scheduler.next_erase.eq(queues.next_erase),
            # Bus
            scheduler.begun.eq(sequencer.request.valid & sequencer.request.ready),
            scheduler.ready.eq(phy.ready),
            *(getattr(scheduler, name).eq(getattr(sequencer, name))
              for name in ("failed", "failed_before", "array_ready", "spoilt")),
            phy.request.payload.eq(sequencer.request.payload),
            phy.request.valid.eq(sequencer.request.valid & run),
            sequencer.request.ready.eq(phy.request.ready), sequencer.busy.eq(phy.busy),
            sequencer.status_beat.eq(ring.stray), sequencer.status.eq(phy.read.payload[:8]),
            sequencer.slots_idle.eq(ring.idle), sequencer.blocks.physical.eq(blocks.physical),
            *(getattr(blocks, name).eq(getattr(sequencer.blocks, name))
              for name in ("die", "plane", "block")),
            # Slots
            ring.ticket.eq(scheduler.ticket), ring.issue.eq(scheduler.issue), scheduler.free.eq(ring.free),
            scheduler.slots_idle.eq(ring.idle),
            ring.beat_valid.eq(phy.read.valid), ring.beat.eq(phy.read.payload),
            # Programs; while the bus is cleared, a data input that was under way is fed to its end.
            encoder.start.eq(scheduler.encoder_start), encoder.clear.eq(scheduler.encoder_clear | ~run),
            encoder.buffer.eq(scheduler.program.buffer), encoder.owner.eq(scheduler.program.owner),
            encoder.int8.eq(scheduler.program.int8), encoder.sketch.eq(scheduler.program.sketch),
            encoder.dims.eq(scheduler.program.dims),
            encoder.take.eq(sequencer.take), sequencer.loaded.eq(encoder.loaded),
            sequencer.bad_data.eq(encoder.error), scheduler.encoder_busy.eq(encoder.busy),
            scheduler.encoder_loaded.eq(encoder.loaded),
            phy.write.payload.eq(encoder.write.payload), phy.write.valid.eq(encoder.write.valid | ~run),
            encoder.write.ready.eq(phy.write.ready & run),
        ]
        for die in range(config.dies):
            m.d.comb += [scheduler.read_level[die].eq(queues.read_level[die]),
                         scheduler.write_level[die].eq(queues.write_level[die])]
        wiring.connect(m, scheduler.job, sequencer.job)
        wiring.connect(m, wiring.flipped(self.slots), ring.slots)
        wiring.connect(m, wiring.flipped(self.fault), ring.fault)
        wiring.connect(m, wiring.flipped(self.events), scheduler.events)
        wiring.connect(m, wiring.flipped(self.program_data), encoder.program_data)

        # What the bus does
        operation, bus_die = Signal(BusOp), Signal(3)
        moves_data = (operation == BusOp.DATA_OUT) | (operation == BusOp.DATA_IN)
        waits_for_buffer = scheduler.buffer_wait | sequencer.waits_for_data
        with m.If(phy.request.valid & phy.request.ready):
            m.d.sync += [operation.eq(phy.request.payload.op), bus_die.eq(phy.request.payload.die)]
        m.d.comb += self.trace.die.eq(bus_die)
        with m.If(phy.busy):
            m.d.comb += self.trace.bus.eq(Mux(moves_data, BusActivity.DATA, BusActivity.COMMAND))
        with m.Elif(waits_for_buffer):
            m.d.comb += self.trace.bus.eq(BusActivity.BUFFER_WAIT)
        with m.Elif(scheduler.pending):
            m.d.comb += self.trace.bus.eq(BusActivity.ARRAY_WAIT)
        kinds = (BusActivity.DATA, BusActivity.COMMAND, BusActivity.ARRAY_WAIT, BusActivity.BUFFER_WAIT,
                 BusActivity.IDLE)
        for name, kind in zip(ACTIVITY, kinds, strict=True):
            m.d.comb += getattr(self, name).eq(self.enable & (self.trace.bus == kind))
        for name in PULSES:
            m.d.comb += getattr(self, name).eq(getattr(scheduler, name))
        m.d.comb += self.tuple_errors.eq(ring.tuple_error)
        return m
