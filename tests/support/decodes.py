# SPDX-License-Identifier: Apache-2.0
"""A short decode of SmolLM2 over the RTL of a whole device, and what must hold for any of them."""

from typing import Any

from instinfer.cosim.decode import decode
from instinfer.host.integrations.smollm2 import demo_prompt, load

TOKENS = 2


def short_decode(device: str, *, prompt_tokens: int, **options: Any) -> dict[str, Any]:
    """All 30 layers of two tokens, bit for bit the model's, every head read from its pages; the document."""
    network, tokenizer = load()
    prompt = tokenizer.encode(demo_prompt())[:prompt_tokens]
    assert len(prompt) == prompt_tokens
    document = decode(network, tokenizer, prompt, TOKENS, device=device, device_options=options).document()
    assert document["bit_exact"] is True
    assert document["values_compared"] == TOKENS * 30 * 9 * 64
    assert document["text"] == document["reference_text"] != ""
    assert document["max_relative_error"] < 2**-10
    assert min(document["stripes_sensed"]) >= 90, "every head was read from its pages"
    assert all(0 < share < 1 for share in document["utilisation"])
    return document
