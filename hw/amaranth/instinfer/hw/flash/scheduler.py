# SPDX-License-Identifier: Apache-2.0
"""Which die gets the flash bus, and for what."""

from typing import Any

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig

from ..signatures import CHANNEL_EVENT, SLOT_ROWS_MAX, ChannelOp, MediaStatus, channel_request
from .die import TIMEOUT_TICKS, DieControl, Work, poll_cycles
from .onfi import ADDRESS_CYCLES, Command
from .queues import DEPTH, row_extent, wanted_slots
from .ring import requested, slot_ticket
from .sequencer import JOB, JobKind
from .turns import Turns

PROGRAM_PATIENCE = 2
"""Pages' worth of slots read on the channel while a page of a program waits for the bus."""


class Task(enum.Enum, shape=2):
    """What the scheduler decided on."""

    WORK = 0
    """What the die asked for."""
    COLUMN = 1
    TRANSFER = 2


def reads_over(config: EngineConfig) -> bool:
    """A gap of one pair is read when that is cheaper than the commands that skip it."""
    skip = (ADDRESS_CYCLES + 2) * config.command_cycles * 1000
    return 2 * config.slot_beats * config.beat_cycles_x1000 < skip


def read_span(config: EngineConfig) -> data.StructLayout:
    """What a read moves from its die's position on: slots, bit 0 the one there; whether that one is
    wanted or lies between two pairs that are; the planes with a wanted slot."""
    return data.StructLayout({"slots": config.slots_per_stripe, "wanted": 1, "planes": config.planes})


READ_PULSES = ("stripes_sensed", "pages_sensed", "slots_moved")
"""Of rows; those of sketches, ``sketch_stripes_sensed`` and so on, and of dims count apart."""
PULSES = (*(f"{kind}{name}" for kind in ("", "sketch_", "dim_") for name in READ_PULSES), "programmed",
          "program_failures", "erased")


