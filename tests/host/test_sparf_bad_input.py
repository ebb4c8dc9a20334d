# SPDX-License-Identifier: Apache-2.0
"""What is wrong with SparF is refused, by the driver and by the device, and nothing is lost."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from instinfer.abi.commands import AdminOpcode, Opcode, PolicyKind, Status, Table
from instinfer.abi.errors import ConfigError
from instinfer.abi.layout import MapEntry
from instinfer.abi.tables import VALID
from instinfer.cosim.model.layer import Layer, Region
from instinfer.host import (
    Csd,
    DeviceError,
    MediaError,
    NotFiniteError,
    PolicyError,
    PositionError,
    ScaleError,
    SparF,
    open_csd,
)
from support import rng
from support.kv import assert_same_bits, exact_attention, random_half
from support.sparf import choice, sparf_attention

TOKENS = 150
UNCHECKED = {"check_tuples": False, "dram_bytes": 64 << 20, "blocks": 64}
POLICY = SparF(dims=8, tokens=20, window=6, sinks=2)
MEAN = SparF(dims=8, tokens=20, window=6, sinks=2, mean_v=True)
SHAPE: dict[str, Any] = {"layers": 2, "kv_heads": 2, "query_heads": 4, "head_dim": 64, "max_tokens": 200}


class Stored:
    """A sequence with dims, one without, one with sums of V too, and proof that the device goes on."""

    def __init__(self, csd: Csd) -> None:
        random = rng("bad dims")
        self.csd = csd
        self.sequence, self.plain, self.summed = (
            csd.kv_cache(**SHAPE, dims=dims, mean_v=mean_v).new_sequence()
            for dims, mean_v in ((True, False), (False, False), (True, True)))
        self.k, self.v = (random_half(random, (TOKENS, 2, 64)) for _ in range(2))
        self.q = random_half(random, (4, 64), 3)
        for each in (self.sequence, self.plain, self.summed):
            each.write(0, self.k, self.v)
        self.buffer = csd.memory.allocate(1 << 16)
        self.buffer.data[:] = 0
        self.policy = csd.policy_number(POLICY)

    def fields(self, **changes: int) -> dict[str, int]:
        """A good ATTEND with the policy, changed."""
        good = {"sequence": self.sequence.number, "generation": self.sequence.generation, "layer": 0,
                "heads": 2, "prp1": self.buffer.address, "prp2": self.buffer.address, "out_offset": 64,
                "policy": self.policy, "scale2": 0x3F80_0000}
        return {**good, **changes}

    def refused(self, status: Status, opcode: int = Opcode.ATTEND, **changes: int) -> DeviceError:
        before = self.csd.counters()
        with pytest.raises(DeviceError) as caught:
            self.csd.io_command(opcode, **self.fields(**changes))
        assert caught.value.status is status
        after = self.csd.counters()
        assert after["errors"] == before["errors"] + 1
        assert after["stripes_sensed"] == before["stripes_sensed"]
        self.check()
        return caught.value

    def check(self) -> None:
        assert self.sequence.resident(0) == TOKENS
        expected = sparf_attention(self.csd.config, self.q, self.k, self.v, POLICY)
        assert_same_bits(self.sequence.attend(0, self.q, policy=POLICY), expected)


@pytest.fixture
def stored(csd: Csd) -> Iterator[Stored]:
    state = Stored(csd)
    state.check()
    yield state
    state.check()


def test_good_command_as_a_control(stored: Stored) -> None:
    """DW1 is the context, DW0 the stripes of rows sensed, for scores and for the attention."""
    before = stored.csd.counters()["stripes_sensed"]
    result = stored.csd.io_command(Opcode.ATTEND, **stored.fields()).result
    sensed = stored.csd.counters()["stripes_sensed"] - before
    assert sensed > 2 * 4, "K slots of every stripe in flash, then those with a chosen token"
    assert (result >> 32, result & 0xFFFF_FFFF) == (TOKENS, sensed)


def test_policy_of_a_cache_without_dims(stored: Stored) -> None:
    with pytest.raises(ConfigError, match=r"policy = SparF\(.*needs no dim pages.*kv_cache\(.*dims=True"):
        stored.plain.attend(0, stored.q, policy=POLICY)
    other = {"sequence": stored.plain.number, "generation": stored.plain.generation}
    assert isinstance(stored.refused(Status.POLICY, **other), PolicyError)
    stored.refused(Status.POLICY, Opcode.APPEND_ATTEND, token=TOKENS, tokens=1, **other)
    assert stored.plain.resident(0) == TOKENS


def test_more_dims_than_a_head_has(stored: Stored) -> None:
    wide = SparF(dims=65)
    with pytest.raises(ConfigError, match="dims = 65 is not possible: at most 64, the dims of a head"):
        stored.sequence.attend(0, stored.q, policy=wide)
    stored.refused(Status.POLICY, policy=stored.csd.policy_number(wide))
    every = SparF(dims=64, tokens=20)
    assert_same_bits(stored.sequence.attend(0, stored.q, policy=every), sparf_attention(
        stored.csd.config, stored.q, stored.k, stored.v, every))


def test_mean_v_needs_sums_of_all_that_is_attended(stored: Stored) -> None:
    with pytest.raises(ConfigError, match="mean_v = True is not possible: False in a cache that keeps"):
        stored.sequence.attend(0, stored.q, policy=MEAN)
    number = stored.csd.policy_number(MEAN)
    stored.refused(Status.POLICY, policy=number)
    with pytest.raises(ValueError, match="context = 149 with mean_v: the mean is that of all 150 resident"):
        stored.summed.attend(0, stored.q, policy=MEAN, context=TOKENS - 1)
    summed = {"sequence": stored.summed.number, "generation": stored.summed.generation}
    stored.refused(Status.POLICY, policy=number, token=TOKENS - 1, **summed)
    expected = sparf_attention(stored.csd.config, stored.q, stored.k, stored.v, MEAN)
    for context in (None, TOKENS):
        assert_same_bits(stored.summed.attend(0, stored.q, policy=MEAN, context=context), expected)


def test_descriptors_that_no_policy_has(csd: Csd) -> None:
    sparf = {"cdw10": int(PolicyKind.SPARF), "cdw11": 5, "cdw12": 4 << 16 | 64, "cdw13": 16 << 8}
    for change in ({"cdw10": 3}, {"cdw11": 1 << 18}, {"cdw13": 0}, {"cdw13": 129 << 8},
                   {"cdw13": 16 << 8 | 1}, {"cdw13": 1 << 17 | 16 << 8}, {"cdw12": 1024 << 16},
                   {"cdw11": 0, "cdw12": 0}):
        with pytest.raises(DeviceError) as caught:
            csd.admin_command(AdminOpcode.POLICY_SET, index=1, **{**sparf, **change})
        assert caught.value.status is Status.BAD_FIELD
        assert csd.read_table(Table.POLICY, [1]) == [0]
    csd.admin_command(AdminOpcode.POLICY_SET, index=1, **{**sparf, "cdw13": 1 << 16 | 16 << 8})
    word = 2 | 5 << 8 | 64 << 29 | 4 << 45 | 15 << 55 | 1 << 62 | VALID
    assert csd.read_table(Table.POLICY, [1]) == [word]
    csd.write_table(Table.POLICY, [(1, word)])
    with pytest.raises(DeviceError):
        csd.write_table(Table.POLICY, [(1, VALID | 2)])


@pytest.mark.parametrize(("changes", "message"), [
    ({"dims": 16}, "dims = 16 is not possible: True or False.*SparF"),
    ({"dims": True, "mean_v": 1}, "mean_v = 1 is not possible: True or False"),
    ({"mean_v": True}, "mean_v = True is not possible: False in a cache without dims.*dims=True")])
def test_caches_that_are_not_possible(csd: Csd, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        csd.kv_cache(**SHAPE, **changes)


def test_operands_that_are_not_finite(stored: Stored) -> None:
    q = stored.q.copy()
    q[1, 7] = np.nan
    with pytest.raises(NotFiniteError):
        stored.sequence.attend(0, q, policy=POLICY)
    with pytest.raises(PositionError, match="CONTEXT"):
        stored.sequence.attend(1, stored.q, policy=POLICY)


# -- damage ------------------------------------------------------------------------------------------
BLOCK = 512


def one_head(csd: Csd, tokens: int = BLOCK + 60, dtype: str = "fp16") -> tuple[Any, Any, Any]:
    sequence = csd.kv_cache(**{**SHAPE, "kv_heads": 1, "max_tokens": 2 * BLOCK + 90}, dims=True,
                            dtype=dtype).new_sequence()
    k = random_half(rng("damaged dims"), (tokens, 1, 64))
    sequence.write(0, k, k)
    q = random_half(rng("q"), (4, 64))
    q[:, 0] = 9  # dim 0 is always kept
    return sequence, k, q


def dim_stripe(csd: Csd, sequence: Any, stripe: int = 0) -> dict[str, int]:
    """Where a stripe of head 0's dims lies."""
    model = csd.transport.device.store  # type: ignore[attr-defined]
    word = model.tables.sequences[sequence.number]
    at = Layer(number=sequence.number, sequence=word, cache=model.tables.caches[word.cache], layer=0)
    low, high = (int(each) for each in model.words(at, Region.DIMS, 0, 1, stripe + 1)[0, stripe])
    row = model.row(at, Region.DIMS, 0, stripe, MapEntry.unpack(low | high << 32))
    return {"channel": row.channel, "die": row.die, "plane": 0, "block": row.block, "page": row.page}


