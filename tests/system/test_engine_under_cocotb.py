# SPDX-License-Identifier: Apache-2.0
"""The whole engine at the size of ``tiny`` under cocotb: the shipping driver over cocotbext-axi memories.

The native harness (the rest of tests/system) is fast; here every channel of both memories can pause at
random, another AXI implementation answers, and its checks of bursts apply.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from host import test_bad_input, test_left_out
from host.test_bad_input import Stored
from host.test_left_out import DENSE_ALONE
from instinfer.abi import arith
from instinfer.abi.arith import F16
from instinfer.abi.commands import CQE_BYTES, NAMESPACE, AdminOpcode, Opcode
from instinfer.abi.presets import presets
from instinfer.abi.registers import Fault, Register
from instinfer.cosim.cocotb_bus import CocotbTransport, cocotb_sources
from instinfer.cosim.cocotb_bus.sources import TOP
from instinfer.cosim.coverage import collect
from instinfer.host import Csd, DeviceFault, DeviceReset, TransportError, open_csd
from instinfer.host.queue_pair import QueuePair
from support import recorder, rng, run_cocotb
from support.benches import bench, parameters
from support.kv import assert_same_bits, exact_attention, random_half

CONFIG = dataclasses.replace(presets()["tiny"], queries=2, **DENSE_ALONE)
"""Two queries a pass, so that four replay each page; without the logic of policies, too, half of a build."""
WHOLE = presets()["tiny"]
TIMEOUT_US = 500
"""Of a command: the longest here takes a tenth."""
PAGE = 4096
EDGES = (64, 256, 512, 960, 1024)
"""Bytes between a buffer's start and the next 4 KiB edge."""


