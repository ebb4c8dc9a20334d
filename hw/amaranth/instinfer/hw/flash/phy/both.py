# SPDX-License-Identifier: Apache-2.0
"""SDR and NV-DDR2 on one set of pins: a bus begins in SDR and is switched over."""

from amaranth.hdl import Module, Mux
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig
from instinfer.abi.onfi import NVDDR2_MODES

from ...signatures import PhyPort
from .nvcycles import QUARTERS
from .nvddr2 import NvDdr2Phy
from .pins import NvDdr2Pins
from .sdr import SdrPhy


class SwitchedPhy(wiring.Component):
    """`SdrPhy` in timing mode 0 until ``nvddr2``, then `NvDdr2Phy` (multiplexers between them, no more).

    Parameters
    ----------
    config : dies, clock, tCCS
    fastest : NV-DDR2 timing mode
    pad_delay_ns : longest way from a register through the pads and the board to the NAND and back

    Members
    -------
    nvddr2, mode : data interface and NV-DDR2 timing mode; may change while ``busy`` is 0
    phy : the sequencer's side
    pins : of the pad layer; in SDR DQS is driven high
    lost : see `NvDdr2Phy`

    Latency, throughput and back-pressure are those of the PHY in use.
    """

    def __init__(self, *, config: EngineConfig, fastest: int, pad_delay_ns: int = 0):
        self._sdr = SdrPhy(config=config, fastest=0, pad_delay_ns=pad_delay_ns)
        self.phy_in_nvddr2 = NvDdr2Phy(config=config, fastest=fastest, pad_delay_ns=pad_delay_ns)
        super().__init__({
            "nvddr2": In(1), "mode": In(range(NVDDR2_MODES)), "phy": In(PhyPort(config.dies)),
            "pins": Out(NvDdr2Pins(config.dies)), "lost": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.sdr, m.submodules.nvddr2 = slow, fast = self._sdr, self.phy_in_nvddr2
        phy, pins, chosen = self.phy, self.pins, self.nvddr2
        a, b = slow.pins, fast.pins
        for name in ("ce_n", "cle", "ale", "we_n", "wp_n"):
            m.d.comb += getattr(pins, name).eq(Mux(chosen, getattr(b, name), getattr(a, name)))
        m.d.comb += [
            pins.re_n.eq(Mux(chosen, b.re_n, a.re_n.replicate(QUARTERS))),
            pins.dq.o.eq(Mux(chosen, b.dq.o, a.dq.o.replicate(2))),
            pins.dq.oe.eq(Mux(chosen, b.dq.oe, a.dq.oe)),
            pins.dqs.o.eq(b.dqs.o), pins.dqs.oe.eq(b.dqs.oe),
            a.dq.i.eq(pins.dq.i), a.ready_busy_n.eq(pins.ready_busy_n), b.dq.i.eq(pins.dq.i),
            b.dq.rise.eq(pins.dq.rise), b.dq.fall.eq(pins.dq.fall), b.strobe.eq(pins.strobe),
            b.ready_busy_n.eq(pins.ready_busy_n), fast.mode.eq(self.mode), self.lost.eq(fast.lost),
            phy.ready.eq(Mux(chosen, fast.phy.ready, slow.phy.ready)),
            phy.busy.eq(fast.phy.busy | slow.phy.busy),
            phy.request.ready.eq(Mux(chosen, fast.phy.request.ready, slow.phy.request.ready)),
            phy.write.ready.eq(Mux(chosen, fast.phy.write.ready, slow.phy.write.ready)),
            phy.read.valid.eq(Mux(chosen, fast.phy.read.valid, slow.phy.read.valid)),
            phy.read.payload.eq(Mux(chosen, fast.phy.read.payload, slow.phy.read.payload)),
        ]
        for port, on in ((slow.phy, ~chosen), (fast.phy, chosen)):
            m.d.comb += [
                port.request.payload.eq(phy.request.payload), port.request.valid.eq(phy.request.valid & on),
                port.write.payload.eq(phy.write.payload), port.write.valid.eq(phy.write.valid & on),
            ]
        return m
