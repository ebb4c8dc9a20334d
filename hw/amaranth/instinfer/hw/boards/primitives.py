# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for the FPGA's input, output and clock cells, so that lint and Yosys can look at a wrapper.

Names, ports and parameters as in the vendor's libraries guides (UG953: 7 series, UG974: UltraScale+), outputs
that nobody uses left out.
"""

from collections.abc import Iterable, Mapping


def _inputs(*names: str) -> dict[str, str]:
    return dict.fromkeys(names, "input")


CELLS: Mapping[str, tuple[Mapping[str, str], Mapping[str, str]]] = {
    "IOBUF": ({"I": "input", "T": "input", "O": "output", "IO": "inout"}, {}),
    "OBUFDS": ({"I": "input", "O": "output", "OB": "output"}, {}),
    "IOBUFDS": ({"I": "input", "T": "input", "O": "output", "IO": "inout", "IOB": "inout"}, {}),
    "BUFG": ({"I": "input", "O": "output"}, {}),
    "BUFR": ({"I": "input", "CE": "input", "CLR": "input", "O": "output"}, {"BUFR_DIVIDE": '"BYPASS"'}),
    "ODDR": ({"Q": "output", **_inputs("C", "CE", "D1", "D2", "R", "S")},
             {"DDR_CLK_EDGE": '"OPPOSITE_EDGE"', "INIT": "1'b0", "SRTYPE": '"SYNC"'}),
    "ODDRE1": ({"Q": "output", **_inputs("C", "D1", "D2", "SR")}, {"SRVAL": "1'b0"}),
    "IDDR": ({"Q1": "output", "Q2": "output", **_inputs("C", "CE", "D", "R", "S")},
             {"DDR_CLK_EDGE": '"OPPOSITE_EDGE"'}),
    "IDDRE1": ({"Q1": "output", "Q2": "output", **_inputs("C", "CB", "D", "R")},
               {"DDR_CLK_EDGE": '"OPPOSITE_EDGE"', "IS_CB_INVERTED": "1'b0"}),
    "IDELAYE2": ({"DATAOUT": "output", "CNTVALUEIN": "input [4:0]", **_inputs(
        "C", "CE", "CINVCTRL", "DATAIN", "IDATAIN", "INC", "LD", "LDPIPEEN", "REGRST")},
                 {"DELAY_SRC": '"IDATAIN"', "HIGH_PERFORMANCE_MODE": '"FALSE"', "IDELAY_TYPE": '"FIXED"',
                  "IDELAY_VALUE": "0", "REFCLK_FREQUENCY": "200.0", "SIGNAL_PATTERN": '"DATA"'}),
    "IDELAYE3": ({"DATAOUT": "output", "CNTVALUEIN": "input [8:0]", **_inputs(
        "CASC_IN", "CASC_RETURN", "CE", "CLK", "DATAIN", "EN_VTC", "IDATAIN", "INC", "LOAD", "RST")},
                 {"DELAY_FORMAT": '"TIME"', "DELAY_SRC": '"IDATAIN"', "DELAY_TYPE": '"FIXED"',
                  "DELAY_VALUE": "0", "REFCLK_FREQUENCY": "300.0", "SIM_DEVICE": '"ULTRASCALE"'}),
    "IDELAYCTRL": ({"RDY": "output", **_inputs("REFCLK", "RST")}, {}),
    **{name: ({**dict.fromkeys(("CLKFBOUT", "CLKOUT0", "CLKOUT1", "CLKOUT2", "LOCKED"), "output"),
               **_inputs("CLKIN1", "CLKFBIN", "PWRDWN", "RST")},
              {"CLKIN1_PERIOD": "0.0", "CLKFBOUT_MULT_F": "5.0", "CLKOUT0_DIVIDE_F": "1.0",
               "CLKOUT1_DIVIDE": "1", "CLKOUT2_DIVIDE": "1"}) for name in ("MMCME2_BASE", "MMCME4_BASE")},
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
