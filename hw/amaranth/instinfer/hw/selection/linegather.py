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

from ..signatures import AXI_BYTES, MemoryWritePort
from ..stream.arbiter import RoundRobin
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

    Latency: 4 cycles from the last column of a line to its request. Throughput: a word per cycle in; a line
    in 10 cycles out, so fewer words where lines go as they are. Back-pressure: ``i`` waits while no place is
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
        touched = Array(Signal(LINE_BEATS, name=f"touched_{each}") for each in place)
        filled = Array(Signal(range(LINE_COLUMNS + 1), name=f"filled_{each}") for each in place)
        used, growing = Signal(lines), Signal(lines)

        # Cycle 0: whose line it is.
        same = Cat(growing[each] & (tags[each] == line) for each in place)
        hit, free, entry = Signal(), Signal(place), Signal(place)
        for each in reversed(place):
            with m.If(~used[each]):
                m.d.comb += free.eq(each)
        m.d.comb += [
            hit.eq(same.any()), self.i.ready.eq(hit | ~used.all()),
            entry.eq(Mux(hit, _index(same), free)),
        ]
        taken = self.i.valid & self.i.ready
        with m.If(taken & ~hit):
            m.d.sync += [
                tags[entry].eq(line), touched[entry].eq(0), filled[entry].eq(0),
                used.bit_select(entry, 1).eq(1), growing.bit_select(entry, 1).eq(1),
            ]

        # Cycle 1: it is stored, and the line sent when that was its last column, or when room is short.
        put, at = Signal(), Signal(place)
        now: Any = Signal(spill_write(self._config), reset_less=True)
        many = Signal(range(COLUMNS + 1), reset_less=True)
        m.d.sync += [put.eq(taken), at.eq(entry), now.eq(word),
                     many.eq(sum((bit for bit in word.enable), start=Value.cast(0)))]
        count = Signal(range(LINE_COLUMNS + 1))
        complete = Signal()
        m.d.comb += [
            count.eq(filled[at] + many),
            complete.eq(put & (count == LINE_COLUMNS) & growing.bit_select(at, 1)),
        ]
        with m.If(put):
            m.d.sync += [filled[at].eq(count), touched[at].eq(touched[at] | (1 << now.beat[:_LINE_LOG2]))]
        m.submodules.queue = queue = StreamFIFO(shape=place, depth=lines)
        # When room is short and few lines are on their way, one goes that nothing came for of late: chosen in
        # one cycle, sent in the next one. Should its place hold another line by then, that one goes.
        m.submodules.turns = turns = RoundRobin(ports=lines)
        recent, idle = Signal(lines), Signal(lines)
        short, choose, evict = Signal(), Signal(), Signal()
        victim, victim_valid = Signal(place), Signal()
        begun = Signal(range(lines + 1))
        m.d.sync += [
            begun.eq(begun + (taken & ~hit) - (queue.o.valid & queue.o.ready)),
            short.eq((begun > lines - lines // 4) & (queue.level <= 1)),
            victim.eq(turns.grant), victim_valid.eq(choose & turns.any),
        ]
        m.d.comb += [
            idle.eq(growing & ~recent), turns.requests.eq(Mux(idle.any(), idle, growing)),
            choose.eq((self.flush | short) & ~victim_valid), turns.advance.eq(choose),
            evict.eq(victim_valid & growing.bit_select(victim, 1) & ~complete),
            queue.i.valid.eq(complete | evict), queue.i.payload.eq(Mux(complete, at, victim)),
        ]
        with m.If(choose & ~idle.any()):
            m.d.sync += recent.eq(0)
        with m.If(put):
            m.d.sync += recent.bit_select(at, 1).eq(1)
        with m.If(queue.i.valid):
            m.d.sync += growing.bit_select(queue.i.payload, 1).eq(0)
        self._send(m, queue, tags, touched, used, put, at, now)
        return m

    def _send(self, m: Module, queue: StreamFIFO, tags: Any, touched: Any, used: Signal, put: Value,
              at: Value, now: Any) -> None:
        """The lines of the queue."""
        columns: Memory = Memory(shape=SCORE_BITS * COLUMNS, depth=self._lines * LINE_BEATS, init=[])
        strobes: Memory = Memory(shape=COLUMNS, depth=self._lines * LINE_BEATS, init=[])
        m.submodules.columns, m.submodules.strobes = columns, strobes
        write, read = columns.write_port(granularity=SCORE_BITS), columns.read_port()
        mark, marked = strobes.write_port(), strobes.read_port(domain="comb")
        found = strobes.read_port(domain="comb")
        where = Cat(now.beat[:_LINE_LOG2], at)
        m.d.comb += [
            write.addr.eq(where), write.data.eq(now.columns.as_value()), write.en.eq(Mux(put, now.enable, 0)),
            marked.addr.eq(where), mark.addr.eq(where), mark.en.eq(put),
            mark.data.eq(now.enable | Mux(touched[at].bit_select(now.beat[:_LINE_LOG2], 1), marked.data, 0)),
        ]
        entry = queue.o.payload
        request, beat = self.memory.request, self.memory.data
        index = Signal(range(LINE_BEATS + 1))
        enable = Signal(COLUMNS, reset_less=True)
        moves, ends = Signal(), Signal()
        m.d.comb += [
            request.payload.address.eq(self._config.scores_first
                                       + (tags[entry] << (LINE_BEATS * AXI_BYTES - 1).bit_length())),
            request.payload.beats.eq(LINE_BEATS),
            read.addr.eq(Cat(index[:_LINE_LOG2], entry)), found.addr.eq(read.addr), read.en.eq(moves),
            beat.payload.strobe.eq(Cat(bit.replicate(COLUMN_BITS // 8) for bit in enable)),
            *(beat.payload.data.word_select(column, COLUMN_BITS).eq(
                Value.cast(read.data).word_select(column, SCORE_BITS)) for column in range(COLUMNS)),
            ends.eq(beat.valid & beat.ready & beat.payload.last), queue.o.ready.eq(ends),
        ]
        with m.If(ends):
            m.d.sync += used.bit_select(entry, 1).eq(0)
        with m.FSM():
            with m.State("REQUEST"):
                m.d.comb += request.valid.eq(queue.o.valid)
                m.d.sync += index.eq(0)
                with m.If(request.valid & request.ready):
                    m.next = "SEND"
            with m.State("SEND"):
                m.d.comb += moves.eq(~beat.valid | beat.ready)
                with m.If(moves):
                    m.d.sync += [
                        beat.valid.eq(index != LINE_BEATS), beat.payload.last.eq(index == LINE_BEATS - 1),
                        enable.eq(Mux(touched[entry].bit_select(index[:_LINE_LOG2], 1), found.data, 0)),
                    ]
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
            self.memory.response.ready.eq(1), self.settled.eq((used == 0) & ~put & (owed == 0) & ~self.error),
        ]


def _index(one_hot: Value) -> Value:
    """Number of the bit that is set."""
    bits = range((len(one_hot) - 1).bit_length())
    return Cat(Cat(one_hot[each] for each in range(len(one_hot)) if each >> bit & 1).any() for bit in bits)
