# SPDX-License-Identifier: Apache-2.0
"""Entries: fields do not overlap, everything survives packing, every status has a cure."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instinfer.abi.commands import (
    ADMIN_SQE,
    CQE_BYTES,
    CURES,
    SQE,
    SQE_BYTES,
    AdminOpcode,
    Completion,
    Opcode,
    Status,
    pack,
)


@pytest.mark.parametrize("fields", [SQE, ADMIN_SQE], ids=["io", "admin"])
def test_fields_do_not_overlap(fields: dict) -> None:
    for (name, one), (other, two) in itertools.combinations(fields.items(), 2):
        assert one.low + one.width <= two.low or two.low + two.width <= one.low, (name, other)
    assert all(field.low + field.width <= 8 * SQE_BYTES for field in fields.values())


@given(st.fixed_dictionaries({name: st.integers(0, (1 << field.width) - 1) for name, field in SQE.items()}))
def test_commands_survive_packing(values: dict[str, int]) -> None:
    data = pack(SQE, **values)
    assert len(data) == SQE_BYTES
    entry = int.from_bytes(data, "little")
    assert {name: field.get(entry) for name, field in SQE.items()} == values
    used = sum(((1 << field.width) - 1) << field.low for field in SQE.values())
    assert entry & ~used == 0


@given(st.sampled_from(sorted(SQE)), st.integers(0, 1 << 70))
def test_values_that_do_not_fit_are_refused(name: str, excess: int) -> None:
    limit = 1 << SQE[name].width
    with pytest.raises(ValueError, match=f"{name} = {limit + excess} does not fit its {SQE[name].width}-bit"):
        pack(SQE, **{name: limit + excess})
    with pytest.raises(ValueError, match=f"give 0 to {limit - 1}"):
        pack(SQE, **{name: -1})


@given(st.builds(Completion, result=st.integers(0, 2**64 - 1), sq_head=st.integers(0, 2**16 - 1),
                 sq_id=st.integers(0, 2**16 - 1), cid=st.integers(0, 2**16 - 1), phase=st.integers(0, 1),
                 status=st.sampled_from(Status)))
def test_completions_survive_packing(completion: Completion) -> None:
    data = completion.pack()
    assert len(data) == CQE_BYTES
    assert Completion.unpack(data) == completion
    do_not_retry = data[15] >> 7
    assert do_not_retry == (completion.status is not Status.SUCCESS and not completion.status.retryable)
    assert data[14] & 1 == completion.phase


def test_every_failure_has_a_cure() -> None:
    assert set(CURES) == set(Status) - {Status.SUCCESS}
    assert [status for status in Status if status.retryable] == [
        Status.TRANSFER_ERROR, Status.BUSY, Status.UNRECOVERED_READ]


def test_opcodes_state_their_direction() -> None:
    """NVMe: bits 1:0 are 01 host to device, 10 device to host, 11 both, 00 none."""
    assert {opcode.name: opcode & 3 for opcode in Opcode} == {
        "KV_WRITE": 1, "KV_APPEND": 1, "ATTEND": 3, "APPEND_ATTEND": 3, "KV_FREE": 0, "KV_SYNC": 0,
        "KV_READ": 2}
    vendor = [opcode for opcode in AdminOpcode if opcode >= 0xC0]
    assert all(opcode & 3 == 0 for opcode in vendor)
