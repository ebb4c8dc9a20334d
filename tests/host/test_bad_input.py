# SPDX-License-Identifier: Apache-2.0
"""Every bad input ends in its status, the driver raises it, and the device goes on."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from instinfer.abi.commands import CQE_BYTES, SQE, AdminOpcode, Completion, Opcode, Status, Table, pack
from instinfer.abi.layout import RowShape, superblock_place
from instinfer.abi.registers import Fault, Register
from instinfer.abi.tables import SequenceWord
from instinfer.host import (
    CapacityError,
    Csd,
    DeviceError,
    DeviceFault,
    DeviceReset,
    DmaError,
    DriverError,
    MalformedCommandError,
    MediaError,
    NotFiniteError,
    PositionError,
    ResourceError,
    Sequence,
    SequenceError,
    open_csd,
)
from support import rng
from support.kv import UNCHECKED, assert_same_bits, exact_attention, float_attention, random_half

TOKENS, HEADS, QUERIES, DIMS = 70, 2, 2, 64
POLLS = 1000
"""Looks at a table while a page is programmed three times."""


class Stored:
    """A sequence of one layer of three, with its contents, and proof that the device goes on."""

    def __init__(self, csd: Csd) -> None:
        random = rng("bad input")
        self.csd = csd
        self.cache = csd.kv_cache(layers=3, kv_heads=HEADS, query_heads=HEADS * QUERIES, head_dim=DIMS,
                                  max_tokens=100)
        self.sequence: Sequence = self.cache.new_sequence()
        self.k, self.v = (random_half(random, (TOKENS, HEADS, DIMS)) for _ in range(2))
        self.q = random_half(random, (HEADS * QUERIES, DIMS), 3)
        self.sequence.write(0, self.k, self.v)
        self.buffer = csd.memory.allocate(1 << 16)
        self.buffer.data[:] = 0

    def fields(self, **changes: int) -> dict[str, int]:
        """A good ATTEND, changed."""
        good = {"sequence": self.sequence.number, "generation": self.sequence.generation, "layer": 0,
                "heads": HEADS, "prp1": self.buffer.address, "prp2": self.buffer.address,
                "out_offset": 64, "policy": 0, "scale2": 0x3F80_0000}
        return {**good, **changes}

    def refused(self, status: Status, opcode: int = Opcode.ATTEND, **changes: int) -> DeviceError:
        """The command ends with this status; it changes nothing."""
        before = self.csd.counters()["errors"]
        with pytest.raises(DeviceError) as caught:
            self.csd.io_command(opcode, **self.fields(**changes))
        assert caught.value.status is status
        assert status.name in str(caught.value)
        assert self.csd.counters()["errors"] == before + 1
        self.check()
        return caught.value

    def check(self) -> None:
        """All is still there and right."""
        assert self.sequence.resident(0) == TOKENS
        expected = exact_attention(self.csd.config, self.q, self.k, self.v)
        assert_same_bits(self.sequence.attend(0, self.q), expected)


@pytest.fixture
def stored(csd: Csd) -> Iterator[Stored]:
    state = Stored(csd)
    state.check()
    yield state
    state.check()


def test_good_command_as_a_control(stored: Stored) -> None:
    completion = stored.csd.io_command(Opcode.ATTEND, **stored.fields())
    assert completion.result >> 32 == TOKENS


def test_sequence_unknown_freed_or_stale(stored: Stored) -> None:
    assert isinstance(stored.refused(Status.NO_SEQUENCE, sequence=5), SequenceError)
    stored.refused(Status.NO_SEQUENCE, sequence=0xFFFF_FFFF)
    stored.refused(Status.STALE_GENERATION, generation=stored.sequence.generation + 1)
    gone = stored.cache.new_sequence()
    old = {"sequence": gone.number, "generation": gone.generation}
    gone.free()
    for opcode in Opcode:
        stored.refused(Status.NO_SEQUENCE, opcode, **old)
    stored.cache.new_sequence()
    for opcode in Opcode:
        stored.refused(Status.STALE_GENERATION, opcode, **old)
    for use in (gone.free, gone.sync, lambda: gone.resident(0)):
        with pytest.raises(DriverError, match="was freed: make a new one"):
            use()


def test_layer_heads_and_context(stored: Stored) -> None:
    assert isinstance(stored.refused(Status.RANGE, layer=3), PositionError)
    stored.refused(Status.RANGE, heads=0)
    stored.refused(Status.RANGE, head=1, heads=2)
    stored.refused(Status.RANGE, Opcode.KV_APPEND, head=1, heads=1, token=TOKENS, tokens=1)
    stored.refused(Status.CONTEXT, token=TOKENS + 1)
    stored.refused(Status.CONTEXT, layer=1)
    with pytest.raises(PositionError, match="append first"):
        stored.sequence.attend(0, stored.q, context=TOKENS + 1)
    with pytest.raises(ValueError, match=r"layer 3: this cache has layers 0 to 2"):
        stored.sequence.attend(3, stored.q)
    with pytest.raises(ValueError, match=r"layer -1"):
        stored.sequence.resident(-1)


def test_reading_back_is_checked(stored: Stored) -> None:
    stored.refused(Status.NO_SEQUENCE, Opcode.KV_READ, sequence=5)
    stored.refused(Status.STALE_GENERATION, Opcode.KV_READ, generation=stored.sequence.generation + 1)
    stored.refused(Status.CONTEXT, Opcode.KV_READ, token=TOKENS - 1, tokens=2)
    outside = stored.csd.transport.allocate(4096)
    stored.refused(Status.WINDOW, Opcode.KV_READ, tokens=TOKENS, prp1=outside.address)


def test_append_gap_and_duplicate(stored: Stored) -> None:
    for opcode in (Opcode.KV_APPEND, Opcode.KV_WRITE, Opcode.APPEND_ATTEND):
        for token in (TOKENS - 1, TOKENS + 1, 0):
            stored.refused(Status.POSITION, opcode, token=token, tokens=1)


LAYER_COMMANDS: dict[Opcode, dict[str, int]] = {
    Opcode.KV_WRITE: {"token": TOKENS, "tokens": 1}, Opcode.KV_APPEND: {"token": TOKENS, "tokens": 1},
    Opcode.ATTEND: {}, Opcode.APPEND_ATTEND: {"token": TOKENS, "tokens": 1}, Opcode.KV_READ: {"tokens": 1},
}
"""What makes each of them good beside `Stored.fields`."""


@pytest.mark.parametrize("opcode", LAYER_COMMANDS, ids=lambda opcode: opcode.name)
def test_each_command_checks_for_itself(stored: Stored, opcode: Opcode) -> None:
    good, address = LAYER_COMMANDS[opcode], stored.buffer.address
    for status, changes in (
            (Status.BAD_FIELD, {"flags": 1}), (Status.DTYPE, {"dtype": 1}), (Status.RANGE, {"layer": 3}),
            (Status.RANGE, {"heads": HEADS + 1}), (Status.PRP_OFFSET, {"prp1": address + 8}),
            (Status.WINDOW, {"prp1": 1 << 50})):
        stored.refused(status, opcode, **{**good, **changes})
    faults = stored.csd.transport.faults  # type: ignore[attr-defined]
    faults.fail_host_memory(address=address, size=len(stored.buffer.data))
    stored.refused(Status.TRANSFER_ERROR, opcode, **good)
    faults.fail_host_memory(address=address, size=0)


def test_fields_that_all_commands_have(stored: Stored) -> None:
    for opcode in (Opcode.KV_FREE, Opcode.KV_SYNC):
        stored.refused(Status.BAD_FIELD, opcode, flags=1)


def test_appending_beyond_the_capacity(stored: Stored) -> None:
    """By one token, with and without an attention; what is stored stays."""
    more = random_half(rng("full"), (100, HEADS, DIMS))
    stored.sequence.write(1, more, more)
    for opcode in (Opcode.KV_APPEND, Opcode.APPEND_ATTEND):
        stored.refused(Status.CAPACITY, opcode, layer=1, token=100, tokens=1)
    expected = exact_attention(stored.csd.config, stored.q, more, more, layer=1)
    assert_same_bits(stored.sequence.attend(1, stored.q), expected)


def test_capacity_of_the_cache(stored: Stored) -> None:
    room = 100 - TOKENS
    more = random_half(rng("more"), (room + 1, HEADS, DIMS))
    with pytest.raises(CapacityError, match="nothing stored was lost"):
        stored.sequence.write(0, more, more)
    stored.check()
    stored.sequence.write(1, more, more)


def test_buffers_exhausted_loses_nothing(csd: Csd) -> None:
    random = rng("buffers")
    heads, layers = 16, 3
    cache = csd.kv_cache(layers=layers, kv_heads=heads, query_heads=heads, head_dim=64, max_tokens=64)
    sequences = [cache.new_sequence() for _ in range(2)]
    k, v = (random_half(random, (3, heads, 64)) for _ in range(2))
    written = []

    def append_everywhere() -> None:
        for sequence in sequences:
            for layer in range(layers):
                sequence.append(layer, k, v)
                written.append((sequence, layer))

    with pytest.raises(CapacityError):
        append_everywhere()
    assert len(written) == csd.config.stripe_buffers // heads
    q = random_half(random, (heads, 64))
    expected = exact_attention(csd.config, q, k, v)
    for sequence, layer in written:
        assert_same_bits(sequence.attend(layer, q), expected)
    assert sequences[1].resident(1) == 0
    sequences[0].free()
    sequences[1].append(1, k, v)
    assert_same_bits(sequences[1].attend(1, q), expected)


def test_flash_exhausted_stays_in_dram(csd: Csd) -> None:
    """A sequence beyond its superblocks is served from stripe buffers, bit by bit as those say."""
    random = rng("flash full")
    config = csd.config
    layers, per_stripe = 5, RowShape(64).tokens_per_stripe(config)
    rows = config.max_superblocks_per_sequence * config.pages  # of each die
    full = rows * config.dies_total * per_stripe // (layers - 1)
    cache = csd.kv_cache(layers=layers, kv_heads=1, query_heads=1, head_dim=64, max_tokens=full)
    sequence = cache.new_sequence()
    k, v = (random_half(random, (full, 1, 64)) for _ in range(2))
    q = random_half(random, (1, 64), 3)
    for layer in range(layers - 1):
        sequence.write(layer, k, v)
    sequence.sync()
    assert csd.counters()["stripes_programmed"] == rows * config.dies_total
    last, tokens = layers - 1, 300
    sequence.write(last, k[:tokens], v[:tokens])
    sequence.sync()
    before = csd.counters()
    out = sequence.attend(last, q)
    after = csd.counters()
    assert after["stripes_programmed"] == rows * config.dies_total
    assert after["stripes_sensed"] == before["stripes_sensed"]
    assert after["tail_beats"] - before["tail_beats"] == tokens * 2 * 16
    assert_same_bits(out, exact_attention(config, q, k[:tokens], v[:tokens], in_flash=0))
    with pytest.raises(CapacityError):
        sequence.write(last, k[tokens:], v[tokens:])
    stored = sequence.resident(last)
    assert (config.stripe_buffers - layers) * per_stripe <= stored < full
    for layer, count, in_flash in ((0, full, None), (last - 1, full, None), (last, stored, 0)):
        expected = exact_attention(config, q, k[:count], v[:count], layer=layer, in_flash=in_flash)
        assert_same_bits(sequence.attend(layer, q), expected)
    sequence.free()
    assert csd.read_table(Table.COUNTS, [0, 1]) == [config.blocks, config.stripe_buffers]
    again = cache.new_sequence()
    again.write(last, k[:tokens], v[:tokens])
    assert_same_bits(again.attend(last, q), exact_attention(config, q, k[:tokens], v[:tokens], layer=last))


def test_addresses(stored: Stored) -> None:
    address = stored.buffer.address
    assert isinstance(stored.refused(Status.PRP_OFFSET, prp1=address + 32), DmaError)
    stored.refused(Status.PRP_OFFSET, Opcode.KV_APPEND, token=TOKENS, tokens=1, prp2=address + 1)
    outside = stored.csd.transport.allocate(4096)
    assert isinstance(stored.refused(Status.WINDOW, prp1=outside.address), DmaError)
    stored.refused(Status.WINDOW, Opcode.KV_APPEND, token=TOKENS, tokens=1, prp2=outside.address)
    for at in ("prp1", "prp2"):
        stored.refused(Status.PRP_OFFSET, Opcode.KV_READ, tokens=TOKENS, **{at: address + 8})
        stored.refused(Status.WINDOW, Opcode.KV_READ, tokens=TOKENS, **{at: outside.address})
    stored.refused(Status.WINDOW, prp1=0)
    assert not outside.data.any()
    csd = stored.csd
    csd.admin_command(AdminOpcode.WINDOW_SET, index=5, prp1=outside.address, prp2=4096, cdw10=1)
    stored.refused(Status.WINDOW, prp1=outside.address, out_offset=16)  # may be read, not written
    stored.refused(Status.WINDOW, Opcode.KV_READ, tokens=1, prp1=outside.address)
    csd.admin_command(AdminOpcode.WINDOW_SET, index=5, prp1=outside.address, prp2=4096, cdw10=3)
    csd.io_command(Opcode.ATTEND, **stored.fields(prp1=outside.address, out_offset=16))
    stored.refused(Status.WINDOW, prp1=outside.address, out_offset=63)
    csd.admin_command(AdminOpcode.WINDOW_SET, index=5, prp1=0, prp2=0)
    stored.refused(Status.WINDOW, prp1=outside.address, out_offset=16)


def test_host_memory_errors(stored: Stored, faults: Any) -> None:
    address = stored.buffer.address
    faults.fail_host_memory(address=address, size=4096)
    error = stored.refused(Status.TRANSFER_ERROR)
    assert isinstance(error, DmaError)
    assert error.status.retryable
    stored.refused(Status.TRANSFER_ERROR, Opcode.KV_APPEND, token=TOKENS, tokens=1, prp2=address + 8192)
    stored.refused(Status.TRANSFER_ERROR, Opcode.KV_APPEND, token=TOKENS, tokens=1, prp1=address + 8192)
    faults.fail_host_memory(address=address + 4096, size=64)
    stored.refused(Status.TRANSFER_ERROR, out_offset=64)
    stored.refused(Status.TRANSFER_ERROR, Opcode.KV_READ, tokens=TOKENS, prp1=address + (1 << 15))
    faults.fail_host_memory(address=0, size=0)
    stored.csd.io_command(Opcode.ATTEND, **stored.fields())
    gone = stored.csd.transport.allocate(4096)  # a window to memory that is no longer there
    stored.csd.admin_command(AdminOpcode.WINDOW_SET, index=5, prp1=gone.address, prp2=4096, cdw10=3)
    stored.csd.transport.release(gone)
    stored.refused(Status.TRANSFER_ERROR, prp1=gone.address, out_offset=16)
    stored.refused(Status.TRANSFER_ERROR, Opcode.KV_WRITE, layer=1, tokens=3, prp2=gone.address)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_operands_that_are_not_finite(stored: Stored, value: float) -> None:
    k, v, q = stored.k[:5].copy(), stored.v[:5].copy(), stored.q.copy()
    q[1, 7] = value
    with pytest.raises(NotFiniteError, match="NaN or Inf"):
        stored.sequence.attend(0, q)
    stored.check()
    k[4, 1, 63] = value
    with pytest.raises(NotFiniteError):
        stored.sequence.write(0, k, v)
    with pytest.raises(NotFiniteError):
        stored.sequence.append(0, stored.k[0], k[4])
    stored.check()
    with pytest.raises(NotFiniteError):
        stored.sequence.attend(0, stored.q, append=(k[4], v[4]))
    stored.check()


def test_not_finite_keeps_finished_stripes(stored: Stored) -> None:
    k = random_half(rng("stripes"), (90, HEADS, DIMS))
    bad = k.copy()
    bad[70, 0, 0] = np.nan
    pending = [stored.sequence.write_async(1, bad, k), stored.sequence.append_async(1, k[0], k[0])]
    with pytest.raises(NotFiniteError) as caught:
        pending[0].result()
    with pytest.raises(PositionError):
        pending[1].result()
    assert caught.value.result & 0xFFFF_FFFF == 64
    assert stored.sequence.resident(1) == 64
    stored.sequence.write(1, k[64:], k[64:])
    expected = exact_attention(stored.csd.config, stored.q, k, k, layer=1)
    assert_same_bits(stored.sequence.attend(1, stored.q), expected)


def test_opcodes_and_fields(stored: Stored) -> None:
    assert isinstance(stored.refused(Status.BAD_OPCODE, 0x02), MalformedCommandError)
    stored.refused(Status.BAD_OPCODE, 0xFF)
    stored.refused(Status.BAD_FIELD, flags=1)
    stored.refused(Status.BAD_FIELD, nsid=2)
    stored.refused(Status.BAD_FIELD, nsid=0)
    stored.refused(Status.BAD_FIELD, policy=stored.csd.config.max_policies - 1)
    stored.refused(Status.BAD_FIELD, policy=255)
    for scale2 in (0, 0x8000_0000, 0xBF80_0000, 0x7F80_0000, 0x7FC0_0000, 0x0000_0001, 0x4380_0000):
        stored.refused(Status.BAD_FIELD, scale2=scale2)
    stored.refused(Status.DTYPE, dtype=1)
    stored.refused(Status.BAD_FIELD, Opcode.APPEND_ATTEND, token=TOKENS, tokens=2)


@pytest.mark.parametrize("bit", [8, 15, 128, 191, 320, 383])
def test_reserved_bits(stored: Stored, bit: int) -> None:
    queue = stored.csd.queues[0]
    sqe = {**queue._fields, "reserved": type(queue._fields["cid"])(bit, 1)}
    queue._fields = sqe
    stored.refused(Status.BAD_FIELD, reserved=1)


def test_admin_commands(csd: Csd) -> None:
    def refused(status: Status, opcode: int, **fields: int) -> None:
        with pytest.raises(DeviceError) as caught:
            csd.admin_command(opcode, **fields)
        assert caught.value.status is status

    address = csd.transport.allocate(4096).address
    count = csd.config.io_queues
    refused(Status.BAD_OPCODE, 0x06)
    refused(Status.QUEUE_ID, AdminOpcode.CREATE_CQ, cdw10=3 << 16, prp1=address)
    refused(Status.QUEUE_ID, AdminOpcode.CREATE_CQ, cdw10=3 << 16 | count + 1, prp1=address)
    refused(Status.QUEUE_ID, AdminOpcode.CREATE_SQ, cdw10=3 << 16 | 2, cdw11=2 << 16, prp1=address)
    refused(Status.QUEUE_SIZE, AdminOpcode.CREATE_CQ, cdw10=2, prp1=address)
    refused(Status.QUEUE_SIZE, AdminOpcode.CREATE_CQ, cdw10=csd.config.queue_entries_max << 16 | 2,
            prp1=address)
    refused(Status.PRP_OFFSET, AdminOpcode.CREATE_CQ, cdw10=3 << 16 | 2, prp1=address + 64)
    csd.admin_command(AdminOpcode.CREATE_CQ, cdw10=3 << 16 | 2, prp1=address)
    refused(Status.QUEUE_SIZE, AdminOpcode.CREATE_SQ, cdw10=2, cdw11=2 << 16, prp1=address)
    refused(Status.PRP_OFFSET, AdminOpcode.CREATE_SQ, cdw10=3 << 16 | 2, cdw11=2 << 16, prp1=address + 64)
    refused(Status.BAD_FIELD, AdminOpcode.FORMAT, cdw10=2)
    refused(Status.BAD_FIELD, AdminOpcode.PAGE_PEEK, index=csd.config.physical_blocks)
    refused(Status.BAD_FIELD, AdminOpcode.CREATE_CQ, cdw10=3 << 16 | 2, cdw11=4, prp1=address)
    refused(Status.BAD_FIELD, AdminOpcode.CREATE_SQ, cdw10=3 << 16 | 1, cdw11=1 << 16 | 2, prp1=address)
    shape = {"cdw10": 2 << 16 | 2, "cdw11": 64 << 16 | 2, "cdw12": 100}
    csd.admin_command(AdminOpcode.KV_CONFIG, index=0, **shape)
    refused(Status.DTYPE, AdminOpcode.KV_CONFIG, index=0, **shape, cdw13=2)
    for change in ({"index": csd.config.max_caches}, {"cdw10": 2 << 16}, {"cdw10": 2}, {"cdw11": 64 << 16},
                   {"cdw11": 72 << 16 | 2}, {"cdw12": 0}, {"cdw12": csd.config.max_context + 1}):
        refused(Status.BAD_FIELD, AdminOpcode.KV_CONFIG, **{"index": 0, **shape, **change})
    dram = csd.config.dram_bytes
    refused(Status.BAD_FIELD, AdminOpcode.SEQ_CREATE, index=csd.config.max_sequences, cdw10=0)
    refused(Status.BAD_FIELD, AdminOpcode.SEQ_CREATE, index=0, cdw10=1, prp1=dram // 2)
    refused(Status.BAD_FIELD, AdminOpcode.SEQ_CREATE, index=0, cdw10=0, prp1=dram)
    csd.admin_command(AdminOpcode.SEQ_CREATE, index=0, generation=9, cdw10=0, prp1=dram // 2)
    refused(Status.BUSY, AdminOpcode.SEQ_CREATE, index=0, cdw10=0, prp1=dram // 2)
    refused(Status.BUSY, AdminOpcode.KV_CONFIG, index=0, **shape)
    refused(Status.BAD_FIELD, AdminOpcode.POLICY_SET, index=0, cdw10=1)
    refused(Status.BAD_FIELD, AdminOpcode.POLICY_SET, index=csd.config.max_policies)
    refused(Status.BAD_FIELD, AdminOpcode.WINDOW_SET, index=csd.config.max_windows, prp2=4096)
    refused(Status.BAD_FIELD, AdminOpcode.WINDOW_SET, index=1, prp1=64, prp2=4096)
    refused(Status.BAD_FIELD, AdminOpcode.TABLE_READ, cdw10=len(Table))
    refused(Status.BAD_FIELD, AdminOpcode.TABLE_READ, cdw10=Table.SEQUENCE, cdw11=csd.config.max_sequences)


@pytest.mark.parametrize("offset", [8, 12])
def test_doorbell_beyond_the_queue(csd_kind: str, offset: int) -> None:
    with open_csd(csd_kind, erased=True, timeout_us=300) as csd:  # seen when a command's time is up
        stored = Stored(csd)
        csd.transport.bar_write32(Register.DOORBELLS + offset, 64)
        csd.transport.bar_read32(Register.CSTS)  # behind it: what is fetched before it is judged completes
        with pytest.raises(DeviceFault) as caught:
            csd.io_command(Opcode.KV_SYNC, sequence=0, generation=stored.sequence.generation)
        assert caught.value.fault is Fault.DOORBELL
        with pytest.raises(DeviceFault, match=r"Csd\.reset"):
            stored.sequence.attend(0, stored.q)
        csd.reset()
        Stored(csd).check()


@pytest.mark.parametrize(("ring", "fault"), [("submissions", Fault.SQ_READ), ("completions", Fault.CQ_WRITE)])
def test_rings_that_cannot_be_reached(csd_kind: str, ring: str, fault: Fault) -> None:
    """An error response to a queue's own accesses halts that queue; the other goes on."""
    with open_csd(csd_kind, erased=True, timeout_us=300, queues=2) as csd:
        stored = Stored(csd)
        other = stored.cache.new_sequence()
        other.write(0, stored.k, stored.v)
        broken, working = (csd.queue_of(each.number) for each in (stored.sequence, other))
        assert broken is not working
        place = getattr(broken, ring)
        csd.transport.faults.fail_host_memory(address=place.address, size=4096)  # type: ignore[attr-defined]
        with pytest.raises(DeviceFault) as caught:
            stored.sequence.attend(0, stored.q)
        assert caught.value.fault is fault
        expected = exact_attention(csd.config, stored.q, stored.k, stored.v)
        assert_same_bits(other.attend(0, stored.q), expected)
        csd.transport.faults.fail_host_memory(address=0, size=0)  # type: ignore[attr-defined]
        csd.reset()
        Stored(csd).check()


