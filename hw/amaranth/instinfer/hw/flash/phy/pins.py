# SPDX-License-Identifier: Apache-2.0
"""The pins of one flash bus, without tri-states: a board wrapper turns ``o``, ``oe``, ``i`` into pads."""

from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out


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
