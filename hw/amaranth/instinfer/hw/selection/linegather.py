# SPDX-License-Identifier: Apache-2.0
"""Words that come in any order, gathered into lines of device DRAM."""

from typing import Any

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
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

    Latency: 8 cycles from the last column of a line to its request. Throughput: a word per cycle in; a line
    in 11 cycles out, so fewer words where lines go as they are. Back-pressure: ``i`` waits while no place is
    free. A request is made when its data are here.
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

        # Cycle 0: lines of its beat among those that grow; or that of the word in front, whose place is not
        # written yet.
        held: Any = Signal(spill_write(self._config), reset_less=True)
        have, taken, same = Signal(), Signal(), Signal(lines, reset_less=True)
        goes = Signal()  # a line, which grows no more
        again, before = Signal(), Signal(lines, reset_less=True)
        # Without a free place that is kept ready, a word waits a cycle to see whether it needs one.
        free, free_valid, joins = Signal(lines, reset_less=True), Signal(), Signal()
        m.d.comb += [taken.eq(have & (free_valid | joins)), self.i.ready.eq(~have | taken)]
        with m.If(self.i.ready):
            m.d.sync += [
                have.eq(self.i.valid), held.eq(word),
                same.eq(Cat(growing[each] & (tags[each] == line) for each in place)),
                again.eq(have & (held.beat[_LINE_LOG2:] == line)),
            ]

        # Cycle 1: its place, or the free one that is kept ready.
        hits, hit, begins = Signal(lines), Signal(), Signal()
        entry = Signal(place)
        m.d.comb += [
            hits.eq((same | Mux(again, before, 0)) & growing), hit.eq(hits.any()),
            begins.eq(taken & ~hit),
            entry.eq(Mux(hit, _index(hits), _index(free))),
        ]
        m.d.sync += joins.eq(have & ~taken & hit & ~goes)
        with m.If(taken):
            m.d.sync += before.eq(Mux(hit, hits, free))
        with m.If(begins | ~free_valid):
            unused = ~(used | Mux(free_valid, free, 0))
            m.d.sync += [free.eq(unused & (~unused + 1)), free_valid.eq(unused.any())]
        for each in place:
            with m.If(begins & free[each]):
                m.d.sync += [
                    tags[each].eq(held.beat[_LINE_LOG2:]), used[each].eq(1), growing[each].eq(1),
                ]

        # Cycle 2: what its line has; cycle 3: it is stored.
        found, put, fresh = Signal(), Signal(), Signal()
        found_at, at = Signal(place), Signal(place)
        late: Any = Signal(spill_write(self._config), reset_less=True)
        now: Any = Signal(spill_write(self._config), reset_less=True)
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
            found.eq(taken), fresh.eq(begins), found_at.eq(entry), late.eq(held),
            put.eq(found), at.eq(found_at), now.eq(late),
            had.eq(Mux(fresh, 0, Mux(follows, count, filled_find.data))),
            old.eq(Mux(fresh, 0, Mux(follows, marks, touched_find.data))),
        ]

        # Cycle 4: the line is sent when that was its last column. When room is short and few lines are on
        # their way, one goes that nothing came for since the hand was there before.
        whole, whole_at = Signal(), Signal(place)
        hand, recent = Signal(place), Signal(lines)
        short, looks = Signal(), Signal()
        victim, victim_valid = Signal(place), Signal()
        begun = Signal(range(lines + 1))
        gone, gone_at = Signal(), Signal(place)
        m.submodules.queue = queue = StreamFIFO(shape=place, depth=lines)
        sent = stages(m, queue.o.valid & queue.o.ready, 1, name="sent", reset=True)[1]
        complete = Signal()
        m.d.comb += [
            complete.eq(whole & growing.bit_select(whole_at, 1)),
            looks.eq((self.flush | short) & ~victim_valid),
            goes.eq(complete | (victim_valid & growing.bit_select(victim, 1))),
            queue.i.valid.eq(gone), queue.i.payload.eq(gone_at),
        ]
        m.d.sync += [
            whole.eq(put & (count == LINE_COLUMNS)), whole_at.eq(at),
            begun.eq(begun + fresh - sent),
            short.eq((begun > lines - lines // 4) & (queue.level <= 1)),
            victim.eq(hand), victim_valid.eq(looks & growing.bit_select(hand, 1)
                                             & (self.flush | ~recent.bit_select(hand, 1))),
            gone.eq(goes), gone_at.eq(Mux(complete, whole_at, victim)),
        ]
        with m.If(looks):
            m.d.sync += [hand.eq(hand + 1), recent.bit_select(hand, 1).eq(0)]
        with m.If(put):
            m.d.sync += recent.bit_select(at, 1).eq(1)
        with m.If(goes):
            m.d.sync += growing.bit_select(Mux(complete, whole_at, victim), 1).eq(0)
        self._send(m, queue, tags, touched, used, have, put, at, now, old)
        return m

    def _send(self, m: Module, queue: StreamFIFO, tags: Any, touched: Memory, used: Signal, have: Value,
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
        entry = queue.o.payload
        request, beat = self.memory.request, self.memory.data
        index = Signal(range(LINE_BEATS + 1))
        # What is read, and what is offered: block RAM has a register of its own at its output.
        read_valid, read_last = Signal(), Signal()
        read_enable, enable = Signal(COLUMNS, reset_less=True), Signal(COLUMNS, reset_less=True)
        line = Signal(len(read.data), reset_less=True)
        moves, ends = Signal(), Signal()
        marks = Signal(LINE_BEATS, reset_less=True)
        touched_look = touched.read_port(domain="comb")
        m.d.comb += [
            touched_look.addr.eq(entry),
            request.payload.address.eq(self._config.scores_first
                                       + (tags[entry] << (LINE_BEATS * AXI_BYTES - 1).bit_length())),
            request.payload.beats.eq(LINE_BEATS),
            read.addr.eq(Cat(index[:_LINE_LOG2], entry)), found.addr.eq(read.addr), read.en.eq(moves),
            beat.payload.strobe.eq(Cat(bit.replicate(COLUMN_BITS // 8) for bit in enable)),
            *(beat.payload.data.word_select(column, COLUMN_BITS).eq(
                line.word_select(column, SCORE_BITS)) for column in range(COLUMNS)),
            ends.eq(beat.valid & beat.ready & beat.payload.last), queue.o.ready.eq(ends),
        ]
        with m.FSM():
            with m.State("REQUEST"):
                m.d.comb += request.valid.eq(queue.o.valid)
                m.d.sync += [index.eq(0), marks.eq(touched_look.data)]
                with m.If(request.valid & request.ready):
                    m.next = "SEND"
            with m.State("SEND"):
                m.d.comb += moves.eq(~beat.valid | beat.ready)
                with m.If(moves):
                    m.d.sync += [
                        read_valid.eq(index != LINE_BEATS), read_last.eq(index == LINE_BEATS - 1),
                        read_enable.eq(Mux(marks.bit_select(index[:_LINE_LOG2], 1), found.data, 0)),
                        beat.valid.eq(read_valid), beat.payload.last.eq(read_last), enable.eq(read_enable),
                        line.eq(read.data),
                    ]
                    with m.If(index == LINE_BEATS - 1):
                        m.d.sync += used.bit_select(entry, 1).eq(0)
                    with m.If(index != LINE_BEATS):
                        m.d.sync += index.eq(index + 1)
                with m.If(ends):
                    m.next = "REQUEST"
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