def test_full_completion_queue_holds_commands_back(csd: Csd) -> None:
    """A ring of two entries has room for one completion at a time: the others wait, none is overwritten."""
    number, transport = 2, csd.transport
    submissions, completions = (transport.allocate(4096) for _ in range(2))
    csd.admin_command(AdminOpcode.CREATE_CQ, cdw10=1 << 16 | number, prp1=completions.address)
    csd.admin_command(AdminOpcode.CREATE_SQ, cdw10=7 << 16 | number, cdw11=number << 16,
                      prp1=submissions.address)
    entries = b"".join(pack(SQE, opcode=0xFF, cid=cid) for cid in range(7))
    submissions.data[:len(entries)] = np.frombuffer(entries, np.uint8)
    transport.bar_write32(Register.DOORBELLS + 8 * number, 7)
    for cid in range(7):
        transport.wait(lambda: False, 20)  # time for one too many
        found = [Completion.unpack(completions.data[start:start + CQE_BYTES].tobytes())
                 for start in (0, CQE_BYTES)]
        assert found[cid % 2].cid == cid
        assert found[cid % 2].status is Status.BAD_OPCODE
        assert found[cid % 2].phase == 1 - cid // 2 % 2
        assert found[1 - cid % 2].cid == max(cid - 1, 0)
        transport.bar_write32(Register.DOORBELLS + 8 * number + 4, (cid + 1) % 2)
    Stored(csd).check()


