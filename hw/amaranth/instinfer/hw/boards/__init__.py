# SPDX-License-Identifier: Apache-2.0
"""Board outputs: everything that a target's files are made from, and the files."""

from collections.abc import Mapping

from instinfer.abi.errors import require

from .cosmosplus import COSMOSPLUS
from .daisyplus import DAISYPLUS
from .smartssd import SMARTSSD
from .target import BoardError, Target
from .zcu106 import ZCU106

TARGETS: Mapping[str, Target] = {each.name: each for each in (COSMOSPLUS, DAISYPLUS, SMARTSSD, ZCU106)}

__all__ = ["TARGETS", "BoardError", "Target", "target_of"]


def target_of(name: str) -> Target:
    """The target of this name.

    Raises
    ------
    ConfigError : there is none
    """
    require(name in TARGETS, "--target", name, f"one of {', '.join(TARGETS)}",
            "`instinfer boards list` shows them.")
    return TARGETS[name]
