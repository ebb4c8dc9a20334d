# SPDX-License-Identifier: Apache-2.0
"""The ways of stripe buffers to the tail cores: which core a head's go to, and one core's own."""

from amaranth.hdl import Array, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from instinfer.abi.config import EngineConfig

from ..axi import ReadArbiter
from ..signatures import MemoryReadPort, row_mask, slot_beat
from ..stream.arbiter import StreamArbiter
from ..stream.fifo import StreamFIFO
from .ports import tail_job
from .slots import SlotGate
from .tail import TailReader

JOBS_WAITING = 4


class TailTurns(wiring.Component):
    """Leads the stripe buffers of a head to one tail core, those of the next head to the next one.

    A head's rows all go to one core: then its softmax over them is one partial, whose last bits do not depend
    on the number of cores.
    Its sketches go there too: while one head's are scored another one's rows are attended.

    Parameters
    ----------
    config : the engine's configuration

    Members
    -------
    open : pulse per head slot, those of the passes of one head in one piece, before its first walk
    jobs, masks : of a `HeadWalker`, head after head; ``jobs.payload.head_slot`` is that of the walk under
        way, also while masks come
    core_jobs, core_masks : to each `TailPath`

    Latency: 0 cycles. Throughput: one of each per cycle. Back-pressure: that of the core whose turn it is.
    """

    def __init__(self, *, config: EngineConfig):
        self.config = config
        jobs, masks = stream.Signature(tail_job(config)), stream.Signature(row_mask(config))
        super().__init__({
            "open": In(wiring.Signature({"valid": Out(1), "head_slot": Out(range(config.head_slots))})),
            "jobs": In(jobs), "masks": In(masks),
            "core_jobs": Out(jobs).array(config.tail_cores),
            "core_masks": Out(masks).array(config.tail_cores),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        if self.config.tail_cores == 1:
            connect(m, flipped(self.jobs), flipped(self.core_jobs[0]))
            connect(m, flipped(self.masks), flipped(self.core_masks[0]))
            return m
        core = range(self.config.tail_cores)
        turn, opening = Signal(core), Signal()
        table = Array(Signal(core, name=f"core_{slot}") for slot in range(self.config.head_slots))
        now = table[self.jobs.payload.head_slot]
        m.d.sync += opening.eq(self.open.valid)
        with m.If(self.open.valid):
            m.d.sync += table[self.open.head_slot].eq(turn)
        with m.Elif(opening):
            m.d.sync += turn.eq(turn + 1)
        for source, targets in ((self.jobs, self.core_jobs), (self.masks, self.core_masks)):
            for number, target in enumerate(targets):
                mine = now == number
                m.d.comb += [target.payload.eq(source.payload), target.valid.eq(source.valid & mine)]
                with m.If(mine):
                    m.d.comb += source.ready.eq(target.ready)
        return m


class TailPath(wiring.Component):
    """From stripe buffers to one tail core and to its scorers: a `TailReader` and a `SlotGate` for each.

    What a head is scored by passes the rows of the heads before it: a choice waits for its scores, so the
    rows of one head are attended while the next one is scored and chosen.

    Parameters
    ----------
    config : the engine's configuration

    Members
    -------
    jobs, masks : of attentions, see `TailReader`; ``JOBS_WAITING`` jobs of each kind wait inside
    keys : reads of keys for a `DimBuilder`, round robin with ``jobs``
    loaded, sketches_loaded, core, scorer, dims, read_back : see `SlotGate`
    errors, spoilt : see `TailReader`; of errors in the same cycle one comes later, one per cycle
    memory : both readers' device DRAM
    beats : beats of rows for attentions and read-backs that went by in this cycle

    Latency: that of the `TailReader` and 3 cycles. Throughput: that of a `TailReader` for each of ``core``
    and ``read_back``, and ``scorer`` and ``dims``. Back-pressure: those of either pair hold up neither the
    other pair nor ``memory``.
    """

    def __init__(self, *, config: EngineConfig):
        self.config = config
        self._readers = [TailReader(config=config) for _ in range(2)]
        jobs, slots = stream.Signature(tail_job(config)), stream.Signature(slot_beat(config))
        reader = self._readers[0].signature.members
        super().__init__({
            "jobs": In(jobs), "keys": In(jobs), "masks": reader["masks"],
            "loaded": In(config.head_slots), "sketches_loaded": In(config.head_slots),
            **{name: Out(slots) for name in ("core", "scorer", "dims", "read_back")},
            **{name: reader[name] for name in ("errors", "spoilt")}, "memory": Out(MemoryReadPort()),
            "beats": Out(range(3)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        rows, scores = self._readers
        m.submodules.turns = turns = StreamArbiter(shape=tail_job(config), ports=2)
        m.submodules.memories = memories = ReadArbiter(ports=2)
        connect(m, flipped(self.jobs), turns.i[0])
        connect(m, flipped(self.keys), turns.i[1])
        connect(m, memories.memory, flipped(self.memory))
        connect(m, flipped(self.masks), rows.masks)
        job = turns.o.payload
        scored = (job.sketch | job.keys) & ~job.read_back
        for number, (name, reader, mine, outputs) in enumerate((
                ("rows", rows, ~scored, ("core", "read_back")),
                ("scores", scores, scored, ("scorer", "dims")))):
            m.submodules[name] = reader
            m.submodules[f"{name}_waiting"] = waiting = StreamFIFO(
                shape=tail_job(config), depth=JOBS_WAITING)
            m.submodules[f"{name}_gate"] = gate = SlotGate(config=config)
            m.d.comb += [waiting.i.payload.eq(job), waiting.i.valid.eq(turns.o.valid & mine),
                         gate.loaded.eq(self.loaded), gate.sketches_loaded.eq(self.sketches_loaded)]
            with m.If(mine):
                m.d.comb += turns.o.ready.eq(waiting.i.ready)
            connect(m, waiting.o, reader.jobs)
            connect(m, reader.memory, memories.ports[number])
            connect(m, reader.slots, gate.slots)
            for output in outputs:
                connect(m, getattr(gate, output), flipped(getattr(self, output)))
        self._report(m, rows, scores)
        return m

    def _report(self, m: Module, rows: TailReader, scores: TailReader) -> None:
        """Errors of both readers, one per cycle, and their beats."""
        waiting = Signal(self.config.head_slots)
        found = Signal.like(waiting)
        sent = Signal.like(waiting)
        with m.If(scores.errors.valid):
            m.d.comb += found.eq(1 << scores.errors.head_slot)
        with m.If(rows.errors.valid):
            m.d.comb += [self.errors.valid.eq(1), self.errors.head_slot.eq(rows.errors.head_slot)]
        with m.Else():
            m.d.comb += [self.errors.valid.eq(waiting != 0), sent.eq(waiting & -waiting)]
            for slot in reversed(range(self.config.head_slots)):
                with m.If(waiting[slot]):
                    m.d.comb += self.errors.head_slot.eq(slot)
        m.d.sync += waiting.eq(waiting & ~sent | found)
        row, key = (each.slots.valid & each.slots.ready for each in (rows, scores))
        built = rows.slots.payload.keys & rows.slots.payload.read_back
        m.d.comb += [self.spoilt.eq(rows.spoilt),
                     self.beats.eq((row & ~built) + (key & ~scores.slots.payload.sketch))]
