# SPDX-License-Identifier: Apache-2.0
"""Drivers and monitors for Amaranth streams (``valid``, ``ready``, ``payload``) in cocotb benches.

Payloads are integers, as wide as the port (``layout.const({...}).as_bits()`` packs a struct). Each
object wakes up once per cycle while it has something to do, and not at all while it has not.
"""

import random
from collections import deque
from itertools import pairwise
from typing import Any

import cocotb
import numpy as np
from cocotb.triggers import ClockCycles, Event, RisingEdge

from support.benches import cycle
from support.seeds import rng


class _Chances:
    """True with a fixed probability, drawn in batches: a single draw costs more than a clock cycle."""

    def __init__(self, probability: float, generator: np.random.Generator):
        if not 0.0 <= probability < 1.0:
            raise ValueError(f"probability {probability} is outside 0 <= p < 1; at 1 nothing would ever move")
        self._probability = probability
        self._generator = generator
        self._drawn: deque[bool] = deque()

    def next(self) -> bool:
        if self._probability == 0.0:
            return False
        if not self._drawn:
            self._drawn.extend((self._generator.random(1024) < self._probability).tolist())
        return self._drawn.popleft()


class StreamSource:
    """Drives a stream into the device. `name` is the port's prefix, like ``i`` or ``fifo__i``.

    `idle` is the probability of a bubble before a transfer; 0 is the full rate. The payload is random while
    valid is low, so that a device that looks at it then is found out.
    """

    def __init__(self, dut: Any, name: str, *, idle: float = 0.0):
        self.name = name
        self.sent: list[int] = []
        """Payloads whose transfer took place."""
        self._clock = dut.clk
        self._valid = getattr(dut, f"{name}__valid")
        self._ready = getattr(dut, f"{name}__ready")
        self._payload = getattr(dut, f"{name}__payload", None)  # a stream without content has no payload port
        self._width = 0 if self._payload is None else len(self._payload)
        generator = rng(f"source {name}")
        self._noise = random.Random(int(generator.integers(1 << 32)))
        self._idle = _Chances(idle, generator)
        self._queue: deque[int] = deque()
        self._wanted = Event()
        self._empty = Event()
        self._empty.set()
        self._idle_state()
        cocotb.start_soon(self._run())

    def send(self, *payloads: int) -> None:
        """Queue payloads; returns at once."""
        self._queue.extend(payloads)
        if payloads:
            self._empty.clear()
            self._wanted.set()

    async def drained(self) -> None:
        """Wait until all queued payloads have been transferred."""
        await self._empty.wait()

    def _show(self, payload: int) -> None:
        if self._payload is not None:
            self._payload.value = payload

    def _idle_state(self) -> None:
        self._valid.value = 0
        self._show(self._noise.getrandbits(self._width))

    async def _run(self) -> None:
        while True:
            if not self._queue or self._idle.next():
                if self._valid.value:
                    self._idle_state()
                if not self._queue:
                    self._empty.set()
                    self._wanted.clear()
                    await self._wanted.wait()
                await RisingEdge(self._clock)
                continue
            payload = self._queue.popleft()
            self._valid.value = 1
            self._show(payload)
            await RisingEdge(self._clock)
            while not self._ready.value:
                await RisingEdge(self._clock)
            self.sent.append(payload)


class StreamSink:
    """Takes a stream from the device and checks it.

    `back_pressure` is the probability that ready is low in a cycle; 0 is the full rate. With
    `ready_after_valid` ready is raised only once valid is high: a device whose valid waits for ready then
    hangs and is found out by the bench's cycle limit.

    Checked in every cycle: that valid and payload are held until the transfer; with `check`, that each
    payload is the next one of `expect`, and that nothing comes that was not expected.
    """

    def __init__(
        self,
        dut: Any,
        name: str,
        *,
        back_pressure: float = 0.0,
        ready_after_valid: bool = False,
        check: bool = True,
    ):
        self.name = name
        self.received: list[int] = []
        self.cycles: list[int] = []
        """Clock cycle of each transfer in `received`."""
        self._clock = dut.clk
        self._valid = getattr(dut, f"{name}__valid")
        self._ready = getattr(dut, f"{name}__ready")
        self._payload = getattr(dut, f"{name}__payload", None)
        self._stalls = _Chances(back_pressure, rng(f"sink {name}"))
        self._ready_after_valid = ready_after_valid
        self._check = check
        self._expected: deque[int] = deque()
        self._met = Event()
        self._met.set()
        self._held: int | None = None
        cocotb.start_soon(self._run())

    def expect(self, *payloads: int) -> None:
        """Append to the payloads that must come, in this order."""
        self._expected.extend(payloads)
        if payloads:
            self._met.clear()

    async def finished(self, *, quiet: int = 32) -> None:
        """Wait until everything expected has come, and `quiet` cycles more for what must not come."""
        await self._met.wait()
        await ClockCycles(self._clock, quiet)

    def assert_full_rate(self) -> None:
        """From the first transfer to the last there was one in every cycle."""
        for index, (before, after) in enumerate(pairwise(self.cycles)):
            if after != before + 1:
                raise AssertionError(
                    f"{self.name}: {after - before - 1} bubbles between beats {index} and {index + 1}, "
                    f"full rate was expected"
                )

    def restart(self) -> None:
        """Forget a payload that waits for its transfer: call it when the device is reset in between."""
        self._held = None

    async def _run(self) -> None:
        ready = self._set_ready(None)
        while True:
            await RisingEdge(self._clock)
            if not self._valid.value:
                if self._held is not None:
                    raise AssertionError(f"{self.name}: valid fell before the transfer (cycle {cycle()})")
                await RisingEdge(self._valid)
                continue
            payload = 0 if self._payload is None else int(self._payload.value)
            if self._held is not None and payload != self._held:
                raise AssertionError(
                    f"{self.name}: payload went from {self._held:#x} to {payload:#x} before the transfer "
                    f"(cycle {cycle()})"
                )
            if ready:
                self._held = None
                self._take(payload)
            else:
                self._held = payload
            ready = self._set_ready(ready)

    def _set_ready(self, before: bool | None) -> bool:
        ready = not self._stalls.next() and not (self._ready_after_valid and self._held is None)
        if ready != before:
            self._ready.value = ready
        return ready

    def _take(self, payload: int) -> None:
        index = len(self.received)
        self.received.append(payload)
        self.cycles.append(cycle())
        if not self._check:
            return
        if not self._expected:
            raise AssertionError(f"{self.name}: extra beat {index} of {payload:#x} (cycle {cycle()})")
        wanted = self._expected.popleft()
        if payload != wanted:
            raise AssertionError(f"{self.name}: beat {index} is {payload:#x}, expected {wanted:#x}")
        if not self._expected:
            self._met.set()
