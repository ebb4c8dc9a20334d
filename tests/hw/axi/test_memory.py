# SPDX-License-Identifier: Apache-2.0
"""MemoryReader, MemoryWriter and the arbiters against AXI4 memories."""

import gc
import logging

import pytest
from cocotb.triggers import ClockCycles, with_timeout
from cocotbext.axi import AxiBus as AxiBusHandles
from cocotbext.axi import AxiRam

from hw.axi.agents import BEAT, AxiMemory, ReadPort, WritePort
from hw.host_bench import PORTS, TIMEOUT, blocks
from instinfer.hw.axi import MemoryBridge, MemoryReader, MemoryWriter, ReadArbiter, WriteArbiter
from instinfer.hw.axi.burst import BurstSplitter
from instinfer.hw.axi.commit_buffer import CommitBuffer
from support import rng, run_cocotb
from support.benches import bench, start

PAGE = 4096
SIZE = 1 << 16
HIGH = 0xFFFF_FFFF_0000_0000
"""Base address of the benches' own memories: all 64 bits take part."""


def content(seed: str, beats: int) -> bytes:
    return rng(seed).bytes(beats * BEAT)


def bridge_memory(dut, **options):
    dut.bridge__clear.value = 0
    return AxiMemory(dut, "bridge__bus", size=SIZE, max_beats=16, base=HIGH, **options)


