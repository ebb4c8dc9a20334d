# SPDX-License-Identifier: Apache-2.0
"""The NV-DDR2 table of times, and what becomes of it at any clock."""

import pytest

from instinfer.abi.errors import ConfigError
from instinfer.abi.onfi import NVDDR2_MODES, NVDDR2_TIMING, TimeSource, nvddr2_mega_transfers
from instinfer.hw.flash.phy.nvcycles import NvDdr2Cycles, fastest_within, nvddr2_modes, strobe_window

CLOCKS = range(25, 251, 3)
COLUMN_NS = 500


def test_table() -> None:
    """Rates by mode as everybody prints them; no time grows from mode to mode, each has a source, and the
    data eye is open."""
    assert [round(nvddr2_mega_transfers(mode)) for mode in range(NVDDR2_MODES)] == [
        67, 80, 133, 167, 200, 267, 333, 400]
    for name, time in NVDDR2_TIMING.items():
        values = time.picoseconds
        assert len(values) == NVDDR2_MODES
        assert list(values) == sorted(values, reverse=True), name
        assert time.source in TimeSource
        assert max(values) < 1 << 20
    for mode in range(NVDDR2_MODES):
        t = {name: time.picoseconds[mode] for name, time in NVDDR2_TIMING.items()}
        assert t["tDQSQ"] < t["tQH"] < t["tDSC"] // 2
        assert t["tDS"] + t["tDH"] < t["tDSC"] // 2
    assert strobe_window(4) == (2_500, 3_700)


@pytest.mark.parametrize("pad_delay_ns", [0, 10])
def test_times_are_kept(pad_delay_ns: int) -> None:
    """In nanoseconds, at every clock: the sums of edges that the PHY makes are no shorter than the table."""
    for clock_mhz in CLOCKS:
        modes = nvddr2_modes(NVDDR2_MODES - 1, clock_mhz=clock_mhz, column_ns=COLUMN_NS,
                             pad_delay_ns=pad_delay_ns)
        for mode, c in enumerate(modes):
            t = {name: time.picoseconds[mode] / 1000 for name, time in NVDDR2_TIMING.items()}

            def ns(cycles: float, clock_mhz: int = clock_mhz) -> float:
                return cycles * 1000 / clock_mhz

            transfer = ns(c.beat / 8)
            assert 2 * transfer >= t["tDSC"]
            assert 1000 / transfer <= nvddr2_mega_transfers(mode)
            assert transfer >= max(t["tREH"], t["tRP"], t["tDQSH"], t["tDQSL"])
            assert transfer / 2 >= max(t["tDS"], t["tDH"]), "DQS moves in the middle of a byte"
            for name in ("tWP", "tCALS", "tCAS"):
                assert ns(c.write_low) >= t[name], (clock_mhz, mode, name)
            for name in ("tWH", "tCALH", "tCAH", "tCH"):
                assert ns(c.write_high) >= t[name], (clock_mhz, mode, name)
            assert ns(c.command) >= t["tWC"]
            assert ns(c.select_write + c.write_low) >= t["tCS"]
            assert ns(c.select_out) >= t["tCR"]
            assert ns(c.select_in) >= t["tCDQSS"]
            assert ns(c.preamble_in) >= t["tWPRE"]
            assert ns(c.postamble_in) >= t["tWPST"]
            assert ns(c.hold_in) >= t["tWPSTH"]
            assert ns(c.wake) >= t["tDQSD"] + pad_delay_ns
            assert ns(c.wake + c.preamble_out) >= t["tRPRE"]
            assert ns(c.latest) >= t["tRPST"]
            assert ns(c.latest - 4) >= t["tDQSRE"] + pad_delay_ns
            assert ns(c.hold_out) >= t["tRPSTH"]
            assert ns(c.rest) >= max(t["tCEH"], t["tCHZ"] + pad_delay_ns)
            assert ns(c.address_to_data) >= t["tADL"]
            assert ns(c.command_to_data) >= t["tWHR"]
            assert ns(c.column_to_data) >= COLUMN_NS
            for cycles in (c.address_to_data, c.command_to_data, c.column_to_data):
                assert ns(cycles - c.write_high) >= max(t["tCDQSS"], t["tCLR"], t["tAR"])
            assert ns(c.turn) >= t["tRHW"]
            assert ns(c.protect) >= t["tWW"]
            assert ns(c.hidden - 2) >= t["tWB"]
            assert ns(c.ready) >= t["tRR"]


@pytest.mark.parametrize(("clock_mhz", "limit", "mode", "rate"), [
    (100, 200, 4, 200), (133, 133, 2, 133), (200, 400, 7, 400), (100, 150, 2, 100)])
def test_rate(clock_mhz: int, limit: int, mode: int, rate: int) -> None:
    """The boards' rates, the PHY's best, and one that the clock does not divide."""
    assert fastest_within(limit, clock_mhz=clock_mhz) == mode
    cycles = NvDdr2Cycles.of(mode, clock_mhz=clock_mhz, column_ns=COLUMN_NS)
    assert 8 * clock_mhz / cycles.beat == rate


@pytest.mark.parametrize(("arguments", "text"), [
    ({"mode": 8}, "mode = 8 is not possible: .*0 to 7"),
    ({"mode": 4, "pad_delay_ns": 41}, "pad_delay_ns = 41 is not possible: .*0 to 40")])
def test_limits(arguments: dict[str, int], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        NvDdr2Cycles.of(arguments.pop("mode"), clock_mhz=200, column_ns=500, **arguments)
    with pytest.raises(ConfigError, match="fastest = 8"):
        nvddr2_modes(8, clock_mhz=200, column_ns=500)
    with pytest.raises(ConfigError, match="mega_transfers = 20 is not possible: at least 50"):
        fastest_within(20, clock_mhz=100)
