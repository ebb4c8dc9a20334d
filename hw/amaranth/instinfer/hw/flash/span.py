# SPDX-License-Identifier: Apache-2.0
"""Which slots of a read are still to move."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig

from ..signatures import SLOT_ROWS_MAX, channel_request
from .onfi import ADDRESS_CYCLES
from .queues import below, row_extent, slot_count, wanted_slots

LATENCY = 8
"""Cycles until all that `Span` says is true."""
PLANES_LATENCY = 3
"""Those until it knows the planes."""
GROUP = 8


def reads_over(config: EngineConfig) -> bool:
    """A gap of one pair is read when that is cheaper than the commands that skip it."""
    skip = (ADDRESS_CYCLES + 2) * config.command_cycles * 1000
    return 2 * config.slot_beats * config.beat_cycles_x1000 < skip


class Span(wiring.Component):
    """Looks for the wanted slots of a read from ``cursor`` on.

    Parameters
    ----------
    config : geometry

    Members
    -------
    entry : the read
    cursor : a slot, or their number
    first : the first slot at or behind the cursor that moves: wanted, or between two pairs that are
    none : there is none
    adjacent : it is the one at the cursor
    before_wanted : the slot before the cursor is wanted, not only read over
    rows : mask of the rows of the pair of the slot before the cursor, of a read that is not masked
    planes : those with a wanted slot

    Latency: `LATENCY` cycles, while the inputs stay as they are. All of it works anew in each cycle.
    """

    def __init__(self, *, config: EngineConfig):
        self._config = config
        slots = config.slots_per_stripe
        super().__init__({
            "entry": In(channel_request(config)), "cursor": In(range(slots + 1)),
            "first": Out(range(slots)), "none": Out(1), "adjacent": Out(1), "before_wanted": Out(1),
            "rows": Out(SLOT_ROWS_MAX), "planes": Out(config.planes),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, entry = self._config, self.entry
        slots, per_page = config.slots_per_stripe, config.slots_per_page
        count = Signal(Value.cast(slot_count(entry)).shape())
        wanted, ahead = Signal(slots), Signal(slots)
        moves = self._moves(m, wanted)
        # The first one: by eights, then within its eight.
        groups = [ahead[low:low + GROUP] for low in range(0, slots, GROUP)]
        has, group = Signal(len(groups)), Signal(range(max(2, len(groups))))
        inside, place = Signal(GROUP), Signal(range(GROUP))
        m.d.sync += [
            count.eq(slot_count(entry)),
            wanted.eq(wanted_slots(m, config, entry, count)),
            ahead.eq(moves & ~below(m, self.cursor, slots)),
            has.eq(Cat(each.any() for each in groups)),
            group.eq(_lowest(m, has, "lowest_group")),
            inside.eq(ahead.word_select(group, GROUP)),
            place.eq(_lowest(m, inside, "lowest_place")),
            self.none.eq(has == 0),
            self.adjacent.eq((has != 0) & (self.cursor == Cat(place, group))),
            self.planes.eq(Cat(wanted.word_select(plane, per_page).any() for plane in range(config.planes))),
        ]
        m.d.comb += self.first.eq(Cat(place, group))
        if reads_over(config):
            m.d.sync += self.before_wanted.eq((wanted << 1).bit_select(self.cursor, 1))
        else:
            m.d.comb += self.before_wanted.eq(1)
        self._find_rows(m, ahead)
        return m

    def _moves(self, m: Module, wanted: Signal) -> Value:
        """The wanted slots, and those that are read over."""
        if not reads_over(self._config):
            return wanted
        entry, per_page = self.entry, self._config.slots_per_page
        moves, whole = Signal.like(wanted), Signal()
        m.d.comb += [whole.eq(~(entry.keys | entry.sketch | entry.dims)), moves.eq(wanted)]
        inside = (slot for slot in range(len(wanted)) if 2 <= slot % per_page < per_page - 2)
        m.d.comb += [moves[slot].eq(whole & wanted[slot - 2] & wanted[slot + 2] | wanted[slot])
                     for slot in inside]
        return moves

    def _find_rows(self, m: Module, ahead: Signal) -> None:
        """The last pair of a read may hold fewer rows."""
        pair, last, behind = (self.cursor - 1)[1:len(self.cursor)], Signal(), Signal(len(ahead) // 2)
        whole_rows, last_rows = row_extent(self.entry)
        m.d.sync += [
            *(bit.eq(ahead[2 * other:2 * other + 2].any() & (pair != other))
              for other, bit in enumerate(behind)),
            last.eq(behind == 0), self.rows.eq(Mux(last, last_rows, whole_rows)),
        ]


def _lowest(m: Module, bits: Value, name: str) -> Signal:
    """Number of the lowest bit that is set."""
    lowest = Signal(range(max(2, len(bits))), name=name)
    for number in reversed(range(len(bits))):
        with m.If(bits[number]):
            m.d.comb += lowest.eq(number)
    return lowest
