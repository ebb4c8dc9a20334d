# SPDX-License-Identifier: Apache-2.0
"""The whole engine over NV-DDR2 pins: power-up and PHY of a board between it and the NAND model's pins."""

from typing import Any

import numpy as np
import pytest

from instinfer.abi.errors import ConfigError
from instinfer.abi.layout import RowShape
from instinfer.cosim.decode import decode
from instinfer.host import MediaError, open_csd
from instinfer.host.integrations.smollm2 import demo_prompt, load
from support import rng
from support.kv import assert_same_bits, exact_attention, random_half

DENSE_AT_200: dict[str, Any] = {"clock_mhz": 100, "mega_transfers": 200, "sketch_policy": False,
                                "sparf_policy": False}
HEADS, DIMS, TOKENS = 2, 64, 150
PROMPT_TOKENS = 300
"""Two stripes, of which the first is read from flash."""


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
        assert_same_bits(again.attend(0, q), expected)
        counters, cycles = csd.counters(), csd.cycles()
        assert cycles is not None
        assert counters["stripes_sensed"] > 0
        moved = counters["slots_moved"] * csd.config.slot_bytes * csd.config.clock_mhz
        assert moved < cycles * csd.config.channels * csd.config.mega_transfers
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
    network, tokenizer = load()
    prompt = tokenizer.encode(demo_prompt())[:PROMPT_TOKENS]
    with open_csd("model:cosmosplus") as csd:
        assert 2 * RowShape(network.shape.head_dim).tokens_per_stripe(csd.config) < PROMPT_TOKENS
    result = decode(network, tokenizer, prompt, 2, device="sim:cosmosplus",
                    device_options={"nand": "nvddr2"})
    document = result.document()
    assert document["bit_exact"] is True
    assert document["values_compared"] == 2 * 30 * 9 * 64
    assert document["text"] == document["reference_text"] != ""
    assert document["max_relative_error"] < 2**-10
    assert min(document["stripes_sensed"]) >= 90, "every head was read from its pages"


@pytest.mark.parametrize(("device", "options", "complaint"), [
    ("sim:tiny", {"nand": "onfi5"}, "nand = 'onfi5'.*one of wide, nvddr2"),
    ("sim:smartssd", {"nand": "nvddr2"}, "nand = 'nvddr2'.*a configuration with NAND"),
    ("sim:tiny", {"nand": "nvddr2", "overrides": {"clock_mhz": 100, "mega_transfers": 400}},
     "mega_transfers = 400.*behind NV-DDR2 pins at 100 MHz"),
])
def test_what_has_no_such_pins_is_refused(device: str, options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        open_csd(device, **options)
