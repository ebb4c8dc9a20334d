# SPDX-License-Identifier: Apache-2.0
"""The BAR: 8 KiB of 32-bit registers, identity, counters and doorbells. One definition for all.

Offsets up to 3Fh follow NVMe's controller registers; identity lets the driver check that the hardware
was generated from the configuration it was told.
"""

import dataclasses
import enum
from collections.abc import Mapping

from .config import EngineConfig

BAR_BYTES = 0x2000
MAGIC = 0x54534E49
"""'INST' in little-endian ASCII."""
VERSION = 0x0001_0000


class Register(enum.IntEnum):
    """Byte offsets; `FIELDS` says what each bit is and who may change it."""

    CAP_LO = 0x000
    """Capabilities: the size of queues."""
    VS = 0x008
    """Version of this register map."""
    INTMS = 0x00C
    """Masks the interrupt."""
    INTMC = 0x010
    """Unmasks the interrupt."""
    CC = 0x014
    """Control: starts queues and engine, or resets them, tables included."""
    CSTS = 0x01C
    """Status."""
    AQA = 0x024
    """Sizes of the admin queues."""
    ASQ_LO = 0x028
    """Admin submission queue, on a 4 KiB page."""
    ASQ_HI = 0x02C
    """Its upper address."""
    ACQ_LO = 0x030
    """Admin completion queue, on a 4 KiB page."""
    ACQ_HI = 0x034
    """Its upper address."""
    FAULT = 0x040
    """The first fatal cause since reset, see Fault."""
    COUNTER_LATCH = 0x048
    """A write copies all counters at once to where they are read, so that they belong together."""
    IDENTITY = 0x100
    """MAGIC, then the IDENTITY_WORDS in order."""
    COUNTERS = 0x400
    """64-bit counters in the order of Counter, low word first."""
    DOORBELLS = 0x1000
    """Submission tail of queue y at + 8 * y, completion head at + 8 * y + 4 (queue 0 = admin)."""


class Access(enum.Enum):
    """What reads and writes do to the bits of a field; bits outside fields read 0 and ignore writes."""

    RO = "read only"
    RW = "read and write"
    WO = "write only, reads 0"
    W1S = "reads the value, writing 1 sets it"
    W1C = "reads the value, writing 1 clears it"


@dataclasses.dataclass(frozen=True)
class Field:
    """Bits ``low`` to ``low + width - 1`` of a register."""

    name: str
    low: int
    width: int
    access: Access
    text: str

    @property
    def mask(self) -> int:
        return ((1 << self.width) - 1) << self.low


FIELDS: Mapping[Register, tuple[Field, ...]] = {
    Register.CAP_LO: (Field("MQES", 0, 16, Access.RO, "Maximum queue entries - 1."),),
    Register.VS: (Field("VERSION", 0, 32, Access.RO, "Major number 31:16, minor number 15:0."),),
    Register.INTMS: (Field("MASK", 0, 1, Access.W1S, "The interrupt is masked."),),
    Register.INTMC: (Field("MASK", 0, 1, Access.W1C, "The interrupt is masked."),),
    Register.CC: (Field("EN", 0, 1, Access.RW, "0 resets queues and engine, 1 starts."),),
    Register.CSTS: (
        Field("RDY", 0, 1, Access.RO, "The engine takes doorbells."),
        Field("CFS", 1, 1, Access.RO, "Fatal: FAULT says why."),
    ),
    Register.AQA: (
        Field("ASQS", 0, 12, Access.RW, "Entries of the admin submission queue - 1."),
        Field("ACQS", 16, 12, Access.RW, "Entries of the admin completion queue - 1."),
    ),
    Register.ASQ_LO: (Field("BASE", 12, 20, Access.RW, "Address 31:12 of the admin submission queue."),),
    Register.ASQ_HI: (Field("BASE", 0, 32, Access.RW, "Address 63:32 of the admin submission queue."),),
    Register.ACQ_LO: (Field("BASE", 12, 20, Access.RW, "Address 31:12 of the admin completion queue."),),
    Register.ACQ_HI: (Field("BASE", 0, 32, Access.RW, "Address 63:32 of the admin completion queue."),),
    Register.FAULT: (Field("CAUSE", 0, 2, Access.RO, "A number of Fault."),),
    Register.COUNTER_LATCH: (Field("LATCH", 0, 32, Access.WO, "Any value copies all counters."),),
    Register.IDENTITY: (Field("WORD", 0, 32, Access.RO, "Constant."),),
    Register.COUNTERS: (Field("WORD", 0, 32, Access.RO, "Half of a counter, as latched."),),
    Register.DOORBELLS: (Field("VALUE", 0, 32, Access.WO, "Tail or head of the queue."),),
}
"""Fields of every register; of a table of words, those of each word."""


def writable_bits(register: Register) -> int:
    """Mask of the bits that keep what is written."""
    return sum(field.mask for field in FIELDS[register] if field.access is Access.RW)


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
    "sketch_policy", "sparf_policy", "tail_cores",
)


def identity_words(config: EngineConfig) -> list[int]:
    """Words behind MAGIC at Register.IDENTITY."""
    return [config.dram_bytes >> 20 if name == "dram_bytes_mib" else int(getattr(config, name))
            for name in IDENTITY_WORDS]
