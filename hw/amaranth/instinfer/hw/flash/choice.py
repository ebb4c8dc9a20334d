# SPDX-License-Identifier: Apache-2.0
"""What the flash bus does next, among all that dies ask for."""

from collections.abc import Iterable
from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, enum, wiring
from amaranth.lib.wiring import In, Out

from .die import Work

LATENCY = 3
"""Cycles from what dies ask for to the choice."""


class Task(enum.Enum, shape=2):
    """What the scheduler decided on."""

    WORK = 0
    """What the die asked for."""
    COLUMN = 1
    TRANSFER = 2


def one_of(bits: Any, values: Iterable[Any]) -> Value:
    """The value whose bit is set; 0 if none is."""
    result: Value = Const(0, 1)
    for bit, value in zip(bits, values, strict=True):
        result = result | Mux(bit, Value.cast(value), 0)
    return result


class Choice(wiring.Component):
    """Chooses by the priorities of `Scheduler`. Dies that ask for a command have their turns, each behind
    the one that had the last.

    Parameters
    ----------
    dies : number of dies

    Members
    -------
    work, columned, prepared : of the dies
    away : dies whose last job is not over, or does not show yet in what they ask for
    current, following : of `Turns`
    impatient : a page of a program goes before a slot
    encoder_loaded : it can
    room, room_for_pair : of the slot ring, for a slot, for two
    slots_idle : all slots have arrived
    in_pair : a key slot moved, not yet its value slot
    events_full : the end of a write has no room
    task, die, work_chosen : the choice, a die's bit; no bit: nothing to do
    taken : it is taken
    buffer_wait : a slot could move but has no room

    Latency: `LATENCY` cycles.
    """

    def __init__(self, *, dies: int):
        self._dies = dies
        super().__init__({
            "work": In(Work).array(dies), "columned": In(dies), "prepared": In(dies), "away": In(dies),
            "current": In(dies), "following": In(dies), "impatient": In(1), "encoder_loaded": In(1),
            "room": In(1), "room_for_pair": In(1), "slots_idle": In(1), "in_pair": In(1),
            "events_full": In(1),
            "task": Out(Task), "die": Out(dies), "work_chosen": Out(Work), "taken": In(1),
            "buffer_wait": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        dies = range(self._dies)
        commands, forgone, programs, current, following = (
            Signal(self._dies, name=name)
            for name in ("commands", "forgone", "programs", "current", "following"))
        columns, prepares, transfers, between, impatient = (
            Signal(name=name) for name in ("columns", "prepares", "transfers", "between", "impatient"))
        layout = data.ArrayLayout(Work, self._dies)
        asked, works, works_then = (Signal(layout, name=name) for name in ("asked", "works", "works_then"))
        ready, may_forgo, no_commands = Signal(), Signal(), (Work.NONE, Work.PROGRAM, Work.FORGO)
        dead = Cat(asked[index] == Work.FORGO for index in dies)
        here, asked_here = ~self.away, Signal(self._dies)
        m.d.comb += [
            # The empty slots of a dead die come between two pairs, while no slot is on its way.
            between.eq(dead.any() & ~self.in_pair),
            may_forgo.eq(self.room_for_pair & self.slots_idle & between),
            ready.eq((self.current & self.prepared).any()),
        ]
        m.d.sync += [
            commands.eq(asked_here & Cat(
                ~Cat(asked[index] == kind for kind in no_commands).any()
                & ~((asked[index] == Work.REPORT) & self.events_full) for index in dies)),
            forgone.eq(asked_here & dead & may_forgo.replicate(self._dies)),
            programs.eq(asked_here & Cat(
                (asked[index] == Work.PROGRAM) & self.encoder_loaded for index in dies)),
            impatient.eq(self.impatient), current.eq(self.current), following.eq(self.following),
            columns.eq((here & self.current & ~self.columned).any()),
            prepares.eq((here & self.following & ~self.columned).any()),
            transfers.eq((here & self.current & self.prepared).any() & self.room & ~between),
            self.buffer_wait.eq(ready & ~self.room),
            *(asked[index].eq(self.work[index]) for index in dies), asked_here.eq(here),
            works.eq(asked), works_then.eq(works),
        ]

        # Of the commands, the first behind the die that had the last one, or the first.
        later, turn = Signal(self._dies), Signal(self._dies)
        with m.If(self.taken & (self.task == Task.WORK)):
            m.d.sync += later.eq(Cat(self.die[:index].any() for index in dies))
        m.d.comb += turn.eq(commands & later)

        def pick(task: Task, die: Value) -> None:
            m.d.sync += [self.task.eq(task), self.die.eq(die)]

        with m.If(turn.any()):
            pick(Task.WORK, first_of(turn))
        with m.Elif(commands.any()):
            pick(Task.WORK, first_of(commands))
        # A dead die comes behind the commands of the others: its reads and the ends of its writes, in turn,
        # would leave no room for them.
        with m.Elif(forgone.any()):
            pick(Task.WORK, first_of(forgone))
        with m.Elif(columns):
            pick(Task.COLUMN, current)
        with m.Elif(prepares):
            pick(Task.COLUMN, following)
        with m.Elif(programs.any() & (impatient | ~transfers)):
            pick(Task.WORK, first_of(programs))
        with m.Else():
            pick(Task.TRANSFER, current & transfers.replicate(self._dies))
        m.d.comb += self.work_chosen.eq(one_of(self.die, (works_then[index] for index in dies)))
        return m


def first_of(bits: Signal) -> Value:
    """The lowest bit that is set."""
    return Cat(bits[index] & ~bits[:index].any() for index in range(len(bits)))