async def driven(dut: Any, program: Callable[[Csd, CocotbTransport], None], *, pauses: float = 0.0) -> None:
    """Run `program` on a new drive whose DRAM holds noise; what nobody was given stays as it was."""
    recorder.install()
    device = CocotbTransport(dut, WHOLE if parameters()["policies"] else CONFIG)
    noise = rng("device DRAM").integers(0, 256, CONFIG.dram_bytes, np.uint8)
    device.dram_data[:] = noise
    await device.start()
    device.pause(pauses, rng("pauses"))

    def whole() -> None:
        with Csd(device, erased=True, timeout_us=TIMEOUT_US, arena_bytes=1 << 16) as csd:
            program(csd, device)
            taken = sum(cache.map_bytes * len(cache.sequences) for cache in csd.caches)
            end = CONFIG.buffers_bytes + -(-taken // 4096) * 4096
            assert (device.dram_data[end:] == noise[end:]).all(), "a store outside stripe buffers and maps"

    await device.run(whole)


def decode(csd: Csd, *, prompt: int = 75, steps: int = 3) -> tuple[list[F16], dict[str, int]]:
    """Outputs of a short decode, each held against the arithmetic, and what the counters counted."""
    random = rng("decode")
    heads, queries, dims = 2, 4, 64
    cache = csd.kv_cache(layers=2, kv_heads=heads, query_heads=heads * queries, head_dim=dims, max_tokens=128)
    sequence = cache.new_sequence()
    k, v = (random_half(random, (prompt + steps, heads, dims)) for _ in range(2))
    q = random_half(random, (steps, heads * queries, dims), 3)
    sequence.write(1, k[:prompt], v[:prompt])
    outputs = []
    for step in range(steps):
        now = prompt + step + 1
        outputs.append(sequence.attend(1, q[step], append=(k[now - 1], v[now - 1])))
        assert_same_bits(outputs[-1], exact_attention(CONFIG, q[step], k[:now], v[:now]))
    counters = csd.counters()
    names = ("commands", "errors", "stripes_programmed", "stripes_sensed", "slots_moved", "rows_wanted",
             "tail_beats")
    return outputs, {name: counters[name] for name in names}


def decode_like_the_model(csd: Csd, device: CocotbTransport) -> None:
    outputs, counted = decode(csd)
    with open_csd("model:tiny", config=csd.config, erased=True, arena_bytes=1 << 16) as model:
        expected, expected_counts = decode(model)
    for found, wanted in zip(outputs, expected, strict=True):
        assert_same_bits(found, wanted)
    assert counted == expected_counts
    assert counted["stripes_sensed"] > 0
    assert counted["tail_beats"] > 0


@bench(cycles=100_000)
async def attends(dut: Any) -> None:
    await driven(dut, decode_like_the_model)


@bench(cycles=100_000)
async def attends_under_back_pressure(dut: Any) -> None:
    await driven(dut, decode_like_the_model, pauses=0.5)


class Laid:
    """A sequence whose commands name buffers at chosen distances from 4 KiB edges; all else is guarded."""

    HEADS, QUERIES, DIMS, TOKENS = 2, 4, 64, 33

    def __init__(self, csd: Csd) -> None:
        self.csd = csd
        self.random = rng("edges")
        self.cache = csd.kv_cache(layers=len(EDGES), kv_heads=self.HEADS, max_tokens=128,
                                  query_heads=self.HEADS * self.QUERIES, head_dim=self.DIMS)
        self.sequence = self.cache.new_sequence()
        self.arena = csd.memory.allocate(12 * PAGE)
        self.base = -(-self.arena.address // PAGE) * PAGE
        self.entries = csd.queues[0].completions.data.reshape(-1, CQE_BYTES)
        self.entries[:] = self.random.integers(0, 256, self.entries.shape, np.uint8)
        self.entries.view(np.uint32)[:, 3] &= ~np.uint32(1 << 16)  # no entry's phase bit has come
        self.ended = 0

    def buffer(self, page: int, before: int, size: int) -> tuple[int, slice]:
        """Bus address of `size` bytes that start `before` bytes ahead of an edge, and where they lie."""
        address = self.base + page * PAGE - before
        start = address - self.arena.address
        return address, slice(start, start + size)

    def command(self, opcode: Opcode, written: slice | None, **fields: int) -> None:
        """Send a command; of arena and completion queue, only what it may write changes."""
        before, entries = self.arena.data.copy(), self.entries.copy()
        self.csd.io_command(opcode, sequence=self.sequence.number, generation=self.sequence.generation,
                            heads=self.HEADS, **fields)
        changed = self.arena.data != before
        if written is not None:
            assert changed[written].any()
            changed[written] = False
        assert not changed.any(), f"guard bytes at {np.flatnonzero(changed)[:8].tolist()} changed"
        touched = np.flatnonzero((self.entries != entries).any(axis=1)).tolist()
        assert touched == [self.ended], "a completion touches one entry of its queue"
        self.ended += 1


def edges(csd: Csd, device: CocotbTransport) -> None:
    laid = Laid(csd)
    data, random = laid.arena.data, laid.random
    rows, queries = (laid.TOKENS, laid.HEADS, laid.DIMS), (laid.HEADS * laid.QUERIES, laid.DIMS)
    size = 2 * laid.HEADS * laid.QUERIES * laid.DIMS
    scale2 = int(np.array([arith.scale2_of(laid.DIMS ** -0.5)]).view(np.uint32)[0])
    for layer, before in enumerate(EDGES):
        data[:] = random.integers(0, 256, data.size, np.uint8)
        k, v = (random_half(random, rows) for _ in range(2))
        q = random_half(random, queries, 3)
        # K, V, then q and out: the distance to the edge differs, and none is aligned like another.
        k_address, k_place = laid.buffer(2, before, k.nbytes)
        v_address, v_place = laid.buffer(6, EDGES[layer - 1], v.nbytes)
        q_address, q_place = laid.buffer(9, EDGES[layer - 2], size)
        out_address, out_place = laid.buffer(10, before, size)
        for place, array in ((k_place, k), (v_place, v), (q_place, q)):
            data[place] = array.reshape(-1).view(np.uint8)
        laid.command(Opcode.KV_WRITE, None, layer=layer, prp1=k_address, prp2=v_address, tokens=laid.TOKENS)
        laid.command(Opcode.ATTEND, out_place, layer=layer, prp1=q_address, scale2=scale2,
                     out_offset=(out_address - q_address) // 64)
        assert_same_bits(data[out_place].view(np.float16).reshape(queries), exact_attention(CONFIG, q, k, v))


@bench(cycles=200_000)
async def crosses_edges_between_guard_bytes(dut: Any) -> None:
    await driven(dut, edges, pauses=0.25)


def errors(csd: Csd, device: CocotbTransport) -> None:
    """SLVERR on q, K, V and on the output ends that command; on a queue's own memory it stops the queue."""
    stored = Stored(csd)
    test_bad_input.test_host_memory_errors(stored, device.faults)
    stored.check()
    for ring, fault in (("submissions", Fault.SQ_READ), ("completions", Fault.CQ_WRITE)):
        buffer = getattr(csd.queues[0], ring)
        device.faults.fail_host_memory(address=buffer.address, size=buffer.size)
        pending = stored.sequence.attend_async(0, stored.q)
        assert device.wait(lambda: bool(device.bar_read32(Register.CSTS) & 2), TIMEOUT_US)
        with pytest.raises(DeviceFault, match=fault.name):
            pending.result(timeout_us=1)
        device.faults.fail_host_memory(address=0, size=0)
        csd.reset()
        stored = Stored(csd)
        stored.check()


@bench(cycles=300_000)
async def error_responses_end_the_command(dut: Any) -> None:
    await driven(dut, errors, pauses=0.1)


def resets(csd: Csd, device: CocotbTransport) -> None:
    """CC.EN = 0 at random moments of writes and attentions; afterwards the drive is as new."""
    random = rng("moments")
    test_bad_input.test_reset_with_commands_under_way(stored := Stored(csd))
    for _ in range(4):
        pending = [stored.sequence.attend_async(0, stored.q),
                   stored.sequence.write_async(1, stored.k, stored.v),
                   stored.sequence.attend_async(0, stored.q)]
        device.pass_cycles(int(random.integers(20, 3000)))
        csd.reset()
        with pytest.raises(DeviceReset):
            pending[-1].result()
        stored = Stored(csd)
        stored.check()


@bench(cycles=300_000)
async def reset_in_the_middle(dut: Any) -> None:
    await driven(dut, resets, pauses=0.2)


def interrupts(csd: Csd, device: CocotbTransport) -> None:
    """A queue that was created with its interrupt: up with the entry, masked and unmasked, down when read."""
    stored = Stored(csd)
    assert not device.interrupt
    queue = QueuePair(device, 2, 8, TIMEOUT_US)
    csd.admin_command(AdminOpcode.CREATE_CQ, cdw10=7 << 16 | 2, cdw11=2, prp1=queue.completions.address)
    csd.admin_command(AdminOpcode.CREATE_SQ, cdw10=7 << 16 | 2, cdw11=2 << 16, prp1=queue.submissions.address)
    device.pass_cycles(16)  # the head doorbell of the admin queue, which has an interrupt, too
    for _ in range(2):
        command = queue.submit(Opcode.ATTEND, {"nsid": NAMESPACE, **stored.fields()})
        assert not device.interrupt
        assert device.wait(lambda: device.interrupt, TIMEOUT_US)
        device.bar_write32(Register.INTMS, 1)
        device.pass_cycles(4)
        assert not device.interrupt
        device.bar_write32(Register.INTMC, 1)
        device.pass_cycles(4)
        assert device.interrupt
        assert not command.done
        assert queue.poll() == 1
        assert command.done
        device.pass_cycles(16)
        assert not device.interrupt
    stored.check()
    assert not device.interrupt, "the driver's own queue has none"


@bench(cycles=60_000)
async def interrupt_rises_and_falls(dut: Any) -> None:
    await driven(dut, interrupts)


def refusals(csd: Csd, device: CocotbTransport) -> None:
    """What the transport itself refuses says so."""
    with pytest.raises(TransportError, match="SLVERR"):
        device.bar_read32(2)
    with pytest.raises(TransportError, match="cannot be saved"):
        csd.save("nowhere")
    with pytest.raises(ValueError, match="probability 1"):
        device.pause(1, rng("pauses"))
    assert csd.transport.saved_tables() is None


@bench(cycles=100_000)
async def policies_left_out(dut: Any) -> None:
    """Where policies were left out, the hardware itself refuses what needs them."""
    assert not parameters()["policies"]
    await driven(dut, lambda csd, device: test_left_out.test_policies_that_are_left_out(csd))


@bench(cycles=20_000)
async def refuses(dut: Any) -> None:
    await driven(dut, refusals)


BENCHES = (attends, attends_under_back_pressure, crosses_edges_between_guard_bytes,
           error_responses_end_the_command, reset_in_the_middle, interrupt_rises_and_falls, refuses)
CASES = [*((each.name, False) for each in (*BENCHES, policies_left_out)),
         *(pytest.param(each.name, True, marks=pytest.mark.soak) for each in BENCHES)]


@pytest.mark.parametrize(("name", "policies"), CASES)
def test_the_engine(name: str, policies: bool) -> None:
    """The small engine; the whole of `tiny` in `make soak`."""
    sources = cocotb_sources(WHOLE if policies else CONFIG, places=collect.folder() is not None)
    run_cocotb(None, __file__, name=TOP, only=f"{name}$", verilog_sources=sources["verilog"],
               parameters={"policies": policies},
               cxx_sources=sources["cxx"], headers=sources["headers"], flags=sources["flags"])