@bench(cycles=60_000)
async def sweep_against_axi_ram(dut):
    """Every length up to three bursts at several distances from a 4 KiB edge, guard bytes around each."""
    dut.bridge__clear.value = 0
    generator = rng("sweep")
    ram = AxiRam(AxiBusHandles.from_prefix(dut, "bridge__bus_"), dut.clk, dut.rst, size=SIZE)
    for side in (ram.write_if, ram.read_if):
        side.log.setLevel(logging.WARNING)
    channels = (ram.write_if.aw_channel, ram.write_if.w_channel, ram.write_if.b_channel,
                ram.read_if.ar_channel, ram.read_if.r_channel)
    for channel in channels:
        pauses = (generator.random(997) < 0.25).tolist()
        channel.set_pause_generator(pause for _ in iter(int, 1) for pause in pauses)
    write = WritePort(dut, "bridge__write", idle=0.2, back_pressure=0.2)
    read = ReadPort(dut, "bridge__read", idle=0.2, back_pressure=0.2)
    await start(dut)
    expected = bytearray(generator.bytes(SIZE))
    ram.write(0, bytes(expected))
    cases = [(8 * PAGE - before * BEAT, beats)
             for before in (0, 1, 2, 15, 16, 17) for beats in (1, 2, 15, 16, 17, 31, 33, 47)]
    cases += [(PAGE - BEAT, 2 * PAGE // BEAT + 2)]
    for address, beats in cases:
        data = generator.bytes(beats * BEAT)
        strobes = [int(generator.integers(0, 1 << BEAT)) for _ in range(beats)]
        for n, strobe in enumerate(strobes):
            for lane in range(BEAT):
                if strobe >> lane & 1:
                    expected[address + n * BEAT + lane] = data[n * BEAT + lane]
        write.put(address, data, strobes=strobes)
        await write.response.finished(quiet=0)
        guard = slice(address - BEAT, address + (beats + 1) * BEAT)
        assert ram.read(guard.start, guard.stop - guard.start) == bytes(expected[guard])
        read.ask(guard.start, beats + 2, bytes(expected[guard]))
        await read.data.finished(quiet=0)
    await read.data.finished()
    assert ram.read(0, SIZE) == bytes(expected)


@bench(cycles=4_000)
async def reads_at_full_rate(dut):
    memory = bridge_memory(dut, latency=60)
    read = ReadPort(dut, "bridge__read")
    await start(dut)
    for page in range(4):
        read.ask(HIGH + page * PAGE, 128, memory.at(HIGH + page * PAGE, PAGE))
    await read.data.finished()
    read.data.assert_full_rate()
    assert len(memory.reads) == 32
    assert memory.deepest["r"] >= 5


@bench(cycles=4_000)
async def writes_at_full_rate(dut):
    memory = bridge_memory(dut, latency=60)
    write = WritePort(dut, "bridge__write")
    await start(dut)
    data = content("full rate", 512)
    for page in range(4):
        write.put(HIGH + page * PAGE, data[page * PAGE:(page + 1) * PAGE])
    await write.response.finished()
    cycles = memory.write_cycles
    assert cycles[-1] - cycles[0] == len(cycles) - 1 == 511, "one beat per cycle"
    assert memory.data[:4 * PAGE] == data
    assert memory.deepest["b"] >= 4


@bench(cycles=20_000)
async def reads_do_not_stall_the_bus(dut):
    """With nobody taking data, R is taken all the same; nothing more is asked for."""
    memory = bridge_memory(dut)
    read = ReadPort(dut, "bridge__read", back_pressure=0.98)
    await start(dut)
    read.ask(HIGH, 256, memory.at(HIGH, 256 * BEAT))
    await ClockCycles(dut.clk, 250)
    assert len(memory.read_cycles) in range(112, 129 + len(read.data.received))
    assert memory.read_cycles[111] - memory.read_cycles[0] == 111
    await read.data.finished()


@bench(cycles=20_000)
async def errors_are_told(dut):
    memory = bridge_memory(dut, stall=0.3)
    memory.bad = lambda address: address // PAGE == (HIGH + PAGE) // PAGE
    read = ReadPort(dut, "bridge__read", back_pressure=0.3)
    write = WritePort(dut, "bridge__write", back_pressure=0.3)
    await start(dut)
    before = bytes(memory.data)
    # The middle page fails: its beats are marked, the others are not.
    first = HIGH + PAGE - 4 * BEAT
    for n in range(136):
        failing = 4 <= n < 132
        address = first + n * BEAT
        value = int.from_bytes(memory.at(address), "little")
        read.data.expect(value | failing << 256 | (n == 135) << 257)
    read.request.send(first | 136 << 64)
    # One failing burst fails its request, not its neighbours.
    data = content("errors", 136)
    write.put(HIGH, data[:4 * BEAT])
    write.put(first, data, error=1)
    write.put(HIGH + 3 * PAGE, data[:4 * BEAT])
    await read.data.finished()
    await write.response.finished()
    expected = bytearray(before)
    expected[:4 * BEAT] = data[:4 * BEAT]
    expected[PAGE - 4 * BEAT:PAGE] = data[:4 * BEAT]
    expected[2 * PAGE:2 * PAGE + 4 * BEAT] = data[132 * BEAT:]
    expected[3 * PAGE:3 * PAGE + 4 * BEAT] = data[:4 * BEAT]
    assert memory.data == expected


@bench(cycles=60_000)
async def dead_buses_end_in_errors(dut):
    """Each channel dies in turn; requests before and after end with errors, later the bus is used again."""
    memory = bridge_memory(dut)
    read = ReadPort(dut, "bridge__read", back_pressure=0.2, check=False)
    write = WritePort(dut, "bridge__write", idle=0.1, back_pressure=0.2, check=False)
    await start(dut)
    data = content("dead", 100)
    for channel in ("ar", "r", "aw", "w", "b"):
        memory.dead = {channel}
        reads, writes = len(read.data.received), len(write.response.received)
        for _ in range(3):
            read.ask(HIGH + 8 * BEAT, 100)
            write.put(HIGH + 8 * PAGE, data)
        await read.request.drained()
        await write.data.drained()
        await ClockCycles(dut.clk, TIMEOUT + 1500)
        beats = read.data.received[reads:]
        assert len(beats) == 300
        assert [n for n, beat in enumerate(beats) if beat >> 257] == [99, 199, 299]
        assert len(write.response.received) == writes + 3
        if channel in ("ar", "r"):
            assert all(beat >> 256 & 1 for beat in beats[100:]), "the later reads fail"
        else:
            assert write.response.received[-2:] == [1, 1]
            assert not any(beat >> 256 & 1 for beat in beats), "reads do not share the writes' fate"
        assert dut.bridge__idle.value == 1
        memory.dead = set()
        await ClockCycles(dut.clk, 600)
        assert memory.owed == 0
        reads, writes = len(read.data.received), len(write.response.received)
        fresh = content(channel, 40)
        write.put(HIGH + 2 * PAGE, fresh)
        while len(write.response.received) == writes:
            await ClockCycles(dut.clk, 1)
        assert write.response.received[-1] == 0
        read.ask(HIGH + 2 * PAGE, 40)
        while len(read.data.received) < reads + 40:
            await ClockCycles(dut.clk, 1)
        got = b"".join((beat % (1 << 256)).to_bytes(BEAT, "little") for beat in read.data.received[reads:])
        assert got == fresh
        assert not any(beat >> 256 & 1 for beat in read.data.received[reads:])


@bench(cycles=60_000)
async def clear_leaves_the_bus_clean(dut):
    """The one who asks is reset at random moments: whole bursts only, and the next requests work."""
    generator = rng("clear")
    memory = bridge_memory(dut, stall=0.2)
    await start(dut)
    for round_ in range(25):
        memory.latency = int(generator.integers(1, 80))
        # A requester under reset: its signals go low when clear goes high, whatever is under way.
        asked = [(HIGH + int(generator.integers(0, 400)) * BEAT, int(generator.integers(1, 90)))
                 for _ in range(3)]
        dut.bridge__read__data__ready.value = int(generator.integers(0, 2))
        dut.bridge__write__response__ready.value = int(generator.integers(0, 2))
        dut.bridge__write__data__payload.value = int.from_bytes(generator.bytes(36), "little") % (1 << 288)
        for address, beats in asked:
            for side in ("read", "write"):
                getattr(dut, f"bridge__{side}__request__payload").value = address | beats << 64
                getattr(dut, f"bridge__{side}__request__valid").value = 1
            dut.bridge__write__data__valid.value = 1
            await ClockCycles(dut.clk, int(generator.integers(1, 90)))
        dut.bridge__clear.value = 1
        for side in ("read", "write"):
            getattr(dut, f"bridge__{side}__request__valid").value = 0
        dut.bridge__write__data__valid.value = 0
        await ClockCycles(dut.clk, 2)
        early = round_ % 3 == 0
        while not early and not dut.bridge__idle.value:
            await ClockCycles(dut.clk, 1)
        dut.bridge__clear.value = 0
        if early:  # clear too short: requests are answered with errors until the bus is clean
            await ClockCycles(dut.clk, 1)
            while not dut.bridge__idle.value:
                await ClockCycles(dut.clk, 1)
        await ClockCycles(dut.clk, 3)
        assert memory.owed == 0
        await one_transfer(dut, memory, HIGH + 12 * PAGE + round_ * BEAT, generator)


async def one_transfer(dut, memory, address, generator):
    """Write two beats and read them back, by hand."""
    data = generator.bytes(2 * BEAT)
    dut.bridge__write__request__payload.value = address | 2 << 64
    dut.bridge__write__request__valid.value = 1
    await ClockCycles(dut.clk, 1)
    while not dut.bridge__write__request__ready.value:
        await ClockCycles(dut.clk, 1)
    dut.bridge__write__request__valid.value = 0
    for part in (data[:BEAT], data[BEAT:]):
        dut.bridge__write__data__payload.value = int.from_bytes(part, "little") | ((1 << BEAT) - 1) << 256
        dut.bridge__write__data__valid.value = 1
        await ClockCycles(dut.clk, 1)
        while not dut.bridge__write__data__ready.value:
            await ClockCycles(dut.clk, 1)
    dut.bridge__write__data__valid.value = 0
    dut.bridge__write__response__ready.value = 1
    while not dut.bridge__write__response__valid.value:
        await ClockCycles(dut.clk, 1)
    assert dut.bridge__write__response__payload.value == 0
    await ClockCycles(dut.clk, 1)
    dut.bridge__write__response__ready.value = 0
    assert memory.at(address, 2 * BEAT) == data


@bench(cycles=60_000)
async def ports_share_a_memory(dut):
    """Random traffic of all ports, each in its own part of the memory."""
    memory = AxiMemory(dut, "shared__bus", size=SIZE, max_beats=64, base=HIGH, stall=0.15, latency=20)
    reads = [ReadPort(dut, f"shared__read_{n}", idle=0.3, back_pressure=0.1 * n) for n in range(PORTS)]
    writes = [WritePort(dut, f"shared__write_{n}", idle=0.2 * n, back_pressure=0.2) for n in range(PORTS)]
    generator = rng("sharing")
    await start(dut)
    expected = bytearray(memory.data)
    half = SIZE // 2 // BEAT
    for _ in range(25):
        for n in range(PORTS):
            beats = int(generator.choice([1, 1, 2, 7, 64, 100]))
            at = int(generator.integers(0, half - beats))
            reads[n].ask(HIGH + at * BEAT, beats, memory.at(HIGH + at * BEAT, beats * BEAT))
            beats = int(generator.choice([1, 1, 2, 7, 64, 100]))
            part = half // PORTS
            at = half + n * part + int(generator.integers(0, part - beats))
            data = generator.bytes(beats * BEAT)
            expected[at * BEAT:(at + beats) * BEAT] = data
            writes[n].put(HIGH + at * BEAT, data)
    for port in reads:
        await port.data.finished()
    for port in writes:
        await port.response.finished()
    assert memory.data == expected


@bench(cycles=8_000)
async def ports_take_turns_at_full_rate(dut):
    memory = AxiMemory(dut, "shared__bus", size=SIZE, max_beats=64, base=HIGH)
    reads = [ReadPort(dut, f"shared__read_{n}") for n in range(PORTS)]
    writes = [WritePort(dut, f"shared__write_{n}") for n in range(PORTS)]
    await start(dut)
    for turn in range(8):
        for n in range(PORTS):
            at = HIGH + (PORTS * turn + n) * 16 * BEAT
            reads[n].ask(at, 16, memory.at(at, 16 * BEAT))
            writes[n].put(HIGH + SIZE // 2 + (PORTS * turn + n) * 16 * BEAT, content(f"{turn} {n}", 16))
    for port in reads:
        await port.data.finished()
    for port in writes:
        await port.response.finished()
    for cycles in (memory.read_cycles, memory.write_cycles):
        assert cycles[-1] - cycles[0] == len(cycles) - 1 == 8 * PORTS * 16 - 1, "one beat per cycle in all"
    owners = [(address - HIGH) // (16 * BEAT) % PORTS for address, _ in memory.reads]
    assert all(owners[n] != owners[n + 1] for n in range(len(owners) - 1)), "no port twice while others wait"


@bench(cycles=20_000)
async def bytes_are_counted(dut):
    memory = bridge_memory(dut, stall=0.2)
    read = ReadPort(dut, "bridge__read")
    write = WritePort(dut, "bridge__write")
    await start(dut)
    counts = {"read": 0, "write": 0}
    strobes = [int(rng("strobes").integers(0, 1 << BEAT)) for _ in range(40)]
    read.ask(HIGH, 40, memory.at(HIGH, 40 * BEAT))
    write.put(HIGH + PAGE, content("bytes", 40), strobes=strobes)
    for _ in range(400):
        await ClockCycles(dut.clk, 1)
        for side in counts:
            counts[side] += int(getattr(dut, f"bridge__{side}_bytes").value)
    await with_timeout(write.response.finished(), 10_000, "ns")
    assert counts == {"read": 40 * BEAT, "write": sum(map(int.bit_count, strobes))}


def test_memory_ports():
    """All benches in one simulation."""
    assert len(run_cocotb(blocks(), __file__, name="host_blocks")) == 10


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
@pytest.mark.parametrize(("make", "message"), [
    (lambda: MemoryReader(timeout_cycles=100, burst_beats=128), "burst_beats = 128"),
    (lambda: MemoryWriter(timeout_cycles=100, outstanding=4), "outstanding = 4"),
    (lambda: MemoryBridge(timeout_cycles=3), "timeout_cycles = 3"),
    (lambda: BurstSplitter(burst_beats=8), "burst_beats = 8"),
    (lambda: ReadArbiter(ports=0), "ports = 0"),
    (lambda: WriteArbiter(ports=2, in_flight=2), "in_flight = 2"),
    (lambda: CommitBuffer(shape=8, depth=12), "depth 12"),
])
def test_parameters_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()
    gc.collect()  # the half-made component's warning belongs here
