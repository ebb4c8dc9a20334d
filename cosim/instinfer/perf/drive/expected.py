# SPDX-License-Identifier: Apache-2.0
"""What a stripe costs on average when what is chosen lies anywhere, uniformly and independently.

A *unit* is what is chosen or not as a whole: a pair of slots, or the pairs of one group where a group is
longer than a pair's rows. Same words as `abi.layout`; costs are means, so they are not whole numbers.
"""

import dataclasses

from instinfer.abi.config import EngineConfig
from instinfer.abi.dims import DimShape
from instinfer.abi.layout import RowShape


@dataclasses.dataclass(frozen=True)
class StripeMean:
    """Means over stripes: probability of being ``sensed``; ``slots`` moved, ``runs`` and ``planes``, each
    counted as 0 where the stripe is not sensed."""

    sensed: float
    slots: float
    runs: float
    planes: float

    def times(self, factor: float) -> "StripeMean":
        return StripeMean(*(factor * value for value in dataclasses.astuple(self)))


def _planes_up_to_last(chance: float, units_per_plane: float, planes: int) -> float:
    """Mean number of planes up to the last one that holds a chosen unit."""
    rest = 1 - chance
    return sum(1 - rest ** (units_per_plane * (planes - before)) for before in range(planes))


def whole_stripe(config: EngineConfig) -> StripeMean:
    """Dense: all slots, one run per page."""
    return StripeMean(1, config.slots_per_stripe, config.planes, config.planes)


def chosen_rows(config: EngineConfig, shape: RowShape, share: float, group: int) -> StripeMean:
    """Rows of a stripe, of which groups of ``group`` tokens are chosen with probability ``share``."""
    rows = shape.rows_per_slot
    pairs_per_unit = max(1, group // rows)
    chance = 1 - (1 - share) ** max(1, rows // group)
    per_page = config.slots_per_page // 2 / pairs_per_unit
    units = per_page * config.planes
    runs = config.planes * (chance + max(0.0, per_page - 1) * chance * (1 - chance))
    return StripeMean(1 - (1 - chance) ** units, units * pairs_per_unit * 2 * chance, runs,
                      _planes_up_to_last(chance, per_page, config.planes))


def key_slots(config: EngineConfig) -> StripeMean:
    """K slots alone (SparF, tokens without dim pages): every second slot, each a run."""
    half = config.slots_per_stripe / 2
    return StripeMean(1, half, half, config.planes)


def kept_dims(config: EngineConfig, shape: RowShape, kept: int, tokens: int) -> StripeMean:
    """Sum over the dim stripes of one block: ``kept`` of the dims lie anywhere; scales are always read.

    Args:
        tokens: of the block that the context reaches.
    """
    dims = DimShape(shape)
    each = min(dims.slots_per_place(config), -(-tokens // dims.tokens_per_slot))
    chance = kept / shape.head_dim
    per_stripe = dims.places_per_stripe(config)
    per_page = per_stripe // config.planes
    found = StripeMean(0, 0, 0, 0)
    for stripe in range(dims.stripes_per_block(config)):
        places = min(per_stripe, shape.head_dim - stripe * per_stripe)
        scales = 0 if places == per_stripe else dims.scale_places
        places = max(0, places)
        sensed = 1.0 if scales else 1 - (1 - chance) ** places
        joined = each == dims.slots_per_place(config)
        runs = places * chance
        if joined:  # neighbours within a page are one run
            pages = places / per_page
            runs = pages * (chance + (per_page - 1) * chance * (1 - chance))
        last = _planes_up_to_last(chance, per_page, -(-places // per_page))
        first_scale = -(-(places + scales) // per_page) if scales else 0
        found = StripeMean(found.sensed + sensed, found.slots + (places * chance + scales) * each,
                           found.runs + runs + (1 if scales else 0),
                           found.planes + max(last, first_scale))
    return found
