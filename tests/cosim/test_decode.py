# SPDX-License-Identifier: Apache-2.0
"""A real model's decode consumes the device's bytes, and nothing else."""

import numpy as np
import pytest

from instinfer.cosim.decode import DecodeResult, decode
from instinfer.host.integrations.smollm2 import load

PROMPT = (
    "The capital of France is Paris. The capital of Italy is Rome. The capital of Spain is Madrid. "
    "The capital of Germany is Berlin. The capital of Poland is Warsaw. The capital of Austria is Vienna. "
    "The capital of Norway is"
)
OPTIONS = {"overrides": {"stripe_buffers": 256}}
"""`tiny` with a stripe buffer for each of the 90 heads of 30 layers, and some under way."""


@pytest.fixture(scope="module")
def network():
    return load()


def run(network, **options) -> DecodeResult:
    model, tokenizer = network
    return decode(model, tokenizer, tokenizer.encode(PROMPT), 2, device="model:tiny", device_options=OPTIONS,
                  **options)


def test_text_and_record(network) -> None:
    layers = []
    result = run(network, on_layer=layers.append)
    assert result.text == result.reference_text == " Oslo."
    assert result.values_compared == 2 * 30 * 9 * 64
    assert result.max_relative_error < 2**-10
    assert result.bit_exact is None, "the model is not compared with itself"
    assert layers == 3 * list(range(30)), "one prefill and two steps"
    document = result.document()
    assert document["tokens"] == list(result.tokens)
    assert document["utilisation"] == [None, None], "no clock, no utilisation"
    assert sum(document["stripes_sensed"]) > 0, "flash was read"


def test_zeroed_output_changes_the_text(network) -> None:
    """The next layer has no other source than what the device delivered."""
    result = run(network, corrupt=np.zeros_like, reference_text=False)
    assert result.text != " Oslo."
