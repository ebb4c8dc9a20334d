# SPDX-License-Identifier: Apache-2.0
"""What the sequencer of attentions and the selection hand to each other, head by head.

The policy of a head goes to a `TokenChooser` as a `token_job`; `mask_word`s come back.
"""

from amaranth.lib import data, wiring
from amaranth.lib.wiring import Out

from instinfer.abi.config import EngineConfig

from ..selection.ports import GROUP_LOG2_BITS, ElementBits
from .ports import TOKEN_BITS

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
    """Reports of finished stripes: of the cores, the read-back, and the scorers in the cores' order."""
    return 2 * config.cores + 1
