# SPDX-License-Identifier: Apache-2.0
"""NAND packages behind SDR pins, in two builds."""

import dataclasses

from amaranth.lib import wiring

from hw.flash.channel_bench import BASE, ChannelWithNand, SdrNand
from instinfer.hw.flash.nand import NandPins
from support import bundle

SHAPE = {"clock_mhz": 100, "mega_transfers": 50}
"""Two cycles per byte in timing mode 5: the fastest bus at the least simulated cycles."""
CONFIG = dataclasses.replace(BASE, **SHAPE)
ODD = dataclasses.replace(BASE, clock_mhz=166, mega_transfers=50)
PAD_CYCLES = 2
SLOWEST = 3
"""Of the timing modes that are good enough for it."""
FINE = dataclasses.replace(BASE, clock_mhz=500, mega_transfers=50)
"""For the pins alone, in steps of 2 ns."""


def channel() -> wiring.Component:
    """A channel on its NAND through SDR pins."""
    return bundle(channel=ChannelWithNand(CONFIG, SdrNand(CONFIG)))


def pins() -> wiring.Component:
    """Such a NAND alone, one behind slow pads at a clock that divides no time of the table, and a package's
    pins alone."""
    odd = SdrNand(ODD, pad_cycles=PAD_CYCLES, slowest=SLOWEST)
    return bundle(nand=SdrNand(CONFIG), odd=odd, pins=NandPins(FINE))
