# SPDX-License-Identifier: Apache-2.0
"""What passes between the scorers of SparF and their surroundings."""

from amaranth.lib import data, wiring
from amaranth.lib.wiring import Out

from instinfer.abi.config import SLOT_DATA_BYTES, EngineConfig
from instinfer.abi.dims import DIMS_PER_PAGE
from instinfer.abi.layout import ELEMENT_BYTES, SCALE_BYTES, Dtype
from instinfer.abi.sparf import FIXED_BITS, SHORT_BITS

from ..numeric.score import RIGHT_BITS
from ..signatures import BEAT_BITS, LANES, slot_source
from .ports import passes_max, query_shape, token_shape
from .sparfports import DIM_BITS, GROUP_BITS

SHORTS_BITS = LANES * SHORT_BITS
SLOT_BEATS = SLOT_DATA_BYTES * 8 // BEAT_BITS
HALF_TOKENS = SLOT_DATA_BYTES // SCALE_BYTES
"""Tokens whose scales fill a slot, and whose elements fill one (fp16) or half of one (int8)."""
SUM_BITS = FIXED_BITS + SHORT_BITS + 6
"""Signed; 128 products of fp16 rows."""
BYTE_SUM_BITS = 23
"""Signed; 128 products of int8 elements."""


def parts(config: EngineConfig) -> int:
    """Slots of a dim in a block."""
    return config.slots_per_page // DIMS_PER_PAGE


def block_tokens_max(config: EngineConfig) -> int:
    return config.page_bytes // DIMS_PER_PAGE // ELEMENT_BYTES[Dtype.INT8]


def dim_beat(config: EngineConfig) -> data.StructLayout:
    """A beat of a slot of a dim, of scales or of keys; all fields but ``data``, ``scale`` and ``last`` are
    constant over the slot.

    ``rows``: a slot of keys (``scales`` is 0, other fields of blocks have no meaning): the rows of ``tokens``
    tokens from ``first_token`` on, of 32 beats if ``wide`` else 16, of ``int8`` half as many; ``scale`` is
    that of the int8 row at hand.
    Otherwise one of dim ``dim`` of a block, or of its ``scales``: of those of ``part`` the first half if
    ``dim`` is even. ``start``: the first slot that the scorer sees of this part and ``pass_``. ``complete``:
    the block's last slot in this pass; its first ``tokens`` tokens, from ``first_token`` on, are of the
    context, and those of the halves marked in ``failed`` get the lowest score.
    ``final``: the context's last token is among them. ``empty``: a slot that did not pass its check, one beat
    without meaning. ``source``: see `slot_source`; `DimScorer` keeps a block for each.
    """
    return data.StructLayout({
        "data": BEAT_BITS, "scale": 16, "head_slot": range(config.head_slots), "rows": 1, "int8": 1,
        "wide": 1, "dim": DIM_BITS, "scales": 1, "part": range(max(2, parts(config))),
        "pass_": range(max(2, passes_max(config))), "start": 1, "complete": 1, "empty": 1,
        "failed": 2 * parts(config), "first_token": token_shape(config),
        "tokens": range(block_tokens_max(config) + 1), "final": 1, "last": 1,
        **slot_source(config),
    })


def short_write(config: EngineConfig) -> wiring.Signature:
    """What all scorers keep of a folded query; no back-pressure, both halves at once at times.

    With ``valid``: LANES signed integers of SHORT_BITS (``sparf.shortened``) of dims LANES * ``group`` and
    on, and ``right`` (SCORE_SHIFT_BASE - exponent). With ``unit_valid``: of the KV head that ``unit_slot``
    belongs to the smallest ``right`` so far is ``unit``.
    """
    return wiring.Signature({
        "valid": Out(1), "head_slot": Out(range(config.head_slots)), "query": Out(query_shape(config)),
        "group": Out(GROUP_BITS), "factors": Out(SHORTS_BITS), "right": Out(RIGHT_BITS),
        "unit_valid": Out(1), "unit_slot": Out(range(config.head_slots)), "unit": Out(RIGHT_BITS),
    })

