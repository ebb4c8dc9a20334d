# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for the FPGA's input and output cells, so that lint and Yosys can look at a wrapper.

Names, ports and parameters as in the vendor's libraries guides (UG953: 7 series, UG974: UltraScale+).
"""

from collections.abc import Iterable, Mapping

CELLS: Mapping[str, tuple[Mapping[str, str], Mapping[str, str]]] = {
    "IOBUF": ({"I": "input", "T": "input", "O": "output", "IO": "inout"}, {}),
    "OBUFDS": ({"I": "input", "O": "output", "OB": "output"}, {}),
    "IOBUFDS": ({"I": "input", "T": "input", "O": "output", "IO": "inout", "IOB": "inout"}, {}),
}
"""Ports of a cell and their directions; its parameters and their defaults."""


def stubs(names: Iterable[str]) -> str:
    """Verilog of empty modules with the ports and parameters of these cells."""
    lines = [
        "// SPDX-License-Identifier: Apache-2.0",
        "// Empty stand-ins for the FPGA's cells: for lint and hierarchy checks, never for synthesis.",
    ]
    for name in names:
        ports, parameters = CELLS[name]
        head = "".join(f"  parameter {key} = {value}{',' if number < len(parameters) - 1 else ''}\n"
                       for number, (key, value) in enumerate(parameters.items()))
        declared = ",\n".join(f"  {direction} {port}" for port, direction in ports.items())
        lines += ["(* blackbox *)", f"module {name} #(\n{head}) (" if parameters else f"module {name} (",
                  declared, ");", "endmodule"]
    return "\n".join(lines) + "\n"
