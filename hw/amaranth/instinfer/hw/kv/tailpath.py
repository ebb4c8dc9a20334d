# SPDX-License-Identifier: Apache-2.0
"""The ways of stripe buffers to the tail cores: which core a head's go to, and one core's own."""

from amaranth.hdl import Array, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from instinfer.abi.config import EngineConfig

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
    """From stripe buffers to one tail core and its scorers: a `TailReader` and a `SlotGate`.

    Parameters
    ----------
    config : the engine's configuration

    Members
    -------
    jobs, masks : of attentions, see `TailReader`; ``JOBS_WAITING`` jobs wait inside
    keys : reads of keys for a `DimBuilder`, round robin with ``jobs``
    loaded, sketches_loaded, core, scorer, dims, read_back : see `SlotGate`
    errors, spoilt, memory : see `TailReader`
    beat : pulse, a beat of rows for an attention or a read-back went by

    Latency: that of the `TailReader` and 2 cycles. Throughput and back-pressure are those of its parts.
    """

    def __init__(self, *, config: EngineConfig):
        self.config = config
        self._reader, self._gate = TailReader(config=config), SlotGate(config=config)
        jobs, slots = stream.Signature(tail_job(config)), stream.Signature(slot_beat(config))
        reader = self._reader.signature.members
        super().__init__({
            "jobs": In(jobs), "keys": In(jobs), "masks": reader["masks"],
            "loaded": In(config.head_slots), "sketches_loaded": In(config.head_slots),
            **{name: Out(slots) for name in ("core", "scorer", "dims", "read_back")},
            **{name: reader[name] for name in ("errors", "spoilt")}, "memory": Out(MemoryReadPort()),
            "beat": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        m.submodules.turns = turns = StreamArbiter(shape=tail_job(config), ports=2)
        m.submodules.waiting = waiting = StreamFIFO(shape=tail_job(config), depth=JOBS_WAITING)
        m.submodules.reader, m.submodules.gate = reader, gate = self._reader, self._gate
        connect(m, flipped(self.jobs), turns.i[0])
        connect(m, flipped(self.keys), turns.i[1])
        connect(m, turns.o, waiting.i)
        connect(m, waiting.o, reader.jobs)
        connect(m, flipped(self.masks), reader.masks)
        connect(m, reader.memory, flipped(self.memory))
        connect(m, reader.errors, flipped(self.errors))
        connect(m, reader.slots, gate.slots)
        for name in ("core", "scorer", "dims", "read_back"):
            connect(m, getattr(gate, name), flipped(getattr(self, name)))
        slot = reader.slots
        m.d.comb += [
            self.spoilt.eq(reader.spoilt), gate.loaded.eq(self.loaded),
            gate.sketches_loaded.eq(self.sketches_loaded),
            self.beat.eq(slot.valid & slot.ready & ~slot.payload.sketch
                         & ~(slot.payload.keys & slot.payload.read_back)),
        ]
        return m
