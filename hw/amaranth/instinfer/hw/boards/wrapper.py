# SPDX-License-Identifier: Apache-2.0
"""The wrapper: the engine under the names of AXI interfaces, pads on its flash buses. Verilog as text.

Tri-states and the FPGA's input and output cells are here alone; the engine's Verilog has none.
"""

import dataclasses
from collections.abc import Iterable, Sequence

from instinfer.abi.config import EngineConfig
from instinfer.abi.kernel import CONTROL_BYTES
from instinfer.abi.registers import BAR_BYTES

from ..engine import engine_signature
from ..events import event_layouts
from ..generate import top_name
from ..shared import PORT_SEPARATOR, flat_ports
from .flash import FlashSide
from .interfaces import CONTROL, Bus, Port, buses
from .target import Target

KERNEL_CONTROL = "instinfer_kernel_control"
"""Module name of `KernelControl` in Verilog."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wrapper:
    """The wrapper's text, and what the other files are made from."""

    name: str
    text: str
    ports: tuple[Port, ...]
    buses: tuple[Bus, ...]

    @property
    def managers(self) -> list[Bus]:
        """Those of the engine, m00_axi first."""
        return [bus for bus in self.buses if bus.mode == "Master"]


def wrapper_name(config: EngineConfig) -> str:
    """Module name of the wrapper; of the kernel, for XRT."""
    return f"{top_name(config)}_ip"


def control_bytes(target: Target) -> int:
    """Size of the window behind s_axi_control."""
    return CONTROL_BYTES if target.platform else BAR_BYTES


def make_wrapper(target: Target, config: EngineConfig, flash: FlashSide) -> Wrapper:
    """The wrapper of the engine for a board."""
    engine = engine_signature(config).create()
    control_bits = (control_bytes(target) - 1).bit_length()
    found = buses(engine, control_bits=control_bits)
    outer = [*_common_ports(found), *(port for bus in found for port in bus.ports()), *flash.ports()]
    pins = {"clk": "ap_clk", "rst": "rst", "irq": "engine_interrupt"}
    lines = [*_reset(flash.reset_cycles), "wire engine_interrupt;"]
    base = "device_memory" if target.platform else "DRAM_BASE"
    for bus in found:
        kernel = target.platform is not None and bus.name == CONTROL
        if kernel:
            lines += _kernel(bus, control_bits)
        for signal in bus.signals:
            address = signal.logical in ("AWADDR", "ARADDR")
            if kernel:
                pins[signal.inner] = f"bar_{signal.logical.lower()}"
            elif bus.mode == "Slave" and address:
                pins[signal.inner] = f"{{{32 - control_bits}'d0, {signal.outer}}}"
            elif bus.mode == "Master" and bus.member != "host" and address:
                lines += [f"wire [63:0] {signal.inner};", f"assign {signal.outer} = {base} + {signal.inner};"]
                pins[signal.inner] = signal.inner
            else:
                pins[signal.inner] = signal.outer
    if target.platform is None:
        lines.append("assign interrupt = engine_interrupt;")
    for name, layout in event_layouts(config).items():
        lines.append(f"wire {_range(layout.size)}{name};  // for a debug core: instinfer.hw.events")
        pins[name] = name
    wires, more = flash.connect()
    pins |= more
    lines += wires
    known = {"clk", "rst", *(name for name, _, _ in flat_ports(engine))}
    if known != set(pins):
        raise ValueError(f"wrapper of {target.name}: ports {sorted(known ^ set(pins))} of the engine are not "
                         "connected; the engine has changed, change instinfer.hw.boards.wrapper with it")
    body = [*lines, *_instance(top_name(config), "engine", pins)]
    head = [f"module {wrapper_name(config)} ("] if target.platform else [
        f"module {wrapper_name(config)} #(",
        f"  parameter [63:0] DRAM_BASE = 64'h{target.dram_base:016x}  // of the engine's DRAM",
        ") (",
    ]
    text = "\n".join([
        "// SPDX-License-Identifier: Apache-2.0",
        f"// InstInfer for {target.title}: the engine and what it needs at the FPGA's borders.",
        *head,
        ",\n".join(_declaration(port) for port in outer),
        ");",
        *(f"  {line}" for line in body),
        "endmodule",
    ]) + "\n"
    return Wrapper(name=wrapper_name(config), text=text, ports=tuple(outer), buses=tuple(found))


def _reset(cycles: int) -> list[str]:
    """``rst``: a cycle behind ``ap_rst_n``, and at least ``cycles`` long."""
    if cycles == 1:
        return ["reg rst = 1'b1;", "always @(posedge ap_clk) rst <= ~ap_rst_n;"]
    ones = f"{{{cycles}{{1'b1}}}}"
    return [f"reg [{cycles - 1}:0] resets = {ones};",
            f"always @(posedge ap_clk) resets <= ap_rst_n ? {{resets[{cycles - 2}:0], 1'b0}} : {ones};",
            f"wire rst = resets[{cycles - 1}];"]


def _common_ports(found: Sequence[Bus]) -> list[Port]:
    names = ":".join(bus.name for bus in found)
    return [
        Port("ap_clk", "input", 1, "xilinx.com:signal:clock:1.0 ap_clk CLK",
             f"XIL_INTERFACENAME ap_clk, ASSOCIATED_BUSIF {names}, ASSOCIATED_RESET ap_rst_n"),
        Port("ap_rst_n", "input", 1, "xilinx.com:signal:reset:1.0 ap_rst_n RST",
             "XIL_INTERFACENAME ap_rst_n, POLARITY ACTIVE_LOW"),
        Port("interrupt", "output", 1, "xilinx.com:signal:interrupt:1.0 interrupt INTERRUPT",
             "XIL_INTERFACENAME interrupt, SENSITIVITY LEVEL_HIGH"),
    ]


def _declaration(port: Port) -> str:
    attributes = [f'  (* X_INTERFACE_INFO = "{port.info}" *)'] if port.info else []
    if port.parameter:
        attributes.insert(0, f'  (* X_INTERFACE_PARAMETER = "{port.parameter}" *)')
    return "\n".join([*attributes, f"  {port.direction} wire {_range(port.width)}{port.name}"])


def _range(width: int) -> str:
    return f"[{width - 1}:0] " if width > 1 else ""


def _kernel(bus: Bus, control_bits: int) -> Iterable[str]:
    """Registers of the kernel between s_axi_control and the engine's BAR."""
    pins = {"clk": "ap_clk", "rst": "rst", "engine_interrupt": "engine_interrupt", "interrupt": "interrupt",
            "host_memory": "host_memory", "device_memory": "device_memory"}
    yield "wire [63:0] host_memory;"
    yield "wire [63:0] device_memory;"
    for signal in bus.signals:
        short = signal.logical.lower()
        address = signal.logical in ("AWADDR", "ARADDR")
        yield f"wire {_range(32 if address else signal.width)}bar_{short};"
        pins[f"bar{PORT_SEPARATOR}{short}"] = f"bar_{short}"
        pins[f"control{PORT_SEPARATOR}{short}"] = (
            f"{{{32 - control_bits}'d0, {signal.outer}}}" if address else signal.outer)
    yield from _instance(KERNEL_CONTROL, "control", pins)


def _instance(module: str, name: str, pins: dict[str, str]) -> Iterable[str]:
    yield f"{module} {name} ("
    yield ",\n".join(f"    .{port}({net})" for port, net in pins.items())
    yield ");"
