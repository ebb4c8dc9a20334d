# SPDX-License-Identifier: Apache-2.0
"""A flash bus from the engine to ONFI's SDR pins: power-up, PHY, and the pads of a board."""

from collections.abc import Mapping
from typing import Any

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig
from instinfer.abi.errors import require

from ..flash.phy.cycles import SdrCycles
from ..flash.phy.pins import SdrPins
from ..flash.phy.powerup import POWER_UP_FAULT, PowerUp
from ..flash.phy.sdr import SdrPhy
from ..generate import to_verilog
from ..shared import PORT_SEPARATOR, flat_ports
from ..signatures import PhyPort
from .flash import FlashSide
from .interfaces import Port
from .target import Family, Target

MODULE = "instinfer_sdr_channel"
FASTEST = 5
"""Timing mode of ONFI; what the dies list and how long the pads take may ask for a slower one."""
OUT_NS, BOARD_NS, IN_NS = 4, 2, 4
"""Longest way from a register to a pad, over the board and back, from a pad to a register."""
PAD_DELAY_NS = OUT_NS + BOARD_NS + IN_NS


class SdrChannel(wiring.Component):
    """Power-up and SDR PHY of one flash bus (connections only).

    Parameters
    ----------
    config : dies, clock, times

    Members
    -------
    channel : the engine's flash bus
    pins : of the package
    done, fault, faulty : see `PowerUp`

    Latency, throughput and back-pressure are those of `PowerUp` and `SdrPhy`.
    """

    def __init__(self, *, config: EngineConfig):
        self._up = PowerUp(config=config, fastest=FASTEST)
        self._phy = SdrPhy(config=config, fastest=FASTEST, pad_delay_ns=PAD_DELAY_NS)
        super().__init__({
            "channel": In(PhyPort(config.dies)), "pins": Out(SdrPins(config.dies)), "done": Out(1),
            "fault": Out(POWER_UP_FAULT), "faulty": Out(config.dies),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.up, m.submodules.phy = up, phy = self._up, self._phy
        wiring.connect(m, wiring.flipped(self.channel), up.channel)
        wiring.connect(m, up.phy, phy.phy)
        wiring.connect(m, phy.pins, wiring.flipped(self.pins))
        m.d.comb += [phy.mode.eq(up.mode), self.done.eq(up.done), self.fault.eq(up.fault),
                     self.faulty.eq(up.faulty)]
        return m


class SdrPads(FlashSide):
    """The SDR PHY, single pads, RE as a pair; DQS, which SDR has no use for, is left floating."""

    name = "sdr"

    def __init__(self, config: EngineConfig, family: Family | None = None):
        super().__init__(config, family)
        self._channel = SdrChannel(config=config)
        self.limit = self.rate_limit(config)
        require(config.mega_transfers <= self.limit, "mega_transfers", config.mega_transfers,
                f"at most {self.limit} with --phy sdr at {config.clock_mhz} MHz",
                f"--set mega_transfers={self.limit}.")

    @classmethod
    def rate_limit(cls, config: EngineConfig) -> int:
        """MT/s of the fastest mode at this clock, rounded down."""
        fastest = SdrCycles.of(FASTEST, clock_mhz=config.clock_mhz, column_ns=config.timing.tCCS,
                               pad_delay_ns=PAD_DELAY_NS)
        return config.clock_mhz // fastest.read_byte

    @property
    def summary(self) -> str:  # type: ignore[override]
        return (
            f"ONFI's SDR, timing modes 0 to {FASTEST}, {self.limit} MT/s at most: at power-up each channel "
            "resets its dies, reads their parameter pages and sets the fastest mode that all of them list; "
            f"until then its bus is busy. The pads may take {OUT_NS} ns out, the board {BOARD_NS} ns both "
            f"ways, the pads {IN_NS} ns in (constraints/timing.xdc).")

    def modules(self) -> dict[str, str]:
        return {f"{MODULE}.v": to_verilog(self._channel, name=MODULE)}

    def primitives(self) -> tuple[str, ...]:
        return ("IOBUF", "OBUFDS", "IOBUFDS")

    def ports(self) -> list[Port]:
        return nand_ports(self.config)

    def connect(self) -> tuple[list[str], Mapping[str, str]]:
        lines: list[str] = []
        nets: dict[str, str] = {}
        for channel in range(self.config.channels):
            lines += self._lines(channel)
            for name, _, _ in flat_ports(self._channel):
                if name.startswith(f"channel{PORT_SEPARATOR}"):
                    short = name.removeprefix(f"channel{PORT_SEPARATOR}")
                    nets[PORT_SEPARATOR.join(("phy", str(channel), short))] = f"bus{channel}_{short}"
        return lines, nets

    def _lines(self, channel: int) -> list[str]:
        """A channel's PHY and pads."""
        nand, bus = f"nand{channel}", f"bus{channel}"
        outer = {"ce_n": "ce_n", "cle": "cle", "ale": "ale", "we_n": "we_n", "wp_n": "wp_n",
                 "ready_busy_n": "rb_n"}
        pins = {"clk": "ap_clk", "rst": "rst"}
        lines = []
        for name, _, value in flat_ports(self._channel):
            first, _, short = name.partition(PORT_SEPARATOR)
            if first == "pins" and short in outer:
                pins[name] = f"{nand}_{outer[short]}"
                continue
            net = f"{bus}_{short or first}" if first == "channel" else f"{nand}_{short or first}_inside"
            pins[name] = net
            lines.append(f"wire [{len(value) - 1}:0] {net};" if len(value) > 1 else f"wire {net};")
        lines += [f"{MODULE} {nand}_phy (", ",\n".join(f"    .{port}({net})" for port, net in pins.items()),
                  ");"]
        data = f"{nand}_dq{PORT_SEPARATOR}"
        lines += [
            f"IOBUF {nand}_dq_pad_{bit} (.I({data}o_inside[{bit}]), .O({data}i_inside[{bit}]), "
            f".T(~{data}oe_inside), .IO({nand}_dq[{bit}]));" for bit in range(8)]
        lines += [
            f"OBUFDS {nand}_re_pad (.I({nand}_re_n_inside), .O({nand}_re_t), .OB({nand}_re_c));",
            f"wire {nand}_dqs_inside;",
            f"IOBUFDS {nand}_dqs_pad (.I(1'b0), .T(1'b1), .O({nand}_dqs_inside), .IO({nand}_dqs_t), "
            f".IOB({nand}_dqs_c));",
        ]
        return lines

    def pins(self, target: Target) -> list[dict[str, str]]:
        return nand_pins(target, self.ports())

    def constraints(self, target: Target) -> list[str]:
        clock = "[get_clocks -of_objects [get_ports ap_clk]]"
        lines = [
            f"# SDR: beside tREA, DQ may come {PAD_DELAY_NS} ns after the edges that ask for it: "
            f"{OUT_NS} ns to a pad, {BOARD_NS} ns of board, {IN_NS} ns from a pad.",
            *synchronisers(),
        ]
        for port in self.ports():
            pads = f"[get_ports {{{port.name}{'[*]' if port.width > 1 else ''}}}]"
            if port.name.endswith("rb_n"):
                lines.append(f"set_false_path -from {pads}")
            elif "_dqs" not in port.name:
                lines.append(f"set_max_delay -datapath_only -from {clock} -to {pads} {OUT_NS}.0")
                if port.direction == "inout":
                    lines.append(f"set_max_delay -datapath_only -from {pads} -to {clock} {IN_NS}.0")
        return lines


def synchronisers() -> list[str]:
    """Flip-flops of Amaranth's synchronisers, which are called so, stand side by side, and simulation tools
    know what they are for."""
    return [
        "# Registers that take signals of another clock, and those behind them.",
        "set_property ASYNC_REG TRUE [get_cells -hierarchical -regexp {.*/stage[0-9]+_reg(\\[[0-9]+\\])?}]",
    ]


def nand_ports(config: EngineConfig) -> list[Port]:
    """The wrapper's ports of all NAND channels."""
    widths = {
        "ce_n": ("output", config.dies), "cle": ("output", 1), "ale": ("output", 1), "we_n": ("output", 1),
        "re_t": ("output", 1), "re_c": ("output", 1), "wp_n": ("output", 1), "rb_n": ("input", config.dies),
        "dq": ("inout", 8), "dqs_t": ("inout", 1), "dqs_c": ("inout", 1),
    }
    return [Port(f"nand{channel}_{name}", direction, width) for channel in range(config.channels)
            for name, (direction, width) in widths.items()]


def nand_pins(target: Target, ports: list[Port]) -> list[dict[str, str]]:
    """Port, placeholder, I/O standard and kind of every package pin of a NAND board."""
    assert target.nand is not None
    pins = target.nand
    standards = {"dq": pins.data, "cle": pins.control, "ale": pins.control, "we_n": pins.control,
                 "re_t": pins.strobe, "re_c": pins.strobe, "dqs_t": pins.strobe, "dqs_c": pins.strobe,
                 "ce_n": pins.enable, "wp_n": pins.enable, "rb_n": pins.ready}
    found: list[dict[str, Any]] = []
    for port in ports:
        standard = standards[port.name.partition("_")[2]]
        for bit in range(port.width):
            wide = port.width > 1
            found.append({
                "port": f"{port.name}[{bit}]" if wide else port.name, "standard": standard,
                "placeholder": f"PIN_{port.name.upper()}{bit if wide else ''}",
                "kind": "pulled up" if port.name.endswith("rb_n") else "plain",
            })
    return found
