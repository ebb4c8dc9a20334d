# SPDX-License-Identifier: Apache-2.0
"""Which die gets the flash bus, and for what."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig

from ..signatures import CHANNEL_EVENT, SLOT_ROWS_MAX, ChannelOp, MediaStatus, channel_request
from . import choice, span
from .choice import Choice, Task, first_of, one_of
from .die import TIMEOUT_TICKS, DieControl, Work, poll_cycles
from .onfi import Command
from .queues import DEPTH
from .ring import requested, slot_ticket
from .sequencer import JOB, JobKind
from .span import Span
from .turns import Turns

PROGRAM_PATIENCE = 2
"""Pages' worth of slots read on the channel while a page of a program waits for the bus."""
SETTLE = choice.LATENCY + 2
"""Cycles from the end of a job to a choice that knows what it changed, the next run's die too."""
PREPARED = SETTLE + span.LATENCY + 4
"""Cycles from the end of a job to the next one, if nothing was prepared."""
SLACK = 8
"""Cycles that a choice behind a slot comes before the last one in which the next job is still in time."""
CALM = (Work.CLAIM, Work.REPORT, Work.FORGO)
"""Works that need no bus."""


def effect(config: EngineConfig) -> data.StructLayout:
    """What the end of a job does: ``own`` is the bit of its die, ``done`` to ``stripe`` that bit or none, as
    the members of `DieControl`. ``pop``: its request has ended; ``opens``: a pair's value slot is to come;
    ``sensed``: it was a read command, of ``sketch`` or ``dims`` or of rows."""
    return data.StructLayout({
        **dict.fromkeys(("own", "done", "column", "slot", "run", "stripe"), config.dies),
        "run_start": range(config.slots_per_stripe),
        **dict.fromkeys(("final", "pop", "opens", "sensed", "sketch", "dims"), 1),
    })


READ_PULSES = ("stripes_sensed", "pages_sensed", "slots_moved")
"""Of rows; those of sketches, ``sketch_stripes_sensed`` and so on, and of dims count apart."""
PULSES = (*(f"{kind}{name}" for kind in ("", "sketch_", "dim_") for name in READ_PULSES), "programmed",
          "program_failures", "erased")


