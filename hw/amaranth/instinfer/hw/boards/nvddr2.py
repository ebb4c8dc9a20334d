# SPDX-License-Identifier: Apache-2.0
"""A flash bus from the engine to ONFI's NV-DDR2 pins: power-up, PHY, and the pads of a board."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig
from instinfer.abi.errors import require
from instinfer.abi.onfi import NVDDR2_TIMING, DataInterface

from ..flash.phy.both import SwitchedPhy
from ..flash.phy.crossing import RESET_CYCLES
from ..flash.phy.nvcycles import NvDdr2Cycles, fastest_within, strobe_window
from ..flash.phy.pins import NvDdr2Pins
from ..flash.phy.powerup import POWER_UP_FAULT, PowerUp
from ..generate import to_verilog
from ..shared import PORT_SEPARATOR, flat_ports
from ..signatures import PhyPort
from .crossed import CrossedChannel, phy_clock
from .flash import FlashSide
from .interfaces import Port
from .sdr import BOARD_NS, IN_NS, OUT_NS, PAD_DELAY_NS, nand_pins, nand_ports, synchronisers
from .target import Family, Target
from .templates import render as render_template

MODULE, PADS, CLOCK = "instinfer_nvddr2_channel", "instinfer_nvddr2_pads", "instinfer_pad_clock"
TAP_FS = 78_125
"""A tap of the 7 series' delay line behind a reference of 200 MHz, in femtoseconds."""


