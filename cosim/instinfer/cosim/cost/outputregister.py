# SPDX-License-Identifier: Apache-2.0
"""The register that an ECP5's block RAM has at its output, which Yosys leaves unused.

Without it a word leaves a block RAM 5.6 ns after the clock, with it in a fraction of that, so it decides what
a block with memories reaches. Vendors' tools move a register that stands right behind a block RAM into it;
`absorb` does so in a netlist of ``synth_ecp5``.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

RAM, FLIP_FLOP = "DP16KD", "TRELLIS_FF"
_WIDTH = 18
_ONE, _ZERO = "1", "0"


def absorb(netlist: dict[str, Any], *, top: str) -> int:
    """Moves registers behind block RAMs of ``top`` into these; returns how many ports have theirs now.

    A port's register moves when each of its bits that is read goes to one flip-flop and nowhere else, and
    all of these have the port's clock, one clock enable, no reset, and start with 0. ``netlist``, Yosys's
    JSON, is changed.
    """
    module = netlist["modules"][top]
    cells: dict[str, Any] = module["cells"]
    loads = Counter(bit for cell in cells.values() for port, bits in cell["connections"].items()
                    if cell["port_directions"][port] == "input" for bit in bits)
    loads.update(bit for port in module["ports"].values() for bit in port["bits"])
    registers = {cell["connections"]["DI"][0]: name
                 for name, cell in cells.items() if cell["type"] == FLIP_FLOP}
    moved = 0
    for ram in [cell for cell in cells.values() if cell["type"] == RAM]:
        for side in "AB":
            behind = {port: registers.get(bit) for port, bit in _read(ram, side, loads)}
            names = [name for name in behind.values() if name is not None]
            if not names or len(names) < len(behind):
                continue
            first = cells[names[0]]
            alone = all(loads[ram["connections"][port][0]] == 1 for port in behind)
            if not alone or not all(_alike(cells[name], first, ram["connections"][f"CLK{side}"])
                                    for name in names):
                continue
            ram["parameters"][f"REGMODE_{side}"] = "OUTREG"
            ram["connections"][f"OCE{side}"] = _enable(first)
            for port, name in behind.items():
                assert name is not None
                ram["connections"][port] = cells.pop(name)["connections"]["Q"]
            moved += 1
    return moved


def _read(ram: dict[str, Any], side: str, loads: Counter[Any]) -> Iterator[tuple[str, Any]]:
    """Output ports of one side that somebody reads, with their nets."""
    for index in range(_WIDTH):
        port = f"DO{side}{index}"
        for bit in ram["connections"].get(port, []):
            if loads[bit]:
                yield port, bit


def _enable(register: dict[str, Any]) -> list[Any]:
    fixed = register["parameters"]["CEMUX"].strip()
    enable: list[Any] = [fixed] if fixed in (_ONE, _ZERO) else register["connections"]["CE"]
    return enable


def _alike(register: dict[str, Any], first: dict[str, Any], clock: list[Any]) -> bool:
    parameters, connections = register["parameters"], register["connections"]
    return (connections["CLK"] == clock and parameters["CLKMUX"] == "CLK"
            and parameters["CEMUX"] in ("CE", "1 ", _ONE) and _enable(register) == _enable(first)
            and connections.get("LSR", [_ZERO]) == [_ZERO] and parameters["REGSET"] == "RESET")