@pytest.mark.parametrize("offset", [8 * 3, 8 * 60 + 4])
def test_doorbell_of_no_queue_halts_none(stored: Stored, offset: int) -> None:
    read = stored.csd.transport.bar_read32
    stored.csd.transport.bar_write32(Register.DOORBELLS + offset, 0)
    assert (read(Register.CSTS), read(Register.FAULT)) == (3, Fault.DOORBELL)
    stored.check()
    stored.csd.reset()
    assert (read(Register.CSTS), read(Register.FAULT)) == (1, Fault.NONE)
    Stored.__init__(stored, stored.csd)


def test_reset_with_commands_under_way(stored: Stored) -> None:
    csd = stored.csd
    q = stored.q
    pending = [stored.sequence.attend_async(0, q) for _ in range(5)]
    csd.reset()
    with pytest.raises(DeviceReset, match="send it again"):
        pending[-1].result()
    for use in (lambda: stored.sequence.attend(0, q), stored.cache.new_sequence, stored.sequence.free):
        with pytest.raises(DeviceReset, match="make a new cache"):
            use()
    assert csd.caches == ()
    assert csd.read_table(Table.COUNTS, [0, 1]) == [csd.config.blocks, csd.config.stripe_buffers]
    Stored.__init__(stored, csd)


