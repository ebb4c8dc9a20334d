# SPDX-License-Identifier: Apache-2.0
"""No link, bus, die or GPU carries more than it can, in any of many seeded random points.

`point.run` refuses an overloaded resource; here it is asked for random points over all that the model knows.
"""

import collections

import pytest

from instinfer.perf.point import evaluate
from instinfer.perf.sweep.draw import at_random


def check(count: int, seed: int) -> None:
    seen: collections.Counter[str] = collections.Counter()
    alive: collections.Counter[str] = collections.Counter()
    for query in at_random(count, seed):
        found = evaluate(query)
        seen[query.system] += 1
        alive[query.system] += found["tokens_per_second"] > 0
        assert all(share <= 1 + 1e-9 for share in found["utilisation"].values()), query
        assert found["tokens_per_second"] >= 0, query
        assert (found["out_of_memory"] is None) == (found["tokens_per_second"] > 0), query
    # Random sizes often run out of memory; a check of none but dead points would prove nothing.
    assert sum(alive.values()) > count / 5
    assert len(seen) == len(alive)


def test_a_few_random_points():
    check(100, 1)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_ten_thousand_random_points():
    check(10_000, 2)
