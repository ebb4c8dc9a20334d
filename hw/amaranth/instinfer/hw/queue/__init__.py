# SPDX-License-Identifier: Apache-2.0
"""The host's side of the engine: registers, submission and completion queues, DMA windows."""

from .engine import QueueEngine
from .ports import ADMIN_QUEUES, COUNTER_INCREMENTS, DOORBELL, FaultReport
from .registers import RegisterFile
from .windows import REGION, WindowCheck

__all__ = [
    "ADMIN_QUEUES", "COUNTER_INCREMENTS", "DOORBELL", "REGION", "FaultReport", "QueueEngine", "RegisterFile",
    "WindowCheck",
]
