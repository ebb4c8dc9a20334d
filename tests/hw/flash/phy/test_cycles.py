# SPDX-License-Identifier: Apache-2.0
"""The table of times, and what becomes of it at any clock."""

import pytest

from instinfer.abi.errors import ConfigError
from instinfer.abi.onfi import SDR_MODES, SDR_TIMING, sdr_mega_transfers
from instinfer.hw.flash.phy.cycles import SdrCycles, sdr_modes

CLOCKS = range(25, 501)
COLUMN_NS = 500


def test_table_is_that_of_onfi() -> None:
    """Mode 5 and the turns, from ONFI's table, independently of it; each mode is at least as fast as the one
    before."""
    mode_5 = {"tRC": 20, "tWC": 20, "tREA": 16, "tWHR": 80, "tRHW": 100, "tADL": 400, "tWB": 100, "tRR": 20,
              "tRP": 10, "tWP": 10, "tREH": 7, "tWH": 7, "tCS": 15, "tDS": 7, "tDH": 5}
    assert {name: SDR_TIMING[name][5] for name in mode_5} == mode_5
    assert [round(sdr_mega_transfers(mode), 1) for mode in range(SDR_MODES)] == [10, 20, 28.6, 33.3, 40, 50]
    for name, values in SDR_TIMING.items():
        assert len(values) == SDR_MODES
        order = sorted(values, reverse=name not in ("tRHOH", "tRLOH"))
        assert list(values) == order, name
        assert max(values) < 1 << 16


@pytest.mark.parametrize("pad_delay_ns", [0, 9])
def test_times_are_kept(pad_delay_ns: int) -> None:
    """In picoseconds, at every clock: the sums of edges that the PHY makes are no shorter than the table."""
    for clock_mhz in CLOCKS:
        modes = sdr_modes(5, clock_mhz=clock_mhz, column_ns=COLUMN_NS, pad_delay_ns=pad_delay_ns)
        for mode, c in enumerate(modes):
            t = {name: values[mode] for name, values in SDR_TIMING.items()}

            def ns(cycles: int, clock_mhz: int = clock_mhz) -> float:
                return cycles * 1000 / clock_mhz

            for name in ("tWP", "tCLS", "tALS", "tDS"):
                assert ns(c.write_low) >= t[name], (clock_mhz, mode, name)
            for name in ("tWH", "tCLH", "tALH", "tCH", "tDH"):
                assert ns(c.write_high) >= t[name], (clock_mhz, mode, name)
            assert ns(c.command) >= t["tWC"]
            assert ns(c.read_low) >= t["tRP"]
            assert ns(c.read_high) >= t["tREH"]
            assert ns(c.read_byte) >= t["tRC"]
            assert 1000 / ns(c.read_byte) <= sdr_mega_transfers(mode)
            assert ns(c.select_write + c.write_low) >= t["tCS"]
            assert ns(c.select_read) >= t["tCR"]
            # The window of the data.
            assert ns(c.sample) >= t["tREA"] + pad_delay_ns
            assert ns(c.sample + c.select_read) >= t["tCEA"] + pad_delay_ns
            assert ns(c.sample) <= ns(c.read_low) + t["tRHOH"]
            assert ns(c.sample) <= ns(c.read_byte) + t["tRLOH"]
            assert ns(c.address_to_data) >= t["tADL"]
            assert ns(c.command_to_data) >= t["tWHR"]
            assert ns(c.command_to_data - c.write_high) >= max(t["tCLR"], t["tAR"])
            assert ns(c.column_to_data) >= COLUMN_NS
            assert ns(c.turn) >= max(t["tRHW"], t["tRHZ"] + pad_delay_ns)
            assert ns(c.hidden - 2) >= t["tWB"]
            assert ns(c.ready) >= t["tRR"]


@pytest.mark.parametrize(("clock_mhz", "rate"), [(50, 25), (100, 50), (200, 50), (250, 50)])
def test_rate_of_mode_5(clock_mhz: int, rate: int) -> None:
    """No cycle is lost where the clock's period divides the times."""
    cycles = SdrCycles.of(5, clock_mhz=clock_mhz, column_ns=COLUMN_NS)
    assert clock_mhz / cycles.read_byte == clock_mhz / cycles.command == rate


def test_slow_pads_cost_rate_not_data() -> None:
    assert 200 / SdrCycles.of(5, clock_mhz=200, column_ns=500, pad_delay_ns=10).read_byte == 40


@pytest.mark.parametrize(("arguments", "text"), [
    ({"mode": 6}, "mode = 6 is not possible: .*0 to 5"),
    ({"mode": 5, "pad_delay_ns": 41}, "pad_delay_ns = 41 is not possible: .*0 to 40")])
def test_limits(arguments: dict[str, int], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        SdrCycles.of(arguments.pop("mode"), clock_mhz=200, column_ns=500, **arguments)
    with pytest.raises(ConfigError, match="fastest = 6"):
        sdr_modes(6, clock_mhz=200, column_ns=500)
