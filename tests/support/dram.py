# SPDX-License-Identifier: Apache-2.0
"""A device DRAM for blocks in Amaranth's simulator: serves memory ports, with latency and random stalls."""

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

BEAT = 32


class SimulatedDram:
    """Bytes behind memory ports.

    Args:
        size: bytes; random: decides where it stalls; stall: the chance of that in any cycle, on each wire;
        latency: cycles from a request to its first beat, and from the last beat to the response.
    """

    def __init__(self, size: int, random: np.random.Generator, *, stall: float = 0.0, latency: int = 12):
        self.bytes = np.zeros(size, np.uint8)
        self.refused: set[int] = set()
        """Addresses of beats that are answered with an error."""
        self._random, self._stall, self._latency = random, stall, latency

    def reads(self, port: Any) -> Callable[[Any], Any]:
        """A process that answers the requests of a read port, in order."""
        async def process(ctx: Any) -> None:
            await self._serve_reads(ctx, port)
        return process

    def writes(self, port: Any) -> Callable[[Any], Any]:
        """A process that takes the writes of a write port."""
        async def process(ctx: Any) -> None:
            await self._serve_writes(ctx, port)
        return process

    def _goes(self) -> bool:
        return self._stall == 0 or bool(self._random.random() >= self._stall)

    @staticmethod
    def _check(address: int, beats: int) -> None:
        assert address % BEAT == 0, address
        assert beats > 0

    async def _serve_reads(self, ctx: Any, port: Any) -> None:
        request, data = port.request, port.data
        waiting: deque[tuple[int, int, int]] = deque()
        now, offering = 0, False
        async for sample in ctx.tick().sample(request.valid & request.ready, request.payload.address,
                                              request.payload.beats, data.valid & data.ready):
            asked, address, beats, taken = sample[2:]
            now += 1
            if asked:
                self._check(address, beats)
                waiting += [(now + self._latency, address + BEAT * index, int(index == beats - 1))
                            for index in range(beats)]
            offering = offering and not taken
            if not offering and waiting and waiting[0][0] <= now and self._goes():
                offering = True
                _, at, last = waiting.popleft()
                ctx.set(data.payload.data, int.from_bytes(self.bytes[at:at + BEAT].tobytes(), "little"))
                ctx.set(data.payload.error, at in self.refused)
                ctx.set(data.payload.last, last)
            ctx.set(data.valid, offering)
            ctx.set(request.ready, self._goes())

    async def _serve_writes(self, ctx: Any, port: Any) -> None:
        request, data, response = port.request, port.data, port.response
        writes: deque[list[int]] = deque()
        answers: deque[tuple[int, int]] = deque()
        now, answering = 0, False
        async for sample in ctx.tick().sample(
                request.valid & request.ready, request.payload.address, request.payload.beats,
                data.valid & data.ready, data.payload.data, data.payload.strobe, data.payload.last,
                response.valid & response.ready):
            asked, address, beats, moved, word, strobe, last, answered = sample[2:]
            now += 1
            if asked:
                self._check(address, beats)
                writes.append([address, beats, 0])
            if moved:
                assert writes, "data before their request"
                at, left, error = writes[0]
                some = np.unpackbits(np.array([strobe], "<u4").view(np.uint8), bitorder="little") == 1
                self.bytes[at:at + BEAT][some] = np.frombuffer(
                    int(word).to_bytes(BEAT, "little"), np.uint8)[some]
                assert last == (left == 1), "last"
                writes[0] = [at + BEAT, left - 1, error or int(at in self.refused)]
                if left == 1:
                    answers.append((now + self._latency, writes.popleft()[2]))
            answering = answering and not answered
            if not answering and answers and answers[0][0] <= now and self._goes():
                ctx.set(response.payload.error, answers.popleft()[1])
                answering = True
            ctx.set(response.valid, answering)
            ctx.set(request.ready, self._goes())
            ctx.set(data.ready, self._goes())
