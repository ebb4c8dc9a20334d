# SPDX-License-Identifier: Apache-2.0
"""Bounds from the timing table and the request alone, never from counters (fabric clock cycles).

*bus ideal* = slot beats on the busiest channel at the bus's data rate. *bound* adds what no schedule can
avoid. On the busiest bus: the first array read, then all data with their column changes; read commands, but
for those that fit beside the first array read. On the busiest die: per stripe tR, and what stands between two
reads of the array: the copy into the cache registers (tRCBSY), beside which a command for the next stripe can
wait already, or, in reads without cache, commands and data. At the busiest core or scorer, where channels
share them: the first array read, then a cycle for each beat. The longest one counts. Nothing may be faster;
the benches assert it.

Pages in DDR: *bus ideal* = the longest of slot beats on the busiest channel, slots on the busiest AXI manager
(32 B a cycle), all slots at the memory's rate; *bound* = that behind one latency of the memory.
"""

import dataclasses
import enum
import math
from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from .commands import Dtype
from .config import AXI_BEAT_BYTES, EngineConfig
from .dims import DimShape, dim_placement
from .layout import DATA_BEATS, RowShape, SketchShape, flash_stripes, placement

PLANE_READ_CYCLES = 7
"""Command and address cycles of one plane in a (multi-plane) read: 00h, five address cycles, and 32h, 30h or,
behind another read, 31h. The 3Fh that ends a chain of these is one more; a schedule can do without it."""
COLUMN_CYCLES = 7
"""06h, five address cycles, E0h before each run of slots, one at least per page."""


class Taker(enum.Enum):
    """Who takes the slots of a read."""

    CORE = "attention core"
    SKETCHES = "scorer of sketches"
    DIMS = "scorer of dims"


@dataclasses.dataclass(frozen=True)
class AttentionBound:
    """Cycles of a batch of attentions; ``stripes`` and ``slots`` count those of all kinds."""

    ideal_cycles: int
    bound_cycles: int
    slots: int
    stripes: int


@dataclasses.dataclass(frozen=True)
class StripeRead:
    """What one stripe costs: ``slots`` moved in ``runs`` of neighbours, ``planes`` sensed; ``beats`` that
    ``taker`` takes of it, all of its slots unless given."""

    channel: int
    die: int
    slots: int
    runs: int
    planes: int
    taker: Taker = Taker.CORE
    beats: int | None = None