@pytest.mark.parametrize("byte", [3, 1000, 1056, 1064])
def test_damaged_dim_pages(csd: Csd, faults: Any, byte: int) -> None:
    sequence, k, q = one_head(csd)
    good = sequence.attend(0, q, policy=POLICY)
    assert_same_bits(good, sparf_attention(csd.config, q, k, k, POLICY))
    place = {**dim_stripe(csd, sequence), "byte": byte, "bit": 6}
    faults.flip_bit(**place)
    before = csd.counters()["tuple_errors"]
    with pytest.raises(MediaError, match="GUARD"):
        sequence.attend(0, q, policy=POLICY)
    assert csd.counters()["tuple_errors"] == before + 1
    assert_same_bits(sequence.attend(0, q), exact_attention(csd.config, q, k, k))
    faults.flip_bit(**place)
    assert_same_bits(sequence.attend(0, q, policy=POLICY), good)


def test_dims_that_are_not_kept_do_not_matter(csd: Csd, faults: Any) -> None:
    """Slots of other dims are not moved."""
    sequence, _, q = one_head(csd)
    q[:, 1] = 0
    good = sequence.attend(0, q, policy=POLICY)
    faults.flip_bit(**dim_stripe(csd, sequence), byte=csd.config.slot_bytes + 3, bit=6)
    assert_same_bits(sequence.attend(0, q, policy=POLICY), good)


