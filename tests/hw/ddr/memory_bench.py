# SPDX-License-Identifier: Apache-2.0
"""A channel on DDR as one design: its ports joined on one AXI4 bus, which a memory in Python serves."""

import dataclasses
from typing import Any

import cocotb
import numpy as np
from amaranth.hdl import Module, ResetInserter
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import ClockCycles, RisingEdge

from hw.axi.agents import AxiMemory
from hw.flash.channel_bench import Stripe
from instinfer.abi.config import EngineConfig
from instinfer.abi.layout import row_address
from instinfer.abi.presets import load
from instinfer.hw.axi import AxiBus, MemoryBridge, ReadArbiter
from instinfer.hw.ddr.channel import DdrChannel
from instinfer.hw.flash.channel import ACTIVITY
from instinfer.hw.flash.scheduler import PULSES
from instinfer.hw.signatures import CHANNEL_EVENT, ChannelOp, MediaStatus, ReadError
from support.benches import start
from support.seeds import rng
from support.streams import StreamSink, StreamSource

BASE = load(preset="tiny", overrides={"page_source": "ddr", "spare_blocks": 0, "dram_bytes": 2 << 20})
CHANNEL = 1
TIMEOUT = 1500
COUNTS = (*ACTIVITY, *PULSES, "tuple_errors", "cycles")
KEPT = ("requests", "masks", "slots", "fault", "events")


class ChannelOnMemory(wiring.Component):
    """The channel of number `CHANNEL`, its memory ports on one bridge, a count of each of its pulses.
    ``clear`` is an engine's reset: of the channel, its arbiter and what the bridge holds."""

    def __init__(self, config: EngineConfig):
        self._config = config
        self._channel = DdrChannel(config=config)
        members = self._channel.signature.members
        super().__init__({
            **{name: members[name] for name in KEPT}, **{f"count_{name}": Out(32) for name in COUNTS},
            "bus": Out(AxiBus()), "clear": In(1), "idle": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        channel = self._channel
        m.submodules.dut = ResetInserter(self.clear)(channel)
        m.submodules.bridge = bridge = MemoryBridge(timeout_cycles=TIMEOUT)
        reads = ReadArbiter(ports=2)
        m.submodules.reads = ResetInserter(self.clear)(reads)
        for name in KEPT:
            wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(channel, name))
        wiring.connect(m, channel.pages_read, reads.ports[0])
        wiring.connect(m, channel.program_data, reads.ports[1])
        wiring.connect(m, reads.memory, bridge.read)
        wiring.connect(m, channel.pages_written, bridge.write)
        wiring.connect(m, bridge.bus, wiring.flipped(self.bus))
        pulses = {name: getattr(channel, name) for name in COUNTS if name != "cycles"}
        for name, pulse in {**pulses, "cycles": 1}.items():
            count = getattr(self, f"count_{name}")
            m.d.sync += count.eq(count + pulse)
        m.d.comb += [
            channel.base.eq(row_address(self._config, channel=CHANNEL, die=0, block=0, page=0)),
            bridge.clear.eq(self.clear), self.idle.eq(bridge.idle),
        ]
        return m


class Device:
    """The channel with everything around it."""

    def __init__(self, dut: Any, config: EngineConfig, *, back_pressure: float = 0.0, idle: float = 0.0,
                 latency: int = 20, stall: float = 0.0):
        self.dut, self.config = dut, config
        self.requests = StreamSource(dut, "requests", idle=idle)
        self.masks = StreamSource(dut, "masks", idle=idle)
        self.slots = StreamSink(dut, "slots", back_pressure=back_pressure, check=False)
        self.events = StreamSink(dut, "events", back_pressure=back_pressure, check=False)
        self.memory = AxiMemory(dut, "bus", size=config.pages_first + config.pages_bytes, max_beats=64,
                                latency=latency, stall=stall)
        self.bytes = np.frombuffer(self.memory.data, np.uint8)
        self.faults: list[tuple[int, ReadError]] = []
        dut.clear.value = 0
        cocotb.start_soon(self._watch_faults())

    async def start(self) -> None:
        await start(self.dut)

    async def _watch_faults(self) -> None:
        while True:
            await RisingEdge(self.dut.fault__valid)
            await RisingEdge(self.dut.clk)
            while self.dut.fault__valid.value:
                self.faults.append((int(self.dut.fault__head_slot.value),
                                    ReadError(int(self.dut.fault__error.value))))
                await RisingEdge(self.dut.clk)

    async def until(self, condition: Any, *, limit: int = 200_000) -> None:
        for _ in range(limit // 50):
            if condition():
                return
            await ClockCycles(self.dut.clk, 50)
        raise AssertionError(f"not within {limit} cycles: {len(self.slots.received)} slot beats, "
                             f"{len(self.events.received)} events, faults {self.faults}")

    def row(self, stripe: Stripe) -> Any:
        """The stripe's place in memory, (slots, slot_bytes); live."""
        place = {"die": stripe.die, "block": stripe.block, "page": stripe.page}
        first = row_address(self.config, channel=CHANNEL, **place)
        return self.bytes[first:first + self.config.stripe_bytes].reshape(-1, self.config.slot_bytes)

    def store(self, *stripes: Stripe) -> None:
        """Into the pages, past the channel."""
        for stripe in stripes:
            self.row(stripe)[:] = stripe.encoded().reshape(-1, self.config.slot_bytes)

    def stored(self, stripe: Stripe) -> bool:
        return bool((self.row(stripe) == stripe.encoded().reshape(-1, self.config.slot_bytes)).all())

    def buffer(self, stripe: Stripe, number: int) -> None:
        """Into stripe buffer ``number``."""
        config = self.config
        first = number * config.stripe_data_bytes
        self.bytes[first:first + config.stripe_data_bytes] = stripe.data
        if stripe.scales is not None:
            first = config.stripe_buffers * config.stripe_data_bytes + number * config.stripe_scale_bytes
            self.bytes[first:first + config.stripe_scale_bytes] = stripe.scales

    def program(self, *stripes: Stripe, first: int = 0) -> None:
        """Buffer and request of each, numbered from ``first``."""
        for number, stripe in enumerate(stripes, start=first):
            self.buffer(stripe, number)
            self.requests.send(stripe.request(ChannelOp.PROGRAM, buffer=number, tag=number))

    def ends(self) -> list[tuple[ChannelOp, int, MediaStatus]]:
        views = [CHANNEL_EVENT.from_bits(bits) for bits in self.events.received]
        return [(view.op, view.tag, view.status) for view in views]

    def counts(self) -> dict[str, int]:
        return {name: int(getattr(self.dut, f"count_{name}").value) for name in COUNTS}


def stripes(config: EngineConfig, label: str, count: int, *, block: int = 0, **kind: bool) -> list[Stripe]:
    """Random stripes of neighbouring rows, die by die."""
    generator = rng(label)
    places = [(die, b, page) for b in range(block, config.blocks) for page in range(config.pages)
              for die in range(config.dies)]
    return [Stripe(config, generator, die=die, block=b, page=page, **kind) for die, b, page in places[:count]]


def shaped(**values: Any) -> EngineConfig:
    return dataclasses.replace(BASE, **values)