def first_stripe(stored: Stored, sequence: Sequence | None = None) -> dict[str, int]:
    """Flash place of stripe 0 of head 0 of layer 0: the first row of its die."""
    index = (sequence or stored.sequence).number * stored.csd.config.max_superblocks_per_sequence
    (superblock,) = stored.csd.read_table(Table.SUPERBLOCK_LIST, [index])
    die, block = superblock_place(stored.csd.config, superblock, 0)
    return {"channel": 0, "die": die, "block": block, "page": 0}


@pytest.mark.parametrize("byte", [0, 1023, 1056, 1058, 1064, 1067])
def test_damaged_slot(stored: Stored, faults: Any, byte: int) -> None:
    place = {**first_stripe(stored), "plane": 0, "byte": byte, "bit": 3}
    faults.flip_bit(**place)
    before = stored.csd.counters()["tuple_errors"]
    with pytest.raises(MediaError) as caught:
        stored.sequence.attend(0, stored.q)
    assert caught.value.status is Status.GUARD
    assert stored.csd.counters()["tuple_errors"] == before + 1
    with pytest.raises(MediaError, match="GUARD"):
        stored.sequence.read(0)
    np.testing.assert_array_equal(stored.sequence.read(0, 64)[1], stored.v[64:])  # the other stripes
    other = stored.cache.new_sequence()
    other.write(0, stored.k, stored.v)
    expected = exact_attention(stored.csd.config, stored.q, stored.k, stored.v)
    assert_same_bits(other.attend(0, stored.q), expected)
    faults.flip_bit(**place)
    stored.check()


