# SPDX-License-Identifier: Apache-2.0
"""One text makes the cache and the driver's policy."""

from typing import Any

import pytest

from instinfer.cosim.recipes import DENSE, recipe
from instinfer.host import PCA, Dense, Sketch, SparF


@pytest.mark.parametrize(("text", "cache", "policy"), [
    ("dense", DENSE.cache, Dense()),
    ("dense:dtype=int8", {"dtype": "int8"}, Dense()),
    ("sketch:keep=1/4,group=4", {"dtype": "int8", "sketch": PCA(16, 4)}, Sketch(keep_tokens=200, group=4)),
    ("sparf:keep=1/4,dims=8", {"dtype": "fp16", "dims": True, "mean_v": False}, SparF(dims=8, tokens=200)),
    ("sparf:keep=9,window=5,sinks=0,dtype=int8,mean_v=true", {"dtype": "int8", "dims": True, "mean_v": True},
     SparF(dims=16, tokens=9, window=5, sinks=0, mean_v=True))])
def test_recipes(text: str, cache: dict[str, Any], policy: Any) -> None:
    found = recipe(text, context=800)
    assert (found.cache, found.policy) == (cache, policy)
