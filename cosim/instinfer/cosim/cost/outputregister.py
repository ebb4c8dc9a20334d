# SPDX-License-Identifier: Apache-2.0
"""The registers that block RAMs and multipliers of an ECP5 have at their outputs, which Yosys leaves unused.

Without one a word leaves a block RAM 5.6 ns after the clock, with one after 1.0; a product comes
4 ns after its factors, and has a way to go then. So they decide what a block with memories or multipliers
reaches. Vendors' tools move a register that stands right behind into them; `absorb` does so in a netlist of
``synth_ecp5``.
"""

from collections import Counter
from typing import Any

RAM, MULTIPLIER, FLIP_FLOP = "DP16KD", "MULT18X18D", "TRELLIS_FF"
_WIDTH, _PRODUCT_WIDTH = 18, 36
_ONE, _ZERO = "1", "0"


def absorb(netlist: dict[str, Any], *, top: str) -> int:
    """Moves registers behind block RAMs and multipliers of ``top`` into these; returns how many outputs have
    theirs now.

    An output's register moves when each of its bits that is read goes to one flip-flop and nowhere else, and
    all of these have one clock (of a block RAM: the port's), one clock enable, no reset, and start with 0.
    ``netlist``, Yosys's JSON, is changed.
    """
    module = netlist["modules"][top]
    cells: dict[str, Any] = module["cells"]
    loads = Counter(bit for cell in cells.values() for port, bits in cell["connections"].items()
                    if cell["port_directions"][port] == "input" for bit in bits)
    loads.update(bit for port in module["ports"].values() for bit in port["bits"])
    registers = {cell["connections"]["DI"][0]: name
                 for name, cell in cells.items() if cell["type"] == FLIP_FLOP}
    moved = 0
    for cell in list(cells.values()):
        if cell["type"] == RAM:
            for side in "AB":
                outputs = [f"DO{side}{index}" for index in range(_WIDTH)]
                first = _moved(cell, outputs, cells, registers, loads, cell["connections"][f"CLK{side}"])
                if first is not None:
                    cell["parameters"][f"REGMODE_{side}"] = "OUTREG"
                    cell["connections"][f"OCE{side}"] = _enable(first)
                    moved += 1
        elif cell["type"] == MULTIPLIER:
            first = _moved(cell, [f"P{index}" for index in range(_PRODUCT_WIDTH)], cells, registers, loads)
            if first is not None:
                cell["parameters"] |= {"REG_OUTPUT_CLK": "CLK0", "REG_OUTPUT_CE": "CE0",
                                       "REG_OUTPUT_RST": "RST0"}
                inputs = {"CLK0": first["connections"]["CLK"], "CE0": _enable(first), "RST0": [_ZERO]}
                cell["connections"] |= inputs
                cell["port_directions"] |= dict.fromkeys(inputs, "input")
                moved += 1
    return moved


def _moved(cell: dict[str, Any], outputs: list[str], cells: dict[str, Any], registers: dict[Any, str],
           loads: Counter[Any], clock: list[Any] | None = None) -> dict[str, Any] | None:
    """Takes the flip-flops behind ``outputs`` away, if they may move: one of them, else nothing."""
    read = [(port, bit) for port in outputs for bit in cell["connections"].get(port, []) if loads[bit]]
    names = [registers[bit] for _, bit in read if bit in registers and loads[bit] == 1]
    if not names or len(names) < len(read):
        return None
    first: dict[str, Any] = cells[names[0]]
    clock = clock or first["connections"]["CLK"]
    if not all(_alike(cells[name], first, clock) for name in names):
        return None
    for (port, _), name in zip(read, names, strict=True):
        cell["connections"][port] = cells.pop(name)["connections"]["Q"]
    return first


def _enable(register: dict[str, Any]) -> list[Any]:
    fixed = register["parameters"]["CEMUX"].strip()
    enable: list[Any] = [fixed] if fixed in (_ONE, _ZERO) else register["connections"]["CE"]
    return enable


def _alike(register: dict[str, Any], first: dict[str, Any], clock: list[Any]) -> bool:
    parameters, connections = register["parameters"], register["connections"]
    return (connections["CLK"] == clock and parameters["CLKMUX"] == "CLK"
            and parameters["CEMUX"] in ("CE", "1 ", _ONE) and _enable(register) == _enable(first)
            and connections.get("LSR", [_ZERO]) == [_ZERO] and parameters["REGSET"] == "RESET")
