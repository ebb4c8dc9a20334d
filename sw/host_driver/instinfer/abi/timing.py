# SPDX-License-Identifier: Apache-2.0
"""Bounds from the timing table and the request alone, never from counters (fabric clock cycles).

*bus ideal* = slot beats on the busiest channel at the bus's data rate. *bound* adds what no schedule
can avoid: the first array read, command and address cycles on the busiest bus, or the array time of the
busiest die, whichever is longer.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from .commands import Dtype
from .config import EngineConfig
from .layout import RowShape, SketchShape, flash_stripes, placement

PLANE_READ_CYCLES = 7
"""Command and address cycles of one plane in a (multi-plane) read: 00h, five address cycles, 32h or 30h."""
COLUMN_CYCLES = 7
"""06h, five address cycles, E0h before each run of slots, one at least per page."""
CACHE_CYCLES = 1
"""31h or 3Fh that ends a cache read of a stripe."""


@dataclasses.dataclass(frozen=True)
class AttentionBound:
    """Cycles of a batch of attentions; ``stripes`` and ``slots`` count rows and sketches together."""

    ideal_cycles: int
    bound_cycles: int
    slots: int
    stripes: int


@dataclasses.dataclass(frozen=True)
class StripeRead:
    """What one stripe costs: ``slots`` moved in ``runs`` of neighbours, ``planes`` sensed."""

    channel: int
    die: int
    slots: int
    runs: int
    planes: int


def bound_of(config: EngineConfig, reads: Iterable[StripeRead]) -> AttentionBound:
    """What no schedule of these reads can beat.

    Where superblocks are narrower than a channel, the stripes of a virtual die may lie on as many dies as
    there are die groups; the bound holds for any.
    """
    t = config.timing
    beats: Counter[int] = Counter()
    bus: Counter[int] = Counter()
    array: Counter[tuple[int, int]] = Counter()
    slots = stripes = 0
    for read in reads:
        data = read.slots * config.slot_beats
        commands = read.planes * PLANE_READ_CYCLES + read.runs * COLUMN_CYCLES + CACHE_CYCLES
        beats[read.channel] += data
        bus[read.channel] += commands * config.command_cycles
        array[read.channel, read.die] += (
            (read.planes * PLANE_READ_CYCLES + CACHE_CYCLES) * config.command_cycles
            + (read.planes - 1) * config.cycles(t.tDBSY)
            + sum(map(config.cycles, (t.tWB, t.tR, t.tRCBSY))))
        slots += read.slots
        stripes += 1
    if not stripes:
        return AttentionBound(0, 0, 0, 0)

    def data_cycles(channel: int) -> int:
        return beats[channel] * config.beat_cycles_x1000 // 1000

    busiest_bus = max(data_cycles(channel) + bus[channel] for channel in beats)
    busiest_die = -(-max(array.values()) // config.die_groups)
    return AttentionBound(max(map(data_cycles, beats)),
                          config.cycles(t.tR) + max(busiest_bus, busiest_die), slots, stripes)


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
                    yield StripeRead(*placement(config, head, stripe), slots, pages, pages)

    return bound_of(config, reads())


def chosen_reads(config: EngineConfig, shape: RowShape, *, line: int, resident: int,
                 chosen: NDArray[np.bool_]) -> Iterator[StripeRead]:
    """Reads of one head's chosen rows: ``chosen`` (context,). Planes up to the last wanted one are sensed."""
    per_stripe, per_page = shape.tokens_per_stripe(config), shape.tokens_per_page(config)
    for stripe in range(flash_stripes(config, shape, resident, len(chosen))):
        rows = chosen[stripe * per_stripe:(stripe + 1) * per_stripe]
        rows = np.pad(rows, (0, per_stripe - len(rows)))
        if not rows.any():
            continue
        slots = rows.reshape(config.planes, per_page // shape.rows_per_slot, shape.rows_per_slot)
        pairs: NDArray[np.bool_] = np.logical_or.reduce(slots, axis=-1)
        runs = pairs[:, 0].sum() + (pairs[:, 1:] & ~pairs[:, :-1]).sum()
        planes = int(np.nonzero(pairs)[0][-1]) + 1
        yield StripeRead(*placement(config, line, stripe), 2 * int(pairs.sum()), int(runs), planes)


def sketch_reads(config: EngineConfig, sketch: SketchShape, *, line: int, resident: int,
                 context: int) -> Iterator[StripeRead]:
    """Reads of one head's sketches of ``context`` tokens."""
    per_stripe = sketch.tokens_per_stripe(config)
    for stripe in range(flash_stripes(config, sketch, resident, context)):
        slots = -(-min(per_stripe, context - stripe * per_stripe) // sketch.vectors_per_slot)
        pages = -(-slots // config.slots_per_page)
        yield StripeRead(*placement(config, line, stripe), slots, pages, pages)
