# SPDX-License-Identifier: Apache-2.0
"""Both ends of a memory port in benches: an AXI4 memory that can be slow, refuse or die, and port drivers."""

from collections import deque
from collections.abc import Callable
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from support.benches import cycle
from support.seeds import rng
from support.streams import StreamSink, StreamSource

BEAT = 32
OKAY, SLVERR = 0, 2


class AxiMemory:
    """An AXI4 subordinate at one beat per cycle and channel; checks what a manager must keep.

    Attributes (may be changed at any time)
    ----------
    latency : cycles from an accepted burst to its first beat or response
    stall : probability of a pause, per channel and cycle
    dead : names of channels that do nothing ("ar", "r", "aw", "w", "b")
    bad : says of a burst's address that it answers SLVERR
    """

    def __init__(self, dut: Any, prefix: str, *, size: int, max_beats: int, base: int = 0,
                 latency: int = 8, stall: float = 0.0):
        self.data = bytearray(rng(f"memory {prefix}").bytes(size))
        self.base = base
        self.latency, self.stall = latency, stall
        self.dead: set[str] = set()
        self.bad: Callable[[int], bool] = lambda address: False
        self.max_beats = max_beats
        self.reads: list[tuple[int, int]] = []
        self.writes: list[tuple[int, int]] = []
        self.read_cycles: list[int] = []
        self.write_cycles: list[int] = []
        self.deepest = {"r": 0, "b": 0}
        """Most bursts that were owed at once."""
        self._dut, self._prefix, self._rng = dut, prefix, rng(f"stalls {prefix}")
        self._r: deque[tuple[int, int, int, int]] = deque()
        self._aw: deque[tuple[int, int]] = deque()
        self._w: deque[tuple[int, int, int]] = deque()
        self._b: deque[tuple[int, int]] = deque()
        self._owed = {"r": 0, "b": 0}
        self._held: dict[str, tuple[int, ...]] = {}
        for name in ("arready", "rvalid", "rid", "rlast", "rresp", "rdata", "awready", "wready", "bvalid",
                     "bid", "bresp"):
            self._signal(name).value = 0
        cocotb.start_soon(self._run())

    @property
    def owed(self) -> int:
        return self._owed["r"] + self._owed["b"]

    def _signal(self, name: str) -> Any:
        return getattr(self._dut, f"{self._prefix}__{name}")

    def _moves(self, channel: str) -> bool:
        return channel not in self.dead and (self.stall == 0 or self._rng.random() >= self.stall)

    def _accept(self, channel: str, ready: bool, names: tuple[str, ...]) -> tuple[int, ...] | None:
        """The payload if it is transferred now; a payload on offer may not change or vanish."""
        if not self._signal(f"{channel}valid").value:
            assert channel not in self._held, f"{self._prefix}: {channel}valid fell before its transfer"
            return None
        payload = tuple(int(self._signal(name).value) for name in names)
        assert self._held.get(channel, payload) == payload, f"{self._prefix}: {channel} changed"
        if ready:
            self._held.pop(channel, None)
            return payload
        self._held[channel] = payload
        return None

    def _check_burst(self, payload: tuple[int, ...]) -> tuple[int, int]:
        address, length, size, burst = payload
        beats = length + 1
        assert size == 5, f"size {size}"
        assert burst == 1, f"burst {burst}"
        assert beats <= self.max_beats, f"{beats} beats, at most {self.max_beats} were asked for"
        assert address % BEAT == 0, f"address {address:#x}"
        end = address + beats * BEAT - 1
        assert address // 4096 == end // 4096, f"{address:#x} + {beats} crosses 4 KiB"
        return address, beats

    def at(self, address: int, count: int = BEAT) -> bytes:
        offset = address - self.base
        return bytes(self.data[offset:offset + count])

    async def _run(self) -> None:
        ready = dict.fromkeys(("ar", "aw", "w"), False)
        r_now = b_now = False
        while True:
            await RisingEdge(self._dut.clk)
            now = cycle()
            if (got := self._accept("ar", ready["ar"], ("araddr", "arlen", "arsize", "arburst"))) is not None:
                self._take_read(*self._check_burst(got), now)
            if (got := self._accept("aw", ready["aw"], ("awaddr", "awlen", "awsize", "awburst"))) is not None:
                address, beats = self._check_burst(got)
                self.writes.append((address, beats))
                self._aw.append((address, beats))
                self._owed["b"] += 1
            if (got := self._accept("w", ready["w"], ("wdata", "wstrb", "wlast"))) is not None:
                self._w.append((got[0], got[1], got[2]))
                self.write_cycles.append(now)
            self._store(now)
            for channel in self.deepest:
                self.deepest[channel] = max(self.deepest[channel], self._owed[channel])
            if r_now and self._signal("rready").value:
                r_now = False
                self.read_cycles.append(now)
                self._owed["r"] -= int(self._signal("rlast").value)
            if b_now and self._signal("bready").value:
                b_now = False
                self._owed["b"] -= 1
            for channel in ready:
                moves = self._moves(channel)
                if moves != ready[channel]:
                    ready[channel] = moves
                    self._signal(f"{channel}ready").value = moves
            if not r_now:
                r_now = bool(self._r) and self._r[0][0] <= now and self._moves("r")
                if r_now:
                    _, data, resp, last = self._r.popleft()
                    self._signal("rdata").value = data
                    self._signal("rresp").value = resp
                    self._signal("rlast").value = last
                self._signal("rvalid").value = r_now
            if not b_now:
                b_now = bool(self._b) and self._b[0][0] <= now and self._moves("b")
                if b_now:
                    self._signal("bresp").value = self._b.popleft()[1]
                self._signal("bvalid").value = b_now

    def _take_read(self, address: int, beats: int, now: int) -> None:
        self.reads.append((address, beats))
        self._owed["r"] += 1
        resp = SLVERR if self.bad(address) else OKAY
        for n in range(beats):
            value = int.from_bytes(self.at(address + n * BEAT), "little")
            self._r.append((now + self.latency, value, resp, int(n == beats - 1)))

    def _store(self, now: int) -> None:
        """Bursts whose data are complete reach the memory."""
        while self._aw and len(self._w) >= self._aw[0][1]:
            address, beats = self._aw.popleft()
            bad = self.bad(address)
            for n in range(beats):
                data, strobe, last = self._w.popleft()
                assert last == (n == beats - 1), f"wlast {last} on beat {n} of {beats}"
                for lane, byte in enumerate(data.to_bytes(BEAT, "little")):
                    if strobe >> lane & 1 and not bad:
                        self.data[address - self.base + n * BEAT + lane] = byte
            self._b.append((now + self.latency, SLVERR if bad else OKAY))


