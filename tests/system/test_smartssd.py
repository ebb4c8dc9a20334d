# SPDX-License-Identifier: Apache-2.0
"""A language model decodes on `smartssd`: all 30 layers' attention out of pages in DDR."""

import pytest

from instinfer.abi.layout import RowShape
from instinfer.host import open_csd
from support.decodes import short_decode

PROMPT_TOKENS = 340


@pytest.mark.soak
def test_smollm2_decodes_out_of_ddr() -> None:
    """A prompt just long enough that every head's first stripe is read from its pages; two tokens."""
    with open_csd("model:smartssd") as csd:
        config, rows = csd.config, RowShape(64)
    assert config.in_ddr
    assert rows.tokens_per_stripe(config) + rows.tokens_per_page(config) < PROMPT_TOKENS
    short_decode("sim:smartssd", prompt_tokens=PROMPT_TOKENS)
