# SPDX-License-Identifier: Apache-2.0
"""Drives an AXI4-Lite port in Amaranth's simulator."""

from instinfer.abi.registers import Register
from instinfer.hw.queue.registers import RESET_CYCLES


class Bar:
    """Drives the AXI4-Lite port."""

    def __init__(self, ctx, dut):
        self.ctx, self.dut, self.bus = ctx, dut, dut.bus

    async def cycles(self, count):
        for _ in range(count):
            await self.ctx.tick()

    async def write(self, address, value, *, strobe=0xF, order="aw w", wait=0):
        """Returns the response; `order` of address and data; `wait` before the response is taken."""
        ctx, bus = self.ctx, self.bus
        steps = {"aw w": ("aw", "w"), "w aw": ("w", "aw"), "aw+w": ("aw+w",)}[order]
        for step in steps:
            channels = step.split("+")
            ctx.set(bus.awaddr, address)
            ctx.set(bus.wdata, value)
            ctx.set(bus.wstrb, strobe)
            pending = set(channels)
            while pending:
                for channel in channels:
                    ctx.set(getattr(bus, f"{channel}valid"), channel in pending)
                accepted = {c for c in pending if ctx.get(getattr(bus, f"{c}ready"))}
                await ctx.tick()
                pending -= accepted
            for channel in channels:
                ctx.set(getattr(bus, f"{channel}valid"), 0)
        for _ in range(50):
            if ctx.get(bus.bvalid):
                break
            await ctx.tick()
        else:
            raise AssertionError("no write response")
        await self.cycles(wait)
        assert ctx.get(bus.bvalid)
        response = ctx.get(bus.bresp)
        ctx.set(bus.bready, 1)
        await ctx.tick()
        ctx.set(bus.bready, 0)
        return response

    async def read(self, address, *, wait=0):
        """Returns (value, response)."""
        ctx, bus = self.ctx, self.bus
        ctx.set(bus.araddr, address)
        ctx.set(bus.arvalid, 1)
        while not ctx.get(bus.arready):
            await ctx.tick()
        await ctx.tick()
        ctx.set(bus.arvalid, 0)
        while not ctx.get(bus.rvalid):
            await ctx.tick()
        await self.cycles(wait)
        assert ctx.get(bus.rvalid)
        result = ctx.get(bus.rdata), ctx.get(bus.rresp)
        ctx.set(bus.rready, 1)
        await ctx.tick()
        ctx.set(bus.rready, 0)
        return result

    async def value(self, address):
        value, response = await self.read(address)
        assert response == 0
        return value

    async def enable(self):
        self.ctx.set(self.dut.idle, 1)
        assert await self.write(Register.CC, 1) == 0
        for _ in range(3 * RESET_CYCLES):
            if await self.value(Register.CSTS) & 1:
                return
        raise AssertionError("CSTS.RDY did not rise")
