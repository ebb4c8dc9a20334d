# SPDX-License-Identifier: Apache-2.0
"""ATTEND and KV_READ: several heads of several commands in flight, completed in order."""


from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig

from ..signatures import COMPLETION, read_fault, stripe_finish
from ..stream.fifo import StreamFIFO
from .heads import HEAD, HeadFinisher, HeadLedger, HeadStarter
from .outputs import OUTPUT, OUTPUT_END
from .ports import ATTEND_JOB, TOKEN_BITS, read_place
from .queries import QUERY_LOAD
from .walker import WALK

JOBS_WAITING = 4


class AttendSequencer(wiring.Component):
    """Attentions and read-backs in order, several heads in flight: `HeadStarter`, `HeadLedger` and
    `HeadFinisher` put together.

    Parameters
    ----------
    config : the engine's configuration

    Members
    -------
    jobs : validated commands; ``JOBS_WAITING`` wait inside
    completions : in the order of the commands
    started, finished : commands taken and completed so far, modulo 2**16
    open, queries_loaded, not_finite, finish, faults, rows_wanted : see `KvEngine`
    loads, loaded, host_error : a `QueryLoader`; every head in flight may wait for its turn there
    walks, issued, sensed, map_error : a `StripeWalker`
    tail_error : a `TailReader`
    places, refused, the last of ``finish`` : a `ReadBack`
    outputs, ends, collected : an `OutputWriter`

    Latency and back-pressure: those of its parts; a command that waits for head slots holds up those behind
    it.
    """

    def __init__(self, *, config: EngineConfig):
        self.config = config
        pulse = wiring.Signature({"valid": Out(1), "head_slot": Out(range(config.head_slots))})
        super().__init__({
            "jobs": In(stream.Signature(ATTEND_JOB)),
            "completions": Out(stream.Signature(COMPLETION)),
            "started": Out(16), "finished": Out(16),
            "open": Out(pulse), "queries_loaded": Out(config.head_slots),
            "not_finite": In(pulse), "tail_error": In(pulse),
            "places": Out(read_place(config)), "refused": In(pulse),
            "finish": In(stripe_finish(config)).array(config.cores + 1),
            "faults": In(read_fault(config)).array(config.channels),
            "rows_wanted": Out(TOKEN_BITS + 1),
            "loads": Out(stream.Signature(QUERY_LOAD)), "loaded": In(pulse), "host_error": In(pulse),
            "walks": Out(stream.Signature(WALK)), "issued": In(1), "sensed": In(1),
            "map_error": In(1),
            "outputs": Out(stream.Signature(OUTPUT)), "ends": In(stream.Signature(OUTPUT_END)),
            "collected": In(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        c = self.config
        m.submodules.waiting = waiting = StreamFIFO(shape=ATTEND_JOB, depth=JOBS_WAITING)
        m.submodules.heads = heads = StreamFIFO(shape=HEAD, depth=max(4, c.head_slots))
        m.submodules.loads = loads = StreamFIFO(shape=QUERY_LOAD, depth=max(4, c.head_slots))
        m.submodules.starter = starter = HeadStarter(config=c)
        m.submodules.ledger = ledger = HeadLedger(config=c)
        m.submodules.finisher = finisher = HeadFinisher(config=c)
        flipped, connect = wiring.flipped, wiring.connect
        connect(m, flipped(self.jobs), waiting.i)
        connect(m, waiting.o, starter.jobs)
        connect(m, starter.heads, heads.i)
        connect(m, heads.o, finisher.heads)
        connect(m, starter.loads, loads.i)
        connect(m, loads.o, flipped(self.loads))
        connect(m, starter.walks, flipped(self.walks))
        for name in ("outputs", "ends", "completions"):
            connect(m, getattr(finisher, name), flipped(getattr(self, name)))
        connect(m, starter.places, flipped(self.places))
        for name in ("loaded", "host_error", "not_finite", "tail_error", "refused"):
            connect(m, flipped(getattr(self, name)), getattr(ledger, name))
        for name in ("finish", "faults"):
            for outside, inside in zip(getattr(self, name), getattr(ledger, name), strict=True):
                connect(m, flipped(outside), inside)
        m.d.comb += [
            self.open.valid.eq(starter.open.valid), self.open.head_slot.eq(starter.open.head_slot),
            ledger.open.valid.eq(starter.open.valid), ledger.open.head_slot.eq(starter.open.head_slot),
            ledger.open_loaded.eq(starter.open_loaded), self.queries_loaded.eq(ledger.queries_loaded),
            self.rows_wanted.eq(starter.rows_wanted), starter.sensed.eq(self.sensed),
            starter.free_slots.eq(finisher.free_slots), finisher.collected.eq(self.collected),
            ledger.issued.eq(self.issued), ledger.issued_slot.eq(starter.slot),
            ledger.map_error.eq(self.map_error), ledger.at_slot.eq(starter.slot),
            ledger.look_slot.eq(finisher.look_slot), finisher.finished.eq(ledger.finished),
            finisher.fault.eq(ledger.fault),
        ]
        with m.If(self.jobs.valid & self.jobs.ready):
            m.d.sync += self.started.eq(self.started + 1)
        with m.If(self.completions.valid & self.completions.ready):
            m.d.sync += self.finished.eq(self.finished + 1)
        return m
