# SPDX-License-Identifier: Apache-2.0
"""The BAR: 8 KiB of 32-bit registers, identity, counters and doorbells. One definition for all.

Offsets up to 3Fh follow NVMe's controller registers; identity lets the driver check that the hardware
was generated from the configuration it was told.
"""

import enum

from .config import EngineConfig

BAR_BYTES = 0x2000
MAGIC = 0x54534E49
"""'INST' in little-endian ASCII."""
VERSION = 0x0001_0000


class Register(enum.IntEnum):
    """Byte offsets. RW unless said otherwise."""

    CAP_LO = 0x000
    """RO: maximum queue entries - 1 in 15:0."""
    VS = 0x008
    """RO: VERSION."""
    INTMS = 0x00C
    """Write 1: mask the interrupt; read: the mask."""
    INTMC = 0x010
    """Write 1: unmask the interrupt."""
    CC = 0x014
    """Bit 0 EN: 0 resets queues and engine (tables included), 1 starts."""
    CSTS = 0x01C
    """RO: bit 0 RDY, bit 1 CFS (fatal: see FAULT)."""
    AQA = 0x024
    """Admin queue entries - 1: completion 27:16, submission 11:0."""
    ASQ_LO = 0x028
    ASQ_HI = 0x02C
    ACQ_LO = 0x030
    ACQ_HI = 0x034
    FAULT = 0x040
    """RO: the first fatal cause since reset, see Fault."""
    COUNTER_LATCH = 0x048
    """Write: all counters are copied at once to where they are read, so that they belong together."""
    IDENTITY = 0x100
    """RO: MAGIC, then the IDENTITY_WORDS in order."""
    COUNTERS = 0x400
    """RO: 64-bit counters in the order of Counter, low word first."""
    DOORBELLS = 0x1000
    """WO: submission tail of queue y at + 8 * y, completion head at + 8 * y + 4 (queue 0 = admin)."""


class Fault(enum.IntEnum):
    """Why CSTS.CFS is set. The queue concerned is halted until a reset, the others go on."""

    NONE = 0
    DOORBELL = 1
    """A value outside its queue, a head beyond what was written, or no such queue (then none is halted)."""
    SQ_READ = 2
    CQ_WRITE = 3


class Counter(enum.IntEnum):
    """Event counters, 64 bits, cleared by reset. Sums over channels where a channel is named."""

    CYCLES = 0
    COMMANDS = 1
    STRIPES_SENSED = 2
    PAGES_SENSED = 3
    SLOTS_MOVED = 4
    """Slots read from flash over the buses."""
    ROWS_WANTED = 5
    """Rows (K and V counted apart) that attentions used and KV_READ gave back, flash and DRAM."""
    STRIPES_PROGRAMMED = 6
    PROGRAM_FAILURES = 7
    STRIPES_ERASED = 8
    TUPLE_ERRORS = 9
    BUS_DATA_CYCLES = 10
    """Channel cycles that moved data."""
    BUS_COMMAND_CYCLES = 11
    """Channel cycles that carried commands and addresses."""
    ARRAY_WAIT_CYCLES = 12
    """Channel cycles idle because every queued operation waits for a die."""
    BUFFER_WAIT_CYCLES = 13
    """Channel cycles idle because the slot buffer (or program data) was not ready."""
    BUS_IDLE_CYCLES = 14
    """Channel cycles with nothing queued."""
    CORE_BUSY_CYCLES = 15
    """Core cycles that consumed a beat."""
    CORE_STALL_CYCLES = 16
    """Core cycles that refused an offered beat."""
    MERGE_CYCLES = 17
    HOST_READ_BYTES = 18
    HOST_WRITE_BYTES = 19
    DRAM_READ_BYTES = 20
    DRAM_WRITE_BYTES = 21
    TAIL_BEATS = 22
    ERRORS = 23
    """Completions with a status other than SUCCESS."""
    SKETCH_STRIPES_SENSED = 24
    """Stripes of sketches; STRIPES_SENSED, PAGES_SENSED and SLOTS_MOVED count those of rows alone."""
    SKETCH_PAGES_SENSED = 25
    SKETCH_SLOTS_MOVED = 26
    DIM_STRIPES_SENSED = 27
    """Stripes of dims. K slots that are read because no dim page holds their tokens yet count as rows."""
    DIM_PAGES_SENSED = 28
    DIM_SLOTS_MOVED = 29
    SCORES_SPILLED = 30
    """Words of group maxima, one per group and pass, that the score memory has no place for."""


IDENTITY_WORDS = (
    "channels", "dies", "planes", "blocks", "pages", "page_bytes", "spare_bytes", "queries", "head_dim_max",
    "head_slots", "max_context", "max_caches", "max_sequences", "max_layers", "max_kv_heads", "max_policies",
    "max_windows", "max_superblocks_per_sequence", "stripe_buffers", "dram_bytes_mib", "io_queues",
    "queue_entries_max", "clock_mhz", "mega_transfers", "timeout_us", "group_dies", "score_groups",
)


def identity_words(config: EngineConfig) -> list[int]:
    """Words behind MAGIC at Register.IDENTITY."""
    return [config.dram_bytes >> 20 if name == "dram_bytes_mib" else int(getattr(config, name))
            for name in IDENTITY_WORDS]
