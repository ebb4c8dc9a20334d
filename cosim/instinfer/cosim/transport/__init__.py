# SPDX-License-Identifier: Apache-2.0
"""Simulated transports and what they have in common: the configuration they open, injected faults.

``open_transport(argument, **options)`` of each module takes the preset as argument and the options of
:func:`resolve_config`, and ``state`` (a folder written by ``save_state``).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from instinfer.abi.config import EngineConfig
from instinfer.abi.errors import require
from instinfer.abi.presets import load


class Faults(Protocol):
    """What tests may break in a simulated device; each transport offers it as ``.faults``."""

    def flip_bit(self, *, channel: int, die: int, plane: int, block: int, page: int, byte: int,
                 bit: int) -> None:
        """Invert one stored bit of a programmed page (``byte`` in bus order, spare area included)."""

    def fail_program(self, *, channel: int, die: int, count: int) -> None:
        """The next ``count`` programs of this die end with FAIL and store nothing."""

    def bad_block(self, *, channel: int, die: int, plane: int, block: int) -> None:
        """This physical block is bad from the factory: programs and erases fail, it reads as zeros."""

    def fail_erase(self, *, channel: int, die: int, count: int) -> None:
        """The next ``count`` erases of this die end with FAIL."""

    def stick_die(self, *, channel: int, die: int, stuck: bool = True) -> None:
        """R/B# of this die stays busy after its next operation (or is let go again)."""

    def fail_host_memory(self, *, address: int, size: int) -> None:
        """Accesses of the device to these bus addresses are answered with an error (size 0: none is)."""


def make_factory_bad_blocks(faults: Faults, config: EngineConfig, *, seed: int,
                            count: int) -> tuple[dict[str, int], ...]:
    """Make ``count`` different blocks of all planes, spare ones too, bad from the factory; returns which.

    The choice depends on seed and geometry alone, so that every simulated device gets the same.
    """
    shape = (config.channels, config.dies, config.planes, config.physical_blocks)
    total = int(np.prod(shape))
    if not 0 <= count <= total:
        raise ValueError(f"count = {count}: this device has {total} blocks; give 0 to {total}")
    chosen = np.random.default_rng(seed).choice(total, count, replace=False)
    names = ("channel", "die", "plane", "block")
    places = tuple(dict(zip(names, map(int, place), strict=True))
                   for place in np.transpose(np.unravel_index(np.sort(chosen), shape)))
    for place in places:
        faults.bad_block(**place)
    return places


def resolve_config(argument: str, *, config: EngineConfig | None = None,
                   config_file: str | Path | None = None,
                   overrides: Mapping[str, Any] | None = None) -> EngineConfig:
    """The configuration that ``kind:argument`` and its options name.

    ``argument`` is a preset; ``config`` gives a complete configuration instead (then the argument is
    only its name and no other option may be given).
    """
    if config is None:
        return load(preset=argument, config_file=config_file, overrides=overrides)
    require(isinstance(config, EngineConfig), "config", config, "an EngineConfig",
            "Make one with instinfer.abi.presets.load.")
    require(config_file is None and not overrides, "overrides", overrides or config_file,
            "absent beside a complete config", "Change the config itself with dataclasses.replace.")
    return config
