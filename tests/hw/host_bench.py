# SPDX-License-Identifier: Apache-2.0
"""What the benches of tests/hw/axi and tests/hw/queue drive, in one build."""

import dataclasses

from amaranth.hdl import Module, ResetInserter
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.presets import presets
from instinfer.hw.axi import AxiBus, AxiLiteBus, MemoryBridge, ReadArbiter, WriteArbiter
from instinfer.hw.queue import QueueEngine, RegisterFile
from instinfer.hw.signatures import COMMAND, COMPLETION, MemoryReadPort, MemoryWritePort
from support import bundle

CONFIG = dataclasses.replace(presets()["tiny"], io_queues=3)
PORTS = 3
TIMEOUT = 200


class SharedMemory(wiring.Component):
    """Ports, arbiters, bridge: as the engine uses them."""

    def __init__(self):
        super().__init__({
            **{f"read_{n}": In(MemoryReadPort()) for n in range(PORTS)},
            **{f"write_{n}": In(MemoryWritePort()) for n in range(PORTS)},
            "bus": Out(AxiBus()),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.reads = reads = ReadArbiter(ports=PORTS)
        m.submodules.writes = writes = WriteArbiter(ports=PORTS)
        m.submodules.bridge = bridge = MemoryBridge(timeout_cycles=4000, burst_beats=64)
        for n in range(PORTS):
            wiring.connect(m, wiring.flipped(getattr(self, f"read_{n}")), reads.ports[n])
            wiring.connect(m, wiring.flipped(getattr(self, f"write_{n}")), writes.ports[n])
        wiring.connect(m, reads.memory, bridge.read)
        wiring.connect(m, writes.memory, bridge.write)
        wiring.connect(m, wiring.flipped(self.bus), bridge.bus)
        return m


class HostSide(wiring.Component):
    """The host's side of an engine, connected as `engine.py` does it."""

    def __init__(self):
        super().__init__({
            "bar": In(AxiLiteBus()), "host": Out(AxiBus()),
            "command": Out(stream.Signature(COMMAND)), "completion": In(stream.Signature(COMPLETION)),
            "irq": Out(1), "engine_reset": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.registers = registers = RegisterFile(CONFIG)
        m.submodules.bridge = bridge = MemoryBridge(timeout_cycles=500, burst_beats=16)
        queues, reads, writes = QueueEngine(CONFIG), ReadArbiter(ports=2), WriteArbiter(ports=2)
        for name, block in (("queues", queues), ("reads", reads), ("writes", writes)):
            m.submodules[name] = ResetInserter(registers.engine_reset)(block)
        wiring.connect(m, wiring.flipped(self.bar), registers.bus)
        wiring.connect(m, wiring.flipped(self.host), bridge.bus)
        wiring.connect(m, wiring.flipped(self.command), queues.command)
        wiring.connect(m, wiring.flipped(self.completion), queues.completion)
        wiring.connect(m, registers.doorbell, queues.doorbell)
        wiring.connect(m, queues.fault, registers.fault)
        wiring.connect(m, queues.read, reads.ports[0])
        wiring.connect(m, queues.write, writes.ports[0])
        wiring.connect(m, reads.memory, bridge.read)
        wiring.connect(m, writes.memory, bridge.write)
        m.d.comb += [
            queues.admin.eq(registers.admin),
            registers.unread.eq(queues.unread),
            registers.idle.eq(bridge.idle),
            bridge.clear.eq(registers.engine_reset),
            registers.counters.commands.eq(queues.done),
            registers.counters.errors.eq(queues.failed),
            registers.counters.host_read_bytes.eq(bridge.read_bytes),
            registers.counters.host_write_bytes.eq(bridge.write_bytes),
            self.irq.eq(registers.interrupt),
            self.engine_reset.eq(registers.engine_reset),
        ]
        return m


def blocks() -> wiring.Component:
    """A bridge alone, a bridge shared by several ports, and queues on a bridge."""
    bridge = MemoryBridge(timeout_cycles=TIMEOUT, burst_beats=16)
    return bundle(bridge=bridge, shared=SharedMemory(), host_side=HostSide())
