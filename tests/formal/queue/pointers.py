# SPDX-License-Identifier: Apache-2.0
"""Positions in a ring."""

from typing import Any

from amaranth.hdl import Module, Mux, Value

LONGEST = 8
INSIDE = "pointers stay in the queue"


def wrapped(position: Value, last: Value) -> Value:
    """A position that is at most one round too far, in a ring of ``last`` + 1."""
    return Mux(position > last, position - last - 1, position)


def page_of(m: Module, inside: Any, queue: Value) -> Value:
    """The page that a part has stored for a queue."""
    port = inside.submodules.pages.read_port(domain="comb")
    m.d.comb += port.addr.eq(queue)
    return port.data
