# SPDX-License-Identifier: Apache-2.0
"""What is wrong with sketches and their policies is refused, by the driver and by the device, and nothing is
lost."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from instinfer.abi.commands import AdminOpcode, Dtype, Opcode, PolicyKind, Status, Table
from instinfer.abi.errors import ConfigError
from instinfer.abi.layout import SKETCH_OFFSET, SketchShape
from instinfer.abi.tables import VALID
from instinfer.host import (
    PCA,
    ChosenDims,
    Csd,
    DeviceError,
    DmaError,
    MediaError,
    NotFiniteError,
    PolicyError,
    PositionError,
    ResourceError,
    ScaleError,
    Sketch,
    open_csd,
)
from support import rng
from support.kv import assert_same_bits, exact_attention, random_half
from support.sketches import sketch_attention

TOKENS = 150
OF_OPERANDS = (Status.SCALE, Status.NOT_FINITE)
"""Found while heads before have been read, and their own stripes asked for."""
SKETCHER = PCA(64, 8, fit_tokens=8)
SKETCH = SketchShape(64, 8)
POLICY = Sketch(keep_tokens=16, group=4, window=6, sinks=2)
SHAPE: dict[str, Any] = {"layers": 2, "kv_heads": 2, "query_heads": 4, "head_dim": 64, "max_tokens": 200}


class Stored:
    """A sequence with sketches, one without, and proof that the device goes on."""

    def __init__(self, csd: Csd) -> None:
        random = rng("bad sketches")
        self.csd = csd
        self.sequence, self.plain = (csd.kv_cache(**SHAPE, sketch=sketch).new_sequence()
                                     for sketch in (SKETCHER, None))
        self.k, self.v = (random_half(random, (TOKENS, 2, 64)) for _ in range(2))
        self.q = random_half(random, (4, 64), 3)
        for each in (self.sequence, self.plain):
            each.write(0, self.k, self.v)
        self.buffer = csd.memory.allocate(1 << 16)
        self.buffer.data[:] = 0
        self.policy = csd.policy_number(POLICY)

    def fields(self, **changes: int) -> dict[str, int]:
        """A good ATTEND with the sketch policy, changed."""
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
        if status not in OF_OPERANDS:
            assert after["stripes_sensed"] == before["stripes_sensed"]
        self.check()
        return caught.value

    def check(self) -> None:
        assert self.sequence.resident(0) == TOKENS
        expected = sketch_attention(self.csd.config, self.sequence, SKETCHER, self.q, self.k, self.v, POLICY)
        assert_same_bits(self.sequence.attend(0, self.q, policy=POLICY), expected)


@pytest.fixture
def stored(csd: Csd) -> Iterator[Stored]:
    state = Stored(csd)
    state.check()
    yield state
    state.check()


def test_good_sketch_command_as_a_control(stored: Stored) -> None:
    assert stored.csd.io_command(Opcode.ATTEND, **stored.fields()).result >> 32 == TOKENS


def test_policy_of_a_cache_without_sketches(stored: Stored) -> None:
    with pytest.raises(ConfigError, match=r"policy = Sketch\(.*needs no sketches.*kv_cache\(.*sketch=PCA"):
        stored.plain.attend(0, stored.q, policy=POLICY)
    other = {"sequence": stored.plain.number, "generation": stored.plain.generation}
    assert isinstance(stored.refused(Status.POLICY, **other), PolicyError)
    stored.refused(Status.POLICY, Opcode.APPEND_ATTEND, token=TOKENS, tokens=1, **other)
    assert stored.plain.resident(0) == TOKENS
    stored.csd.io_command(Opcode.ATTEND, **stored.fields(policy=0, **other))


def test_a_group_larger_than_a_page(stored: Stored) -> None:
    """A page of `tiny` holds 16 rows of 64 dims."""
    large = Sketch(keep_tokens=64, group=32)
    with pytest.raises(ConfigError, match="group = 32 is not possible: at most 16, the tokens of a page"):
        stored.sequence.attend(0, stored.q, policy=large)
    number = stored.csd.policy_number(large)
    stored.refused(Status.POLICY, policy=number)
    page = Sketch(keep_tokens=64, group=16)
    assert_same_bits(stored.sequence.attend(0, stored.q, policy=page), sketch_attention(
        stored.csd.config, stored.sequence, SKETCHER, stored.q, stored.k, stored.v, page))


def test_descriptors_that_no_policy_has(csd: Csd) -> None:
    def refused(**fields: int) -> None:
        with pytest.raises(DeviceError) as caught:
            csd.admin_command(AdminOpcode.POLICY_SET, index=1, **fields)
        assert caught.value.status is Status.BAD_FIELD
        assert csd.read_table(Table.POLICY, [1]) == [0]

    sketch = {"cdw10": int(PolicyKind.SKETCH), "cdw11": 5, "cdw12": 4 << 16 | 64, "cdw13": 3}
    for change in ({"cdw10": 2}, {"cdw10": 0x101}, {"cdw11": 1 << 18}, {"cdw13": 6}, {"cdw13": 3 | 1 << 8},
                   {"cdw11": 0, "cdw12": 0}):
        refused(**{**sketch, **change})
    for name in ("cdw11", "cdw12", "cdw13"):
        refused(**{"cdw10": int(PolicyKind.DENSE), name: 1})
    with pytest.raises(DeviceError):
        csd.admin_command(AdminOpcode.POLICY_SET, index=csd.config.max_policies, **sketch)
    csd.admin_command(AdminOpcode.POLICY_SET, index=1, **sketch)
    assert csd.read_table(Table.POLICY, [1]) == [1 | 5 << 8 | 3 << 26 | 64 << 29 | 4 << 45 | VALID]
    for value in (VALID | 2, VALID | 1 | 6 << 26 | 1 << 45, VALID | 1):
        with pytest.raises(DeviceError):
            csd.write_table(Table.POLICY, [(1, value)])


def test_more_policies_than_descriptors(stored: Stored) -> None:
    for keep in range(stored.csd.config.max_policies - 2):  # Dense() and POLICY have one
        stored.sequence.attend(0, stored.q, policy=Sketch(keep_tokens=8 * keep))
    with pytest.raises(ResourceError, match="use fewer different policies"):
        stored.sequence.attend(0, stored.q, policy=Sketch(keep_tokens=800))


def test_sketch_shapes_that_the_device_has_not(csd: Csd) -> None:
    shape = {"cdw10": 2 << 16 | 2, "cdw11": 64 << 16 | 2, "cdw12": 100}
    for dims, bits, rest in ((12, 4, 0), (72, 4, 0), (16, 3, 0), (16, 0, 0), (0, 4, 0), (16, 4, 2),
                             (16, 4, 4)):
        with pytest.raises(DeviceError) as caught:
            csd.admin_command(AdminOpcode.KV_CONFIG, index=0, **shape,
                              cdw13=rest << 24 | bits << 16 | dims << 8)
        assert caught.value.status is Status.BAD_FIELD
    for sketch, message in (("pca", "sketch = 'pca' is not possible: a Sketcher or None"),
                            (PCA, "Give an instance")):
        with pytest.raises(ConfigError, match=message):
            csd.kv_cache(**SHAPE, sketch=sketch)  # type: ignore[arg-type]
    csd.admin_command(AdminOpcode.KV_CONFIG, index=0, **shape, cdw13=4 << 16 | 16 << 8 | Dtype.INT8)


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf, 512.0])
def test_scales_of_stored_sketches(stored: Stored, scale: float) -> None:
    record = 96 + 128
    data = stored.csd.memory.allocate(70 * 2 * record)
    records = data.array(np.uint8, (70, 2, record))
    records[:] = 0
    records[..., 2:4] = np.array([1], np.float16).view(np.uint8)
    fields = {"layer": 1, "tokens": 70, "prp1": data.address, "prp2": data.address}
    records[69, 1, 2:4] = np.array([scale], np.float16).view(np.uint8)
    error = stored.refused(Status.SCALE, Opcode.KV_WRITE, **fields)
    assert isinstance(error, ScaleError)
    assert error.result == 64, "finished stripes stay"
    records[69, 1, 2:4] = np.array([1], np.float16).view(np.uint8)
    records[68, 0, 96:98] = 0x7C  # Inf
    stored.refused(Status.POSITION, Opcode.KV_WRITE, **fields)
    error = stored.refused(Status.NOT_FINITE, Opcode.KV_WRITE, **{**fields, "token": 64, "tokens": 6,
                                                                  "prp1": data.address + 64 * 2 * record})
    assert isinstance(error, NotFiniteError)


@pytest.mark.parametrize("exponent", [-65, 64, -128, 127])
def test_exponents_of_query_sketches(stored: Stored, exponent: int) -> None:
    start = 4 * 64 * 2
    stored.buffer.data[start + 3 * SKETCH.query_bytes] = exponent & 0xFF
    assert isinstance(stored.refused(Status.SCALE), ScaleError)
    stored.csd.io_command(Opcode.ATTEND, **stored.fields(policy=0))  # dense does not look at it
    stored.buffer.data[:] = 0
    stored.csd.io_command(Opcode.ATTEND, **stored.fields())


def test_sketches_outside_the_window(stored: Stored) -> None:
    """q and its sketches are one region: the last byte counts."""
    outside = stored.csd.transport.allocate(8192)
    size = 4 * 64 * 2 + 4 * SKETCH.query_bytes
    stored.csd.admin_command(AdminOpcode.WINDOW_SET, index=5, prp1=outside.address, prp2=4096, cdw10=1)
    inside = outside.address + (4096 - size) // 64 * 64
    output = {"out_offset": (1 << 14) - 1}
    assert isinstance(stored.refused(Status.WINDOW, prp1=inside + 64, **output), DmaError)
    stored.csd.admin_command(AdminOpcode.WINDOW_SET, index=5, prp1=outside.address, prp2=8192, cdw10=3)
    stored.csd.io_command(Opcode.ATTEND, **stored.fields(prp1=inside + 64, out_offset=(size + 63) // 64))
    stored.csd.admin_command(AdminOpcode.WINDOW_SET, index=5, prp1=0, prp2=0)


def test_arrays_that_cannot_be_sketched(stored: Stored) -> None:
    k, v = stored.k[:5].copy(), stored.v[:5]
    for value in (np.nan, np.inf):
        k[4, 1, 63] = value
        with pytest.raises(ValueError, match="k: NaN or Inf in a key"):
            stored.sequence.write(0, k, v)
        with pytest.raises(ValueError, match="k: NaN or Inf in a key"):
            stored.sequence.attend(0, stored.q, append=(k[4], v[4]), policy=POLICY)
    sequence = stored.csd.kv_cache(**SHAPE, sketch=ChosenDims(8, 2)).new_sequence()
    with pytest.raises(ValueError, match=r"sketch scale = .*: below 512"):
        sequence.write(0, np.full((5, 2, 64), 60000, np.float16), v)
    q = stored.q.copy()
    q[1, 7] = np.nan
    with pytest.raises(ValueError, match="NaN or Inf in a query sketch"):
        stored.sequence.attend(0, q, policy=POLICY)
    with pytest.raises(NotFiniteError):
        stored.sequence.attend(0, q)
    with pytest.raises(PositionError, match="CONTEXT"):
        stored.sequence.attend(1, stored.q, policy=POLICY)
    with pytest.raises(PositionError, match="CONTEXT"):
        stored.sequence.attend(0, stored.q, context=TOKENS + 1, policy=POLICY)


def test_q_that_is_not_finite_with_good_sketches(stored: Stored) -> None:
    stored.buffer.array(np.float16, (256,))[70] = np.inf
    with pytest.raises(NotFiniteError):
        stored.csd.io_command(Opcode.ATTEND, **stored.fields())


def sketch_stripe(csd: Csd) -> dict[str, int]:
    """Where stripe 0 of head 0's sketches lies, in a drive in which nothing else was written before."""
    return {"channel": 0, "die": 0, "plane": 0, "block": 0, "page": 1}


