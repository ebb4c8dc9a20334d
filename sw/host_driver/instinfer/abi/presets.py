# SPDX-License-Identifier: Apache-2.0
"""Named configurations of the engine, and configurations out of files and command lines.

``load`` applies a preset, then a TOML file, then ``name=value`` overrides.
"""

import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .config import EngineConfig, NandTiming
from .errors import ConfigError, require


def presets() -> dict[str, EngineConfig]:
    """The named configurations; CI simulates `tiny` and generates `product`, `make soak` the others."""
    return {
        "tiny": EngineConfig(
            name="tiny", channels=2, dies=2, planes=2, blocks=16, spare_blocks=2, pages=8,
            page_bytes=4096, spare_bytes=256, stripe_buffers=64, dram_bytes=16 << 20, max_sequences=8,
            max_layers=32, max_kv_heads=16, max_caches=4, max_replacements=16, max_policies=4, max_windows=8,
            max_superblocks_per_sequence=16, io_queues=2, queue_entries_max=64, max_context=8192,
            score_groups=128,
            timeout_us=1000,
            timing=NandTiming(tR=3_000, tPROG=10_000, tBERS=20_000, tRCBSY=500, tPCBSY=500, tRST=500),
        ),
        "product": EngineConfig(name="product"),
        # Development boards with raw NAND. Pages and ways as on the boards; array times are the product's, as
        # the data sheets of their NAND modules are not public. At these rates a beat takes 4 and 8 fabric
        # cycles, in which a core of two queries takes both passes of four query heads from two and from four
        # channels. (Four queries and twice the channels to a core are as fast, in twice the block RAM: the
        # same sums for twice the queries.)
        # Without SparF: its scorers keep sums for every channel, and with them the engine would need 641 of
        # the part's 545 BRAM36 (docs/cost.md).
        "cosmosplus": EngineConfig(
            name="cosmosplus", clock_mhz=100, channels=8, dies=8, planes=2, blocks=1024, spare_blocks=64,
            pages=256, page_bytes=16384, spare_bytes=1664, mega_transfers=200, queries=2,
            channels_per_core=2, channels_per_scorer=4, sparf_policy=False,
            stripe_buffers=4096, dram_bytes=512 << 20, max_sequences=32, io_queues=2, queue_entries_max=256,
        ),
        "daisyplus": EngineConfig(
            name="daisyplus", clock_mhz=133, channels=4, dies=2, planes=2, blocks=1024, spare_blocks=64,
            pages=256, page_bytes=16384, spare_bytes=2208, mega_transfers=133, queries=2,
            channels_per_core=4, channels_per_scorer=4,
            stripe_buffers=4096, dram_bytes=512 << 20, max_sequences=32, io_queues=2, queue_entries_max=256,
        ),
        # Half of one DDR4-2400 bank of 4 GiB; the host's buffers lie there, too. 19.2 GB/s at its pins, 16
        # taken as what a controller sustains.
        "smartssd": EngineConfig(
            name="smartssd", page_source="ddr", page_ports=2, dies=1, blocks=45, spare_blocks=0, pages=64,
            spare_bytes=1024, stripe_buffers=4096, dram_bytes=512 << 20, ddr_bytes=2 << 30,
            max_superblocks_per_sequence=64,
        ),
        # The processor's DDR4-2400, of which the engine has 2 GiB; each port ends at one of 128 bits.
        # SparF would take 38 block RAMs more than the part has.
        "zcu106": EngineConfig(
            name="zcu106", page_source="ddr", page_ports=2, channels=4, dies=1, blocks=90, spare_blocks=0,
            pages=64, spare_bytes=1024, stripe_buffers=2048, dram_bytes=512 << 20, ddr_bytes=2 << 30,
            max_superblocks_per_sequence=64, sparf_policy=False,
        ),
    }


def parse_value(text: str) -> Any:
    """A command-line value: TOML's own syntax where it parses, the bare word otherwise."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def load(*, preset: str = "product", config_file: str | Path | None = None,
         overrides: Mapping[str, Any] | None = None) -> EngineConfig:
    """A preset, changed by a TOML file, changed by ``name=value`` overrides.

    Names of timing values are written ``timing.tR``; in TOML they stand in a ``[timing]`` table.

    Raises:
        ConfigError: unknown preset or name, or a value outside its limit.
    """
    known = presets()
    values: dict[str, Any] = {}
    if config_file is not None:
        path = Path(config_file)
        require(path.is_file(), "config", str(path), "an existing TOML file", "Check the path.")
        try:
            values.update(tomllib.loads(path.read_text(encoding="utf-8")))
        except tomllib.TOMLDecodeError as error:
            raise ConfigError("config", str(path), f"valid TOML ({error})", "Correct the file.") from error
        preset = values.pop("preset", preset)
    require(preset in known, "preset", preset, f"one of {', '.join(sorted(known))}",
            "Use --config for your own configuration.")
    timing = dict(values.pop("timing", {}))
    for name, value in (overrides or {}).items():
        if name.startswith("timing."):
            timing[name.removeprefix("timing.")] = value
        else:
            values[name] = value
    base = known[preset]
    _known_names("configuration name", values, EngineConfig)
    _known_names("timing name", timing, NandTiming)
    if timing:
        values["timing"] = dataclasses.replace(base.timing, **timing)
    return dataclasses.replace(base, **values)


def _known_names(what: str, values: Mapping[str, Any], cls: type) -> None:
    names = sorted(field.name for field in dataclasses.fields(cls))
    for name in values:
        require(name in names, what, name, f"one of {', '.join(names)}",
                "`instinfer config show` lists them.")
