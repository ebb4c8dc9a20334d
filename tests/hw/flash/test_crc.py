# SPDX-License-Identifier: Apache-2.0
"""The parallel CRC against the contract's byte-wise one."""

import numpy as np
from amaranth.hdl import Module, Signal
from amaranth.sim import Simulator

from instinfer.abi.layout import CHECKED_BEATS, SLOT_TUPLE_BYTES, TUPLE_OFFSET, slot_crc
from instinfer.abi.presets import presets
from instinfer.hw.flash.crc import crc_model, crc_skip, crc_step
from support import rng


def test_model_is_the_contract() -> None:
    slots = rng("slots").integers(0, 256, (5, presets()["tiny"].slot_bytes), np.uint8)
    covered = slots[:, : 8 * CHECKED_BEATS].copy()
    covered[:, TUPLE_OFFSET:TUPLE_OFFSET + 2] = 0
    covered[:, TUPLE_OFFSET + SLOT_TUPLE_BYTES:] = 0
    beats = covered.view("<u8").tolist()
    assert [crc_model(0, row) for row in beats] == slot_crc(slots).tolist()


def test_expressions_are_the_model() -> None:
    m = Module()
    state, beat, step, skip = Signal(16), Signal(64), Signal(16), Signal(16)
    m.d.comb += [step.eq(crc_step(state, beat)), skip.eq(crc_skip(state, 4))]
    random = rng("steps")

    async def bench(context) -> None:  # type: ignore[no-untyped-def]
        for _ in range(50):
            before, data = int(random.integers(1 << 16)), int(random.integers(1 << 63)) * 2 + 1
            context.set(state, before)
            context.set(beat, data)
            await context.delay(1e-9)
            assert context.get(step) == crc_model(before, [data])
            assert context.get(skip) == crc_model(before, [0] * 4)

    simulator = Simulator(m)
    simulator.add_testbench(bench)
    simulator.run()