class Scheduler(wiring.Component):
    """Decides at every slot boundary of the bus, in this order:

    1. commands that dies wait for: reset, sense, end of a cache read, erase, status; behind these the end of
       a dead die's read;
    2. the column change of the current run, then of the next run, on another die, so that tCCS hides;
    3. a page of a program that has let PROGRAM_PATIENCE pages pass;
    4. the next slot of the current run, when the slot ring has room;
    5. a page of a program.

    A *run* is neighbouring slots of a page that are wanted; those between two runs are skipped by a column
    change, single pairs between two of rows read over and dropped where that is cheaper (`reads_over`). A
    stripe is sensed in its planes up to the last one that holds a wanted slot.

    Parameters
    ----------
    config : geometry and times

    Members
    -------
    ready : R/B_n of the dies
    read_level, write_level, write_erase, next_erase : of the request queues
    die, write, offset, entry, pair, rows, pop : look at and end a queued request
    job, failed, failed_before, array_ready, spoilt : of the bus sequencer
    ticket, issue, free, slots_idle : of the slot ring
    encoder_start, encoder_clear, encoder_busy, encoder_loaded : of the page encoder
    program : the request whose stripe the encoder takes, from ``encoder_start`` on
    events : ends of programs and erases
    buffer_wait : a slot could move but has no room
    pending : a request is queued
    stripes_sensed ... erased : one pulse per event; the sense counts with its command

    Latency: 4 cycles from the start of a job's last bus operation to the offer of the next job, less than a
    command cycle at 200 MHz. Back-pressure: a slot is asked for only when the ring has room, an end is
    reported only when the one before was taken.
    """

    def __init__(self, *, config: EngineConfig):
        self._config = config
        level = range(DEPTH + 1)
        request = channel_request(config)
        super().__init__({
            "ready": In(config.dies), "read_level": In(level).array(config.dies),
            "write_level": In(level).array(config.dies), "write_erase": In(config.dies),
            "next_erase": In(config.dies),
            "die": Out(3), "write": Out(1), "offset": Out(range(DEPTH)), "entry": In(request), "pop": Out(1),
            "pair": Out(range(max(2, config.slots_per_stripe // 2))), "rows": In(SLOT_ROWS_MAX),
            "job": Out(stream.Signature(JOB)), "failed": In(1), "failed_before": In(1),
            "array_ready": In(1), "spoilt": In(1),
            "ticket": Out(slot_ticket(config)), "issue": Out(1), "free": In(range(config.slot_buffers + 1)),
            "slots_idle": In(1),
            "encoder_start": Out(1), "encoder_clear": Out(1), "encoder_busy": In(1), "encoder_loaded": In(1),
            "program": Out(request), "events": Out(stream.Signature(CHANNEL_EVENT)),
            "buffer_wait": Out(1), "pending": Out(1), **{name: Out(1) for name in PULSES},
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        dies = [DieControl(config=config) for _ in range(config.dies)]
        for index, die in enumerate(dies):
            m.submodules[f"die_{index}"] = die
        m.submodules.turns = turns = Turns(dies=config.dies)
        task, work, chosen = Signal(Task), Signal(Work), Signal(3)
        entry = Signal(channel_request(config))
        span, run_start = Signal(read_span(config)), Signal(range(config.slots_per_stripe))
        patience = PROGRAM_PATIENCE * config.slots_per_page
        passed = Signal(range(patience + 1))
        finished, final, in_pair = Signal(), Signal(), Signal()
        picked = self._decide(m, dies, turns, passed == patience, in_pair)
        own = [finished & (chosen == index) for index in range(config.dies)]
        self._connect_dies(m, dies, turns, own=own, task=task, final=final, run_start=run_start)
        mine = Array(dies)[chosen]
        m.d.comb += [
            self.die.eq(chosen), self.pair.eq(mine.position >> 1),
            self.pending.eq(Cat(*self.read_level, *self.write_level) != 0),
            self.write.eq((task == Task.WORK) & Cat(
                work == kind for kind in (Work.CLAIM, Work.PROGRAM, Work.ERASE, Work.REPORT)).any()),
            self.offset.eq(Mux((task == Task.WORK) & Cat(
                work == kind for kind in (Work.SENSE, Work.CLAIM, Work.PROGRAM)).any(), mine.offset, 0)),
        ]
        with m.If(self.events.ready):
            m.d.sync += self.events.valid.eq(0)
        with m.FSM():
            with m.State("DECIDE"):
                m.d.sync += [task.eq(picked.task), work.eq(picked.work), chosen.eq(picked.die)]
                with m.If(picked.valid):
                    m.next = "LOOK UP"
            with m.State("LOOK UP"):
                m.d.sync += entry.eq(self.entry)
                m.next = "MEASURE"
            with m.State("MEASURE"):
                self._measure(m, mine, entry, span)
                m.next = "RUN"
            with m.State("RUN"):
                self._run(m, mine, turns, task, work, entry, span, run_start, final, finished, in_pair)
                with m.If(finished):
                    m.next = "DECIDE"
        with m.If(finished & (task == Task.WORK) & (work == Work.PROGRAM)):
            m.d.sync += passed.eq(0)
        with m.Elif(self._slot_moved & (passed != patience)):
            m.d.sync += passed.eq(passed + 1)
        return m

    @property
    def _slot_moved(self) -> Any:
        return self.slots_moved | self.sketch_slots_moved | self.dim_slots_moved

    def _measure(self, m: Module, die: Any, entry: Any, span: Any) -> None:
        config = self._config
        per_page = config.slots_per_page
        slots, joined = (Signal(config.slots_per_stripe, name=name) for name in ("slots", "joined"))
        m.d.comb += [slots.eq(wanted_slots(m, config, entry)), joined.eq(slots)]
        if reads_over(config):
            whole = ~(entry.keys | entry.sketch | entry.dims)
            inside = (slot for slot in range(len(slots)) if 2 <= slot % per_page < per_page - 2)
            m.d.comb += [joined[slot].eq(whole & slots[slot - 2] & slots[slot + 2] | slots[slot])
                         for slot in inside]
        m.d.sync += [
            span.slots.eq(joined >> die.position), span.wanted.eq(slots.bit_select(die.position, 1)),
            span.planes.eq(Cat(slots.word_select(plane, per_page).any() for plane in range(config.planes))),
        ]

    def _connect_dies(self, m: Module, dies: list[DieControl], turns: Turns, *, own: list[Any],
                      task: Signal, final: Signal, run_start: Signal) -> None:
        tick_cycles = -(-self._config.timeout_us * self._config.clock_mhz // TIMEOUT_TICKS)
        timer, tick, claiming = Signal(range(tick_cycles)), Signal(), Signal()
        period = poll_cycles(self._config)
        poll_timer, poll = Signal(range(period)), Signal()
        m.d.sync += [timer.eq(Mux(tick, 0, timer + 1)), poll_timer.eq(Mux(poll, 0, poll_timer + 1))]
        m.d.comb += [
            tick.eq(timer == tick_cycles - 1), poll.eq(poll_timer == period - 1),
            claiming.eq(Cat(die.work == Work.CLAIM for die in dies) != 0),
            self.encoder_clear.eq(Cat(die.abandon for die in dies) != 0),
        ]
        for index, die in enumerate(dies):
            # Dies at rest first: the others have tPROG to move their next stripe.
            idle = [other.wants_claim & ~other.running for other in dies]
            first = Cat(idle[:index]).any() | (
                die.running & Cat(*idle, *(other.wants_claim for other in dies[:index])).any())
            m.d.comb += [
                die.ready.eq(self.ready[index]), die.tick.eq(tick), die.read_level.eq(self.read_level[index]),
                die.write_level.eq(self.write_level[index]), die.write_erase.eq(self.write_erase[index]),
                die.next_erase.eq(self.next_erase[index]), die.poll.eq(poll),
                die.encoder_free.eq(~self.encoder_busy & ~claiming), die.may_claim.eq(~first),
                die.held.eq(turns.held[index]), die.bus_served.eq(turns.current_valid),
                die.done.eq(own[index] & (task == Task.WORK)), die.final.eq(final),
                *(getattr(die, name).eq(getattr(self, name))
                  for name in ("failed", "failed_before", "array_ready", "spoilt")),
                die.column_done.eq(own[index] & (task == Task.COLUMN)),
                die.run_start.eq(run_start), die.slot_done.eq(own[index] & self._slot_moved),
                die.run_done.eq(own[index] & turns.run_done),
                die.stripe_done.eq(own[index] & turns.run_done & final),
                turns.transferable[index].eq(die.transferable), turns.arrived[index].eq(die.arrived),
            ]

    def _decide(self, m: Module, dies: list[DieControl], turns: Turns, impatient: Value,
                in_pair: Value) -> Any:
        """The best thing to do in this cycle."""
        picked = Signal(data.StructLayout({"valid": 1, "task": Task, "work": Work, "die": 3}))
        current, following = Array(dies)[turns.current], Array(dies)[turns.following]
        ready, transfer, between = Signal(), Signal(), Signal()
        m.d.comb += [
            # The empty slots of a dead die come between two pairs, while no slot is on its way.
            between.eq((Cat(die.work == Work.FORGO for die in dies) != 0) & ~in_pair),
            ready.eq(turns.current_valid & current.prepared),
            transfer.eq(ready & (self.free != 0) & ~between),
            self.buffer_wait.eq(ready & (self.free == 0)),
        ]

        def pick(task: Task, die: Any, work: Any = Work.NONE) -> None:
            m.d.comb += [picked.valid.eq(1), picked.task.eq(task), picked.die.eq(die), picked.work.eq(work)]

        # Later ones win.
        with m.If(transfer):
            pick(Task.TRANSFER, turns.current)
        for index, die in enumerate(dies):
            with m.If((die.work == Work.PROGRAM) & self.encoder_loaded & (
                    impatient | ~transfer)):
                pick(Task.WORK, index, Work.PROGRAM)
        with m.If(turns.following_valid & ~following.columned):
            pick(Task.COLUMN, turns.following)
        with m.If(turns.current_valid & ~current.columned):
            pick(Task.COLUMN, turns.current)
        # A dead die comes behind the commands of the others: its reads and the ends of its writes, in turn,
        # would leave no room for them.
        for index, die in reversed(list(enumerate(dies))):
            with m.If((die.work == Work.FORGO) & (self.free >= 2) & between & self.slots_idle):
                pick(Task.WORK, index, Work.FORGO)
        for index, die in reversed(list(enumerate(dies))):
            blocked = (die.work == Work.REPORT) & self.events.valid
            other = Cat(die.work == kind for kind in (Work.NONE, Work.PROGRAM, Work.FORGO)).any()
            with m.If(~other & ~blocked):
                pick(Task.WORK, index, die.work)
        return picked

    def _run(self, m: Module, die: Any, turns: Turns, task: Signal, work: Signal, entry: Any,
             span: Any, run_start: Signal, final: Signal, finished: Signal, in_pair: Signal) -> None:
        """Offer the job to the sequencer, or do what needs no bus."""
        config = self._config
        job, ticket = self.job.payload, self.ticket
        page_bits = (config.slots_per_page - 1).bit_length()
        forgone = Signal(range(config.slots_per_stripe))
        index, plane = Signal(range(config.slots_per_stripe)), Signal(range(max(2, config.planes)))
        number = Signal.like(index)  # of the slot that a ticket is for
        last_pair, accepted, whole, single = (
            Signal(name=name) for name in ("last_pair", "accepted", "whole", "single"))
        rows_whole, rows_last = row_extent(entry)
        sensed, moved = Signal(), Signal()
        done = {"pages_sensed": sensed, "stripes_sensed": sensed & final, "slots_moved": moved}
        for name in READ_PULSES:
            m.d.comb += [getattr(self, name).eq(done[name] & ~whole),
                         getattr(self, f"sketch_{name}").eq(done[name] & entry.sketch),
                         getattr(self, f"dim_{name}").eq(done[name] & entry.dims)]
        m.d.comb += [
            accepted.eq(self.job.valid & self.job.ready), whole.eq(entry.sketch | entry.dims),
            single.eq(whole | entry.keys), number.eq(index),
            last_pair.eq((span.slots[2:] == 0) & ~(index[0] & span.slots[1])),
            index.eq(Mux(task == Task.COLUMN, run_start, die.position)),
            plane.eq(Mux(task == Task.WORK, die.plane, index >> page_bits)),
            job.die.eq(self.die), job.slot.eq(index[:page_bits]),
            job.plane.eq(plane), job.block.eq(entry.block), job.page.eq(entry.page),
            *(ticket[name].eq(value) for name, value in requested(entry, number).items()),
            ticket.die.eq(self.die),
        ]
        # The first wanted slot at or behind the position.
        for slot in reversed(range(len(span.slots))):
            with m.If(span.slots[slot]):
                m.d.comb += run_start.eq(die.position + slot)

        def bus(kind: JobKind, confirm: Any = 0) -> None:
            m.d.comb += [self.job.valid.eq(1), job.kind.eq(kind), job.confirm.eq(confirm),
                         finished.eq(accepted)]

        writes = (work == Work.PROGRAM) | (work == Work.ERASE)
        with m.If(task == Task.WORK):
            m.d.comb += final.eq(Mux(writes, plane == config.planes - 1, (span.planes >> (plane + 1)) == 0))
        with m.If(task == Task.COLUMN):
            bus(JobKind.COLUMN, Command.COLUMN_CONFIRM)
        with m.Elif(task == Task.TRANSFER):
            bus(JobKind.TRANSFER)
            last = span.slots[1:] == 0
            run_end = index[:page_bits].all() | ~span.slots[1]
            m.d.comb += [
                self.issue.eq(accepted), moved.eq(accepted), final.eq(last),
                ticket.kind.eq(index[0] & ~whole), ticket.stripe_end.eq(last),
                ticket.rows.eq(Mux(entry.masked, Mux(span.wanted, self.rows, 0),
                                   Mux(last_pair, rows_last, rows_whole))),
                turns.run_done.eq(accepted & (run_end | last)), self.pop.eq(accepted & last),
            ]
            with m.If(accepted):
                m.d.sync += in_pair.eq(~single & ~index[0])
            with m.If(whole):
                m.d.comb += ticket.rows.eq((1 << SLOT_ROWS_MAX) - 1)
        with m.Else(), m.Switch(work):
            with m.Case(Work.RESET):
                bus(JobKind.BYTE, Command.RESET)
            with m.Case(Work.SENSE):
                last = Mux(die.cached, Command.READ_CACHE, Command.READ_CONFIRM)
                bus(JobKind.READ, Mux(final, last, Command.READ_PLANE))
                m.d.comb += sensed.eq(accepted)
            with m.Case(Work.FINISH):
                bus(JobKind.BYTE, Command.READ_CACHE_END)
            with m.Case(Work.CLAIM):
                m.d.comb += [self.encoder_start.eq(1), finished.eq(1)]
                m.d.sync += self.program.eq(entry)
            with m.Case(Work.PROGRAM):
                last = Mux(die.closes, Command.PROGRAM_CONFIRM, Command.PROGRAM_CACHE)
                bus(JobKind.PROGRAM, Mux(final, last, Command.PROGRAM_PLANE))
            with m.Case(Work.ERASE):
                bus(JobKind.ERASE, Mux(final, Command.ERASE_CONFIRM, Command.ERASE_PLANE))
            with m.Case(Work.STATUS):
                bus(JobKind.STATUS)
            with m.Case(Work.REPORT):
                good = die.status == MediaStatus.OK
                erase = entry.op == ChannelOp.ERASE
                m.d.comb += [
                    finished.eq(1), self.pop.eq(1),
                    self.programmed.eq(good & ~erase), self.erased.eq(good & erase),
                    self.program_failures.eq(~good & ~erase),
                ]
                m.d.sync += [
                    self.events.valid.eq(1), self.events.payload.op.eq(entry.op),
                    self.events.payload.tag.eq(entry.tag), self.events.payload.status.eq(die.status),
                ]
            with m.Case(Work.FORGO):
                # A pair of rows, or all single slots that are still to come: whoever scores them counts.
                wanted = ~single | span.slots.bit_select(forgone, 1)
                last = Mux(single, (span.slots >> forgone)[1:] == 0, forgone[0])
                m.d.comb += [
                    self.issue.eq((self.free != 0) & wanted), ticket.absent.eq(1), ticket.stripe_end.eq(last),
                    ticket.kind.eq(forgone[0] & ~single),
                    finished.eq(self.issue & last), self.pop.eq(finished),
                ]
                with m.If(single):
                    m.d.comb += number.eq(index + forgone)
                with m.If(self.issue | ~wanted):
                    m.d.sync += forgone.eq(Mux(last, 0, forgone + 1))