def test_scores_come_out_of_dim_pages() -> None:
    """Unchecked damage of a kept dim changes what is chosen, exactly so."""
    with open_csd("model:tiny", erased=True, overrides=UNCHECKED) as csd:
        sequence, k, q = one_head(csd)
        place = dim_stripe(csd, sequence)
        csd.transport.faults.flip_bit(**place, byte=2 * 100 + 1, bit=6)  # type: ignore[attr-defined]
        damaged = k.copy()
        damaged[100, 0, 0] = (damaged[100:101, 0, 0].view(np.uint16) ^ 0x4000).view(np.float16)[0]
        chosen, _ = choice(q, damaged, POLICY)
        assert (chosen != choice(q, k, POLICY)[0]).any()
        assert_same_bits(sequence.attend(0, q, policy=POLICY),
                         exact_attention(csd.config, q, k, k, chosen=chosen))


def test_damaged_scales_of_int8_dims_that_nobody_checks() -> None:
    with open_csd("model:tiny", erased=True, overrides=UNCHECKED) as csd:
        sequence, _, q = one_head(csd, 2 * BLOCK + 80, "int8")
        sequence.attend(0, q, policy=POLICY)
        place = dim_stripe(csd, sequence, 8)  # the scales are the first places behind the 64 dims
        csd.transport.faults.flip_bit(**place, byte=1, bit=7)  # type: ignore[attr-defined]
        with pytest.raises(ScaleError):
            sequence.attend(0, q, policy=POLICY)


def test_a_damaged_row_leaves_its_block_to_k_rows(csd: Csd, faults: Any) -> None:
    """The block cannot be built; the append goes well, and once the row is whole nothing is missing."""
    sequence, k, q = one_head(csd, BLOCK)
    place = {"channel": 0, "die": 0, "plane": 0, "block": 0, "page": 0, "byte": 5, "bit": 0}
    faults.flip_bit(**place)
    sequence.write(0, k[:60], k[:60])
    with pytest.raises(MediaError, match="GUARD"):
        sequence.attend(0, q, policy=POLICY)
    faults.flip_bit(**place)
    rows = np.concatenate([k, k[:60]])
    before = csd.counters()["dim_slots_moved"]
    assert_same_bits(sequence.attend(0, q, policy=POLICY), sparf_attention(csd.config, q, rows, rows, POLICY))
    assert csd.counters()["dim_slots_moved"] == before