class Scheduler(wiring.Component):
    """Decides at every slot boundary of the bus, in this order:

    1. commands that dies wait for, each die in its turn: reset, sense, end of a cache read, erase, status;
       behind these the end of a dead die's read;
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
    begun : an operation of the job that is offered starts on the bus
    ticket, issue, free, slots_idle : of the slot ring
    encoder_start, encoder_clear, encoder_busy, encoder_loaded : of the page encoder
    program : the request whose stripe the encoder takes, from ``encoder_start`` on
    events : ends of programs and erases
    buffer_wait : a slot could move but has no room
    pending : a request is queued
    stripes_sensed ... erased : one pulse per event; the sense counts with its command

    Latency: while the operations of a job without data move (read command, column change, erase) its
    successor, for another die, is prepared: offered 1 cycle after the last one has started, if together they
    take `PREPARED` cycles. What follows a slot is chosen as late as the bus allows, so that a die that gets
    ready while the slot moves can still have its turn: it is offered `SLACK` cycles before the slot has
    moved, at the latest. Behind other jobs: `PREPARED` + 1 cycles after their last operation has started.
    Back-pressure: a slot is asked for only when the ring has room, an end is reported only when the one
    before was taken.
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
            "job": Out(stream.Signature(JOB)), "begun": In(1), "failed": In(1), "failed_before": In(1),
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
        m.submodules.choice = picks = Choice(dies=config.dies)
        m.submodules.span = measure = Span(config=config)
        planned, result = Signal(effect(config)), Signal(effect(config))
        patience = PROGRAM_PATIENCE * config.slots_per_page
        passed, in_pair = Signal(range(patience + 1)), Signal()
        entry, mine = Signal(channel_request(config)), Signal(config.dies)
        m.d.comb += [
            picks.in_pair.eq(in_pair), picks.impatient.eq(passed == patience),
            picks.away.eq(Mux(self.job.valid, planned.own, 0) | result.own),
            measure.entry.eq(entry),
            self.pop.eq(result.pop), self.pending.eq(Cat(*self.read_level, *self.write_level) != 0),
        ]
        m.d.sync += Value.cast(result).eq(Mux(self._accepted, Value.cast(planned), 0))
        with m.If(self._accepted):
            m.d.sync += self.job.valid.eq(0)
        self._connect_dies(m, dies, turns, result)
        self._connect_choice(m, dies, turns, picks)
        self._count(m, result)
        with m.If((result.done & Cat(die.work == Work.PROGRAM for die in dies)).any()):
            m.d.sync += passed.eq(0)
        with m.Elif(result.slot.any() & (passed != patience)):
            m.d.sync += passed.eq(passed + 1)
        with m.If(result.slot.any()):
            m.d.sync += in_pair.eq(result.opens)
        self._prepare(m, dies, picks, measure, entry, mine, planned, result)
        return m

    @property
    def _accepted(self) -> Value:
        return self.job.valid & self.job.ready

    def _connect_dies(self, m: Module, dies: list[DieControl], turns: Turns, result: Any) -> None:
        tick_cycles = -(-self._config.timeout_us * self._config.clock_mhz // TIMEOUT_TICKS)
        timer, tick = Signal(range(tick_cycles)), Signal()
        period = poll_cycles(self._config)
        poll_timer, poll = Signal(range(period)), Signal()
        failed, failed_before, array_ready, spoilt = said = [
            Signal(name=name) for name in ("failed", "failed_before", "array_ready", "spoilt")]
        m.d.sync += [
            timer.eq(Mux(tick, 0, timer + 1)), tick.eq(timer == tick_cycles - 2),
            poll_timer.eq(Mux(poll, 0, poll_timer + 1)), poll.eq(poll_timer == period - 2),
            *(signal.eq(getattr(self, signal.name)) for signal in said),
        ]
        m.d.comb += [self.encoder_clear.eq(Cat(die.abandon for die in dies) != 0),
                     turns.run_done.eq(result.run.any())]
        encoder_free, may_claim = self._share_encoder(m, dies)
        for index, die in enumerate(dies):
            m.d.comb += [
                die.ready.eq(self.ready[index]), die.tick.eq(tick), die.read_level.eq(self.read_level[index]),
                die.write_level.eq(self.write_level[index]), die.write_erase.eq(self.write_erase[index]),
                die.next_erase.eq(self.next_erase[index]), die.poll.eq(poll),
                die.encoder_free.eq(encoder_free), die.may_claim.eq(may_claim[index]),
                die.held.eq(turns.held[index]), die.bus_served.eq(turns.current.any()),
                die.done.eq(result.done[index]), die.final.eq(result.final),
                die.failed.eq(failed), die.failed_before.eq(failed_before), die.array_ready.eq(array_ready),
                die.spoilt.eq(spoilt),
                die.column_done.eq(result.column[index]), die.run_start.eq(result.run_start),
                die.slot_done.eq(result.slot[index]), die.run_done.eq(result.run[index]),
                die.stripe_done.eq(result.stripe[index]),
                turns.transferable[index].eq(die.transferable), turns.arrived[index].eq(die.arrived),
            ]

    def _share_encoder(self, m: Module, dies: list[DieControl]) -> tuple[Signal, Signal]:
        """Is the page encoder free, and whose is it then? Dies at rest first: the others have tPROG to move
        their next stripe. A die has its leave for one cycle, and it shows in the next but one that it
        took it; nobody else has leave in between."""
        encoder_free, may_claim = Signal(), Signal(len(dies))
        wants, idle, chosen = (Signal(len(dies), name=name) for name in ("wants", "idle", "chosen"))
        m.d.comb += chosen.eq(Mux(idle.any(), idle, wants))
        m.d.sync += [
            wants.eq(Cat(die.wants_claim for die in dies)),
            idle.eq(Cat(die.wants_claim & ~die.running for die in dies)),
            encoder_free.eq(~(self.encoder_busy | Cat(die.work == Work.CLAIM for die in dies).any())),
            may_claim.eq(Mux(may_claim.any(), 0, first_of(chosen))),
        ]
        return encoder_free, may_claim

    def _connect_choice(self, m: Module, dies: list[DieControl], turns: Turns, picks: Choice) -> None:
        m.d.comb += [
            *(work.eq(die.work) for work, die in zip(picks.work, dies, strict=True)),
            picks.columned.eq(Cat(die.columned for die in dies)),
            picks.prepared.eq(Cat(die.prepared for die in dies)),
            picks.current.eq(turns.current), picks.following.eq(turns.following),
            picks.encoder_loaded.eq(self.encoder_loaded), picks.room.eq(self.free != 0),
            picks.room_for_pair.eq(self.free >= 2), picks.slots_idle.eq(self.slots_idle),
            picks.events_full.eq(self.events.valid), self.buffer_wait.eq(picks.buffer_wait),
        ]

    def _count(self, m: Module, result: Any) -> None:
        sensed = result.sensed
        done = {"pages_sensed": sensed, "stripes_sensed": sensed & result.final,
                "slots_moved": result.slot.any()}
        for name in READ_PULSES:
            m.d.comb += [getattr(self, name).eq(done[name] & ~(result.sketch | result.dims)),
                         getattr(self, f"sketch_{name}").eq(done[name] & result.sketch),
                         getattr(self, f"dim_{name}").eq(done[name] & result.dims)]

    def _prepare(self, m: Module, dies: list[DieControl], picks: Choice, measure: Span, entry: Any,
                 mine: Signal, planned: Any, result: Any) -> None:
        """Look up what was chosen, then offer it to the sequencer, or do it if it needs no bus."""
        config = self._config
        moves = config.slot_beats * config.beat_cycles_x1000 // 1000
        late = max(SETTLE - 1, moves - PREPARED - SLACK)
        task, work, wait = Signal(Task), Signal(Work), Signal(range(max(span.LATENCY, SETTLE, late + 1)))
        position, plane = Signal(range(config.slots_per_stripe)), Signal(range(max(2, config.planes)))
        cached, closes, status = Signal(), Signal(), Signal(MediaStatus)
        number, rows, ended = Signal.like(position), Signal(SLOT_ROWS_MAX), Signal()
        ahead = Signal()
        m.d.comb += [self.pair.eq(position >> 1), self.issue.eq(self._accepted & planned.slot.any())]
        with m.If(wait != 0):
            m.d.sync += wait.eq(wait - 1)
        with m.If(self.events.ready):
            m.d.sync += self.events.valid.eq(0)

        def mine_of(name: str) -> Value:
            return one_of(mine, (getattr(die, name) for die in dies))

        with m.FSM():
            with m.State("CHOOSE"):
                m.d.sync += [mine.eq(picks.die), task.eq(picks.task), work.eq(picks.work_chosen)]
                with m.If(picks.die.any()):
                    m.d.comb += picks.taken.eq(1)
                    m.next = "LOOK UP"
            with m.State("LOOK UP"):
                with m.If(task != Task.WORK):
                    m.d.sync += work.eq(Work.NONE)
                m.d.sync += [
                    self.die.eq(one_of(mine, range(config.dies))), position.eq(mine_of("position")),
                    plane.eq(mine_of("plane")), cached.eq(mine_of("cached")), closes.eq(mine_of("closes")),
                    status.eq(mine_of("status")),
                    self.write.eq(_is(work, Work.CLAIM, Work.PROGRAM, Work.ERASE, Work.REPORT)
                                  & (task == Task.WORK)),
                    self.offset.eq(Mux(_is(work, Work.SENSE, Work.CLAIM, Work.PROGRAM) & (task == Task.WORK),
                                       mine_of("offset"), 0)),
                ]
                m.next = "FETCH"
            with m.State("FETCH"):
                m.d.sync += [
                    entry.eq(self.entry), measure.cursor.eq(position + (task == Task.TRANSFER)),
                    number.eq(position), rows.eq(0),
                    wait.eq(Mux((task == Task.WORK) & (work != Work.FORGO), span.PLANES_LATENCY,
                                span.LATENCY) - 1),
                ]
                m.next = "MEASURE"
            with m.State("MEASURE"), m.If(wait == 0):
                m.next = "OFFER"
                with m.If(_is(work, *CALM)):
                    m.next = "ACT"
            with m.State("OFFER"), m.If(~self.job.valid | self.job.ready):
                self._offer(m, task, work, measure, entry, mine, planned, position=position, plane=plane,
                            cached=cached, closes=closes)
                m.d.sync += [
                    ahead.eq((task == Task.COLUMN) | _is(work, Work.SENSE, Work.ERASE)),
                    rows.eq(Mux(entry.sketch | entry.dims, (1 << SLOT_ROWS_MAX) - 1,
                                Mux(~entry.masked, measure.rows, Mux(measure.before_wanted, self.rows, 0)))),
                ]
                m.next = "HOLD"
            with m.State("HOLD"):
                # Until the job is taken; one without data lets the next one be prepared as soon as it moves.
                # While a slot moves dies get ready, so what follows it is chosen late.
                m.d.sync += wait.eq(Mux(task == Task.TRANSFER, late, SETTLE - 1))
                with m.If(self.job.ready | self.begun & ahead):
                    m.next = "SETTLE"
            with m.State("ACT"), m.If(~self.job.valid):
                self._act(m, work, measure, entry, number, status, ended, wait)
                with m.If(ended):
                    m.d.sync += [
                        wait.eq(SETTLE - 1),
                        result.own.eq(mine), result.done.eq(mine), result.final.eq(1),
                        result.pop.eq(work != Work.CLAIM),
                    ]
                    m.next = "SETTLE"
            with m.State("SETTLE"), m.If(wait == 0):
                m.next = "CHOOSE"
        self._describe_slot(m, work, measure, entry, number, rows)

    def _offer(self, m: Module, task: Signal, work: Signal, measure: Span, entry: Any, mine: Signal,
               planned: Any, *, position: Signal, plane: Signal, cached: Signal, closes: Signal) -> None:
        """The job, and what its end does."""
        config, job = self._config, self.job.payload
        page_bits = (config.slots_per_page - 1).bit_length()
        index, final, last = Signal.like(position), Signal(), Signal.like(job.confirm)
        column, transfer, senses = task == Task.COLUMN, task == Task.TRANSFER, work == Work.SENSE
        m.d.comb += [
            index.eq(Mux(column, measure.first, position)),
            final.eq(Mux(senses, (measure.planes >> (plane + 1)) == 0, plane == config.planes - 1)),
        ]
        single = entry.sketch | entry.dims | entry.keys
        page_ends = position[:page_bits].all()
        m.d.sync += [
            self.job.valid.eq(1), job.die.eq(self.die), job.slot.eq(index[:page_bits]),
            job.plane.eq(Mux(task == Task.WORK, plane, index >> page_bits)),
            job.block.eq(entry.block), job.page.eq(entry.page), job.confirm.eq(last),
            planned.own.eq(mine), planned.run_start.eq(measure.first), planned.final.eq(final),
            planned.done.eq(Mux(task == Task.WORK, mine, 0)), planned.column.eq(Mux(column, mine, 0)),
            planned.slot.eq(Mux(transfer, mine, 0)),
            planned.run.eq(Mux(transfer & (~measure.adjacent | page_ends), mine, 0)),
            planned.stripe.eq(Mux(transfer & measure.none, mine, 0)), planned.pop.eq(transfer & measure.none),
            planned.opens.eq(~single & ~position[0]), planned.sensed.eq(senses),
            planned.sketch.eq(entry.sketch), planned.dims.eq(entry.dims),
        ]

        def case(kind: JobKind, confirm: Any = 0) -> None:
            m.d.sync += job.kind.eq(kind)
            m.d.comb += last.eq(confirm)

        with m.Switch(work):
            with m.Case(Work.RESET):
                case(JobKind.BYTE, Command.RESET)
            with m.Case(Work.FINISH):
                case(JobKind.BYTE, Command.READ_CACHE_END)
            with m.Case(Work.SENSE):
                confirm = Mux(cached, Command.READ_CACHE, Command.READ_CONFIRM)
                case(JobKind.READ, Mux(final, confirm, Command.READ_PLANE))
            with m.Case(Work.PROGRAM):
                confirm = Mux(closes, Command.PROGRAM_CONFIRM, Command.PROGRAM_CACHE)
                case(JobKind.PROGRAM, Mux(final, confirm, Command.PROGRAM_PLANE))
            with m.Case(Work.ERASE):
                case(JobKind.ERASE, Mux(final, Command.ERASE_CONFIRM, Command.ERASE_PLANE))
            with m.Case(Work.STATUS):
                case(JobKind.STATUS)
            with m.Default():
                case(JobKind.COLUMN, Command.COLUMN_CONFIRM)
                with m.If(transfer):
                    m.d.sync += job.kind.eq(JobKind.TRANSFER)

    def _describe_slot(self, m: Module, work: Signal, measure: Span, entry: Any, number: Signal,
                       rows: Signal) -> None:
        """The slot that a transfer asks for, or one of a dead die's."""
        ticket, absent, whole = self.ticket, work == Work.FORGO, entry.sketch | entry.dims
        single = whole | entry.keys
        m.d.comb += [
            *(ticket[name].eq(value) for name, value in requested(entry, number).items()),
            ticket.die.eq(self.die), ticket.rows.eq(rows), ticket.absent.eq(absent),
            ticket.kind.eq(number[0] & ~Mux(absent, single, whole)),
            ticket.stripe_end.eq(Mux(absent & ~single, number[0], measure.none)),
        ]

    def _act(self, m: Module, work: Signal, measure: Span, entry: Any, number: Signal, status: Signal,
             ended: Signal, wait: Signal) -> None:
        """What needs no bus; ``ended`` with its last cycle."""
        single = entry.sketch | entry.dims | entry.keys
        begun = Signal(name="forgoes")  # ``number`` is that of a slot of a dead die
        with m.Switch(work):
            with m.Case(Work.CLAIM):
                m.d.comb += [self.encoder_start.eq(1), ended.eq(1)]
                m.d.sync += self.program.eq(entry)
            with m.Case(Work.REPORT):
                good = status == MediaStatus.OK
                erase = entry.op == ChannelOp.ERASE
                event = self.events.payload
                m.d.comb += [
                    ended.eq(1), self.programmed.eq(good & ~erase), self.erased.eq(good & erase),
                    self.program_failures.eq(~good & ~erase),
                ]
                m.d.sync += [self.events.valid.eq(1), event.op.eq(entry.op), event.tag.eq(entry.tag),
                             event.status.eq(status)]
            with m.Default():
                # A pair of rows, or all single slots that are still to come: whoever scores them counts.
                gone = self.free != 0
                with m.If(begun):
                    m.d.comb += [self.issue.eq(gone), ended.eq(gone & self.ticket.stripe_end)]
                with m.If(ended):
                    m.d.sync += begun.eq(0)
                with m.Elif(gone & ~single):
                    m.d.sync += [begun.eq(1), number.eq(Cat(begun, number[1:]))]
                with m.Elif(gone):
                    m.d.sync += [begun.eq(1), number.eq(measure.first), measure.cursor.eq(measure.first + 1),
                                 wait.eq(span.LATENCY - 1)]
                    m.next = "MEASURE"


def _is(work: Signal, *kinds: Work) -> Value:
    return Cat(work == kind for kind in kinds).any()
