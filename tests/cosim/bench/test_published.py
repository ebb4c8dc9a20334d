# SPDX-License-Identifier: Apache-2.0
"""What the published scheme reads, counted by hand and against its mean in the performance model."""

import numpy as np
import pytest

from instinfer.cosim.bench.published import PAGES, published_cost
from instinfer.perf.drive.paper_layout import dims_per_page
from support import rng


def test_pages_and_bytes_of_a_few_choices() -> None:
    dims, tokens = np.zeros((1, 128), np.bool_), np.zeros((1, 2048), np.bool_)
    dims[0, [0, 1, 7]] = True  # pages of two dims: the first and the fourth
    tokens[0, [0, 15, 16, 2047]] = True  # pages of 16 tokens: the first, the second and the last
    cost = published_cost([dims], [tokens], page_bytes=4096)
    assert cost["dims_per_page"] == 2
    assert cost["dim_pages"] == 2 * 2, "two groups of dims, 1,024 tokens per page"
    assert cost["token_pages"] == 2 * 3, "K and V"
    assert cost["pages_percent"] == 100 * 10 / 256
    assert cost["bytes_wanted"] == 2 * (3 * 2048 + 2 * 4 * 128)
    large = published_cost([dims], [tokens], page_bytes=16384)
    assert (large["dims_per_page"], large["dim_pages"], large["token_pages"]) == (4, 2, 4)
    assert large["bytes_wanted"] == cost["bytes_wanted"]


def test_everything_kept_costs_k_and_v_and_k_once_more() -> None:
    dims, tokens = np.ones((3, 64), np.bool_), np.ones((3, 4096), np.bool_)
    for page_bytes in PAGES:
        cost = published_cost([dims] * 2, [tokens] * 2, page_bytes=page_bytes)
        assert cost["pages_percent"] == cost["bytes_wanted_percent"] == 150


@pytest.mark.parametrize("page_bytes", PAGES)
def test_a_larger_page_is_hit_more_often(page_bytes: int) -> None:
    random = rng("published")
    kept = np.zeros((4, 16384), np.bool_)
    for head in kept:
        head[random.choice(16384, 1024, replace=False)] = True
    dims = np.zeros((4, 128), np.bool_)
    dims[:, :16] = True
    cost = published_cost([dims], [kept], page_bytes=page_bytes)
    rows = page_bytes // 256
    expected = 4 * (2 * 16384 / rows * (1 - (1 - 1 / 16) ** rows) + 8 * 16384 / (page_bytes / 4))
    assert cost["pages_sensed"] == pytest.approx(expected, rel=0.02)


def test_dims_per_page_follow_the_context() -> None:
    assert [dims_per_page(context) for context in (1, 511, 512, 1023, 1024, 1 << 17)] == [8, 8, 4, 4, 2, 2]
    assert [dims_per_page(context, 16384) for context in (2047, 2048, 4095, 4096)] == [8, 4, 4, 2]
