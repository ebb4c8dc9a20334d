# SPDX-License-Identifier: Apache-2.0
"""What the parts of the sequencer of attentions hand to each other and to the selection, head by head.

The policy of a head goes to a `TokenChooser` as a `token_job`; `mask_word`s come back.
"""

from amaranth.lib import data, wiring
from amaranth.lib.wiring import Out

from instinfer.abi.config import EngineConfig

from ..selection.ports import GROUP_LOG2_BITS, ElementBits
from ..selection.tokens import token_job
from .dimslots import STRIPES_BITS
from .ports import DRAM_BITS, LINE_BITS, STRIPE_BITS, TOKEN_BITS

HEAD = data.StructLayout({
    "head_slot": 3, "passes": 4, "queries": 4, "beats": 4, "output": 64, "last": 1, "queue": 5, "cid": 16,
    "context": TOKEN_BITS, "tokens": TOKEN_BITS, "read_back": 1, "mean_v": 1, "sums": DRAM_BITS,
})
"""A head in flight, as its end needs it: ``output`` rows have ``beats`` 32-byte beats; ``last`` of its
command; ``tokens`` of the context that are wanted, fewer than all of a read-back. ``mean_v``: its output is
blended with the mean of V, from ``sums`` on."""

DIM_WALK = data.StructLayout({
    "entry": DRAM_BITS, "count": STRIPE_BITS, "stripes": STRIPES_BITS, "units": 4,
})
"""``count`` blocks that may have dim pages, ``stripes`` stripes each, of a head of 16 * ``units`` dims;
``entry``: address of their first map entry."""

WALK = data.StructLayout({
    "entry": DRAM_BITS, "generation": 16, "layer": 16, "head": 8, "line": LINE_BITS, "wide": 1, "int8": 1,
    "rows_log2": 3, "head_slot": 3, "passes": 4, "amount": TOKEN_BITS, "stripes": STRIPE_BITS,
    "settled": STRIPE_BITS, "start": STRIPE_BITS, "read_back": 1, "sketch": 1, "masked": 1, "dims": 1,
    "keys": 1, "blocks": DIM_WALK,
})
"""``entry``: address of the head's first map entry; ``amount``: tokens of the context, or, of stripes of
``sketch``, slots; ``settled``: stripes that are read from flash; ``start``: the first one that is wanted.
``masked``: `mask_word`s say which stripes and rows are wanted, ``stripes`` and ``start`` have no meaning.
``dims``: of ``blocks`` dims, and where there are none keys of rows; ``keys``: of rows keys alone, of stripes
from ``start`` to before ``stripes``."""

SKETCH_WALK = data.StructLayout({
    "entry": DRAM_BITS, "slots": TOKEN_BITS, "stripes": STRIPE_BITS, "settled": STRIPE_BITS,
})
"""Where the walk over a head's sketches differs from that over its rows; ``slots`` hold those of the
context."""


def opened_head(config: EngineConfig) -> data.StructLayout:
    """A head that has its head slots: the walk over its rows (``tokens`` of them are wanted), and, with
    ``choose``, the walk before that, over its sketches or (``by_dims``) its dims, and what is chosen from
    them."""
    return data.StructLayout({
        "rows": WALK, "tokens": TOKEN_BITS, "choose": 1, "by_dims": 1, "sketches": SKETCH_WALK,
        "choice": token_job(config),
    })


SKETCH_LOAD = data.StructLayout({
    "address": 64, "queries": 4, "beats": 2, "dims": 7, "size": 3, "bits": ElementBits, "head_slot": 3,
})
"""Sketches of the ``queries`` query heads of one KV head, from host ``address`` on, each a record of
``beats`` 32-byte beats with ``dims`` dims. They will meet vectors of 2**``size`` bytes with elements of
``bits``. Query n is query n mod Q of head slot (``head_slot`` + n div Q), Q queries to a pass."""

SKETCH_SETUP = data.StructLayout({
    "size": 3, "bits": ElementBits, "group_log2": GROUP_LOG2_BITS, "context": TOKEN_BITS,
})
"""How the sketches of a head slot are scored: vectors of 2**``size`` bytes with elements of ``bits``, in
groups of 2**``group_log2`` tokens, of the first ``context`` tokens."""


def sketch_setup(config: EngineConfig) -> wiring.Signature:
    """For one cycle, no back-pressure: sketches of ``head_slot`` are scored as ``setup`` says. It comes for
    each pass of a head, before any of its sketches is asked for, and holds until the next one."""
    return wiring.Signature({
        "valid": Out(1), "head_slot": Out(range(config.head_slots)), "setup": Out(SKETCH_SETUP),
    })


def finish_reports(config: EngineConfig) -> int:
    """Reports of finished stripes: of the cores, the read-back, the scorers of sketches, and of dims by
    source; of each the tails' last."""
    return config.cores + 1 + config.scorers + sources(config)


def sources(config: EngineConfig) -> int:
    """Where slots come from: channels, and behind them the tails."""
    return config.channels + config.tail_cores
