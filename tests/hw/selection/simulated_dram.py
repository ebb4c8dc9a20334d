# SPDX-License-Identifier: Apache-2.0
"""Device DRAM behind ``source`` and ``target`` of a component, in Amaranth's simulator."""

from collections import deque
from typing import Any

import numpy as np

from instinfer.hw.signatures import AXI_BYTES

LINE_BEATS = 8


class Memory:
    """DRAM that answers after a while, with pauses; what was written shows when the write is answered."""

    def __init__(self, dut: Any, random: np.random.Generator, noise: float) -> None:
        self.dut, self.random, self.noise = dut, random, noise
        self.words: dict[int, int] = {}
        self.lost = False
        """Whatever is asked for from now on is refused."""
        self.reads = self.writes = self.cycle = 0
        self._data: deque[tuple[int, int, bool, bool]] = deque()
        self._requests: deque[tuple[int, bool]] = deque()
        self._beats: list[tuple[int, int]] = []
        self._answers: deque[tuple[int, int, list[tuple[int, int]], bool]] = deque()
        self._shown = [False, False]

    def _goes(self) -> bool:
        return self.noise == 0 or self.random.random() >= self.noise

    def drive(self, ctx: Any) -> None:
        """What the block sees in this cycle; what was offered stays."""
        source, target = self.dut.source, self.dut.target
        for port in (source.request, target.request, target.data):
            ctx.set(port.ready, self._goes())
        for index, (queue, port) in enumerate(((self._data, source.data), (self._answers, target.response))):
            due = bool(queue) and queue[0][0] <= self.cycle
            self._shown[index] = due and (self._shown[index] or self._goes())
            ctx.set(port.valid, self._shown[index])
        if self._shown[0]:
            _, word, last, error = self._data[0]
            for name, value in (("data", word), ("last", last), ("error", error)):
                ctx.set(source.data.payload[name], value)
        if self._shown[1]:
            ctx.set(target.response.payload.error, self._answers[0][3])

    def look(self, ctx: Any) -> None:
        """What moves at the end of this cycle."""
        def moves(port: Any) -> bool:
            return bool(ctx.get(port.valid) and ctx.get(port.ready))

        source, target = self.dut.source, self.dut.target
        self.cycle += 1
        if moves(source.data):
            self._data.popleft()
            self._shown[0] = False
        if moves(target.response):
            _, first, beats, lost = self._answers.popleft()
            self._shown[1] = False
            for index, (word, strobe) in enumerate(beats):
                mask = sum(0xFF << 8 * byte for byte in range(AXI_BYTES) if strobe >> byte & 1)
                if not lost:
                    self.words[first + index] = self.words.get(first + index, 0) & ~mask | word & mask
        if moves(source.request):
            first, beats = (ctx.get(source.request.payload[name]) for name in ("address", "beats"))
            self.reads += 1
            for index in range(beats):
                word = self.words.get(first // AXI_BYTES + index, int(self.random.integers(1 << 62)))
                self._data.append((self.cycle + 30, word, index == beats - 1, self.lost))
        if moves(target.request):
            self.writes += 1
            self._requests.append((ctx.get(target.request.payload.address) // AXI_BYTES, self.lost))
            assert ctx.get(target.request.payload.beats) == LINE_BEATS
        if moves(target.data):
            self._beats.append((ctx.get(target.data.payload.data), ctx.get(target.data.payload.strobe)))
            assert ctx.get(target.data.payload.last) == (len(self._beats) == LINE_BEATS)
            if len(self._beats) == LINE_BEATS:
                first, lost = self._requests.popleft()
                self._answers.append((self.cycle + 40, first, self._beats, lost))
                self._beats = []
