# SPDX-License-Identifier: Apache-2.0
"""ATTEND and KV_READ: several heads of several commands in flight, completed in order."""


from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig

from ..selection.sparfports import sparf_job
from ..selection.tokens import token_job
from ..signatures import COMPLETION, SLOT_ROWS_MAX, read_fault, stripe_finish
from ..stream.fifo import StreamFIFO
from .dimslots import dim_setup
from .finisher import HeadFinisher
from .headports import HEAD, SKETCH_LOAD, WALK, finish_reports, opened_head, sketch_setup
from .heads import HeadStarter
from .ledger import REPORTS, HeadLedger
from .outputs import OUTPUT, OUTPUT_END
from .ports import ATTEND_JOB, TOKEN_BITS, read_place
from .queries import QUERY_LOAD
from .walkorder import WalkOrder

JOBS_WAITING = 4


class AttendSequencer(wiring.Component):
    """Attentions and read-backs in order, several heads in flight: `HeadStarter`, `WalkOrder`, `HeadLedger`
    and `HeadFinisher` put together.

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
    sketch_loads, sketch_loaded, sketch_error, bad_exponent : a `SketchQueryLoader`, likewise
    setup, sketches_loaded, choices, masks_waiting : the selection, see `KvEngine`
    scores_lost : see `KvEngine`
    folds, folded : a `SparfQuery`; a job comes when the queries of its head are in the cores
    dim_setup : to the scorers of dims
    walks, chosen, keys, issued, sensed, map_error : a `HeadWalker`
    tail_error : of each `TailPath`
    shared : see `Selection`
    averaging : commands with mean-V have been taken and are not completed: they read sums of V
    places, refused : a `ReadBack`
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
            "sketches_loaded": Out(config.head_slots), "setup": Out(sketch_setup(config)),
            **{name: In(pulse) for name in REPORTS if name != "asked"},
            "tail_error": In(pulse).array(config.tail_cores),
            "places": Out(read_place(config)),
            "finish": In(stripe_finish(config)).array(finish_reports(config)),
            "faults": In(read_fault(config)).array(config.channels),
            "rows_wanted": Out(TOKEN_BITS + 1),
            "loads": Out(stream.Signature(QUERY_LOAD)),
            "sketch_loads": Out(stream.Signature(SKETCH_LOAD)),
            "folds": Out(stream.Signature(sparf_job(config))), "folded": In(1),
            "dim_setup": Out(dim_setup(config)),
            "choices": Out(stream.Signature(token_job(config))), "masks_waiting": In(1),
            "walks": Out(stream.Signature(WALK)), "chosen": In(range(SLOT_ROWS_MAX + 1)),
            "keys": In(TOKEN_BITS),
            "issued": In(1), "sensed": In(1), "map_error": In(1),
            "outputs": Out(stream.Signature(OUTPUT)), "ends": In(stream.Signature(OUTPUT_END)),
            "collected": In(1), "averaging": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        c = self.config
        s = m.submodules
        s.waiting = waiting = StreamFIFO(shape=ATTEND_JOB, depth=JOBS_WAITING)
        s.starter = starter = HeadStarter(config=c)
        s.order = order = WalkOrder(config=c)
        s.ledger = ledger = HeadLedger(config=c)
        s.finisher = finisher = HeadFinisher(config=c)
        flipped, connect = wiring.flipped, wiring.connect
        connect(m, flipped(self.jobs), waiting.i)
        connect(m, waiting.o, starter.jobs)
        for name, shape, target in (("heads", HEAD, finisher.heads), ("opened", opened_head(c), order.heads),
                                    ("loads", QUERY_LOAD, flipped(self.loads)),
                                    ("sketch_loads", SKETCH_LOAD, flipped(self.sketch_loads)),
                                    ("folds", sparf_job(c), None)):
            s[name] = queue = StreamFIFO(shape=shape, depth=max(4, c.head_slots))
            connect(m, getattr(starter, name), queue.i)
            if target is not None:
                connect(m, queue.o, target)
        for part, names in ((starter, ("places", "setup", "dim_setup")), (order, ("choices", "walks")),
                            (finisher, ("outputs", "ends", "completions"))):
            for name in names:
                connect(m, getattr(part, name), flipped(getattr(self, name)))
        for name in REPORTS:
            connect(m, order.asked if name == "asked" else flipped(getattr(self, name)),
                    getattr(ledger, name))
        for name in ("finish", "faults", "tail_error"):
            for outside, inside in zip(getattr(self, name), getattr(ledger, name), strict=True):
                connect(m, flipped(outside), inside)
        folds, waiting_fold = self.folds, s.folds.o
        cores_loaded = ledger.queries_loaded.bit_select(waiting_fold.payload.head_slot, 1)
        m.d.comb += [
            folds.payload.eq(waiting_fold.payload), folds.valid.eq(waiting_fold.valid & cores_loaded),
            waiting_fold.ready.eq(folds.ready & cores_loaded),
            order.folded.eq(self.folded), order.keys.eq(self.keys),
            self.open.valid.eq(starter.open.valid), self.open.head_slot.eq(starter.open.head_slot),
            ledger.open.valid.eq(starter.open.valid), ledger.open.head_slot.eq(starter.open.head_slot),
            ledger.open_loaded.eq(starter.open_loaded), ledger.open_sketches.eq(starter.open_sketches),
            ledger.open_shares.eq(starter.open_shares),
            self.queries_loaded.eq(ledger.queries_loaded), self.sketches_loaded.eq(ledger.sketches_loaded),
            order.masks_waiting.eq(self.masks_waiting), order.chosen.eq(self.chosen),
            self.rows_wanted.eq(order.rows_wanted),
            starter.free_slots.eq(finisher.free_slots), finisher.collected.eq(self.collected),
            *(getattr(ledger, name).eq(getattr(self, name)) for name in ("issued", "sensed", "map_error")),
            ledger.at_slot.eq(self.walks.payload.head_slot), ledger.look_slot.eq(finisher.look_slot),
            *(getattr(finisher, name).eq(getattr(ledger, name)) for name in ("finished", "senses", "fault")),
        ]
        with m.If(self.jobs.valid & self.jobs.ready):
            m.d.sync += self.started.eq(self.started + 1)
        with m.If(self.completions.valid & self.completions.ready):
            m.d.sync += self.finished.eq(self.finished + 1)
        averages = Signal(range(JOBS_WAITING + c.head_slots + 2))
        taken = self.jobs.valid & self.jobs.ready & self.jobs.payload.mean_v
        ended = self.completions.valid & self.completions.ready & finisher.heads.payload.mean_v
        m.d.sync += averages.eq(averages + taken - ended)
        m.d.comb += self.averaging.eq(averages != 0)
        return m
