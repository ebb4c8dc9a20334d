# SPDX-License-Identifier: Apache-2.0
"""The whole device in RTL, `tiny` but for its pages in DDR; model and driver are those of NAND (more:
test_long_ddr.py)."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from host.test_left_out import DENSE_ALONE, test_policies_that_are_left_out
from host.test_sequence import test_many_commands_in_flight
from instinfer.abi.commands import Status, Table
from instinfer.abi.layout import ERASED_BYTE, TUPLE_OFFSET, RowShape
from instinfer.abi.presets import load
from instinfer.cosim.bench.attention import dense
from instinfer.cosim.bench.workload import Shape
from instinfer.cosim.native.engine import memory_timing
from instinfer.cosim.state import DriveState
from instinfer.host import Csd, MediaError, open_csd
from instinfer.host.transport.base import TransportError
from support import rng
from support.kv import assert_same_bits, exact_attention, random_half
from system.test_agreement import AGREEING, fill

__all__ = ["test_many_commands_in_flight", "test_policies_that_are_left_out"]
IN_DDR = {"page_source": "ddr", "spare_blocks": 0}
QUICK = {**IN_DDR, **DENSE_ALONE}
"""With policies in test_long_ddr.py."""
CONFIG = load(preset="tiny", overrides=QUICK)
HEADS, DIMS, TOKENS = 2, 64, 150
pytestmark = pytest.mark.soak
"""One more build of an engine; `make test` has the channel on DDR (hw/ddr)."""


def opened(kind: str = "sim", *, overrides: dict[str, Any] = QUICK, **options: Any) -> Csd:
    return open_csd(f"{kind}:tiny", overrides=overrides, **options)


@pytest.fixture
def csd() -> Iterator[Csd]:
    """A new drive; nothing in its memory is known to be erased."""
    with opened() as device:
        yield device


class Stored:
    """A sequence of one layer with `TOKENS` tokens, all whole stripes of both heads in DDR pages."""

    def __init__(self, csd: Csd, *, layers: int = 1) -> None:
        random = rng("stored")
        cache = csd.kv_cache(layers=layers, kv_heads=HEADS, query_heads=HEADS, head_dim=DIMS, max_tokens=600)
        self.csd, self.sequence = csd, cache.new_sequence()
        self.k, self.v = (random_half(random, (TOKENS, HEADS, DIMS)) for _ in range(2))
        self.q = random_half(random, (HEADS, DIMS), 3)
        self.expected = exact_attention(csd.config, self.q, self.k, self.v)

    def write(self) -> "Stored":
        self.sequence.write(0, self.k, self.v)
        self.sequence.sync()
        return self

    def check(self, layer: int = 0) -> None:
        assert_same_bits(self.sequence.attend(layer, self.q), self.expected)

    def block(self) -> int:
        index = self.sequence.number * self.csd.config.max_superblocks_per_sequence
        return self.csd.read_table(Table.SUPERBLOCK_LIST, [index])[0]


def faults_of(csd: Csd) -> Any:
    transport: Any = csd.transport
    return transport.faults


def test_outputs_counts_and_state(tmp_path: Path) -> None:
    """Model and RTL agree, erases of what is taken included, and each opens the other's drive."""
    outputs, counters, states = {}, {}, {}
    for kind in ("model", "sim"):
        with opened(kind) as csd:
            outputs[kind] = fill(csd, "agreement")
            counters[kind] = csd.counters()
            csd.save(tmp_path / kind)
        states[kind] = DriveState.load(tmp_path / kind)
    for one, other in zip(*outputs.values(), strict=True):
        assert_same_bits(one, other)
    for name in (*AGREEING, "STRIPES_ERASED"):
        assert counters["sim"][name.lower()] == counters["model"][name.lower()], name
    assert counters["sim"]["stripes_sensed"] > 0 < counters["sim"]["stripes_erased"]
    assert states["model"].differences(states["sim"]) == []
    assert len(states["sim"].nand_keys) > 0
    q = random_half(rng("other"), (4, 64), 3)
    found = []
    for writer, reader in (("model", "sim"), ("sim", "model")):
        with opened(reader, state=tmp_path / writer) as csd:
            found.append([sequence.attend(0, q) for sequence in csd.caches[0].sequences])
    assert len(found[0]) == 2
    for one, other in zip(*found, strict=True):
        assert_same_bits(one, other)


def test_what_was_freed_can_never_be_read(csd: Csd) -> None:
    """The next owner's erase marks every slot of the block before anything is stored there."""
    transport: Any = csd.transport
    first = Stored(csd).write()
    first.check()
    block, config = first.block(), csd.config
    rows = [(channel, die, page) for channel in range(config.channels) for die in range(config.dies)
            for page in range(config.pages)]

    def tuples() -> np.ndarray:
        found = [transport.nand.row(channel=channel, die=die, block=block, page=page)
                 .reshape(-1, config.slot_bytes)[:, TUPLE_OFFSET:TUPLE_OFFSET + 12]
                 for channel, die, page in rows]
        return np.stack(found)

    before = tuples()
    owned = (before[..., 2:4].view(np.uint16)[..., 0] == first.sequence.generation)
    assert owned.any()
    keys, _ = transport.nand.image()
    assert (keys[:, 3] == block).any()
    first.sequence.free()
    after = tuples()
    assert (after == ERASED_BYTE).all()
    keys, _ = transport.nand.image()
    assert not (keys[:, 3] == block).any()
    Stored(csd).write().check()


