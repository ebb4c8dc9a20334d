# SPDX-License-Identifier: Apache-2.0
"""A language model decodes on `smartssd`: all 30 layers' attention out of pages in DDR."""

import pytest

from instinfer.abi.layout import RowShape
from instinfer.cosim.decode import decode
from instinfer.host import open_csd
from instinfer.host.integrations.smollm2 import demo_prompt, load

PROMPT_TOKENS = 340


@pytest.mark.soak
def test_smollm2_decodes_out_of_ddr() -> None:
    """A prompt just long enough that every head's first stripe is read from its pages; two tokens."""
    network, tokenizer = load()
    prompt = tokenizer.encode(demo_prompt())[:PROMPT_TOKENS]
    assert len(prompt) == PROMPT_TOKENS
    with open_csd("model:smartssd") as csd:
        config, rows = csd.config, RowShape(network.shape.head_dim)
    assert config.in_ddr
    assert rows.tokens_per_stripe(config) + rows.tokens_per_page(config) < PROMPT_TOKENS
    result = decode(network, tokenizer, prompt, 2, device="sim:smartssd")
    document = result.document()
    assert document["bit_exact"] is True
    assert document["values_compared"] == 2 * 30 * 9 * 64
    assert document["text"] == document["reference_text"] != ""
    assert document["max_relative_error"] < 2**-10
    assert min(document["stripes_sensed"]) >= 90, "every head was read from its pages"
    assert all(0 < share < 1 for share in document["utilisation"])
