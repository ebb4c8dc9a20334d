# SPDX-License-Identifier: Apache-2.0
"""The smallest flash channel: short waits, so that proofs see all of them."""

import dataclasses

from instinfer.abi.config import EngineConfig, NandTiming
from instinfer.abi.presets import presets


def small(*, dies: int, planes: int = 1) -> EngineConfig:
    """25 MHz and array times of a nanosecond: each wait takes the fewest cycles that it can."""
    times = {field.name: 1 for field in dataclasses.fields(NandTiming)}
    return dataclasses.replace(
        presets()["tiny"], name="formal", clock_mhz=25, mega_transfers=200, channels=1, dies=dies,
        planes=planes, slot_buffers=4, head_slots=2, queries=1, timeout_us=10, timing=NandTiming(**times))
