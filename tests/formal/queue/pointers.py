# SPDX-License-Identifier: Apache-2.0
"""Positions in a ring."""

from amaranth.hdl import Mux, Value

LONGEST = 8
INSIDE = "pointers stay in the queue"


def wrapped(position: Value, last: Value) -> Value:
    """A position that is at most one round too far, in a ring of ``last`` + 1."""
    return Mux(position > last, position - last - 1, position)
