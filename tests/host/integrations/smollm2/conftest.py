# SPDX-License-Identifier: Apache-2.0
"""The model, loaded once for all tests; without the weight file they fail and name `make setup`."""

import pytest

from instinfer.host.integrations.smollm2 import SmolLM2, Tokenizer, load


@pytest.fixture(scope="session")
def loaded() -> tuple[SmolLM2, Tokenizer]:
    return load()


@pytest.fixture(scope="session")
def model(loaded) -> SmolLM2:
    return loaded[0]


@pytest.fixture(scope="session")
def tokenizer(loaded) -> Tokenizer:
    return loaded[1]