def test_an_append_stays_when_its_attention_fails(stored: Stored, faults: Any) -> None:
    other = stored.cache.new_sequence()
    other.write(0, stored.k, stored.v)
    place = {**first_stripe(stored, other), "plane": 0, "byte": 3, "bit": 3}
    faults.flip_bit(**place)
    with pytest.raises(MediaError) as caught:
        other.attend(0, stored.q, append=(stored.k[0], stored.v[0]))
    assert caught.value.status is Status.GUARD
    assert other.resident(0) == TOKENS + 1
    faults.flip_bit(**place)
    k, v = (np.concatenate([rows, rows[:1]]) for rows in (stored.k, stored.v))
    assert_same_bits(other.attend(0, stored.q), exact_attention(stored.csd.config, stored.q, k, v))


def test_damage_beside_the_slots_is_not_seen(stored: Stored, faults: Any) -> None:
    slot = stored.csd.config.slot_bytes
    faults.flip_bit(**first_stripe(stored), plane=0, byte=slot - 1, bit=7)  # parity


def test_flipped_bit_shows_when_nobody_checks(csd_kind: str) -> None:
    with open_csd(csd_kind, erased=True, overrides=UNCHECKED) as csd:
        stored = Stored(csd)
        before = stored.sequence.attend(0, stored.q)
        byte = csd.config.slot_bytes + 1  # sign of the first V element of token 0
        place: dict[str, Any] = {**first_stripe(stored), "plane": 0, "byte": byte, "bit": 7}
        csd.transport.faults.flip_bit(**place)  # type: ignore[attr-defined]
        after = stored.sequence.attend(0, stored.q)
        changed = stored.v.copy()
        changed[0, 0, 0] = -changed[0, 0, 0]
        assert_same_bits(after, exact_attention(csd.config, stored.q, stored.k, changed))
        assert np.count_nonzero(after != before) > 0


