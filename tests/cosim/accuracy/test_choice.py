# SPDX-License-Identifier: Apache-2.0
"""Sets of many positions at once are those of `selection.choose`, one by one."""

import numpy as np
import pytest

from instinfer.abi import selection
from instinfer.abi.selection import SketchPolicy
from instinfer.cosim.accuracy.choice import choose, choose_among
from support import rng


@pytest.mark.parametrize("group_log2", [0, 1, 3, 5])
@pytest.mark.parametrize("spread", [0, 300, selection.SCORE_HIGHEST])
def test_sets_position_by_position(group_log2: int, spread: int) -> None:
    """Ties everywhere (spread 0), usual scores, and scores out to saturation; contexts end within groups."""
    random = rng(f"choice {group_log2} {spread}")
    contexts = np.arange(90, 131)
    scores = random.integers(-spread - 1, spread + 1, (len(contexts), 3, contexts[-1]))
    for groups, window, sinks in ((0, 8, 2), (5, 16, 4), (3, 0, 0), (200, 1, 1), (2, 500, 4)):
        policy = SketchPolicy(groups=groups, group_log2=group_log2, window=window, sinks=sinks)
        found = choose_among(scores, contexts, policy)
        for position, context in enumerate(contexts):
            exact = selection.choose(scores[position, :, :context], policy)
            np.testing.assert_array_equal(found[position, :context], exact)
            assert not found[position, context:].any()


def test_from_sketches_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of positions make no difference, and every position sees its own tokens alone."""
    monkeypatch.setattr("instinfer.cosim.accuracy.choice._BLOCK_SCORES", 4000)
    random = rng("sketches")
    positions, first = 30, 200
    query = random.integers(-127, 128, (positions, 3, 16)).astype(np.int8)
    exponent = random.integers(-12, -6, (positions, 3)).astype(np.int8)
    sketch = random.integers(-8, 8, (first + positions, 16)).astype(np.int8)
    scale = random.uniform(0.1, 2, first + positions).astype(np.float16)
    policy = SketchPolicy(groups=4, group_log2=3, window=16, sinks=4)
    found = choose(query, exponent, sketch, scale, first, policy)
    for position in range(positions):
        context = first + position + 1
        scores = selection.sketch_scores(query[position], exponent[position], sketch[:context],
                                         scale[:context])
        np.testing.assert_array_equal(found[position, :context], selection.choose(scores, policy))
        assert not found[position, context:].any()
