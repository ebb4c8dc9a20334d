# SPDX-License-Identifier: Apache-2.0
"""The pins of one flash bus, without tri-states: a board wrapper turns ``o``, ``oe``, ``i`` into pads."""

from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .nvcycles import QUARTERS


def _high(width: int) -> wiring.Member:
    """An output that is 1 at rest."""
    return wiring.Member(Out, width, init=(1 << width) - 1)  # type: ignore[call-arg]  # the stubs are older


class SdrPins(wiring.Signature):
    """ONFI's pins in SDR (ONFI 4.0, "Signal descriptions"), seen from the controller.

    ``ce_n`` and ``ready_busy_n`` (R/B_n, with its pull-up) are per die; ``dq.oe`` drives all eight. All
    outputs come from registers of the ``sync`` domain. ``dq.i`` must reach its register with no more than
    the PHY's ``pad_delay_ns`` behind the outputs; ``ready_busy_n`` may come at any time.
    """

    def __init__(self, dies: int) -> None:
        super().__init__({
            "ce_n": _high(dies), "cle": Out(1), "ale": Out(1), "we_n": _high(1), "re_n": _high(1),
            "wp_n": Out(1),
            "dq": Out(wiring.Signature({"o": Out(8), "oe": Out(1), "i": In(8)})),
            "ready_busy_n": In(dies),
        })


class NvDdr2Pins(wiring.Signature):
    """ONFI's pins in NV-DDR2, and in SDR too, in front of the pad layer that gives them their fine time.

    As `SdrPins`, with each cycle of ``re_n`` and ``dqs.o`` in quarters and of ``dq.o`` in halves (a byte
    each), lowest bits first; all others hold for the cycle, the two ``oe`` too. The pad layer delays all
    outputs alike.

    ``strobe`` is DQS as it comes back, later by about a quarter of its period so that its edges lie inside
    the data: a clock. ``dq.rise`` and ``dq.fall`` are DQ as taken by its last rising and falling edge (they
    change at these edges); ``dq.i`` is DQ itself.
    """

    def __init__(self, dies: int) -> None:
        super().__init__({
            "ce_n": _high(dies), "cle": Out(1), "ale": Out(1), "we_n": _high(1), "re_n": _high(QUARTERS),
            "wp_n": Out(1),
            "dq": Out(wiring.Signature({"o": Out(16), "oe": Out(1), "i": In(8), "rise": In(8),
                                        "fall": In(8)})),
            "dqs": Out(wiring.Signature({"o": _high(QUARTERS), "oe": _high(1)})), "strobe": In(1),
            "ready_busy_n": In(dies),
        })