def test_program_failures(stored: Stored, faults: Any) -> None:
    csd, sequence = stored.csd, stored.sequence
    faults.fail_program(channel=1, die=1, count=2)
    before = csd.counters()
    sequence.write(1, stored.k, stored.v)  # two repetitions, then it worked
    sequence.sync()
    after = csd.counters()
    assert after["program_failures"] - before["program_failures"] == 2
    expected = exact_attention(csd.config, stored.q, stored.k, stored.v)
    assert_same_bits(sequence.attend(1, stored.q), expected)
    faults.fail_program(channel=0, die=0, count=3)
    sequence.write_async(2, stored.k, stored.v).result()
    with pytest.raises(MediaError) as caught:
        sequence.sync()
    assert caught.value.status is Status.WRITE_FAULT
    sequence.sync()
    out = sequence.attend(2, stored.q)  # stripe 0 of head 0 is served from DRAM
    assert np.abs(out - float_attention(stored.q, stored.k, stored.v)).max() < 2e-3
    assert_same_bits(out[QUERIES:], expected[QUERIES:])
    for layer in (1, 2):
        for read, written in zip(sequence.read(layer), (stored.k, stored.v), strict=True):
            assert_same_bits(read, written)
    faults.fail_program(channel=0, die=0, count=0)
    sequence.free()
    Stored.__init__(stored, csd)


