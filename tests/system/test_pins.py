# SPDX-License-Identifier: Apache-2.0
"""The whole engine over NV-DDR2 pins: power-up and PHY of a board between it and the NAND model's pins."""

from typing import Any

import numpy as np
import pytest

from instinfer.abi.config import EngineConfig
from instinfer.abi.errors import ConfigError
from instinfer.abi.layout import RowShape
from instinfer.host import MediaError, open_csd
from support import rng
from support.decodes import short_decode
from support.kv import assert_same_bits, exact_attention, random_half

DENSE_AT_200: dict[str, Any] = {"clock_mhz": 100, "mega_transfers": 200, "sketch_policy": False,
                                "sparf_policy": False}
HEADS, DIMS, TOKENS = 2, 64, 150
PROMPT_TOKENS = 300
"""Two stripes, of which the first is read from flash."""


def at_rate(config: EngineConfig, moved: int, data_cycles: float) -> bool:
    """Whether bytes came in the cycles that the bus needs for them, and not in those of SDR's mode 0, where a
    channel stays whose dies did not come to NV-DDR2: that takes twenty times as long."""
    least = moved * config.clock_mhz / config.mega_transfers
    print(f"{data_cycles:.0f} cycles of data, {least:.0f} at the rate of the bus")
    return bool(least <= data_cycles <= 1.25 * least)


@pytest.mark.soak
def test_attention_faults_and_reset() -> None:
    """Writes, reads back, program failures, a reset; no rule of the pins is broken, no bus too fast."""
    random = rng("pins")
    k, v = (random_half(random, (TOKENS, HEADS, DIMS)) for _ in range(2))
    q = random_half(random, (2 * HEADS, DIMS), 3)
    with open_csd("sim:tiny", erased=True, nand="nvddr2", overrides=DENSE_AT_200) as csd:
        faults: Any = csd.transport.faults  # type: ignore[attr-defined]

        def stored() -> Any:
            cache = csd.kv_cache(layers=1, kv_heads=HEADS, query_heads=2 * HEADS, head_dim=DIMS,
                                 max_tokens=2 * TOKENS)
            sequence = cache.new_sequence()
            sequence.write(0, k, v)
            sequence.sync()
            return sequence

        expected = exact_attention(csd.config, q, k, v)
        sequence = stored()
        assert_same_bits(sequence.attend(0, q), expected)
        for read, written in zip(sequence.read(0), (k, v), strict=True):
            np.testing.assert_array_equal(read, written)
        faults.fail_program(channel=1, die=1, count=2)
        again = stored()
        assert csd.counters()["program_failures"] == 2
        before = csd.counters()
        assert_same_bits(again.attend(0, q), expected)
        after = csd.counters()
        moved, took = (after[name] - before[name] for name in ("slots_moved", "bus_data_cycles"))
        assert moved > 0
        assert at_rate(csd.config, moved * csd.config.slot_bytes, took)
        csd.reset()
        sequence = stored()
        assert_same_bits(sequence.attend(0, q), expected)
        # A bit that is wrong at the pins is wrong in the result: nothing goes round them.
        faults.flip_bit(channel=0, die=0, plane=0, block=0, page=0, byte=0, bit=0)
        faults.flip_bit(channel=0, die=0, plane=0, block=1, page=0, byte=0, bit=0)
        faults.flip_bit(channel=0, die=0, plane=0, block=2, page=0, byte=0, bit=0)
        with pytest.raises(MediaError):
            sequence.attend(0, q)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_smollm2_decodes_on_cosmosplus() -> None:
    """All 30 layers' attention out of NAND at 200 MT/s pins, bit for bit the model's."""
    with open_csd("model:cosmosplus") as csd:
        config = csd.config
    assert 2 * RowShape(DIMS).tokens_per_stripe(config) < PROMPT_TOKENS
    document = short_decode("sim:cosmosplus", prompt_tokens=PROMPT_TOKENS, nand="nvddr2")
    # In the last step no programs move data as well.
    cycles, share, moved = (document[name][-1] for name in ("step_cycles", "utilisation", "bytes_moved"))
    assert at_rate(config, moved, share * cycles * config.channels)


@pytest.mark.parametrize(("device", "options", "complaint"), [
    ("sim:tiny", {"nand": "onfi5"}, "nand = 'onfi5'.*one of wide, nvddr2"),
    ("sim:smartssd", {"nand": "nvddr2"}, "nand = 'nvddr2'.*a configuration with NAND"),
    ("sim:tiny", {"nand": "nvddr2", "overrides": {"clock_mhz": 100, "mega_transfers": 400}},
     "mega_transfers = 400.*behind NV-DDR2 pins at 100 MHz"),
])
def test_what_has_no_such_pins_is_refused(device: str, options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        open_csd(device, **options)