class _Taken:
    """Beats that each core and scorer takes."""

    def __init__(self, config: EngineConfig):
        self._sharing = {Taker.CORE: config.channels_per_core, Taker.SKETCHES: config.channels_per_scorer,
                         Taker.DIMS: config.channels_per_scorer}
        self._beats: Counter[tuple[Taker, int]] = Counter()

    def add(self, read: StripeRead) -> None:
        beats = read.slots * DATA_BEATS if read.beats is None else read.beats
        self._beats[read.taker, read.channel // self._sharing[read.taker]] += beats

    def most(self) -> int:
        """Of the busiest one."""
        return max(self._beats.values())


def bound_of(config: EngineConfig, reads: Iterable[StripeRead]) -> AttentionBound:
    """What no schedule of these reads can beat.

    Where superblocks are narrower than a channel, the stripes of a virtual die may lie on as many dies as
    there are die groups; the bound holds for any.
    """
    if config.in_ddr:
        return _ddr_bound(config, reads)
    t = config.timing
    tR, tRCBSY = config.cycles(t.tR), config.cycles(t.tRCBSY)
    beats: Counter[int] = Counter()
    columns: Counter[int] = Counter()
    commands: Counter[int] = Counter()
    array: Counter[tuple[int, int]] = Counter()
    slots = stripes = 0
    taken = _Taken(config)
    for read in reads:
        taken.add(read)
        data, column = read.slots * config.slot_beats, read.runs * COLUMN_CYCLES * config.command_cycles
        asked = read.planes * PLANE_READ_CYCLES * config.command_cycles
        beats[read.channel] += data
        columns[read.channel] += column
        commands[read.channel] += asked
        without_cache = (asked + (read.planes - 1) * config.cycles(t.tDBSY) + config.cycles(t.tWB)
                         + column + config.cycles(t.tCCS) + data * config.beat_cycles_x1000 // 1000)
        array[read.channel, read.die] += tR + min(tRCBSY, without_cache)
        slots += read.slots
        stripes += 1
    if not stripes:
        return AttentionBound(0, 0, 0, 0)

    def data_cycles(channel: int) -> int:
        return beats[channel] * config.beat_cycles_x1000 // 1000

    def bus_cycles(channel: int) -> int:
        return tR + data_cycles(channel) + columns[channel] + max(0, commands[channel] - tR)

    busiest_die = -(-max(array.values()) // config.die_groups)
    bound = max(busiest_die, tR + taken.most(), *map(bus_cycles, beats))
    return AttentionBound(max(map(data_cycles, beats)), bound, slots, stripes)


def _ddr_bound(config: EngineConfig, reads: Iterable[StripeRead]) -> AttentionBound:
    slots: Counter[int] = Counter()
    stripes = 0
    taken = _Taken(config)
    for read in reads:
        taken.add(read)
        slots[read.channel] += read.slots
        stripes += 1
    if not stripes:
        return AttentionBound(0, 0, 0, 0)
    ideal = ddr_cycles(config, slots)
    bound = first_data_cycles(config) + max(ideal, taken.most())
    return AttentionBound(ideal, bound, slots.total(), stripes)


def port_of(config: EngineConfig, channel: int) -> int:
    """The AXI manager that moves a channel's pages, where they lie in DDR: neighbours share one."""
    return channel * config.page_ports // config.channels


def ddr_cycles(config: EngineConfig, slots: Counter[int]) -> int:
    """Cycles in which ``slots`` of each channel can pass channels, AXI managers and the memory."""
    ports: Counter[int] = Counter()
    for channel, count in slots.items():
        ports[port_of(config, channel)] += count
    memory = slots.total() * config.slot_bytes * 1000 / config.ddr_bytes_per_kilocycle
    return max(max(slots.values()) * config.slot_beats,
               max(ports.values()) * (config.slot_bytes // AXI_BEAT_BYTES), math.ceil(memory))


def first_data_cycles(config: EngineConfig) -> int:
    """From a read to its first slot at the earliest: tR, or the latency of DDR."""
    return config.cycles(config.ddr_read_ns if config.in_ddr else config.timing.tR)


def program_cycles(config: EngineConfig) -> int:
    """Of one stripe, once its data are there: tPROG, or their way through the channel into DDR."""
    if config.in_ddr:
        return config.slots_per_stripe * config.slot_beats
    return config.cycles(config.timing.tPROG)


@dataclasses.dataclass(frozen=True)
class ProgramBound:
    """Cycles in which stripes can be programmed, and the array's bandwidth in user bytes."""

    cycles: float
    gigabytes_per_second: float


def program_bound(config: EngineConfig, stripes: int) -> ProgramBound:
    """Programs spread evenly over channels and dies: tPROG alone, or, with pages in DDR, the channels, the
    managers and the memory, which also gives the stripe buffers' data and took them before.
    """
    data = config.stripe_data_bytes
    if config.in_ddr:
        slots = config.slots_per_stripe
        memory = (2 * data + config.stripe_bytes) * 1000 / config.ddr_bytes_per_kilocycle
        each = max(slots * config.slot_beats / config.channels, data / AXI_BEAT_BYTES,
                   config.stripe_bytes / AXI_BEAT_BYTES / config.page_ports, memory)
    else:
        each = program_cycles(config) / config.dies_total
    rate = data * config.clock_mhz / each / 1000
    return ProgramBound(stripes * each, rate)


def dense_bound(config: EngineConfig, *, head_dim: int, contexts: list[tuple[int, int, int]],
                dtype: Dtype = Dtype.FP16) -> AttentionBound:
    """Bounds for commands that each attend every token of ``kv_heads`` heads of layer 0.

    Args:
        contexts: one (context, resident, kv_heads) per command.
    """
    shape = RowShape(head_dim, dtype)
    per_stripe = shape.tokens_per_stripe(config)

    def reads() -> Iterator[StripeRead]:
        for context, resident, heads in contexts:
            for stripe in range(flash_stripes(config, shape, resident, context)):
                tokens = min(per_stripe, context - stripe * per_stripe)
                slots = 2 * -(-tokens // shape.rows_per_slot)
                pages = -(-slots // config.slots_per_page)
                for head in range(heads):
                    yield StripeRead(*placement(config, head, stripe), slots, pages, pages,
                                     beats=_row_beats(shape, 2 * tokens))

    return bound_of(config, reads())


def _row_beats(shape: RowShape, rows: int) -> int:
    """Beats of ``rows`` rows of K and of V together."""
    return rows * DATA_BEATS // shape.rows_per_slot


def read_of(config: EngineConfig, place: tuple[int, int], slots: NDArray[np.bool_], *,
            taker: Taker = Taker.CORE, beats: int | None = None) -> StripeRead:
    """A read of ``slots`` (slots_per_stripe,), one at least, of the stripe at ``place`` (channel, die).

    Planes up to the last wanted one are sensed; neighbours within a page are one run.
    """
    pages = slots.reshape(config.planes, config.slots_per_page)
    runs = pages[:, 0].sum() + (pages[:, 1:] & ~pages[:, :-1]).sum()
    return StripeRead(*place, int(slots.sum()), int(runs), int(np.nonzero(pages)[0][-1]) + 1, taker, beats)


def chosen_reads(config: EngineConfig, shape: RowShape, *, line: int, resident: int,
                 chosen: NDArray[np.bool_], kinds: tuple[bool, bool] = (True, True)) -> Iterator[StripeRead]:
    """Reads of one head's chosen rows: ``chosen`` (context,); ``kinds``: of K, of V; of K alone for the
    scorer of dims."""
    taker = Taker.CORE if all(kinds) else Taker.DIMS
    per_stripe = shape.tokens_per_stripe(config)
    for stripe in range(flash_stripes(config, shape, resident, len(chosen))):
        rows = chosen[stripe * per_stripe:(stripe + 1) * per_stripe]
        rows = np.pad(rows, (0, per_stripe - len(rows)))
        if rows.any():
            pairs: NDArray[np.bool_] = np.logical_or.reduce(rows.reshape(-1, shape.rows_per_slot), axis=-1)
            slots = (pairs[:, None] & np.array(kinds)).reshape(-1)
            yield read_of(config, placement(config, line, stripe), slots, taker=taker,
                          beats=_row_beats(shape, int(rows.sum()) * sum(kinds)))


def sketch_reads(config: EngineConfig, sketch: SketchShape, *, line: int, resident: int,
                 context: int) -> Iterator[StripeRead]:
    """Reads of one head's sketches of ``context`` tokens."""
    per_stripe = sketch.tokens_per_stripe(config)
    slot = np.arange(config.slots_per_stripe)
    for stripe in range(flash_stripes(config, sketch, resident, context)):
        wanted = slot * sketch.vectors_per_slot < context - stripe * per_stripe
        yield read_of(config, placement(config, line, stripe), wanted, taker=Taker.SKETCHES)


def dim_reads(config: EngineConfig, shape: RowShape, *, line: int, resident: int, context: int,
              kept: NDArray[np.bool_]) -> Iterator[StripeRead]:
    """Reads that score one head's tokens by its ``kept`` dims (head_dim,): from dim pages where all of those
    are built, K slots of the other tokens."""
    dims = DimShape(shape)
    each, per_stripe = dims.slots_per_place(config), dims.places_per_stripe(config)
    blocks, tokens = dims.blocks_read(config, resident, context), dims.tokens_per_block(config)
    places = np.zeros((dims.stripes_per_block(config), per_stripe), np.bool_)
    places.reshape(-1)[:dims.places] = np.pad(kept, (0, dims.scale_places), constant_values=True)
    for block in range(blocks):
        held = np.arange(each) * dims.tokens_per_slot < context - block * tokens
        for stripe, wanted in enumerate(places):
            if wanted.any():
                yield read_of(config, dim_placement(config, line, block, stripe),
                              (wanted[:, None] & held).reshape(-1), taker=Taker.DIMS)
    others = np.arange(context) >= blocks * tokens
    yield from chosen_reads(config, shape, line=line, resident=resident, chosen=others, kinds=(True, False))
