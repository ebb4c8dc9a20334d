# SPDX-License-Identifier: Apache-2.0
"""Bounds from the timing table and the request alone, never from counters (fabric clock cycles).

*bus ideal* = slot beats on the busiest channel at the bus's data rate. *bound* adds what no schedule
can avoid: the first array read, command and address cycles on the busiest bus, or the array time of the
busiest die, whichever is longer.
"""

import dataclasses
from collections import Counter

from .config import EngineConfig
from .layout import RowShape, flash_stripes, placement

PLANE_READ_CYCLES = 7
"""Command and address cycles of one plane in a (multi-plane) read: 00h, five address cycles, 32h or 30h."""
COLUMN_CYCLES = 7
"""06h, five address cycles, E0h before the data of each plane."""
CACHE_CYCLES = 1
"""31h or 3Fh that ends a cache read of a stripe."""


@dataclasses.dataclass(frozen=True)
class AttentionBound:
    """Cycles of a batch of dense attentions."""

    ideal_cycles: int
    bound_cycles: int
    slots: int
    stripes: int


def dense_bound(config: EngineConfig, *, head_dim: int,
                contexts: list[tuple[int, int, int]]) -> AttentionBound:
    """Bounds for commands that each attend ``kv_heads`` heads of layer 0.

    Where superblocks are narrower than a channel, the stripes of a virtual die may lie on as many dies as
    there are die groups; the bound holds for any.

    Args:
        contexts: one (context, resident, kv_heads) per command.
    """
    shape = RowShape(head_dim)
    per_stripe = shape.tokens_per_stripe(config)
    slots: Counter[int] = Counter()
    pages: Counter[int] = Counter()
    stripes: Counter[tuple[int, int]] = Counter()
    for context, resident, heads in contexts:
        for stripe in range(flash_stripes(config, shape, resident, context)):
            tokens = min(per_stripe, context - stripe * per_stripe)
            stripe_slots = 2 * -(-tokens // shape.rows_per_slot)
            for head in range(heads):
                channel, die = placement(config, head, stripe)
                slots[channel] += stripe_slots
                pages[channel] += -(-stripe_slots // config.slots_per_page)
                stripes[channel, die] += 1
    if not stripes:
        return AttentionBound(0, 0, 0, 0)
    t = config.timing

    def bus(channel: int) -> int:
        commands = pages[channel] * (PLANE_READ_CYCLES + COLUMN_CYCLES) + CACHE_CYCLES * sum(
            count for (where, _), count in stripes.items() if where == channel)
        return slots[channel] * config.slot_beats * config.beat_cycles_x1000 // 1000 + (
            commands * config.command_cycles)

    array = (config.planes * PLANE_READ_CYCLES + CACHE_CYCLES) * config.command_cycles + (
        (config.planes - 1) * config.cycles(t.tDBSY) + config.cycles(t.tWB) + config.cycles(t.tR)
        + config.cycles(t.tRCBSY))
    ideal = max(slots.values()) * config.slot_beats * config.beat_cycles_x1000 // 1000
    busiest = -(-max(stripes.values()) // config.die_groups)
    bound = config.cycles(t.tR) + max(max(map(bus, slots)), busiest * array)
    return AttentionBound(ideal, bound, sum(slots.values()), sum(stripes.values()))
