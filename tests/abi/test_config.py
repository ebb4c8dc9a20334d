# SPDX-License-Identifier: Apache-2.0
"""Configurations: presets, derived values, overrides, and what is refused with value, limit and cure."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from instinfer.abi.config import EngineConfig, NandTiming
from instinfer.abi.errors import ConfigError
from instinfer.abi.presets import load, parse_value, presets
from instinfer.abi.registers import IDENTITY_WORDS, identity_words


def test_product_is_what_the_contract_says() -> None:
    product = presets()["product"]
    assert (product.channels, product.dies, product.planes, product.queries) == (8, 4, 4, 4)
    assert (product.slots_per_page, product.slot_bytes, product.slot_beats) == (16, 1160, 145)
    assert product.stripe_data_bytes == 64 << 10
    assert product.beat_cycles_x1000 == 1000
    assert product.cycles(40_000) == 8000
    assert product.command_cycles == 5
    assert product.cores == 9
    assert product.contexts == 16


def test_boards_have_the_channels_of_the_boards() -> None:
    cosmosplus, daisyplus = presets()["cosmosplus"], presets()["daisyplus"]
    assert (cosmosplus.channels, cosmosplus.dies, cosmosplus.mega_transfers) == (8, 8, 200)
    assert (daisyplus.channels, daisyplus.dies, daisyplus.mega_transfers) == (4, 2, 133)
    assert (cosmosplus.page_bytes, cosmosplus.spare_bytes) == (16384, 1664)
    assert (daisyplus.page_bytes, daisyplus.spare_bytes) == (16384, 2208)
    for config in (cosmosplus, daisyplus):
        assert config.dram_bytes <= 1 << 29  # the other half of 1 GB is the firmware's
        # The passes of four query heads over all channels of a core take no longer than a beat on the bus.
        assert -(-4 // config.queries) * config.channels_per_core * 1000 <= config.beat_cycles_x1000


@pytest.mark.parametrize(("sharing", "limit"), [
    ({"channels_per_core": 3}, "a divisor of channels = 8: 1, 2, 4, 8"),
    ({"channels_per_core": 0}, "a divisor of channels"), ({"channels_per_core": True}, "a divisor"),
    ({"channels_per_scorer": 16}, "a divisor of channels = 8"), ({"channels_per_scorer": "2"}, "a divisor"),
    ({"channels": 6, "channels_per_core": 2, "channels_per_scorer": 3},
     "channels_per_scorer = 3 is not possible: a divisor or a multiple of channels_per_core = 2"),
    ({"dies": 8, "channels_per_core": 8}, "at most 32 dies behind a core, 4 channels of 8 dies"),
])
def test_sharing_that_cannot_be(sharing: dict[str, Any], limit: str) -> None:
    with pytest.raises(ConfigError, match=limit) as caught:
        dataclasses.replace(presets()["product"], **sharing)
    assert caught.value.cure


def test_shared_cores_and_scorers_are_fewer() -> None:
    config = dataclasses.replace(presets()["product"], channels_per_core=4, channels_per_scorer=8,
                                 tail_cores=2)
    assert (config.cores, config.scorers, config.channel_group) == (2 + 2, 1 + 2, 8)
    assert (config.partials, config.contexts) == (16, 64)


@pytest.mark.parametrize("name", presets())
def test_presets_name_themselves_and_survive_a_round_trip(name: str) -> None:
    config = presets()[name]
    assert config.name == name
    assert load(preset=name) == config
    values = config.to_dict()
    assert EngineConfig(**{**values, "timing": NandTiming(**values["timing"])}) == config
    assert len(identity_words(config)) == len(IDENTITY_WORDS)
    assert all(0 <= word < 1 << 32 for word in identity_words(config))


@pytest.mark.parametrize(("name", "value", "limit"), [
    ("clock_mhz", 600, "25 to 500"), ("channels", 0, "1 to 16"), ("channels", 17, "1 to 16"),
    ("channels", 2.0, "whole number"), ("channels", True, "whole number"), ("dies", 9, "1 to 8"),
    ("superblock_dies", 3, "0 or a divisor of dies = 4: 1, 2, 4"), ("superblock_dies", 8, "1, 2, 4"),
    ("superblock_dies", -1, "1, 2, 4"), ("superblock_dies", True, "1, 2, 4"),
    ("planes", 3, "power of two"), ("blocks", 8192, "2 to 8191"), ("pages", 4097, "2 to 4096"),
    ("page_bytes", 2048, "4096, 8192 or 16384"), ("spare_bytes", 16, "1068 B in each of the 16 slots"),
    ("spare_bytes", 5000, "at most 4096"), ("mega_transfers", 1601, "1600 MT/s at 200 MHz"),
    ("queries", 9, "1 to 8"), ("head_dim_max", 96, "64 or 128"), ("head_slots", 3, "power of two"),
    ("slot_buffers", 2, "power of two"), ("max_context", 200_000, "1 to 131072"),
    ("score_groups", 1000, "power of two"), ("score_groups", 32, "64 to 262144"),
    ("max_caches", 65, "1 to 64"), ("max_sequences", 0, "1 to 1024"), ("max_kv_heads", 129, "1 to 128"),
    ("stripe_buffers", 100, "power of two"), ("stripe_buffers", 65536 * 2, "power of two"),
    ("dram_bytes", 3 << 20, "power of two"), ("dram_bytes", 1 << 29, "at most half of dram_bytes"),
    ("axi_bits", 128, "256"), ("io_queues", 17, "1 to 16"), ("queue_entries_max", 1, "power of two"),
    ("timeout_us", 5000, "longer than tBERS"), ("check_tuples", 1, "true or false"),
])
def test_values_out_of_range(name: str, value: Any, limit: str) -> None:
    with pytest.raises(ConfigError) as caught:
        dataclasses.replace(presets()["product"], **{name: value})
    assert limit in str(caught.value)
    assert caught.value.cure
    if name != "dram_bytes" or "power" in limit:
        assert caught.value.name == name
        assert repr(value) in str(caught.value)


IN_DDR = {"page_source": "ddr", "spare_blocks": 0}


def test_pages_in_ddr_are_whole_axi_beats_behind_all_else() -> None:
    smartssd = presets()["smartssd"]
    assert (smartssd.slot_bytes, smartssd.stripe_bytes) == (1088, 64 * 1088)
    assert smartssd.pages_first == smartssd.dram_bytes == 512 << 20
    assert smartssd.pages_bytes == 8 * 45 * 64 * 64 * 1088 <= 1536 << 20
    assert smartssd.ddr_bytes_per_kilocycle == 80_000, "at 200 MHz"
    assert load(preset="tiny", overrides=IN_DDR).beat_cycles_x1000 == 1000
    assert load(preset="tiny", overrides={**IN_DDR, "mega_transfers": 3600}).beat_cycles_x1000 == 1000


@pytest.mark.parametrize(("name", "value", "limit"), [
    ("page_source", "hbm", "nand or ddr"), ("spare_blocks", 2, "0 with pages in DDR"),
    ("spare_bytes", 264, "whole AXI beats of 32 B"), ("spare_bytes", 384 - 32, "Give 256"),
    ("page_ports", 4, r"one of \[1, 2\]"), ("page_ports", 0, r"one of \[1, 2\]"),
    ("ddr_bytes", 20 << 20, "room for dram_bytes and the pages, 21233664 B"),
    ("ddr_megabytes_per_second", 0, "100 to 200000"), ("ddr_read_ns", 0, "1 to 10000"),
])
def test_pages_in_ddr_that_cannot_be(name: str, value: Any, limit: str) -> None:
    with pytest.raises(ConfigError, match=limit):
        load(preset="tiny", overrides={**IN_DDR, name: value})


def test_timeout_covers_two_programs() -> None:
    """The last of two cache programs ends two tPROG after its data came."""
    slow = NandTiming(tPROG=10_000_000)
    with pytest.raises(ConfigError, match="longer than tBERS and two programs, 20003000 ns"):
        dataclasses.replace(presets()["product"], timing=slow)
    dataclasses.replace(presets()["product"], timing=slow, timeout_us=20_004)


def test_timing_is_checked() -> None:
    with pytest.raises(ConfigError, match=r"timing\.tR = 0 is not possible"):
        NandTiming(tR=0)
    with pytest.raises(ConfigError, match=r"timing\.tR = 1\.5"):
        NandTiming(tR=1.5)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="a NandTiming"):
        EngineConfig(timing={"tR": 3000})  # type: ignore[arg-type]


def test_a_file_then_overrides(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('preset = "tiny"\nchannels = 3\nname = "mine"\n[timing]\ntR = 4000\n')
    config = load(preset="product", config_file=path, overrides={"dies": 1, "timing.tPROG": 9000})
    assert (config.name, config.channels, config.dies, config.planes) == ("mine", 3, 1, 2)
    assert (config.timing.tR, config.timing.tPROG, config.timing.tBERS) == (4000, 9000, 20_000)


def test_names_and_files_that_do_not_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"configuration name = 'chanels' .*channels.*config show"):
        load(overrides={"chanels": 4})
    with pytest.raises(ConfigError, match=r"timing name = 'tX'"):
        load(overrides={"timing.tX": 4})
    with pytest.raises(ConfigError, match=r"preset = 'huge' is not possible: one of .*product, .*tiny"):
        load(preset="huge")
    with pytest.raises(ConfigError, match="an existing TOML file"):
        load(config_file=tmp_path / "absent.toml")
    (tmp_path / "bad.toml").write_text("channels = = 3")
    with pytest.raises(ConfigError, match="valid TOML"):
        load(config_file=tmp_path / "bad.toml")


@pytest.mark.parametrize(("text", "value"), [
    ("4", 4), ("0x10", 16), ("true", True), ('"a"', "a"), ("word", "word"), ("1_000", 1000)])
def test_command_line_values(text: str, value: Any) -> None:
    assert parse_value(text) == value