@pytest.mark.parametrize("opcode", [Opcode.KV_WRITE, Opcode.KV_APPEND, Opcode.APPEND_ATTEND])
def test_the_next_write_tells_of_a_failed_program_once(stored: Stored, faults: Any, opcode: Opcode) -> None:
    sequence = stored.cache.new_sequence()
    k, v = stored.k[:1], stored.v[:1]

    def write() -> None:
        if opcode is Opcode.KV_WRITE:
            sequence.write(0, k, v)
        elif opcode is Opcode.KV_APPEND:
            sequence.append(0, k, v)
        else:
            sequence.attend(0, stored.q, append=(k[0], v[0]))

    faults.fail_program(channel=0, die=0, count=3)
    sequence.write(0, stored.k, stored.v)
    for _ in range(POLLS):
        word = stored.csd.read_table(Table.SEQUENCE, [sequence.number])[0]
        if SequenceWord.unpack(word).fault:
            break
    else:
        pytest.fail(f"no fault in the sequence's word after {POLLS} looks")
    with pytest.raises(MediaError) as caught:
        write()
    assert caught.value.status is Status.WRITE_FAULT
    assert sequence.resident(0) == TOKENS, "nothing was stored"
    write()
    k, v = (np.concatenate([rows, rows[:1]]) for rows in (stored.k, stored.v))
    for read, written in zip(sequence.read(0), (k, v), strict=True):
        assert_same_bits(read, written)
    faults.fail_program(channel=0, die=0, count=0)
    sequence.free()


