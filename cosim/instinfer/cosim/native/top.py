# SPDX-License-Identifier: Apache-2.0
"""The simulation's top module: the design under plain port names, NAND packages on its flash buses.

It is written for each design because the number of flash buses and of event ports is the design's. What the
C++ harness relies on is fixed here: ``clk``, ``rst``, ``irq``, AXI4 ``host_*``, ``dram_*`` and, for pages in
DDR, ``pages_0_*`` and so on, AXI4-Lite ``bar_*``, one ``event_*`` port for each event source.

Every input passes a register of the top: the harness gives at one edge what the design sees after the next.
So nothing in the design hangs on the inputs combinationally, and one evaluation per cycle settles it. A bus
model outside, which sees a handshake when the design does, takes the top without registers
(``registered=False``, `instinfer.cosim.cocotb_bus`).
"""

import dataclasses
from collections.abc import Mapping, Sequence

ADDRESS = {"addr": 64, "len": 8, "valid": 1, "ready": -1}
AXI = {
    **{f"ar{name}": width for name, width in ADDRESS.items()},
    "rdata": -256,
    "rresp": -2,
    "rlast": -1,
    "rvalid": -1,
    "rready": 1,
    **{f"aw{name}": width for name, width in ADDRESS.items()},
    "wdata": 256,
    "wstrb": 32,
    "wlast": 1,
    "wvalid": 1,
    "wready": -1,
    "bresp": -2,
    "bvalid": -1,
    "bready": 1,
}
"""Width of each signal of an AXI4 manager that the harness sees; negative: into the manager."""
AXI_SIDEBAND = {
    **{f"{channel}{name}": width for channel in ("ar", "aw")
       for name, width in (("id", 1), ("size", 3), ("burst", 2), ("cache", 4), ("prot", 3))},
    "rid": -1,
    "bid": -1,
}
"""The rest, likewise: ports where there are no registers; checked and tied off for the harness."""
AXI_LITE = {
    "awaddr": -32,
    "awvalid": -1,
    "awready": 1,
    "wdata": -32,
    "wstrb": -4,
    "wvalid": -1,
    "wready": 1,
    "bresp": 2,
    "bvalid": 1,
    "bready": -1,
    "araddr": -32,
    "arvalid": -1,
    "arready": 1,
    "rdata": 32,
    "rresp": 2,
    "rvalid": 1,
    "rready": -1,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """A module that hangs on ports of the design: a NAND package on a flash bus.

    ``ports`` maps its ports to (port of the design, width); ``constants`` maps inputs to literals.
    """

    module: str
    instance: str
    parameters: Mapping[str, str]
    ports: Mapping[str, tuple[str, int]]
    constants: Mapping[str, str]


def simulation_top(
    design: str,
    *,
    parts: Sequence[Part] = (),
    events: Mapping[str, int] | None = None,
    pages: int = 0,
    registered: bool = True,
    ticks: int = 0,
) -> str:
    """SystemVerilog of module ``top``.

    Args:
        design: module name of the design; it has ports ``host``, ``dram`` (AxiBus), ``bar`` (AxiLiteBus),
            ``irq``.
        parts: what hangs on its other ports.
        events: width of each event port of the design, by the name of the port (at most 64 bits).
        pages: managers in the design's port array ``pages`` (AxiBus).
        registered: inputs pass a register (the harness); otherwise they are the design's own and all of
            AXI is among the ports.
        ticks: periods of an input ``tick``, for pins that move within a cycle of ``clk``; 0: there is none.
    """
    q = "_q" if registered else ""
    rst = f"rst{q}"
    ports = ["input wire clk", "input wire rst", "output wire irq", *(["input wire tick"] if ticks else [])]
    pins = [".clk(clk)", f".rst({rst})", ".irq(irq)"]
    wires = ["reg rst_q = 1'b1;"] if registered else []
    inputs = ["rst"]
    checks: list[str] = []

    def inner(prefix: str) -> str:
        """What the design calls the port."""
        return prefix.replace("_", "__")

    def expose(prefix: str, signals: Mapping[str, int]) -> None:
        for name, width in signals.items():
            ports.append(f"{'output' if width > 0 else 'input'} wire [{abs(width) - 1}:0] {prefix}_{name}")
            if width > 0:
                pins.append(f".{inner(prefix)}__{name}({prefix}_{name})")
            else:
                if registered:
                    inputs.append(f"{prefix}_{name}")
                    wires.append(f"reg [{-width - 1}:0] {prefix}_{name}_q = 0;")
                pins.append(f".{inner(prefix)}__{name}({prefix}_{name}{q})")

    for prefix in ("host", "dram", *page_ports(pages)):
        expose(prefix, AXI)
        if registered:
            for name, width in AXI_SIDEBAND.items():
                net = f"{prefix}_{name}" if width > 0 else f"{-width}'b0"
                if width > 0:
                    wires.append(f"wire [{width - 1}:0] {net};")
                pins.append(f".{inner(prefix)}__{name}({net})")
        else:
            expose(prefix, AXI_SIDEBAND)
        for channel in ("ar", "aw"):
            name = f"{prefix}_{channel}"
            checks += [
                *_held(rst, f"{name}valid", f"{name}ready{q}", f"{{{name}addr, {name}len}}", 72),
                f"if (!{rst} && {name}valid && ({name}size != 3'd5 || {name}burst != 2'd1))",
                f'  $error("{name}: only INCR bursts of 32-byte beats are served");',
            ]
        payload = f"{{{prefix}_wdata, {prefix}_wstrb, {prefix}_wlast}}"
        checks += _held(rst, f"{prefix}_wvalid", f"{prefix}_wready{q}", payload, 289)
    expose("bar", AXI_LITE)
    pins += [".bar__awprot(3'b0)", ".bar__arprot(3'b0)"]
    for name, width in (events or {}).items():
        if not 1 <= width <= 64:
            raise ValueError(f"event port {name} has {width} bits: the harness records up to 64; split it")
        ports.append(f"output wire [{width - 1}:0] {name}")
        pins.append(f".{name}({name})")
    bodies = []
    for part in parts:
        connections = [".clk(clk)", f".rst({rst})"]
        connections += [f".{port}({value})" for port, value in part.constants.items()]
        for port, (name, width) in part.ports.items():
            net = name.replace("__", "_")
            wires.append(f"wire [{width - 1}:0] {net};")
            pins.append(f".{name}({net})")
            connections.append(f".{port}({net})")
        parameters = ", ".join(f".{name}({value})" for name, value in part.parameters.items())
        bodies.append(f"  {part.module} #({parameters}) {part.instance} ({', '.join(connections)});")
    registers = [line.removeprefix("reg:") for line in checks if line.startswith("reg:")]
    clocked = [line for line in checks if not line.startswith("reg:")]
    lines = [
        "// SPDX-License-Identifier: Apache-2.0",
        "module top (",
        ",\n".join(f"  {port}" for port in ports),
        ");",
        *(f"  {wire}" for wire in wires),
        *(f"  {register}" for register in registers),
        f"  {design} dut (",
        ",\n".join(f"    {pin}" for pin in pins),
        "  );",
        *bodies,
        "  always @(posedge clk) begin",
        *(f"    {name}_q <= {name};" for name in inputs if registered),
        "    // AXI: what is offered stays until it is taken.",
        *(f"    {line}" for line in clocked),
        "  end",
        "endmodule",
    ]
    return "\n".join(lines) + "\n"


def _held(rst: str, valid: str, ready: str, payload: str, width: int) -> list[str]:
    held = f"{valid}_held"
    return [
        f"reg:reg {held} = 1'b0; reg [{width - 1}:0] {held}_payload;",
        f"{held} <= !{rst} && {valid} && !{ready};",
        f"{held}_payload <= {payload};",
        f"if (!{rst} && {held} && (!{valid} || {held}_payload != {payload}))",
        f'  $error("{valid} or its payload changed before {ready.removesuffix("_q")}");',
    ]


def page_ports(count: int) -> list[str]:
    """The managers of pages in DDR, as the top calls them."""
    return [f"pages_{number}" for number in range(count)]


def simulation_header(*, events: Mapping[str, int] | None = None, nand: bool = False, pages: int = 0,
                      ticks: int = 0) -> str:
    """``simulation.hpp``: the event ports in the order of their source numbers; whether there is NAND; the
    managers of pages in DDR; periods of ``tick`` in a cycle."""
    uses = " ".join(f"X({name})" for name in events or {})
    ports = " ".join(f"X({name})" for name in page_ports(pages))
    return (
        "// SPDX-License-Identifier: Apache-2.0\n#pragma once\n"
        f"#define INSTINFER_EVENT_SOURCES(X) {uses}\n#define INSTINFER_NAND {int(nand)}\n"
        f"#define INSTINFER_PAGE_PORTS(X) {ports}\n#define INSTINFER_TICKS {ticks}\n"
    )