def test_damage_is_noticed(csd: Csd) -> None:
    stored = Stored(csd).write()
    stored.check()
    for byte in (1, csd.config.slot_bytes + 700, TUPLE_OFFSET + 3):
        place = {"channel": 0, "die": 0, "plane": 0, "block": stored.block(), "page": 0}
        faults_of(csd).flip_bit(**place, byte=byte, bit=6)
        with pytest.raises(MediaError) as caught:
            stored.sequence.attend(0, stored.q)
        assert caught.value.status is Status.GUARD
        faults_of(csd).flip_bit(**place, byte=byte, bit=6)
        stored.check()


def test_memory_that_fails_or_does_not_answer(csd: Csd) -> None:
    """A read: UNRECOVERED_READ, and all is well when the memory is. A program: repeated on the next row."""
    stored, faults = Stored(csd, layers=2).write(), faults_of(csd)
    stored.check()
    row = {"channel": 0, "die": 0, "block": stored.block(), "page": 0}
    for refuse in (faults.fail_row, faults.silence_row):
        refuse(**row)
        begun = csd.cycles()
        with pytest.raises(MediaError) as caught:
            stored.sequence.attend(0, stored.q)
        assert caught.value.status is Status.UNRECOVERED_READ
        spent = (csd.cycles() or 0) - (begun or 0)
        limit = csd.config.cycles(1000 * csd.config.timeout_us)
        assert (spent > limit) == (refuse == faults.silence_row)
        faults.repair()
        csd.transport.run(100)  # type: ignore[attr-defined]
        stored.check()
    counted = csd.counters()
    rows = csd.read_table(Table.ROW_COUNT, [stored.sequence.number * csd.config.row_counters])[0]
    faults.fail_row(channel=0, die=0, block=stored.block(), page=rows)
    stored.sequence.write(1, stored.k, stored.v)
    stored.sequence.sync()
    faults.repair()
    stored.check(1)
    assert csd.counters()["program_failures"] == counted["program_failures"] + 1


def test_faults_of_nand_are_refused_with_a_cure(csd: Csd) -> None:
    faults = faults_of(csd)
    for name, arguments in (("fail_program", {"count": 1}), ("fail_erase", {"count": 1}), ("stick_die", {}),
                            ("bad_block", {"plane": 0, "block": 0})):
        with pytest.raises(TransportError, match="lie in DDR.*use faults"):
            getattr(faults, name)(channel=0, die=0, **arguments)


def test_dense_against_its_bound() -> None:
    """`bench dense` holds cycles against the bound and values against the model."""
    row = dense(CONFIG, Shape(tokens=400, kv_heads=2, queries=2, head_dim=128), commands=4)
    assert row["bit_exact"] is True
    assert row["bound_cycles"] == row["ideal_cycles"] + CONFIG.cycles(CONFIG.ddr_read_ns) <= row["cycles"]
    assert row["timing"]["page_source"] == "ddr"
    assert row["bytes_moved"] == row["slots_moved"] * CONFIG.slot_bytes
    assert row["bus_data_cycles"] >= row["slots_moved"] * CONFIG.slot_beats


def test_memory_never_moves_more_than_it_can() -> None:
    """A memory of 8 bytes a cycle under channels that could take 16: it decides, and the slots come late."""
    spent = {}
    for rate in (8_000, CONFIG.ddr_bytes_per_kilocycle):
        timing = memory_timing(dataclasses.replace(
            CONFIG, ddr_megabytes_per_second=rate * CONFIG.clock_mhz // 1000))
        assert timing.bytes_per_kilocycle == rate
        with opened(dram=timing) as csd:
            stored = Stored(csd).write()
            simulation: Any = csd.transport.simulation  # type: ignore[attr-defined]
            stored.check()
            before, begun = simulation.dram_counts(), simulation.cycles
            pending = [stored.sequence.attend_async(0, stored.q) for _ in range(4)]
            for each in pending:
                assert_same_bits(each.result(), stored.expected)
            counts, spent[rate] = simulation.dram_counts(), simulation.cycles - begun
            moved = (counts.read_bytes + counts.write_bytes) - (before.read_bytes + before.write_bytes)
            assert moved * 1000 <= rate * (spent[rate] + 1) + 64 * 32_000
            slots = 4 * HEADS * (TOKENS // RowShape(DIMS).tokens_per_stripe(CONFIG)) * CONFIG.slots_per_stripe
            assert moved >= slots * CONFIG.slot_bytes * 3 // 4, "the pages were read from this memory"
    assert spent[8_000] > 1.3 * spent[CONFIG.ddr_bytes_per_kilocycle]
