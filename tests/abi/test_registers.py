# SPDX-License-Identifier: Apache-2.0
"""The BAR's map: aligned, without overlap, inside the BAR, and complete."""

import dataclasses
import itertools

import pytest

from instinfer.abi.config import EngineConfig
from instinfer.abi.presets import presets
from instinfer.abi.registers import (
    BAR_BYTES,
    FIELDS,
    IDENTITY_WORDS,
    MAGIC,
    Counter,
    Fault,
    Register,
    identity_words,
    writable_bits,
)

AREAS = {
    Register.IDENTITY: 4 * (1 + len(IDENTITY_WORDS)),
    Register.COUNTERS: 8 * len(Counter),
    Register.DOORBELLS: 8 * 17,
}
"""Bytes of what is larger than a word; 17 queues are the most that a configuration has."""


def test_registers_are_words_that_do_not_overlap() -> None:
    areas = sorted((register.value, register.value + AREAS.get(register, 4)) for register in Register)
    assert all(first % 4 == 0 for first, _ in areas)
    assert all(one[1] <= two[0] for one, two in itertools.pairwise(areas))
    assert areas[-1][1] <= BAR_BYTES


def test_controller_registers_are_where_nvme_has_them() -> None:
    assert {register.name: register.value for register in Register if register <= Register.ACQ_HI} == {
        "CAP_LO": 0x00, "VS": 0x08, "INTMS": 0x0C, "INTMC": 0x10, "CC": 0x14, "CSTS": 0x1C, "AQA": 0x24,
        "ASQ_LO": 0x28, "ASQ_HI": 0x2C, "ACQ_LO": 0x30, "ACQ_HI": 0x34}
    assert Register.DOORBELLS == 0x1000


def test_magic_is_readable() -> None:
    assert MAGIC.to_bytes(4, "little") == b"INST"


def test_counters_and_faults_are_numbered_without_gaps() -> None:
    assert [counter.value for counter in Counter] == list(range(len(Counter)))
    assert [fault.value for fault in Fault] == list(range(len(Fault)))


@pytest.mark.parametrize("config", presets().values(), ids=lambda config: config.name)
def test_identity_names_the_configuration(config: EngineConfig) -> None:
    words = dict(zip(IDENTITY_WORDS, identity_words(config), strict=True))
    assert all(0 <= word < 1 << 32 for word in words.values())
    assert words.pop("dram_bytes_mib") << 20 == config.dram_bytes
    assert words == {name: getattr(config, name) for name in words}


def test_configurations_that_differ_have_identities_that_differ() -> None:
    tiny = presets()["tiny"]
    for name in ("channels", "dies", "pages", "head_slots", "io_queues", "max_windows", "timeout_us"):
        other = dataclasses.replace(tiny, **{name: getattr(tiny, name) * 2})
        assert identity_words(other) != identity_words(tiny), name
    narrow = dataclasses.replace(tiny, superblock_dies=1)
    assert identity_words(narrow) != identity_words(tiny)
    assert identity_words(dataclasses.replace(tiny, superblock_dies=2)) == identity_words(tiny)


def test_fields_of_a_register_do_not_overlap() -> None:
    assert set(FIELDS) == set(Register)
    for register, fields in FIELDS.items():
        assert sum(field.mask for field in fields).bit_count() == sum(each.width for each in fields), register
        assert all(field.low >= 0 and field.low + field.width <= 32 for field in fields), register
    assert writable_bits(Register.AQA) == 0x0FFF_0FFF
    assert writable_bits(Register.ASQ_LO) == 0xFFFF_F000
    assert writable_bits(Register.CSTS) == 0
