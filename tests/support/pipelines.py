# SPDX-License-Identifier: Apache-2.0
"""Runs vectors through a fixed-latency block in Amaranth's simulator, one vector per cycle."""

from collections.abc import Mapping, Sequence

from amaranth.lib import wiring
from amaranth.sim import Simulator


def run_pipeline(block: wiring.Component, inputs: Mapping[str, Sequence[int]], outputs: Sequence[str], *,
                 latency: int, delays: Mapping[str, int] | None = None) -> list[tuple[int, ...]]:
    """Outputs of each vector, taken exactly ``latency`` cycles after it went in.

    Args:
        inputs: values per input port, all of one length.
        delays: cycles by which a port takes its part of a vector later than cycle 0.
    """
    delays = delays or {}
    count = len(next(iter(inputs.values())))
    results: list[tuple[int, ...]] = []

    async def bench(ctx):
        for cycle in range(count + latency):
            for name, values in inputs.items():
                index = cycle - delays.get(name, 0)
                if 0 <= index < count:
                    ctx.set(getattr(block, name), values[index])
            if cycle >= latency:
                results.append(tuple(ctx.get(getattr(block, name)) for name in outputs))
            await ctx.tick()

    simulator = Simulator(block)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return results