@dataclasses.dataclass(frozen=True)
class PadClock:
    """Multiplier of the MMCM, divider of the delay lines' reference, and its frequency in MHz; divider of the
    PHY's clock (the pads' has half of it)."""

    multiply: int
    divide: int
    reference_mhz: float
    phy_divide: int

    @classmethod
    def of(cls, clock_mhz: int, family: Family, phy_mhz: int | None = None) -> "PadClock":
        """The first setting with an oscillator of 800 to 1200 MHz, the reference that the family wants, and,
        if it is not ``clock_mhz``, a PHY's clock of at most ``phy_mhz`` and not 1 % less.

        Raises:
            ConfigError: there is none.
        """
        wanted = phy_mhz or clock_mhz
        low, high = (190, 210) if family == Family.SERIES_7 else (300, 800)
        for multiply in range(2, 65, 2):
            for divide in range(1, 9):
                reference = clock_mhz * multiply / divide
                phy_divide = 2 * -(-clock_mhz * multiply // (2 * wanted))
                near = 0.99 * wanted <= clock_mhz * multiply / phy_divide
                if 800 <= clock_mhz * multiply <= 1200 and low <= reference <= high and near:
                    return cls(multiply, divide, round(reference, 3), phy_divide)
        require(phy_mhz is None, "phy_clock_mhz", phy_mhz,
                f"one that {family.value}'s MMCM makes of {clock_mhz} MHz beside the delay lines' reference",
                f"--phy-clock {clock_mhz * 4 // 3}, or another ratio of small numbers.")
        require(False, "clock_mhz", clock_mhz, f"one from which {family.value}'s delay lines get a reference",
                "--set clock_mhz=100.")
        raise AssertionError


class NvDdr2Channel(wiring.Component):
    """Power-up and PHY of one flash bus, up to NV-DDR2 (connections only).

    Parameters
    ----------
    config : dies, clock, times
    fastest : NV-DDR2 timing mode

    Members
    -------
    channel : the engine's flash bus
    pins : of the pad layer
    done, fault, faulty : see `PowerUp`
    lost : see `NvDdr2Phy`

    Latency, throughput and back-pressure are those of `PowerUp` and `SwitchedPhy`.
    """

    def __init__(self, *, config: EngineConfig, fastest: int):
        self._up = PowerUp(config=config, fastest=fastest, interface=DataInterface.NV_DDR2)
        self._phy = SwitchedPhy(config=config, fastest=fastest, pad_delay_ns=PAD_DELAY_NS)
        super().__init__({
            "channel": In(PhyPort(config.dies)), "pins": Out(NvDdr2Pins(config.dies)), "done": Out(1),
            "fault": Out(POWER_UP_FAULT), "faulty": Out(config.dies), "lost": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.up, m.submodules.phy = up, phy = self._up, self._phy
        wiring.connect(m, wiring.flipped(self.channel), up.channel)
        wiring.connect(m, up.phy, phy.phy)
        wiring.connect(m, phy.pins, wiring.flipped(self.pins))
        m.d.comb += [phy.mode.eq(up.mode), phy.nvddr2.eq(up.nvddr2), self.done.eq(up.done),
                     self.fault.eq(up.fault), self.faulty.eq(up.faulty), self.lost.eq(phy.lost)]
        return m


class NvDdr2Pads(FlashSide):
    """The NV-DDR2 PHY, at the engine's clock or behind a `CrossedChannel`; RE and DQS as pairs, of which the
    NAND looks at the first wire alone."""

    name = "nvddr2"

    def __init__(self, config: EngineConfig, family: Family, phy_clock_mhz: int | None = None):
        super().__init__(config, family)
        if phy_clock_mhz is not None:
            phy_clock(phy_clock_mhz, clock_mhz=config.clock_mhz)
        self.crossed = phy_clock_mhz not in (None, config.clock_mhz)
        # What the PHY is made for; the engine keeps its own configuration.
        self.bus = bus = dataclasses.replace(config, clock_mhz=phy_clock_mhz or config.clock_mhz)
        self.fastest = fastest_within(bus.mega_transfers, clock_mhz=bus.clock_mhz)
        limit = self.rate_limit(bus)
        require(bus.mega_transfers <= limit, "mega_transfers", bus.mega_transfers,
                f"{limit} with --phy nvddr2 at {bus.clock_mhz} MHz", f"--set mega_transfers={limit}.")
        channel = NvDdr2Channel(config=bus, fastest=self.fastest)
        self._channel: Any = CrossedChannel(channel, dies=bus.dies) if self.crossed else channel
        self._clock = PadClock.of(config.clock_mhz, family, phy_clock_mhz if self.crossed else None)
        if self.crossed:
            self.phy_clock_mhz, self.reset_cycles = phy_clock_mhz, RESET_CYCLES

    @classmethod
    def rate_limit(cls, config: EngineConfig) -> int:
        """MT/s of the fastest mode at this clock that stays within the configuration's, rounded down."""
        mode = fastest_within(config.mega_transfers, clock_mhz=config.clock_mhz)
        beat = NvDdr2Cycles.of(mode, clock_mhz=config.clock_mhz, column_ns=config.timing.tCCS).beat
        return 8 * config.clock_mhz // beat

    @property
    def delay_ps(self) -> int:
        """Of the delay line of DQS: what a guess at the clock network leaves of the window's middle."""
        network, most = (1_200, 2_400) if self.family == Family.SERIES_7 else (2_500, 1_100)
        return max(0, min(most, sum(strobe_window(self.fastest)) // 2 - network))

    @property
    def summary(self) -> str:  # type: ignore[override]
        least, most = strobe_window(self.fastest)
        own = "" if not self.crossed else (
            f"Power-up and PHY run at {self.bus.clock_mhz} MHz, made of ap_clk, behind a crossing "
            "(docs/blocks/phy.md); the engine's times count from its own clock. ")
        return own + (
            f"ONFI's NV-DDR2, timing modes 0 to {self.fastest}: at power-up each channel resets its dies in "
            "SDR, reads their parameter pages and takes them all to the fastest mode that they list; until "
            f"then its bus is busy. The pads run at twice the clock ({PADS}, {CLOCK}). DQS must reach the "
            f"registers of DQ {least} to {most} ps behind DQ: the delay of {self.delay_ps} ps in {PADS} "
            "rests on a guess at the clock network and is to be calibrated on the board. The times come from "
            "public tables, not from your NAND's data sheet: compare them first (docs/blocks/phy.md).")

    def modules(self) -> dict[str, str]:
        clock = self._clock
        values = {
            "series_7": self.family == Family.SERIES_7, "family": self.family.value if self.family else "",
            "delay_ps": self.delay_ps, "taps": round(1000 * self.delay_ps / TAP_FS),
            "clock_mhz": self.config.clock_mhz, "period_ns": f"{1000 / self.config.clock_mhz:.3f}",
            "crossed": self.crossed, "phy_divide": clock.phy_divide,
            "phy_mhz": f"{self.config.clock_mhz * clock.multiply / clock.phy_divide:.3f}",
            "multiply": clock.multiply, "divide": clock.divide, "reference_mhz": f"{clock.reference_mhz:.3f}",
        }
        return {
            f"{MODULE}.v": to_verilog(self._channel, name=MODULE),
            f"{PADS}.v": render_template("nvddr2_pads.v.j2", module=PADS, **values),
            f"{CLOCK}.v": render_template("pad_clock.v.j2", module=CLOCK, **values),
        }

    def primitives(self) -> tuple[str, ...]:
        cells = ("ODDR", "IDDR", "IDELAYE2", "BUFR", "MMCME2_BASE") if self.family == Family.SERIES_7 else (
            "ODDRE1", "IDDRE1", "IDELAYE3", "MMCME4_BASE")
        return ("IOBUF", "OBUFDS", "IOBUFDS", "BUFG", "IDELAYCTRL", *cells)

    def ports(self) -> list[Port]:
        return nand_ports(self.config)

    def connect(self) -> tuple[list[str], Mapping[str, str]]:
        own = ", .phy_clk(phy_clk)" if self.crossed else ""
        lines = [
            "wire pad_clk;", "wire pads_ready;", *(["wire phy_clk;"] if self.crossed else []),
            f"{CLOCK} pad_clock (.clk(ap_clk), .rst(rst), .pad_clk(pad_clk){own}, .ready(pads_ready));",
        ]
        if not self.crossed:
            lines += ["reg pads_rst = 1'b1;", "always @(posedge ap_clk) pads_rst <= rst | ~pads_ready;"]
        nets: dict[str, str] = {}
        for channel in range(self.config.channels):
            lines += self._lines(channel)
            for name, _, _ in flat_ports(self._channel):
                if name.startswith(f"channel{PORT_SEPARATOR}"):
                    short = name.removeprefix(f"channel{PORT_SEPARATOR}")
                    nets[PORT_SEPARATOR.join(("phy", str(channel), short))] = f"bus{channel}_{short}"
        return lines, nets

    def _lines(self, channel: int) -> list[str]:
        """A channel's PHY, its pad layer, and the pads."""
        nand, bus = f"nand{channel}", f"bus{channel}"
        phy = {"clk": "ap_clk", "rst": "rst" if self.crossed else "pads_rst"}
        pads = {"clk": "phy_clk" if self.crossed else "ap_clk", "pad_clk": "pad_clk"}
        common = {"phy_clk": "phy_clk", "phy_ready": "pads_ready"}
        lines = []
        for name, _, value in flat_ports(self._channel):
            first, _, short = name.partition(PORT_SEPARATOR)
            net = f"{bus}_{short}" if first == "channel" else f"{nand}_{short or first}_inside"
            if short == "ready_busy_n" and first == "pins":
                phy[name] = f"{nand}_rb_n"
                continue
            if name in common:
                phy[name] = common[name]
                continue
            phy[name] = net
            if first == "pins":
                pads[short.replace(PORT_SEPARATOR, "_")] = net
            lines.append(f"wire [{len(value) - 1}:0] {net};" if len(value) > 1 else f"wire {net};")
        for name, width in (("re_n", 1), ("dq_o", 8), ("dq_t", 8), ("dq_i", 8), ("dqs_o", 1), ("dqs_t", 1),
                            ("dqs_i", 1)):
            lines.append(f"wire {f'[{width - 1}:0] ' if width > 1 else ''}{nand}_pad_{name};")
            pads[f"pin_{name}"] = f"{nand}_pad_{name}"
        pads |= {f"pin_{name}": f"{nand}_{name}" for name in ("ce_n", "cle", "ale", "we_n", "wp_n")}
        for module, nets, parameters in ((MODULE, phy, ""), (PADS, pads, f" #(.DIES({self.config.dies}))")):
            kind = "phy" if module == MODULE else "pads"
            lines += [f"{module}{parameters} {nand}_{kind} (",
                      ",\n".join(f"    .{port}({net})" for port, net in nets.items()), ");"]
        lines += [
            f"IOBUF {nand}_dq_pad_{bit} (.I({nand}_pad_dq_o[{bit}]), .O({nand}_pad_dq_i[{bit}]), "
            f".T({nand}_pad_dq_t[{bit}]), .IO({nand}_dq[{bit}]));" for bit in range(8)]
        lines += [
            f"OBUFDS {nand}_re_pad (.I({nand}_pad_re_n), .O({nand}_re_t), .OB({nand}_re_c));",
            f"IOBUFDS {nand}_dqs_pad (.I({nand}_pad_dqs_o), .T({nand}_pad_dqs_t), .O({nand}_pad_dqs_i), "
            f".IO({nand}_dqs_t), .IOB({nand}_dqs_c));",
        ]
        return lines

    def pins(self, target: Target) -> list[dict[str, str]]:
        return nand_pins(target, self.ports())

    def constraints(self, target: Target) -> list[str]:
        engine = "[get_clocks -of_objects [get_ports ap_clk]]"
        clock = "[get_clocks -of_objects [get_pins pad_clock/phy_buffer/O]]" if self.crossed else engine
        pads = "[get_clocks -of_objects [get_pins pad_clock/pad_buffer/O]]"
        t = {name: time.picoseconds[self.fastest] / 1000 for name, time in NVDDR2_TIMING.items()}
        limit, cycle = "set_max_delay -datapath_only", f"{1000 / self.bus.clock_mhz:.3f}"
        period = 1000 * 2 / self.rate_limit(self.bus)
        lines = [
            f"# NV-DDR2: an edge of RE_n leaves in {OUT_NS} ns, crosses the board in {BOARD_NS} ns both "
            f"ways, and DQS comes in within {IN_NS} ns.",
            "# DQS is a clock that runs while a die answers; data last from tDQSQ to tQH behind its edges.",
            *synchronisers(),
        ]
        if self.crossed:
            shorter = f"{1000 / max(self.bus.clock_mhz, self.config.clock_mhz):.3f}"
            lines += [
                "# The PHY has a clock of its own. What goes between the two does so through FIFOs and",
                "# synchronisers: bits of a Gray code may be one cycle apart at most.",
                f"{limit} -from {engine} -to {clock} {shorter}",
                f"{limit} -from {clock} -to {engine} {shorter}",
            ]
        for channel in range(self.config.channels):
            nand = f"nand{channel}"
            strobe, dq = f"[get_clocks {nand}_dqs]", f"[get_ports {{{nand}_dq[*]}}]"
            lines.append(f"create_clock -name {nand}_dqs -period {period:.3f} [get_ports {nand}_dqs_t]")
            for edge in ("", " -clock_fall -add_delay"):
                lines += [f"set_input_delay -clock {strobe} -max {t['tDQSQ']:.3f}{edge} {dq}",
                          f"set_input_delay -clock {strobe} -min "
                          f"{t['tQH'] - period / 2:.3f}{edge or ' -add_delay'} {dq}"]
            lines += [
                f"{limit} -from {strobe} -to {clock} {cycle}", f"{limit} -from {clock} -to {strobe} {cycle}",
                f"{limit} -from {dq} -to {clock} {IN_NS}.0",
            ]
        for port in self.ports():
            name = f"[get_ports {{{port.name}{'[*]' if port.width > 1 else ''}}}]"
            if port.name.endswith("rb_n"):
                lines.append(f"set_false_path -from {name}")
            else:
                lines.append(f"{limit} -from {pads} -to {name} {OUT_NS}.0")
        return lines
