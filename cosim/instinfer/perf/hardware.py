# SPDX-License-Identifier: Apache-2.0
"""GPUs, links, memories and drives that a system is made of, with powers and prices.

Rates are the vendors' peaks (data sheets); an ``efficiency`` says what a well written program reaches of
them. Powers are boards' limits and idle draws, prices are list prices of 2024 in US dollars, rounded: both
are assumed and only meant to compare systems.
"""

import dataclasses
import math

from instinfer.abi.config import EngineConfig
from instinfer.abi.errors import require
from instinfer.abi.presets import presets

GB = 1e9
TERA = 1e12


def _positive(thing: object) -> None:
    for field in dataclasses.fields(thing):  # type: ignore[arg-type]
        value = getattr(thing, field.name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            require(value > 0 and math.isfinite(value), f"{type(thing).__name__.lower()}.{field.name}", value,
                    "a finite number above 0", "Correct the description of the hardware.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gpu:
    """A roofline: ``flops`` dense fp16 with tensor cores, ``bandwidth`` of its memory.

    ``reserve`` is the share of memory that neither weights nor cache may take (context, workspace).
    """

    name: str
    flops: float
    bandwidth: float
    memory: float
    watts: float
    idle_watts: float
    dollars: float
    flops_efficiency: float = 0.6
    bandwidth_efficiency: float = 0.8
    reserve: float = 0.1

    def __post_init__(self) -> None:
        _positive(self)

    @property
    def usable(self) -> float:
        return self.memory * (1 - self.reserve)

    def seconds(self, flops: float, read: float) -> float:
        """The roofline's longer side."""
        return max(flops / (self.flops * self.flops_efficiency),
                   read / (self.bandwidth * self.bandwidth_efficiency))


GPUS = {gpu.name: gpu for gpu in (
    Gpu(name="a6000", flops=154.8 * TERA, bandwidth=768 * GB, memory=48 * GB, watts=300, idle_watts=25,
        dollars=4600),
    Gpu(name="a100", flops=312 * TERA, bandwidth=2039 * GB, memory=80 * GB, watts=400, idle_watts=50,
        dollars=15000),
    Gpu(name="h100", flops=989 * TERA, bandwidth=3350 * GB, memory=80 * GB, watts=700, idle_watts=70,
        dollars=30000),
    Gpu(name="h200", flops=989 * TERA, bandwidth=4800 * GB, memory=141 * GB, watts=700, idle_watts=70,
        dollars=32000),
    Gpu(name="rtx4090", flops=165.2 * TERA, bandwidth=1008 * GB, memory=24 * GB, watts=450, idle_watts=20,
        dollars=1600),
    Gpu(name="t4", flops=65 * TERA, bandwidth=320 * GB, memory=16 * GB, watts=70, idle_watts=10,
        dollars=2000),
)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Host:
    """``bandwidth`` and ``flops`` (fp32) of the host's memory and cores."""

    memory: float = 128 * GB
    bandwidth: float = 200 * GB
    flops: float = 2 * TERA
    efficiency: float = 0.7
    watts: float = 250
    idle_watts: float = 100
    dollars: float = 4000

    def __post_init__(self) -> None:
        _positive(self)


PCIE_LANE = {3: 0.985 * GB, 4: 1.969 * GB, 5: 3.938 * GB}
"""Bytes per second of one lane after line coding."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Link:
    """A PCIe link, each direction by itself; ``efficiency`` for packet headers."""

    generation: int = 4
    lanes: int = 16
    efficiency: float = 0.89

    def __post_init__(self) -> None:
        require(self.generation in PCIE_LANE, "pcie", self.generation, f"one of {tuple(PCIE_LANE)}",
                "Choose a generation that is sold.")
        require(self.lanes in (1, 2, 4, 8, 16), "lanes", self.lanes, "1, 2, 4, 8 or 16", "Choose another.")
        require(0 < self.efficiency <= 1, "efficiency", self.efficiency, "above 0, at most 1",
                "0.89 is what 256-byte packets leave.")

    @property
    def capacity(self) -> float:
        return PCIE_LANE[self.generation] * self.lanes

    @property
    def rate(self) -> float:
        return self.capacity * self.efficiency


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ssd:
    """A plain drive (Samsung 980 Pro): sequential rates, its own link's limit included."""

    read: float = 6.9 * GB
    write: float = 5.0 * GB
    capacity: float = 2000 * GB
    watts: float = 8
    idle_watts: float = 2
    dollars: float = 180

    def __post_init__(self) -> None:
        _positive(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Csd:
    """A computational storage drive: an engine's configuration, its link, how much it stores.

    The engine's ``stripe_buffers`` hold the tails: one per layer, KV head, kind and sequence
    (docs/architecture.md "Layout"), which limits the sequences that run at once. ``endurance`` counts
    program and erase cycles of a block,
    ``disturb`` the reads of a block after which it is rewritten (both assumed, TLC).
    """

    name: str
    engine: EngineConfig
    link: Link = Link(generation=4, lanes=4)
    capacity: float = 2000 * GB
    watts: float = 25
    idle_watts: float = 8
    dollars: float = 900
    endurance: int = 3000
    disturb: int = 1_000_000

    def __post_init__(self) -> None:
        _positive(self)
        require(not self.engine.in_ddr, "engine", self.engine.name, "an engine on NAND",
                "The model's constants were fitted to flash channels; measure DDR with `instinfer bench`.")

    @property
    def bus_rate(self) -> float:
        """Bytes per second that all flash buses carry at most."""
        beats = self.engine.clock_mhz * 1e6 * 1000 / self.engine.beat_cycles_x1000
        return self.engine.channels * 8 * beats


def csds() -> dict[str, Csd]:
    """Named drives. ``product`` has the most stripe buffers that the engine can be generated with (4 GiB of
    its 8 GiB of DRAM) and room for 1,024 sequences; ``paper``: 8 channels of 1,400 MT/s behind PCIe 4 x4,
    otherwise as ``product``.

    Development boards are slow: their channels are those of docs, never to be quoted as a product's.
    """
    product = dataclasses.replace(presets()["product"], stripe_buffers=65536, max_sequences=1024)

    def changed(**values: object) -> EngineConfig:
        return dataclasses.replace(product, **values)  # type: ignore[arg-type]

    return {
        "product": Csd(name="product", engine=product),
        "paper": Csd(name="paper", engine=changed(name="paper", mega_transfers=1400)),
        "ddr-200": Csd(name="ddr-200", engine=changed(name="ddr-200", mega_transfers=200)),
        "ddr2-533": Csd(name="ddr2-533", engine=changed(name="ddr2-533", mega_transfers=533)),
        "ddr3-1200": Csd(name="ddr3-1200", engine=changed(name="ddr3-1200", mega_transfers=1200)),
        "lpddr4-2400": Csd(name="lpddr4-2400",
                           engine=changed(name="lpddr4-2400", mega_transfers=2400, clock_mhz=300),
                           link=Link(generation=5, lanes=4)),
        "lpddr4-3600": Csd(name="lpddr4-3600",
                           engine=changed(name="lpddr4-3600", mega_transfers=3600, clock_mhz=450),
                           link=Link(generation=5, lanes=4)),
        "cosmosplus": Csd(name="cosmosplus",
                          engine=changed(name="cosmosplus", mega_transfers=200, dies=8,
                                         stripe_buffers=4096, dram_bytes=1 << 30),
                          link=Link(generation=3, lanes=4), capacity=1000 * GB),
        "daisyplus": Csd(name="daisyplus",
                         engine=changed(name="daisyplus", channels=4, dies=2, mega_transfers=133,
                                        stripe_buffers=4096, dram_bytes=1 << 30),
                         link=Link(generation=3, lanes=16), capacity=500 * GB),
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
    """A host with one GPU, plain drives and CSDs."""

    gpu: Gpu
    csd: Csd
    csds: int = 1
    host: Host = Host()
    pcie: Link = Link()
    ssd: Ssd = Ssd()
    ssds: int = 1

    def __post_init__(self) -> None:
        require(1 <= self.csds <= 32, "csds", self.csds, "1 to 32", "Choose another number of drives.")
        require(1 <= self.ssds <= 32, "ssds", self.ssds, "1 to 32", "Choose another number of drives.")


def gpu_of(name: str) -> Gpu:
    """Raises ConfigError for an unknown name."""
    require(name.lower() in GPUS, "gpu", name, f"one of {', '.join(GPUS)}", "Choose one of these.")
    return GPUS[name.lower()]


def csd_of(name: str) -> Csd:
    """Raises ConfigError for an unknown name."""
    known = csds()
    require(name.lower() in known, "drive", name, f"one of {', '.join(known)}", "Choose one of these.")
    return known[name.lower()]
