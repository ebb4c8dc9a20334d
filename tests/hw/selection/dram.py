# SPDX-License-Identifier: Apache-2.0
"""Device DRAM behind a read port and a write port, for cocotb benches."""

import cocotb
from cocotb.triggers import RisingEdge

from instinfer.hw.signatures import (
    AXI_BYTES,
    MEMORY_READ_DATA,
    MEMORY_READ_REQUEST,
    MEMORY_WRITE_DATA,
    MEMORY_WRITE_REQUEST,
    MEMORY_WRITE_RESPONSE,
)
from support.seeds import rng
from support.streams import StreamSink, StreamSource


class Dram:
    """Answers `delay` cycles after a request and up to ``jitter`` more. What is written can be read when the
    write has been answered, not before; what was never written is noise.

    Args:
        source, target: names of the read and of the write port.
    """

    def __init__(self, dut, source: str, target: str, *, delay: int = 40, jitter: int = 0, idle: float = 0.0,
                 back_pressure: float = 0.0):
        self._clock = dut.clk
        self._delay, self._jitter = delay, jitter
        self._random = rng(f"DRAM {source} {delay} {idle}")
        self.words: dict[int, int] = {}
        self.lost_writes, self.lost_reads = 0, 0
        """So many requests from now on are refused."""
        self.reads = StreamSink(dut, f"{source}__request", check=False, back_pressure=back_pressure)
        self.data = StreamSource(dut, f"{source}__data", idle=idle)
        self.writes = StreamSink(dut, f"{target}__request", check=False, back_pressure=back_pressure)
        self.beats = StreamSink(dut, f"{target}__data", check=False, back_pressure=back_pressure)
        self.responses = StreamSource(dut, f"{target}__response", idle=idle)
        cocotb.start_soon(self._serve_reads())
        cocotb.start_soon(self._serve_writes())

    async def _pause(self) -> None:
        for _ in range(self._delay + int(self._random.integers(0, self._jitter + 1))):
            await RisingEdge(self._clock)

    async def _serve_reads(self) -> None:
        served, before = 0, None
        while True:
            await RisingEdge(self._clock)
            for payload in self.reads.received[served:]:
                served += 1
                request = MEMORY_READ_REQUEST.from_bits(payload)
                first = int(request.address) // AXI_BYTES
                assert request.beats
                assert not request.address % AXI_BYTES
                refused, self.lost_reads = self.lost_reads > 0, max(0, self.lost_reads - 1)
                beats = []
                for index in range(request.beats):
                    noise = int.from_bytes(self._random.bytes(AXI_BYTES), "little")
                    beats.append(MEMORY_READ_DATA.const({
                        "data": noise if refused else self.words.get(first + index, noise),
                        "error": int(refused), "last": int(index == request.beats - 1)}).as_bits())
                before = cocotb.start_soon(self._answer(self.data, beats, before))

    async def _serve_writes(self) -> None:
        served, taken, before = 0, 0, None
        while True:
            await RisingEdge(self._clock)
            for payload in self.writes.received[served:]:
                request = MEMORY_WRITE_REQUEST.from_bits(payload)
                beats = self.beats.received[taken:taken + request.beats]
                if len(beats) < request.beats:
                    break
                served, taken = served + 1, taken + request.beats
                words = [MEMORY_WRITE_DATA.from_bits(beat) for beat in beats]
                assert [word.last for word in words] == [0] * (len(words) - 1) + [1]
                before = cocotb.start_soon(self._write(int(request.address) // AXI_BYTES, words, before))

    async def _write(self, first: int, words: list, before) -> None:
        refused, self.lost_writes = self.lost_writes > 0, max(0, self.lost_writes - 1)
        await self._pause()
        if before is not None:
            await before
        for index, word in enumerate(words):
            mask = sum(0xFF << 8 * byte for byte in range(AXI_BYTES) if word.strobe >> byte & 1)
            if mask and not refused:
                old = self.words.get(first + index, int.from_bytes(self._random.bytes(AXI_BYTES), "little"))
                self.words[first + index] = old & ~mask | int(word.data) & mask
        self.responses.send(MEMORY_WRITE_RESPONSE.const({"error": int(refused)}).as_bits())

    async def _answer(self, target: StreamSource, beats: list[int], before) -> None:
        await self._pause()
        if before is not None:
            await before
        target.send(*beats)

    def forget(self) -> None:
        self.words.clear()
