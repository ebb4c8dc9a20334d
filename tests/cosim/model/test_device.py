# SPDX-License-Identifier: Apache-2.0
"""Registers and queues of the model, without the driver."""

import numpy as np
import pytest

from instinfer.abi.commands import ADMIN_SQE, CQE_BYTES, SQE_BYTES, AdminOpcode, Completion, Status, pack
from instinfer.abi.presets import presets
from instinfer.abi.registers import IDENTITY_WORDS, MAGIC, VERSION, Fault, Register
from instinfer.cosim.model.device import ModelDevice
from instinfer.cosim.model.memory import BUS_BASE, BusError, Dram, HostMemory
from instinfer.host.transport.base import Buffer


@pytest.fixture
def device() -> ModelDevice:
    return ModelDevice(presets()["tiny"], HostMemory())


def start(device: ModelDevice, entries: int = 4) -> tuple[Buffer, Buffer]:
    submissions = device.memory.allocate(entries * SQE_BYTES, 4096)
    completions = device.memory.allocate(entries * CQE_BYTES, 4096)
    device.write(Register.AQA, (entries - 1) << 16 | entries - 1)
    for register, buffer in ((Register.ASQ_LO, submissions), (Register.ACQ_LO, completions)):
        device.write(register, buffer.address & 0xFFFF_FFFF)
        device.write(register + 4, buffer.address >> 32)
    device.write(Register.CC, 1)
    return submissions, completions


def completion(buffer: Buffer, index: int) -> Completion:
    return Completion.unpack(buffer.data[index * CQE_BYTES:(index + 1) * CQE_BYTES].tobytes())


def put(buffer: Buffer, index: int, entry: bytes) -> None:
    buffer.data[index * SQE_BYTES:(index + 1) * SQE_BYTES] = np.frombuffer(entry, np.uint8)


def test_registers(device: ModelDevice) -> None:
    assert device.read(Register.CAP_LO) == device.config.queue_entries_max - 1
    assert device.read(Register.VS) == VERSION
    assert device.read(Register.IDENTITY) == MAGIC
    assert device.read(Register.IDENTITY + 4 * (1 + IDENTITY_WORDS.index("dies"))) == 2
    assert device.read(Register.CSTS) == 0
    assert not device.step()
    device.write(Register.INTMS, 1)
    assert device.read(Register.INTMS) == 1
    device.write(Register.INTMC, 1)
    assert device.read(Register.INTMC) == 0
    start(device)
    assert device.read(Register.CSTS) == 1
    assert device.read(Register.AQA) == 3 << 16 | 3


def test_rings_wrap_and_phases_alternate(device: ModelDevice) -> None:
    submissions, completions = start(device)
    for number in range(11):
        put(submissions, number % 4, pack(ADMIN_SQE, opcode=AdminOpcode.FORMAT, cid=100 + number))
        device.write(Register.DOORBELLS, (number + 1) % 4)
        assert device.step()
        assert not device.step()
        found = completion(completions, number % 4)
        assert (found.cid, found.phase, found.status) == (100 + number, 1 - number // 4 % 2, Status.SUCCESS)
        assert found.sq_head == (number + 1) % 4
        device.write(Register.DOORBELLS + 4, (number + 1) % 4)


def test_a_full_completion_queue_holds_commands_back(device: ModelDevice) -> None:
    submissions, completions = start(device)
    for number in range(3):
        put(submissions, number, pack(ADMIN_SQE, opcode=AdminOpcode.FORMAT, cid=number))
    device.write(Register.DOORBELLS, 3)
    assert [device.step() for _ in range(4)] == [True, True, True, False]
    put(submissions, 3, pack(ADMIN_SQE, opcode=0x7F, cid=9))
    device.write(Register.DOORBELLS, 0)
    assert not device.step()
    device.write(Register.DOORBELLS + 4, 1)
    assert device.step()
    assert completion(completions, 3).status is Status.BAD_OPCODE


@pytest.mark.parametrize(("fail", "fault"), [(0, Fault.SQ_READ), (1, Fault.CQ_WRITE)])
def test_queue_memory_errors_are_fatal(device: ModelDevice, fail: int, fault: Fault) -> None:
    rings = start(device)
    device.memory.fail(rings[fail].address, 16)
    device.write(Register.DOORBELLS, 1)
    device.step()
    assert device.read(Register.CSTS) == 3
    assert device.read(Register.FAULT) == fault
    assert not device.step()
    device.write(Register.DOORBELLS, 99)
    assert device.read(Register.FAULT) == fault  # the first one stays
    device.write(Register.CC, 0)
    assert device.read(Register.CSTS) == device.read(Register.FAULT) == 0


def test_host_memory_has_gaps() -> None:
    memory = HostMemory()
    one, two = memory.allocate(100, 64), memory.allocate(5000, 4096)
    assert one.address >= BUS_BASE
    memory.view(two.address + 4000, 1000)[:] = 7
    assert two.data[4000:].all()
    for address, size in ((one.address, 101), (one.address - 1, 1), (one.address + 4096, 1), (0, 1)):
        with pytest.raises(BusError):
            memory.view(address, size)
    memory.release(one)
    with pytest.raises(BusError):
        memory.view(one.address, 1)
    with pytest.raises(ValueError, match="release what allocate returned, once"):
        memory.release(one)
    with pytest.raises(ValueError, match="power of two"):
        memory.allocate(10, 48)


def test_dram_is_sparse() -> None:
    dram = Dram(1 << 36)
    dram.write((1 << 36) - 8, np.arange(8, dtype=np.uint8))
    dram.write(0, np.zeros(8192, np.uint8))
    index, data = dram.image()
    assert index.tolist() == [(1 << 24) - 1]
    other = Dram(1 << 36)
    other.load(index, data)
    assert other.read((1 << 36) - 4, 4).tolist() == [4, 5, 6, 7]
