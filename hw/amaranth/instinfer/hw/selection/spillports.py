# SPDX-License-Identifier: Apache-2.0
"""Scores and keys in device DRAM: how words fall into beats (`EngineConfig.scores_first`).

A *column* is SCORE_BYTES, a score or a key; a beat has COLUMNS of them. Of a column SCORE_BITS are stored,
the bits above are zero.
"""

from amaranth.lib import data

from instinfer.abi.config import SCORE_BYTES, SCORE_LINE_BYTES, EngineConfig
from instinfer.abi.selection import SCORE_BITS

from ..signatures import AXI_BYTES

COLUMNS = AXI_BYTES // SCORE_BYTES
LINE_BEATS = SCORE_LINE_BYTES // AXI_BYTES
LINE_COLUMNS = LINE_BEATS * COLUMNS
COLUMN_BITS = 8 * SCORE_BYTES
BEAT_COLUMNS = data.ArrayLayout(SCORE_BITS, COLUMNS)


def word_columns(config: EngineConfig) -> int:
    """Of a group's maxima for the queries of a pass, a power of two."""
    return config.score_word_bytes // SCORE_BYTES


def keys_beat(config: EngineConfig) -> int:
    """Number of the first beat of keys, counted from the first one of maxima."""
    return (config.keys_first - config.scores_first) // AXI_BYTES


def beats(config: EngineConfig) -> int:
    """Of maxima and keys."""
    return (config.buffers_bytes - config.scores_first) // AXI_BYTES


def spill_write(config: EngineConfig) -> data.StructLayout:
    """The columns marked in ``enable`` of beat ``beat``."""
    return data.StructLayout({"beat": range(beats(config)), "enable": COLUMNS, "columns": BEAT_COLUMNS})
