# SPDX-License-Identifier: Apache-2.0
"""The paper's pages, counted by hand and on seeded choices."""

import numpy as np
import pytest

from instinfer.perf.constants import instead
from instinfer.perf.drive.paper_layout import dense_reads, dims_per_page, sparf_reads, token_pages


def test_dense_pages():
    assert token_pages(1024, 128) == 64
    assert token_pages(1, 128) == 1
    assert dense_reads(1024, 128).bytes == 2 * 1024 * 128 * 2


@pytest.mark.parametrize(("context", "dims"), [(256, 8), (511, 8), (512, 4), (1023, 4), (1024, 2), (4096, 2)])
def test_dims_of_a_page(context, dims):
    assert dims_per_page(context) == dims


def test_pages_of_single_tokens_and_dims():
    """With runs of one token the pages are those of a uniform choice."""
    random = np.random.default_rng(1)
    tokens = np.mean([len({t // 16 for t in random.choice(2048, 128, replace=False)}) for _ in range(300)])
    dims = np.mean([len({d // 2 for d in random.choice(128, 16, replace=False)}) for _ in range(300)])
    with instead({"paper_cluster_tokens": 1.0}):
        found = sparf_reads(2048, 128, dims=16, kept=128)
    assert found.tokens == pytest.approx(2 * tokens, rel=0.02)
    assert found.dims == pytest.approx(2 * dims, rel=0.04)


def test_runs_touch_fewer_pages():
    with instead({"paper_cluster_tokens": 4.0}):
        runs = sparf_reads(2048, 128, dims=16, kept=128)
    assert runs.tokens < sparf_reads(2048, 128, dims=16, kept=128).tokens < dense_reads(2048, 128).tokens
