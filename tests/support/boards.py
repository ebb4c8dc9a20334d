# SPDX-License-Identifier: Apache-2.0
"""Board outputs around an engine without content: every other file is the real one, in a second."""

import dataclasses
from typing import Any

from instinfer.abi.config import EngineConfig
from instinfer.hw.boards import TARGETS, Target
from instinfer.hw.engine import engine_signature
from instinfer.hw.generate import top_name
from instinfer.hw.shared import flat_ports


def hollow_engine(config: EngineConfig) -> dict[str, str]:
    """What `instinfer.hw.generate.render` gives, with the engine's ports and nothing behind them."""
    engine = engine_signature(config).create()
    ports = [("clk", True, 1), ("rst", True, 1),
             *((name, into, len(value)) for name, into, value in flat_ports(engine))]
    lines = [f"  {'input' if into else 'output reg'} [{width - 1}:0] {name}" for name, into, width in ports]
    text = f"module {top_name(config)} (\n" + ",\n".join(lines) + "\n);\nendmodule\n"
    return {f"{top_name(config)}.v": text, "manifest.json": "{}\n"}


def kernel_target(**changes: Any) -> Target:
    """Cosmos+ as if XRT ran there: the kernel's files without the page source of the boards that have XRT."""
    return dataclasses.replace(TARGETS["cosmosplus"], platform="platform", block_design=None, **changes)
