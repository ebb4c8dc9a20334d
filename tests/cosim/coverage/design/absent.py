# SPDX-License-Identifier: Apache-2.0
"""A component that no build of these tests holds."""

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import Out


class Absent(wiring.Component):
    """Drives nothing."""

    def __init__(self) -> None:
        super().__init__({"o": Out(1)})

    def elaborate(self, platform: object) -> Module:
        return Module()
