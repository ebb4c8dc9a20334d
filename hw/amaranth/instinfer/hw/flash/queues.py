# SPDX-License-Identifier: Apache-2.0
"""Requests wait per die, reads apart from programs and erases."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig
from instinfer.abi.dims import DIMS_PER_PAGE

from ..signatures import SLOT_ROWS_MAX, ChannelOp, channel_request, row_mask

DEPTH = 4
"""Requests of a queue: one in transfer, one being sensed, two waiting."""


class RequestQueues(wiring.Component):
    """Two queues per die in one distributed RAM: reads, and writes (programs and erases in their order).

    Parameters
    ----------
    config : dies and the request's layout

    Members
    -------
    requests : requests in order of arrival
    masks : rows wanted of the pairs of the next masked read for their die
    read_level, write_level : requests waiting, by die
    write_erase, next_erase : the oldest write of a die, the one after it, is an erase
    die, write, offset : which entry ``entry`` shows, 0 the oldest
    entry : that request, in the same cycle
    pair, rows : of the read shown the rows wanted of a pair, 1 cycle later
    pop : the oldest entry of that queue is finished

    Throughput: one request per cycle. Latency: a request counts in its level one cycle after its transfer.
    Back-pressure: a request or mask for a full queue holds up those behind it.
    """

    def __init__(self, *, config: EngineConfig):
        self._config = config
        self._shape = channel_request(config)
        level = range(DEPTH + 1)
        super().__init__({
            "requests": In(stream.Signature(self._shape)),
            "masks": In(stream.Signature(row_mask(config))),
            "pair": In(range(max(2, config.slots_per_stripe // 2))), "rows": Out(SLOT_ROWS_MAX),
            "read_level": Out(level).array(config.dies), "write_level": Out(level).array(config.dies),
            "write_erase": Out(config.dies), "next_erase": Out(config.dies),
            "die": In(3), "write": In(1), "offset": In(range(DEPTH)), "entry": Out(self._shape), "pop": In(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        dies = self._config.dies
        pointer = range(DEPTH)
        queues = 1 << (dies - 1).bit_length() + 1
        request = self.requests.payload
        is_write = request.op != ChannelOp.READ
        memory: Memory = Memory(shape=Value.cast(request).shape(), depth=queues * DEPTH, init=[])
        m.submodules.memory = memory
        put, get = memory.write_port(), memory.read_port(domain="comb")
        mask, pairs = self.masks.payload, 1 << len(self.pair)
        masks: Memory = Memory(shape=SLOT_ROWS_MAX, depth=queues * DEPTH // 2 * pairs, init=[])
        m.submodules.masks = masks
        put_mask, get_mask = masks.write_port(), masks.read_port()
        mask_level, mask_head = Signal(range(DEPTH + 1)), Signal(pointer)
        level, head = Signal(range(DEPTH + 1)), Signal(pointer)
        get_head = Signal(pointer)
        m.d.comb += [
            put.addr.eq(Cat((head + level)[:len(head)], is_write, request.die)),
            put.data.eq(request),
            put.en.eq(self.requests.valid & self.requests.ready),
            self.requests.ready.eq(level != DEPTH),
            get.addr.eq(Cat((get_head + self.offset)[:len(get_head)], self.write, self.die)),
            Value.cast(self.entry).eq(get.data),
            put_mask.addr.eq(Cat(mask.pair, (mask_head + mask_level)[:len(mask_head)], mask.die)),
            put_mask.data.eq(mask.rows), put_mask.en.eq(self.masks.valid & self.masks.ready),
            self.masks.ready.eq(mask_level != DEPTH),
            get_mask.addr.eq(Cat(self.pair, get_head, self.die)), self.rows.eq(get_mask.data),
        ]
        for die in range(dies):
            for write, levels in enumerate((self.read_level, self.write_level)):
                own_head = Signal(pointer, name=f"head_{die}_{write}")
                pushed = put.en & (request.die == die) & (is_write == write)
                popped = self.pop & (self.die == die) & (self.write == write)
                with m.If((request.die == die) & (is_write == write)):
                    m.d.comb += [level.eq(levels[die]), head.eq(own_head)]
                if not write:
                    with m.If(mask.die == die):
                        m.d.comb += [mask_level.eq(levels[die]), mask_head.eq(own_head)]
                with m.If((self.die == die) & (self.write == write)):
                    m.d.comb += get_head.eq(own_head)
                m.d.sync += [levels[die].eq(levels[die] + pushed - popped), own_head.eq(own_head + popped)]
                if write:
                    erases = Signal(DEPTH, name=f"erases_{die}")
                    with m.If(pushed):
                        m.d.sync += erases.bit_select((own_head + levels[die])[:len(own_head)], 1).eq(
                            request.op == ChannelOp.ERASE)
                    m.d.comb += [
                        self.write_erase[die].eq(erases.bit_select(own_head, 1)),
                        self.next_erase[die].eq(erases.bit_select((own_head + 1)[:len(own_head)], 1)),
                    ]
        return m


def slot_count(entry: Any) -> Value:
    """How many slots a read moves that is not masked: of the stripe, of ``dims`` of each place."""
    tokens = entry.tokens
    pairs = (_by_rows(entry, *(tokens[rows:] for rows in (2, 3, 4)))
             + _by_rows(entry, *(tokens[:rows].any() for rows in (2, 3, 4))))
    return Mux(entry.dims | entry.sketch, tokens, pairs << 1)


def wanted_slots(m: Module, config: EngineConfig, entry: Any, count: Value) -> Value:
    """The slots that a read moves, a bit each; ``count`` is its `slot_count`."""
    slots, per_place = config.slots_per_stripe, config.slots_per_page // DIMS_PER_PAGE
    first = below(m, count, slots)
    # Signals, not expressions: each use of one of their bits would repeat what they are made of.
    rows, dims = Signal(slots), Signal(slots)
    m.d.comb += [
        *(rows[slot].eq(Mux(entry.masked, entry.pairs[slot // 2], first[slot]) & ~(entry.keys & (slot & 1)))
          for slot in range(slots)),
        *(dims[slot].eq(entry.pairs[slot // per_place] & first[slot % per_place]) for slot in range(slots)),
    ]
    return Mux(entry.dims, dims, rows)


def below(m: Module, number: Value, size: int) -> Signal:
    """Bit i of ``size``: i is less than ``number``. By eights: comparisons would be chains of carries."""
    groups = -(-size // 8)
    bits = (groups - 1).bit_length()
    high, more = number[3:3 + bits], number[3 + bits:].any()
    in_group, whole, partly = Signal(8), Signal(groups), Signal(groups)
    result = Signal(size)
    m.d.comb += [
        in_group.eq(Cat(Cat(number[:3] == other for other in range(slot + 1, 8)).any() for slot in range(8))),
        whole.eq(Cat(more | Cat(high == other for other in range(group + 1, groups)).any()
                     for group in range(groups))),
        partly.eq(Cat(~more & (high == group) for group in range(groups))),
        result.eq(Cat(whole[slot // 8] | partly[slot // 8] & in_group[slot % 8] for slot in range(size))),
    ]
    return result


def row_extent(entry: Any) -> tuple[Value, Value]:
    """Masks of the rows of a whole pair, and of the last one of a read that is not masked."""
    whole = _by_rows(entry, *(Const((1 << rows) - 1, SLOT_ROWS_MAX) for rows in (4, 8, 16)))
    rest = _by_rows(entry, entry.tokens[:2], entry.tokens[:3], entry.tokens[:4])
    return whole, Mux(rest == 0, whole, Cat(rest > row for row in range(SLOT_ROWS_MAX - 1)))


def _by_rows(entry: Any, four: Value, eight: Value, sixteen: Value) -> Value:
    """One of three, by the rows that a slot holds."""
    return Mux(entry.wide & ~entry.int8, four, Mux(entry.int8 & ~entry.wide, sixteen, eight))
