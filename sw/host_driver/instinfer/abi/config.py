# SPDX-License-Identifier: Apache-2.0
"""Generation-time configuration of the engine: user values, and what follows from them.

``EngineConfig`` is frozen and validated at construction; derived values are properties, so that no
value is stated twice. `instinfer.abi.presets` names configurations and reads others.
"""

import dataclasses
from typing import Any

from .errors import require

SLOT_DATA_BYTES = 1024
SLOT_SCALE_BYTES = 32
SLOT_TUPLE_BYTES = 12
BEAT_BYTES = 8
"""One flash-channel beat: 64 bits per fabric clock cycle."""
DIM_BLOCKS_AHEAD = 2
"""Blocks of dims for which there is room in device DRAM: one is programmed while the next one is made."""
QUERY_HEADS_MAX = 8
"""Of a KV head."""
SCORE_BYTES = 4
"""In device DRAM, of a group's maximum for one query, or of a group's key."""
SCORE_LINE_BYTES = 256
"""Scores move to device DRAM in lines; both tables are whole lines."""
PARTIALS_MAX = 32
"""Of a head slot in a core: a merge looks at each of them for every four dims."""
AXI_BEAT_BYTES = 32
"""A beat of the engine's AXI4 managers."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NandTiming:
    """Array and bus times of the NAND in nanoseconds (ONFI names).

    ``cycle_ns`` is the length of one command or address cycle; NV-DDR2/3 keeps it near 25 ns
    whatever the data rate.
    """

    tR: int = 40_000
    tPROG: int = 600_000
    tBERS: int = 5_000_000
    tRCBSY: int = 3_000
    tPCBSY: int = 3_000
    tDBSY: int = 500
    tCCS: int = 500
    tWB: int = 100
    tRST: int = 5_000
    tFEAT: int = 1_000
    cycle_ns: int = 25

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            require(
                isinstance(value, int) and 1 <= value <= 100_000_000, f"timing.{field.name}", value,
                "a time in whole nanoseconds from 1 to 100,000,000", "Give the data sheet's value in ns.",
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Everything that is fixed when the engine's Verilog is generated.

    Geometry, of NAND or of what lies in DDR in its place: ``channels`` flash channels of ``dies`` dies (one
    CE_n each) of ``planes`` planes of ``blocks`` blocks of ``pages`` pages of ``page_bytes + spare_bytes``. A
    superblock, the unit that a sequence owns, is one block of every plane of ``superblock_dies`` dies of
    every channel.
    Attention: ``queries`` query heads per pass of one KV head, ``head_dim_max`` dims per head,
    ``head_slots`` heads in flight.
    """

    name: str = "custom"
    clock_mhz: int = 200
    # flash geometry
    channels: int = 8
    dies: int = 4
    superblock_dies: int = 0
    """Dies of each channel in one superblock, a divisor of ``dies``; 0: all. Fewer let a small sequence own
    less flash; a sequence within one superblock then keeps only so many dies of a channel busy."""
    planes: int = 4
    blocks: int = 512
    """Per plane, that data may use."""
    spare_blocks: int = 16
    """Per plane, behind ``blocks``: they stand in for bad ones."""
    pages: int = 256
    page_bytes: int = 16384
    spare_bytes: int = 2208
    mega_transfers: int = 1600
    timing: NandTiming = NandTiming()
    # pages in DDR instead of NAND
    page_source: str = "nand"
    """What a channel reads its pages from: ``nand``, its own flash bus, or ``ddr``, memory behind AXI4. Dies
    and planes then only say where a page lies and how many make a stripe."""
    page_ports: int = 1
    """AXI4 managers for pages in DDR; the channels share them evenly, a port carries four at full rate."""
    ddr_bytes: int = 4 << 30
    """Of the whole memory: ``dram_bytes`` at address 0, pages behind."""
    ddr_megabytes_per_second: int = 16_000
    """What the memory moves for all managers together, reads and writes, in bursts of a slot."""
    ddr_read_ns: int = 200
    """From a read's address to its first beat."""
    # attention
    queries: int = 4
    head_dim_max: int = 128
    head_slots: int = 4
    tail_cores: int = 1
    """Attention cores for what lies in device DRAM; heads take turns among them. Each takes a quarter of what
    the DRAM port moves. More than one pays where most of a context lies in DRAM: short ones."""
    channels_per_core: int = 1
    """Channels that share an attention core, a divisor of ``channels``. A core takes 8 bytes per cycle; a
    slower bus keeps less of it busy."""
    channels_per_scorer: int = 1
    """Channels that share a scorer of sketches and one of dims: a divisor of ``channels``, and a divisor or a
    multiple of ``channels_per_core``."""
    slot_buffers: int = 8
    max_context: int = 131_072
    score_groups: int = 16_384
    """Groups of a head, times its passes rounded up to a power of two, whose scores stay on chip while a
    policy chooses among them; those of longer heads go to device DRAM."""
    # policies
    sketch_policy: bool = True
    """The engine scores sketches; without, a cache has none and the logic is left out."""
    sparf_policy: bool = True
    """The engine keeps and scores dims of K, and sums of V; without, a cache has none and the logic is left
    out."""
    # tables
    max_caches: int = 8
    max_sequences: int = 64
    max_layers: int = 128
    max_kv_heads: int = 128
    max_policies: int = 16
    max_windows: int = 16
    max_replacements: int = 1024
    max_superblocks_per_sequence: int = 32
    # memories and queues
    stripe_buffers: int = 8192
    dram_bytes: int = 8 << 30
    axi_bits: int = 256
    io_queues: int = 4
    queue_entries_max: int = 1024
    timeout_us: int = 20_000
    check_tuples: bool = True
    """False lets damaged slots into the softmax: only for tests that prove where the data come from."""

    def __post_init__(self) -> None:
        def within(name: str, low: int, high: int, cure: str) -> None:
            value = getattr(self, name)
            require(isinstance(value, int) and not isinstance(value, bool) and low <= value <= high, name,
                    value, f"a whole number from {low} to {high}", cure)

        def power_of_two(name: str, low: int, high: int) -> None:
            value = getattr(self, name)
            require(isinstance(value, int) and low <= value <= high and value & (value - 1) == 0, name, value,
                    f"a power of two from {low} to {high}", "Choose the next power of two.")

        require(self.page_source in ("nand", "ddr"), "page_source", self.page_source, "nand or ddr",
                "Boards without flash of their own keep their pages in DDR.")
        within("clock_mhz", 25, 500, "200 is the product's fabric clock.")
        within("channels", 1, 16, "More flash channels need a second engine.")
        within("dies", 1, 8, "Each die has its own CE_n and its own softmax partial.")
        widths = [width for width in range(1, self.dies + 1) if self.dies % width == 0]
        require(isinstance(self.superblock_dies, int) and not isinstance(self.superblock_dies, bool)
                and self.superblock_dies in (0, *widths), "superblock_dies", self.superblock_dies,
                f"0 or a divisor of dies = {self.dies}: {', '.join(map(str, widths))}",
                "0 takes all dies of a channel; fewer make superblocks smaller.")
        power_of_two("planes", 1, 4)
        within("blocks", 2, 8191, "The row address has 13 bits for the block.")
        within("spare_blocks", 0, 8191 - self.blocks, "Blocks and spare blocks share the block address.")
        within("max_replacements", 1, 8192, "The list of replaced blocks is on chip.")
        within("pages", 2, 4096, "The row address has 12 bits for the page.")
        require(self.page_bytes in (4096, 8192, 16384), "page_bytes", self.page_bytes,
                "4096, 8192 or 16384", "Take the data area of the page; the spare area is spare_bytes.")
        need = SLOT_DATA_BYTES + SLOT_SCALE_BYTES + SLOT_TUPLE_BYTES
        beats = -(-need // BEAT_BYTES)
        require(isinstance(self.spare_bytes, int) and self.slot_bytes >= need and self.spare_bytes <= 4096,
                "spare_bytes", self.spare_bytes,
                f"enough for {need} B in each of the {self.slots_per_page} slots and at most 4096",
                f"Give at least {beats * BEAT_BYTES * self.slots_per_page - self.page_bytes}.")
        within("mega_transfers", 10, 3600, "ONFI's fastest interface is 3600 MT/s.")
        require(self.in_ddr or self.mega_transfers <= 8 * self.clock_mhz, "mega_transfers",
                self.mega_transfers,
                f"at most 8 bytes per cycle, {8 * self.clock_mhz} MT/s at {self.clock_mhz} MHz",
                "Lower mega_transfers or raise clock_mhz.")
        within("queries", 1, 8, "More queries per KV head replay the page buffer in passes.")
        require(self.head_dim_max in (64, 128), "head_dim_max", self.head_dim_max, "64 or 128",
                "Rows of 80 and 96 dims pad to 128.")
        power_of_two("head_slots", 2, 8)
        power_of_two("tail_cores", 1, 4)
        self._check_sharing()
        power_of_two("slot_buffers", 4, 64)
        within("max_context", 1, 131_072, "The accumulators are sized for 131,072 tokens.")
        power_of_two("score_groups", 64, 262_144)
        within("max_caches", 1, 64, "A cache handle has 6 bits.")
        within("max_sequences", 1, 1024, "Sequence tables are on chip.")
        within("max_layers", 1, 256, "Sequence tables are on chip.")
        within("max_kv_heads", 1, 128, "The head field has 7 bits and a count.")
        within("max_policies", 1, 64, "A policy descriptor number has 6 bits.")
        within("max_windows", 1, 64, "Windows are compared in turn.")
        within("max_superblocks_per_sequence", 1, 256, "Sequence tables are on chip.")
        power_of_two("stripe_buffers", 4, 65536)
        power_of_two("dram_bytes", 1 << 16, 1 << 36)
        require(self.stripe_buffers * self.stripe_data_bytes <= self.dram_bytes // 2, "stripe_buffers",
                self.stripe_buffers, f"their data take at most half of dram_bytes = {self.dram_bytes}",
                "Lower stripe_buffers or raise dram_bytes.")
        require(self.buffers_bytes < self.dram_bytes, "dram_bytes", self.dram_bytes,
                f"more than the {self.buffers_bytes} B of stripe buffers, blocks of dims and scores",
                "Raise dram_bytes, or lower stripe_buffers or max_context.")
        require(self.axi_bits == 256, "axi_bits", self.axi_bits, "256",
                "Other widths go through the board's AXI interconnect.")
        within("io_queues", 1, 16, "One GPU rarely needs more than 4.")
        power_of_two("queue_entries_max", 2, 4096)
        within("timeout_us", 10, 1_000_000, "Longer than tBERS, shorter than the host's time-out.")
        for name, cure in (("check_tuples", "Leave it true."), ("sketch_policy", "false saves its logic."),
                           ("sparf_policy", "false saves its logic.")):
            require(isinstance(getattr(self, name), bool), name, getattr(self, name), "true or false", cure)
        require(isinstance(self.timing, NandTiming), "timing", self.timing, "a NandTiming", "See NandTiming.")
        if self.in_ddr:
            self._check_ddr()
            return
        # A cache program's end (10h) waits for the program before it.
        busy = max(self.timing.tBERS, 2 * self.timing.tPROG + self.timing.tPCBSY)
        require(self.timeout_us * 1000 > busy, "timeout_us", self.timeout_us,
                f"longer than tBERS and two programs, {busy} ns", "Raise timeout_us.")

    def _check_sharing(self) -> None:
        """Limits of how many channels share a core and scorers."""
        divisors = [count for count in range(1, self.channels + 1) if self.channels % count == 0]
        for name in ("channels_per_core", "channels_per_scorer"):
            value = getattr(self, name)
            require(isinstance(value, int) and not isinstance(value, bool) and value in divisors, name, value,
                    f"a divisor of channels = {self.channels}: {', '.join(map(str, divisors))}",
                    "1 gives each channel its own.")
        few, many = sorted((self.channels_per_core, self.channels_per_scorer))
        require(many % few == 0, "channels_per_scorer", self.channels_per_scorer,
                f"a divisor or a multiple of channels_per_core = {self.channels_per_core}",
                "Choose both among powers of two.")
        require(self.partials <= PARTIALS_MAX, "channels_per_core", self.channels_per_core,
                f"at most {PARTIALS_MAX} dies behind a core, {PARTIALS_MAX // self.dies} channels of "
                f"{self.dies} dies", "Lower channels_per_core.")

    def _check_ddr(self) -> None:
        """Limits of pages in DDR."""
        require(self.spare_blocks == 0, "spare_blocks", self.spare_blocks, "0 with pages in DDR",
                "Memory has no bad blocks: set spare_blocks = 0.")
        whole = -(-(SLOT_DATA_BYTES + SLOT_SCALE_BYTES + SLOT_TUPLE_BYTES) // AXI_BEAT_BYTES) * AXI_BEAT_BYTES
        require(self.slot_bytes % AXI_BEAT_BYTES == 0
                and self.slot_bytes * self.slots_per_page == self.page_bytes + self.spare_bytes,
                "spare_bytes", self.spare_bytes,
                f"slots in whole AXI beats of {AXI_BEAT_BYTES} B, and nothing behind them, with pages in DDR",
                f"Give {whole * self.slots_per_page - self.page_bytes}.")
        ports = [count for count in (1, 2, 3, 4) if self.channels % count == 0]
        require(self.page_ports in ports, "page_ports", self.page_ports,
                f"one of {ports}: at most 4, and each serves as many of the {self.channels} channels",
                "Change page_ports or channels.")
        require(isinstance(self.ddr_megabytes_per_second, int)
                and 100 <= self.ddr_megabytes_per_second <= 200_000, "ddr_megabytes_per_second",
                self.ddr_megabytes_per_second, "a whole number from 100 to 200000",
                "Take what the memory controller sustains.")
        require(isinstance(self.ddr_read_ns, int) and 1 <= self.ddr_read_ns <= 10_000, "ddr_read_ns",
                self.ddr_read_ns, "a whole number from 1 to 10000", "Take the memory controller's latency.")
        need = self.pages_first + self.pages_bytes
        require(isinstance(self.ddr_bytes, int) and need <= self.ddr_bytes <= 1 << 40, "ddr_bytes",
                self.ddr_bytes, f"room for dram_bytes and the pages, {need} B, and at most {1 << 40}",
                "Lower blocks, pages or dram_bytes.")

    # -- derived: pages in DDR ---------------------------------------------------------------
    @property
    def in_ddr(self) -> bool:
        return self.page_source == "ddr"

    @property
    def stripe_bytes(self) -> int:
        """Slots of a stripe as they lie in the pages, one behind the other in DDR."""
        return self.slots_per_stripe * self.slot_bytes

    @property
    def pages_first(self) -> int:
        """Address of the pages in DDR, behind all else."""
        return self.dram_bytes

    @property
    def channel_pages_bytes(self) -> int:
        """Pages of a channel in DDR: stripe by stripe, pages of a block, blocks of a die, dies."""
        return self.dies * self.blocks * self.pages * self.stripe_bytes

    @property
    def pages_bytes(self) -> int:
        return self.channels * self.channel_pages_bytes

    @property
    def ddr_bytes_per_kilocycle(self) -> int:
        """Bytes that DDR moves in 1,000 fabric cycles."""
        return self.ddr_megabytes_per_second * 1000 // self.clock_mhz

    # -- derived: pages and slots ------------------------------------------------------------
    @property
    def slots_per_page(self) -> int:
        return self.page_bytes // SLOT_DATA_BYTES

    @property
    def slot_bytes(self) -> int:
        """Bytes of one slot on the bus: data, scales, tuple, parity, in whole beats."""
        return (self.page_bytes + self.spare_bytes) // self.slots_per_page // BEAT_BYTES * BEAT_BYTES

    @property
    def slot_beats(self) -> int:
        return self.slot_bytes // BEAT_BYTES

    @property
    def slots_per_stripe(self) -> int:
        return self.slots_per_page * self.planes

    @property
    def stripe_data_bytes(self) -> int:
        """Data bytes of a stripe, which is also the size of a stripe buffer in device DRAM."""
        return self.page_bytes * self.planes

    @property
    def stripe_scale_bytes(self) -> int:
        """Scales of a stripe buffer, 32 B for each slot. In device DRAM the data areas of all buffers come
        first, then their scale areas."""
        return self.slots_per_stripe * SLOT_SCALE_BYTES

    @property
    def buffers_bytes(self) -> int:
        """Device DRAM taken by stripe buffers, data and scales, by blocks of dims and by scores; the maps
        follow."""
        return self.keys_first + self._score_places * SCORE_BYTES

    @property
    def dim_buffers(self) -> int:
        """Stripes of the largest block of dims: int8, whose scales take two places more."""
        return -(-(self.head_dim_max + 2) // (4 * self.planes))

    @property
    def dim_buffers_first(self) -> int:
        """Number of the first buffer in which blocks of dims are made, in stripes from the start of DRAM."""
        used = self.stripe_buffers * (self.stripe_data_bytes + self.stripe_scale_bytes)
        return -(-used // self.stripe_data_bytes)

    @property
    def dies_total(self) -> int:
        return self.channels * self.dies

    # -- derived: superblocks ------------------------------------------------------------------
    @property
    def group_dies(self) -> int:
        """Dies of each channel in one superblock: a *die group*."""
        return self.superblock_dies or self.dies

    @property
    def die_groups(self) -> int:
        return self.dies // self.group_dies

    @property
    def superblocks(self) -> int:
        return self.blocks * self.die_groups

    @property
    def superblock_bytes(self) -> int:
        """Data bytes of a superblock: the least flash that a sequence owns once it owns any."""
        return self.row_counters * self.pages * self.stripe_data_bytes

    @property
    def row_counters(self) -> int:
        """Dies of a superblock over all channels; a sequence counts its rows on each."""
        return self.channels * self.group_dies

    # -- derived: cores ----------------------------------------------------------------------
    @property
    def cores(self) -> int:
        """Attention cores: those of the flash channels and those for the tails in DRAM (the last)."""
        return self.channels // self.channels_per_core + self.tail_cores

    @property
    def scorers(self) -> int:
        """Scorers of sketches, and of dims: those of the channels and those for the tails (the last)."""
        return self.channels // self.channels_per_scorer + self.tail_cores

    @property
    def channel_group(self) -> int:
        """Channels that are built together with all that they share."""
        return max(self.channels_per_core, self.channels_per_scorer)

    @property
    def partials(self) -> int:
        """Softmax partials of a head slot in a core: one per channel and die."""
        return self.channels_per_core * self.dies

    @property
    def contexts(self) -> int:
        """Softmax contexts of a core: one per head slot and partial."""
        return self.head_slots * self.partials

    # -- derived: selection ------------------------------------------------------------------
    @property
    def selects(self) -> bool:
        """Some policy chooses among tokens."""
        return self.sketch_policy or self.sparf_policy

    @property
    def passes_max(self) -> int:
        """Passes over what a head is scored by, each with a head slot of its own."""
        return min(self.head_slots, -(-QUERY_HEADS_MAX // self.queries))

    @property
    def score_word_bytes(self) -> int:
        """A group's maxima for the queries of a pass, in device DRAM: a power of two."""
        return SCORE_BYTES << (self.queries - 1).bit_length()

    @property
    def _score_places(self) -> int:
        """Groups that the tables of scores have room for: those of the longest context, and whole lines."""
        unit = SCORE_LINE_BYTES // SCORE_BYTES
        return -(-self.max_context // unit) * unit

    @property
    def scores_first(self) -> int:
        """Address, behind the blocks of dims, of the group maxima of the one head that is being chosen from.
        Of ``lanes`` neighbouring groups, looked at in the same cycle, word ((row * passes + pass) * lanes +
        lane); words of groups that the score memory holds stay unused."""
        return (self.dim_buffers_first + DIM_BLOCKS_AHEAD * self.dim_buffers) * self.stripe_data_bytes

    @property
    def keys_first(self) -> int:
        """Address of the keys that are made of them, SCORE_BYTES for each group."""
        return self.scores_first + self._score_places * self.passes_max * self.score_word_bytes

    # -- derived: time -----------------------------------------------------------------------
    @property
    def physical_blocks(self) -> int:
        """Blocks of a plane of the NAND."""
        return self.blocks + self.spare_blocks

    def cycles(self, nanoseconds: int) -> int:
        """Fabric cycles that cover ``nanoseconds`` (rounded up)."""
        return -(-nanoseconds * self.clock_mhz // 1000)

    @property
    def command_cycles(self) -> int:
        """Fabric cycles of one ONFI command or address cycle."""
        return self.cycles(self.timing.cycle_ns)

    @property
    def beat_cycles_x1000(self) -> int:
        """Fabric cycles per 8-byte data beat of a channel, in thousandths (1000 at full rate), rounded up: a
        flash bus never moves more than its ``mega_transfers``."""
        return 1000 if self.in_ddr else max(1000, -(-8 * self.clock_mhz * 1000 // self.mega_transfers))

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dictionary of the user's values (JSON and TOML safe)."""
        return dataclasses.asdict(self)
