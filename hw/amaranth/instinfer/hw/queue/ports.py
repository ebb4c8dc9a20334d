# SPDX-License-Identifier: Apache-2.0
"""What crosses between registers, queues and the rest of the engine."""

from amaranth.lib import data, wiring
from amaranth.lib.wiring import Out

from instinfer.abi.registers import Counter, Fault

POINTER_BITS = 12
"""Of a position in a queue: the longest queue has 4096 entries."""
QUEUE_BITS = 9
"""Of a queue number in a doorbell's address."""
PAGE_BITS = 12
"""Queues start on 4 KiB pages."""
INCREMENT_BITS = 20
"""Of what a counter may grow by in one cycle."""

DOORBELL = data.StructLayout({"queue": QUEUE_BITS, "completion": 1, "value": 32})
"""A doorbell write: submission tail, or completion head when ``completion`` is set."""

POINTER_WRITE = data.StructLayout({"queue": QUEUE_BITS, "value": 32})
"""A doorbell write of one kind, of any queue and to any value."""

ADMIN_QUEUES = data.StructLayout({
    "sq_base": 64, "sq_last": POINTER_BITS, "cq_base": 64, "cq_last": POINTER_BITS,
})
"""Where queue 0 is; ``last`` is its number of entries - 1."""

QUEUE_CONTEXT = data.StructLayout({
    "queue": 5, "page": 64 - PAGE_BITS, "last": POINTER_BITS, "interrupt": 1,
})
"""A new queue: base address divided by 4 KiB, entries - 1, interrupt enable (completion queues)."""

COUNTER_INCREMENTS = data.StructLayout({
    counter.name.lower(): INCREMENT_BITS for counter in Counter if counter is not Counter.CYCLES
})
"""How much each event counter grows in this cycle; CYCLES counts by itself."""


class FaultReport(wiring.Signature):
    """A one-cycle report of a fatal ``cause`` (see `instinfer.abi.registers.Fault`)."""

    def __init__(self) -> None:
        super().__init__({"valid": Out(1), "cause": Out(range(max(Fault) + 1))})
