# SPDX-License-Identifier: Apache-2.0
"""AXI4 and AXI4-Lite: bus signatures, and memory ports served by bursts."""

from .arbiter import ReadArbiter, WriteArbiter
from .bridge import MemoryBridge
from .bus import AxiBus, AxiLiteBus, AxiReadBus, AxiWriteBus, Burst, Response
from .reader import MemoryReader
from .writer import MemoryWriter

__all__ = [
    "AxiBus", "AxiLiteBus", "AxiReadBus", "AxiWriteBus", "Burst", "MemoryBridge", "MemoryReader",
    "MemoryWriter", "ReadArbiter", "Response", "WriteArbiter",
]