@pytest.mark.parametrize("byte", [3, SKETCH_OFFSET + 60, 1056, 1064])
def test_damaged_sketches(csd_kind: str, byte: int) -> None:
    with open_csd(csd_kind, erased=True) as csd:
        sequence = csd.kv_cache(**{**SHAPE, "kv_heads": 1}, sketch=SKETCHER).new_sequence()
        k = random_half(rng("damaged"), (130, 1, 64))
        sequence.write(0, k, k)
        q = random_half(rng("q"), (4, 64), 3)
        good = sketch_attention(csd.config, sequence, SKETCHER, q, k, k, POLICY)
        place = {**sketch_stripe(csd), "byte": byte, "bit": 7}
        csd.transport.faults.flip_bit(**place)  # type: ignore[attr-defined]
        before = csd.counters()["tuple_errors"]
        with pytest.raises(MediaError, match="GUARD"):
            sequence.attend(0, q, policy=POLICY)
        assert csd.counters()["tuple_errors"] == before + 1
        assert_same_bits(sequence.attend(0, q), exact_attention(csd.config, q, k, k))
        csd.transport.faults.flip_bit(**place)  # type: ignore[attr-defined]
        assert_same_bits(sequence.attend(0, q, policy=POLICY), good)


def test_damaged_scale_of_a_sketch_that_nobody_checks(csd_kind: str) -> None:
    with open_csd(csd_kind, erased=True, overrides={"check_tuples": False}) as csd:
        sequence = csd.kv_cache(**{**SHAPE, "kv_heads": 1}, sketch=SKETCHER).new_sequence()
        k = random_half(rng("damaged"), (130, 1, 64))
        sequence.write(0, k, k)
        csd.transport.faults.flip_bit(**sketch_stripe(csd), byte=3, bit=7)  # type: ignore[attr-defined]
        with pytest.raises(ScaleError):
            sequence.attend(0, random_half(rng("q"), (4, 64), 3), policy=POLICY)


def test_damage_in_rows_that_are_not_chosen_does_not_matter(csd_kind: str) -> None:
    """Slots that the mask leaves out are not moved, so nobody sees what is wrong with them."""
    with open_csd(csd_kind, erased=True) as csd:
        sequence = csd.kv_cache(**{**SHAPE, "kv_heads": 1}, sketch=SKETCHER).new_sequence()
        k = random_half(rng("not chosen"), (150, 1, 64))
        sequence.write(0, k, k)
        q = random_half(rng("q"), (4, 64), 3)
        near = Sketch(keep_tokens=0, group=4, window=100)
        good = sequence.attend(0, q, policy=near)
        # Tokens 16 to 31 lie in plane 1.
        place = {"channel": 0, "die": 0, "plane": 1, "block": 0, "page": 0, "byte": 5, "bit": 0}
        csd.transport.faults.flip_bit(**place)  # type: ignore[attr-defined]
        assert_same_bits(sequence.attend(0, q, policy=near), good)
        with pytest.raises(MediaError, match="GUARD"):
            sequence.attend(0, q)
        csd.transport.faults.flip_bit(**place)  # type: ignore[attr-defined]
        assert_same_bits(sequence.attend(0, q), exact_attention(csd.config, q, k, k))
