# SPDX-License-Identifier: Apache-2.0
"""Host memory, DRAM, BAR, events and waveforms of the native harness, under a small copy engine."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cosim.native import copier
from cosim.native.copier import Copier
from instinfer.cosim.build import Text
from instinfer.cosim.native import binding
from instinfer.cosim.native.binding import AxiResponse, MemoryTiming, Simulation, SimulationError, Stop
from instinfer.cosim.native.top import simulation_top
from instinfer.hw.generate import render_component
from support.seeds import rng

DRAM_BYTES = 1 << 20
BASE = 0x7_0000_0000
FAST = MemoryTiming(
    read_cycles=10, write_cycles=5, response_cycles=2, bytes_per_kilocycle=32_000, shared=False
)


@pytest.fixture(scope="module")
def library() -> Path:
    verilog = [Text(name, text) for name, text in render_component(Copier(), name="copier").items()]
    return binding.build(design="copier", verilog=verilog, events={"event_state": 3}, trace=True)


def opened(library: Path, *, host: MemoryTiming = FAST, dram: MemoryTiming = FAST) -> Simulation:
    simulation = Simulation(library, dram_bytes=DRAM_BYTES, host=host, dram=dram)
    simulation.reset()
    return simulation


@pytest.fixture
def sim(library: Path) -> Iterator[Simulation]:
    simulation = opened(library)
    yield simulation
    simulation.close()


def copy(
    sim: Simulation,
    source: int,
    destination: int,
    beats: int,
    flags: int,
    *,
    strobe: int = 0xFFFF_FFFF,
    cycles: int = 100_000,
) -> int:
    """Run one copy; returns the status register."""
    values = {
        copier.SOURCE: source & 0xFFFF_FFFF,
        copier.SOURCE + 4: source >> 32,
        copier.DESTINATION: destination & 0xFFFF_FFFF,
        copier.DESTINATION + 4: destination >> 32,
        copier.BEATS: beats,
        copier.FLAGS: flags,
        copier.STROBE: strobe,
        copier.START: 1,
    }
    for register, value in values.items():
        sim.bar_write(register, value)
    while (stop := sim.run(cycles, stop_on_interrupt=True)) is Stop.WATCHED_STORE:
        pass
    assert stop is Stop.INTERRUPT, f"the copy did not end within {cycles} cycles"
    return sim.bar_read(copier.START)


def noise(size: int) -> np.ndarray:
    return rng("memory contents").integers(0, 256, size, np.uint8)


@pytest.mark.parametrize(
    ("offset", "target", "beats"),
    [(0, 0, 1), (0xFE0, 0x40, 2), (0x20, 0xFE0, 129), (0x1000, 0x2FC0, 300), (0xFC0, 0xFA0, 64)],
)
def test_copies_arrive_between_guard_bytes(sim: Simulation, offset: int, target: int, beats: int) -> None:
    data = noise(16384)
    sim.add_window(BASE, data)
    sim.dram[:] = 0xA5
    strobe = 0x0000_0FFF
    assert copy(sim, BASE + offset, target, beats, copier.TO_DRAM, strobe=strobe) == 0
    size = beats * 32 - 20
    np.testing.assert_array_equal(sim.dram[target : target + size], data[offset : offset + size])
    assert (sim.dram[:target] == 0xA5).all()
    assert (sim.dram[target + size :] == 0xA5).all()
    back = np.full(16384, 0x5A, np.uint8)
    sim.add_window(BASE + 0x10_0000, back)
    assert copy(sim, target, BASE + 0x10_0000 + 0x20, beats, copier.FROM_DRAM, strobe=strobe) == 0
    sim.run(20)
    np.testing.assert_array_equal(back[0x20 : 0x20 + size], data[offset : offset + size])
    assert (back[:0x20] == 0x5A).all()
    assert (back[0x20 + size :] == 0x5A).all()


def test_read_latency_is_as_configured(library: Path) -> None:
    def cycles(latency: int) -> int:
        timing = MemoryTiming(
            read_cycles=latency, write_cycles=0, response_cycles=0, bytes_per_kilocycle=32_000, shared=False
        )
        sim = opened(library, host=timing)
        sim.add_window(BASE, noise(4096))
        sim.start_events()
        assert copy(sim, BASE, 0, 1, copier.TO_DRAM) == 0
        events, lost = sim.take_events()
        sim.close()
        assert lost == 0
        at = {int(event["value"]): int(event["cycle"]) for event in events}
        return at[4] - at[3]  # from TAKE_DATA to ADDRESS_WRITE

    assert cycles(100) - cycles(20) == 80


def test_bandwidth_is_capped(library: Path) -> None:
    slow = MemoryTiming(
        read_cycles=1, write_cycles=1, response_cycles=1, bytes_per_kilocycle=4_000, shared=False
    )
    beats = 512
    times = {}
    for name, timing in (("fast", FAST), ("slow", slow)):
        sim = opened(library, dram=timing)
        sim.add_window(BASE, noise(32 * beats))
        before = sim.cycles
        assert copy(sim, BASE, 0, beats, copier.TO_DRAM) == 0
        times[name] = sim.cycles - before
        assert sim.dram_counts().write_bytes == 32 * beats
        sim.close()
    cap = (32 * beats - 64 * 32) / 4.0
    assert times["slow"] >= cap
    assert times["slow"] <= 1.2 * cap + 500
    assert times["fast"] < times["slow"] / 2


def test_posted_writes_are_seen_by_later_reads(library: Path) -> None:
    """The response comes long before the data land, yet a read behind it gets the new data."""
    posted = MemoryTiming(
        read_cycles=1, write_cycles=400, response_cycles=1, bytes_per_kilocycle=32_000, shared=False
    )
    sim = opened(library, host=posted)
    data = noise(8192)
    sim.add_window(BASE, data)
    sim.dram[:64] = noise(64)
    assert copy(sim, 0, BASE + 4096, 2, copier.FROM_DRAM) == 0
    assert (data[4096:4160] != sim.dram[:64]).any(), "the write landed at once: nothing was tested"
    assert copy(sim, BASE + 4096, 4096, 2, copier.TO_DRAM) == 0
    np.testing.assert_array_equal(sim.dram[4096:4160], sim.dram[:64])
    sim.close()


def test_run_stops_at_a_watched_store(sim: Simulation) -> None:
    data, watched = noise(4096), np.zeros(4096, np.uint8)
    sim.add_window(BASE, data)
    sim.add_window(BASE + 0x1000, watched, watch=True)
    for register, value in (
        (copier.SOURCE, BASE & 0xFFFF_FFFF),
        (copier.SOURCE + 4, BASE >> 32),
        (copier.DESTINATION, (BASE + 0x1000) & 0xFFFF_FFFF),
        (copier.DESTINATION + 4, BASE >> 32),
        (copier.BEATS, 1),
        (copier.FLAGS, 0),
        (copier.STROBE, 0xFFFF_FFFF),
        (copier.START, 1),
    ):
        sim.bar_write(register, value)
    assert sim.run(1000) is Stop.WATCHED_STORE
    np.testing.assert_array_equal(watched[:32], data[:32])
    assert sim.run(100) is Stop.CYCLES_DONE


def test_unmapped_and_poisoned_addresses_answer_with_errors(sim: Simulation) -> None:
    data = noise(8192)
    before = data.copy()
    sim.add_window(BASE, data)
    assert copy(sim, BASE + 8192, 0, 1, copier.TO_DRAM) == 2
    assert copy(sim, 0, BASE - 4096, 1, copier.FROM_DRAM) == 4
    sim.poison([(BASE + 64, 32, AxiResponse.SLAVE_ERROR)])
    assert copy(sim, BASE, 0, 1, copier.TO_DRAM) == 0
    assert copy(sim, BASE + 64, 0, 1, copier.TO_DRAM) == 2
    assert copy(sim, 0, BASE + 64, 1, copier.FROM_DRAM) == 4
    sim.poison([])
    assert copy(sim, BASE + 64, 0, 1, copier.TO_DRAM) == 0
    sim.run(20)
    np.testing.assert_array_equal(data, before)
    assert sim.host_counts().errors == 4


@pytest.mark.parametrize("flags", [copier.TO_DRAM, copier.FROM_DRAM])
def test_a_silent_range_answers_when_it_is_let_go(sim: Simulation, flags: int) -> None:
    data = noise(4096)
    sim.add_window(BASE, data)
    sim.dram[:32] = noise(64)[32:]
    ends = (BASE + 64, 0) if flags == copier.TO_DRAM else (0, BASE + 64)
    sim.poison([(BASE + 64, 32, AxiResponse.NO_ANSWER)])
    with pytest.raises(AssertionError, match="did not end"):
        copy(sim, *ends, 1, flags, cycles=2000)
    sim.poison([])
    assert sim.run(200, stop_on_interrupt=True) is Stop.INTERRUPT
    assert sim.bar_read(copier.START) == 0
    sim.run(20)
    np.testing.assert_array_equal(sim.dram[:32], data[64:96])


def test_a_removed_window_is_gone(sim: Simulation) -> None:
    sim.add_window(BASE, noise(4096))
    with pytest.raises(ValueError, match="overlaps"):
        sim.add_window(BASE + 0x800, noise(4096))
    sim.remove_window(BASE)
    assert copy(sim, BASE, 0, 1, copier.TO_DRAM) == 2


def test_a_burst_across_4_kib_ends_the_simulation(sim: Simulation) -> None:
    sim.add_window(BASE, noise(8192))
    with pytest.raises(SimulationError, match="crosses a 4 KiB edge"):
        copy(sim, BASE + 0xFE0, 0, 2, copier.TO_DRAM | copier.CROSS)
    with pytest.raises(SimulationError, match="crosses a 4 KiB edge"):
        sim.run(1)


def test_used_dram_is_known(sim: Simulation) -> None:
    sim.add_window(BASE, noise(4096))
    assert sim.dram_used() == []
    assert copy(sim, BASE, 0x2_0000, 1, copier.TO_DRAM) == 0
    assert copy(sim, BASE, 0x3_0000, 1, copier.TO_DRAM) == 0
    sim.run(20)
    assert sim.dram_used() == [(0x2_0000, 0x2_0000)]


def test_reset_in_the_middle_leaves_memories_usable(sim: Simulation) -> None:
    data = noise(8192)
    sim.add_window(BASE, data)
    sim.bar_write(copier.BEATS, 256)
    sim.bar_write(copier.SOURCE, BASE & 0xFFFF_FFFF)
    sim.bar_write(copier.SOURCE + 4, BASE >> 32)
    sim.bar_write(copier.FLAGS, copier.TO_DRAM)
    sim.bar_write(copier.START, 1)
    sim.run(100)
    sim.reset()
    assert copy(sim, BASE, 0, 64, copier.TO_DRAM) == 0
    np.testing.assert_array_equal(sim.dram[:2048], data[:2048])


def test_waves_are_written(sim: Simulation, tmp_path: Path) -> None:
    import pywellen

    sim.add_window(BASE, noise(4096))
    sim.open_waves(tmp_path / "dump.fst")
    assert copy(sim, BASE, 0, 1, copier.TO_DRAM) == 0
    sim.close_waves()
    names = {variable.name for variable in pywellen.Waveform(str(tmp_path / "dump.fst")).all_vars()}
    assert any("host_arvalid" in name for name in names)


def test_windows_and_events_are_checked_at_the_door(sim: Simulation) -> None:
    with pytest.raises(ValueError, match="contiguous"):
        sim.add_window(BASE, np.zeros(64, np.uint8)[::2])
    with pytest.raises(ValueError, match="up to 64"):
        simulation_top("engine", events={"wide": 65})
    with pytest.raises(ValueError, match="at least 1"):
        MemoryTiming(read_cycles=1, write_cycles=1, response_cycles=1, bytes_per_kilocycle=0, shared=False)