def read_request(address: int, beats: int) -> int:
    return address | beats << 64


def data_beat(data: bytes, *, error: int = 0, last: int = 0) -> int:
    return int.from_bytes(data, "little") | error << 256 | last << 257


def write_beat(data: bytes, *, strobe: int = (1 << BEAT) - 1, last: int = 0) -> int:
    return int.from_bytes(data, "little") | strobe << 256 | last << 288


class ReadPort:
    """Asks a memory port for data and checks what comes."""

    def __init__(self, dut: Any, name: str, *, idle: float = 0.0, back_pressure: float = 0.0,
                 check: bool = True):
        self.request = StreamSource(dut, f"{name}__request", idle=idle)
        self.data = StreamSink(dut, f"{name}__data", back_pressure=back_pressure, check=check)

    def ask(self, address: int, beats: int, content: bytes = b"", *, error: int = 0) -> None:
        for n in range(beats if content else 0):
            part = content[n * BEAT:(n + 1) * BEAT]
            self.data.expect(data_beat(part, error=error, last=int(n == beats - 1)))
        self.request.send(read_request(address, beats))


class WritePort:
    """Writes through a memory port and checks the responses."""

    def __init__(self, dut: Any, name: str, *, idle: float = 0.0, back_pressure: float = 0.0,
                 check: bool = True):
        self.request = StreamSource(dut, f"{name}__request", idle=idle)
        self.data = StreamSource(dut, f"{name}__data", idle=idle)
        self.response = StreamSink(dut, f"{name}__response", back_pressure=back_pressure, check=check)

    def put(self, address: int, content: bytes, *, strobes: list[int] | None = None, error: int = 0) -> None:
        """Queue one request. The data may run ahead of it here: the port counts beats."""
        beats = len(content) // BEAT
        self.request.send(read_request(address, beats))
        for n in range(beats):
            strobe = (1 << BEAT) - 1 if strobes is None else strobes[n]
            part = content[n * BEAT:(n + 1) * BEAT]
            self.data.send(write_beat(part, strobe=strobe, last=int(n == beats - 1)))
        self.response.expect(error)
