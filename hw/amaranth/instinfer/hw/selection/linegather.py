# SPDX-License-Identifier: Apache-2.0
"""Words that come in any order, gathered into lines of device DRAM."""

from typing import Any

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig
from instinfer.abi.errors import require
from instinfer.abi.selection import SCORE_BITS

from ..memory import COLLISION_FREE
from ..numeric.pipeline import stages
from ..signatures import AXI_BYTES, MemoryWritePort
from ..stream.fifo import StreamFIFO
from .spillports import COLUMN_BITS, COLUMNS, LINE_BEATS, LINE_COLUMNS, spill_write

_LINE_LOG2 = LINE_BEATS.bit_length() - 1
_OWED_BITS = 8
_THIRD = 3
"""Part of a tag's bits that is compared by itself: with what else is known late of its place."""


class LineGather(wiring.Component):
    """Gathers columns into lines of LINE_BEATS beats; each line goes to DRAM as one burst, whole lines at
    once.

    Sources that each go through groups in ascending order, as scorers do, fill their lines one after the
    other, whatever the order among the sources. Where more lines are begun than ``lines`` less a reserve of a
    quarter, one after the other is sent as it is, with strobes, and its rest later.

    Parameters
    ----------
    config : where scores lie
    lines : that are gathered at once, a power of two from 4 to 64: two for each source is plenty

    Members
    -------
    i : each column once between two times at which all is settled
    flush : no more will come for now: every line is sent
    settled : nothing is inside, and DRAM has answered every write
    error : pulse, DRAM refused a write
    memory : device DRAM

    Latency: 11 cycles from the last column of a line to its request. Throughput: a word per cycle in, one
    cycle more behind a word that begins a line; a line in 9 cycles out, so fewer words where lines go as they
    are. Back-pressure: while no place is free, words of lines that are begun are taken every second cycle,
    others wait. A request is made when its data are here.
    """

    def __init__(self, *, config: EngineConfig, lines: int = 16) -> None:
        require(lines in (4, 8, 16, 32, 64), "lines", lines, "4, 8, 16, 32 or 64",
                "16 are enough for nine scorers.")
        self._config, self._lines = config, lines
        super().__init__({
            "i": In(stream.Signature(spill_write(config))), "flush": In(1),
            "settled": Out(1), "error": Out(1), "memory": Out(MemoryWritePort()),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lines, place = self._lines, range(self._lines)
        word: Any = self.i.payload
        line = word.beat[_LINE_LOG2:]
        tags = Array(Signal(len(line), name=f"tag_{each}", reset_less=True) for each in place)
        filled: Memory = Memory(shape=range(LINE_COLUMNS + 1), depth=lines, init=[])
        touched: Memory = Memory(shape=LINE_BEATS, depth=lines, init=[])
        m.submodules.filled, m.submodules.touched = filled, touched
        used, growing = Signal(lines), Signal(lines)
        goes = Signal(lines)  # and grows no more
        whole, victim_valid = Signal(), Signal()

        # Cycle 0: lines of its beat among those that still grow in the next cycle; or that of the word in
        # front, whose place is not written yet.
        held: Any = Signal(spill_write(self._config), reset_less=True)
        have, ready, taken = Signal(), Signal(init=1), Signal()
        same, same_above = (Signal(lines, name=name, reset_less=True) for name in ("same", "same_above"))
        width = -(-len(line) // _THIRD)
        matches, matches_above = (
            Cat(tags[each][part] == line[part] for each in place)
            for part in (slice(width), slice(width, None)))
        again, grows, stays = Signal(), Signal(lines), Signal(lines)
        free, free_valid = Signal(lines), Signal()
        m.d.comb += [taken.eq(have & ready), self.i.ready.eq(ready)]
        with m.If(ready):
            m.d.sync += [
                have.eq(self.i.valid), held.eq(word), same_above.eq(matches_above),
                again.eq(have & (held.beat[_LINE_LOG2:] == line)),
            ]
        m.d.sync += same.eq(Mux(ready, matches & stays, same & ~goes))

        # Cycle 1: its place, or the free one that is kept ready.
        hits, hit, begins = Signal(lines), Signal(), Signal()
        # Of the word before: the place that it hit, and the one that it began if it hit none; whether it did
        # in the cycle before.
        hit_before, free_before = Signal(lines, reset_less=True), Signal(lines, reset_less=True)
        began, fresh = Signal(), Signal()
        started = Mux(fresh, free_before, 0)
        tagged = same & same_above
        m.d.comb += [
            hits.eq(tagged | (grows & Mux(again, Mux(began, free_before, hit_before), 0))),
            # Whether there is one, in fewer levels: a line is fresh only if that word began it.
            hit.eq(tagged.any() | (again & Mux(
                began, fresh | (growing & free_before).any(), (growing & hit_before).any()))),
            begins.eq(taken & ~hit),
            grows.eq(growing | started), stays.eq((growing & ~goes) | started),
        ]
        m.d.sync += [
            fresh.eq(begins),
            used.eq(used | started),
            growing.eq(stays),
        ]
        with m.If(taken):
            m.d.sync += [hit_before.eq(hits), free_before.eq(free), began.eq(~hit)]
        # The next free place is kept ready; it is looked for in the cycle behind a word that began a line, as
        # that is known late. Without one, a word waits a cycle to see whether it needs it. ``ready`` is a
        # register for hundreds of sinks. It goes by whether a place was unused a cycle before (``some``).
        # That is wrong only right behind the cycle that made the last one the free place, and no cycle that
        # looks for another follows that.
        unused = ~(used | free)
        some = Signal(init=1)
        renews = fresh | ~free_valid
        with m.If(renews):
            m.d.sync += [free.eq(unused & (~unused + 1)), free_valid.eq(unused.any())]
        m.d.sync += [
            some.eq(unused.any()),
            ready.eq((~begins & Mux(renews, some, 1))
                     | Mux(ready, ~self.i.valid, hit & ~whole & ~victim_valid)),
        ]
        for each in place:
            with m.If(free[each] & ~fresh):
                m.d.sync += tags[each].eq(held.beat[_LINE_LOG2:])

        # Cycle 2: number of the place; cycle 3: what its line has; cycle 4: it is stored.
        found, put, first = Signal(), Signal(), Signal()
        found_at, at = Signal(place), Signal(place)
        *_, late, now = stages(m, held, 3, name="word")
        had, old = Signal(range(LINE_COLUMNS + 1), reset_less=True), Signal(LINE_BEATS, reset_less=True)
        count, marks = Signal(range(LINE_COLUMNS + 1)), Signal(LINE_BEATS)
        many = stages(m, sum((bit for bit in late.enable), start=Value.cast(0)), 1, name="many")[1]
        follows = put & (found_at == at)
        filled_find, touched_find = filled.read_port(domain="comb"), touched.read_port(domain="comb")
        filled_put, touched_put = filled.write_port(), touched.write_port()
        m.d.comb += [
            count.eq(had + many), marks.eq(old | (1 << now.beat[:_LINE_LOG2])),
            filled_find.addr.eq(found_at), touched_find.addr.eq(found_at),
            filled_put.en.eq(put), filled_put.addr.eq(at), filled_put.data.eq(count),
            touched_put.en.eq(put), touched_put.addr.eq(at), touched_put.data.eq(marks),
        ]
        m.d.sync += [
            found.eq(stages(m, taken, 1, name="taken", reset=True)[1]), first.eq(fresh),
            found_at.eq(_index(Mux(fresh, free_before, hit_before))), put.eq(found), at.eq(found_at),
            had.eq(Mux(first, 0, Mux(follows, count, filled_find.data))),
            old.eq(Mux(first, 0, Mux(follows, marks, touched_find.data))),
        ]

        # Cycle 5: the line is sent when that was its last column. When room is short and few lines are on
        # their way, one goes that nothing came for since the hand was there before.
        whole_at = Signal(lines, reset_less=True)
        hand, recent = Signal(place), Signal(lines)
        short, looks = Signal(), Signal()
        victim = Signal(lines, reset_less=True)
        begun = Signal(range(lines + 1))
        gone_at = Signal(place, reset_less=True)
        m.submodules.queue = queue = StreamFIFO(
            shape=data.StructLayout({"place": place, "line": len(line)}), depth=lines)
        going: Any = queue.i.payload
        sent = stages(m, queue.o.valid & queue.o.ready, 1, name="sent", reset=True)[1]
        m.d.comb += [
            looks.eq((self.flush | short) & ~victim_valid),
            goes.eq(Mux(whole, whole_at, Mux(victim_valid, victim, 0))),
            queue.i.valid.eq(stages(m, (growing & goes).any(), 3, name="gone", reset=True)[3]),
            going.place.eq(stages(m, gone_at, 2, name="gone_at")[2]),
            going.line.eq(self._tag_at(m, tags, gone_at)),
        ]
        m.d.sync += [
            whole.eq(put & (count == LINE_COLUMNS)), whole_at.eq(1 << at),
            begun.eq(begun + fresh - sent),
            short.eq((begun > lines - lines // 4) & (queue.level <= 1)),
            victim.eq(1 << hand), victim_valid.eq(looks & growing.bit_select(hand, 1)
                                             & (self.flush | ~recent.bit_select(hand, 1))),
            gone_at.eq(_index(goes)),
        ]
        with m.If(looks):
            m.d.sync += [hand.eq(hand + 1), recent.bit_select(hand, 1).eq(0)]
        with m.If(put):
            m.d.sync += recent.bit_select(at, 1).eq(1)
        self._send(m, queue, touched, used, have | fresh, put, at, now, old)
        return m

    def _tag_at(self, m: Module, tags: Array, place: Signal) -> Value:
        """Two cycles later; a place keeps its tag until its line is sent."""
        near = [stages(m, Array(tags[each] for each in range(at, at + 4))[place[:2]], 1, name=f"near_{at}")[1]
                for at in range(0, self._lines, 4)]
        far = stages(m, place[2:], 1, name="gone_far")[1] if len(near) > 1 else 0
        return stages(m, Array(near)[far], 1, name="gone_line")[1]

    def _send(self, m: Module, queue: StreamFIFO, touched: Memory, used: Signal, have: Value,
              put: Value, at: Value, now: Any, old: Value) -> None:
        """The lines of the queue."""
        columns: Memory = Memory(shape=SCORE_BITS * COLUMNS, depth=self._lines * LINE_BEATS, init=[],
                                 attrs=COLLISION_FREE)
        strobes: Memory = Memory(shape=COLUMNS, depth=self._lines * LINE_BEATS, init=[])
        m.submodules.columns, m.submodules.strobes = columns, strobes
        write, read = columns.write_port(granularity=SCORE_BITS), columns.read_port()
        mark, marked = strobes.write_port(), strobes.read_port(domain="comb")
        found = strobes.read_port(domain="comb")
        where = Cat(now.beat[:_LINE_LOG2], at)
        m.d.comb += [
            write.addr.eq(where), write.data.eq(now.columns.as_value()), write.en.eq(Mux(put, now.enable, 0)),
            marked.addr.eq(where), mark.addr.eq(where), mark.en.eq(put),
            mark.data.eq(now.enable | Mux(old.bit_select(now.beat[:_LINE_LOG2], 1), marked.data, 0)),
        ]
        sending: Any = queue.o.payload
        entry = sending.place
        request, beat = self.memory.request, self.memory.data
        index, reads = Signal(range(LINE_BEATS)), Signal()
        # What is read, and what is offered: block RAM has a register of its own at its output.
        read_valid, read_last = Signal(), Signal()
        read_enable, enable = Signal(COLUMNS, reset_less=True), Signal(COLUMNS, reset_less=True)
        line = Signal(len(read.data), reset_less=True)
        moves = Signal()
        marks = Signal(LINE_BEATS, reset_less=True)
        touched_look = touched.read_port(domain="comb")
        m.d.comb += [
            touched_look.addr.eq(entry),
            request.payload.address.eq(self._config.scores_first
                                       + (sending.line << (LINE_BEATS * AXI_BYTES - 1).bit_length())),
            request.payload.beats.eq(LINE_BEATS),
            read.addr.eq(Cat(index, entry)), found.addr.eq(read.addr), read.en.eq(moves),
            beat.payload.strobe.eq(Cat(bit.replicate(COLUMN_BITS // 8) for bit in enable)),
            *(beat.payload.data.word_select(column, COLUMN_BITS).eq(
                line.word_select(column, SCORE_BITS)) for column in range(COLUMNS)),
            moves.eq(~beat.valid | beat.ready),
            queue.o.ready.eq(reads & moves & (index == LINE_BEATS - 1)),
        ]
        with m.If(moves):
            m.d.sync += [
                index.eq(index + reads), read_valid.eq(reads), read_last.eq(index == LINE_BEATS - 1),
                read_enable.eq(Mux(marks.bit_select(index, 1), found.data, 0)),
                beat.valid.eq(read_valid), beat.payload.last.eq(read_last), enable.eq(read_enable),
                line.eq(read.data),
            ]
        with m.If(queue.o.ready):
            m.d.sync += used.bit_select(entry, 1).eq(0)
        # The next request is made while the last beats of a line move on.
        m.d.comb += request.valid.eq(queue.o.valid & ~reads)
        with m.If(~reads):
            m.d.sync += [marks.eq(touched_look.data), reads.eq(request.valid & request.ready)]
        with m.Elif(queue.o.ready):
            m.d.sync += reads.eq(0)
        owed = Signal(_OWED_BITS)
        answered = self.memory.response.valid & self.memory.response.ready
        m.d.sync += [
            owed.eq(owed + (request.valid & request.ready) - answered),
            self.error.eq(answered & self.memory.response.payload.error),
        ]
        m.d.comb += [
            self.memory.response.ready.eq(1),
            self.settled.eq((used == 0) & ~have & (owed == 0) & ~self.error),
        ]


def _index(one_hot: Value) -> Value:
    """Number of the bit that is set."""
    bits = range((len(one_hot) - 1).bit_length())
    return Cat(Cat(one_hot[each] for each in range(len(one_hot)) if each >> bit & 1).any() for bit in bits)
