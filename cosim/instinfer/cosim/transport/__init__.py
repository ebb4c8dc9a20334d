# SPDX-License-Identifier: Apache-2.0
"""Simulated transports and what they have in common: the configuration they open, injected faults.

``open_transport(argument, **options)`` of each module takes the preset as argument and the options of
:func:`resolve_config`, and ``state`` (a folder written by ``save_state``).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from instinfer.abi.config import EngineConfig, load
from instinfer.abi.errors import require


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
            "Make one with instinfer.abi.config.load.")
    require(config_file is None and not overrides, "overrides", overrides or config_file,
            "absent beside a complete config", "Change the config itself with dataclasses.replace.")
    return config