def test_erase_failure_drops_the_superblock(stored: Stored, faults: Any) -> None:
    csd = stored.csd
    other = stored.cache.new_sequence()
    other.write(0, stored.k, stored.v)
    free = csd.read_table(Table.COUNTS, [0])[0]
    faults.fail_erase(channel=1, die=0, count=1)
    other.free()
    assert csd.read_table(Table.COUNTS, [0]) == [free]
    after = stored.cache.new_sequence()
    after.write(0, stored.k, stored.v)
    after.sync()
    expected = exact_attention(csd.config, stored.q, stored.k, stored.v)
    assert_same_bits(after.attend(0, stored.q), expected)
    after.free()
    assert csd.read_table(Table.COUNTS, [0]) == [free]


def test_die_that_never_becomes_ready(stored: Stored, faults: Any) -> None:
    faults.stick_die(channel=0, die=0)
    with pytest.raises(MediaError) as caught:
        stored.sequence.attend(0, stored.q)
    assert caught.value.status is Status.UNRECOVERED_READ
    with pytest.raises(MediaError, match="UNRECOVERED_READ"):
        stored.sequence.read(0)
    with pytest.raises(MediaError, match="UNRECOVERED_READ"):
        stored.sequence.attend(0, stored.q, append=(stored.k[0], stored.v[0]))
    short = stored.cache.new_sequence()
    short.write(0, stored.k[:10], stored.v[:10])
    expected = exact_attention(stored.csd.config, stored.q, stored.k[:10], stored.v[:10])
    assert_same_bits(short.attend(0, stored.q), expected)
    csd = stored.csd
    written = stored.cache.new_sequence()
    written.write(0, stored.k, stored.v)  # stripe 0 of head 0 cannot be programmed
    with pytest.raises(MediaError, match="WRITE_FAULT"):
        written.sync()
    faults.stick_die(channel=0, die=0, stuck=False)
    with pytest.raises(MediaError, match="UNRECOVERED_READ"):  # given up until a reset
        stored.sequence.attend(0, stored.q)
    csd.reset()
    Stored.__init__(stored, csd)


def test_handles_run_out(csd: Csd) -> None:
    shape: dict[str, Any] = {"layers": 1, "kv_heads": 1, "query_heads": 1, "head_dim": 64, "max_tokens": 64}
    caches = [csd.kv_cache(**shape) for _ in range(csd.config.max_caches)]
    with pytest.raises(ResourceError, match="free a cache"):
        csd.kv_cache(**shape)
    sequences = [caches[0].new_sequence() for _ in range(csd.config.max_sequences)]
    with pytest.raises(ResourceError, match="free one"):
        caches[1].new_sequence()
    assert [sequence.number for sequence in sequences] == list(range(csd.config.max_sequences))
    caches[0].free()
    assert csd.kv_cache(**shape).new_sequence().number == 0
