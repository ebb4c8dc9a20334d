# SPDX-License-Identifier: Apache-2.0
"""Registers behind block RAMs and multipliers move into these, and only those that may."""

import copy

import pytest

from instinfer.cosim.cost.outputregister import absorb

CLOCK, OTHER_CLOCK, ENABLE = 2, 3, 4
LATER = 50


def ram():
    outputs = {f"DOB{index}": [10 + index] for index in range(2)}
    ports = {"CLKA": [CLOCK], "CLKB": [CLOCK], "OCEB": ["1"]}
    return {"type": "DP16KD", "parameters": {"REGMODE_A": "NOREG", "REGMODE_B": "NOREG"},
            "connections": {**ports, **outputs},
            "port_directions": {**dict.fromkeys(ports, "input"), **dict.fromkeys(outputs, "output")}}


def register(index, *, enable=None, clock=CLOCK, reset="0", start="RESET"):
    connections = {"CLK": [clock], "DI": [10 + index], "LSR": [reset], "Q": [20 + index]}
    if enable is not None:
        connections["CE"] = [enable]
    return {"type": "TRELLIS_FF", "connections": connections,
            "parameters": {"CEMUX": "1 " if enable is None else "CE", "CLKMUX": "CLK", "REGSET": start},
            "port_directions": {name: "output" if name == "Q" else "input" for name in connections}}


def netlist(*registers, reads=()):
    cells = {"ram": ram(), **{f"ff_{index}": each for index, each in enumerate(registers)}}
    connections = {"A": [20], "B": [21], "C": list(reads)}
    cells["reader"] = {"type": "LUT4", "parameters": {}, "connections": connections,
                       "port_directions": dict.fromkeys(connections, "input")}
    return {"modules": {"top": {"cells": cells, "ports": {"clk": {"bits": [CLOCK]}}}}}


@pytest.mark.parametrize("enable", [None, ENABLE])
def test_a_register_right_behind_moves(enable):
    text = netlist(register(0, enable=enable), register(1, enable=enable))
    assert absorb(text, top="top") == 1
    cells = text["modules"]["top"]["cells"]
    assert set(cells) == {"ram", "reader"}
    found = cells["ram"]
    assert found["parameters"] == {"REGMODE_A": "NOREG", "REGMODE_B": "OUTREG"}
    assert [found["connections"][f"DOB{index}"] for index in range(2)] == [[20], [21]]
    assert found["connections"]["OCEB"] == [enable or "1"]


@pytest.mark.parametrize("second", [
    register(1, enable=ENABLE), register(1, clock=OTHER_CLOCK), register(1, reset=LATER),
    register(1, start="SET"),
])
def test_registers_that_differ_stay(second):
    text = netlist(register(0), second)
    before = copy.deepcopy(text)
    assert absorb(text, top="top") == 0
    assert text == before


def test_logic_between_keeps_them_apart():
    """A bit that something else reads as well, or that no register takes."""
    for text in (netlist(register(0), register(1), reads=[11]), netlist(register(0), reads=[11])):
        before = copy.deepcopy(text)
        assert absorb(text, top="top") == 0
        assert text == before


def test_bits_that_nobody_reads_do_not_matter():
    text = netlist(register(0))
    assert absorb(text, top="top") == 1
    assert text["modules"]["top"]["cells"]["ram"]["connections"]["DOB1"] == [11]


def multiplied(*registers, **further):
    """As `netlist`, a multiplier in place of the block RAM."""
    text = netlist(*registers, **further)
    outputs = {f"P{index}": [10 + index] for index in range(2)}
    text["modules"]["top"]["cells"]["ram"] = {
        "type": "MULT18X18D", "parameters": {}, "connections": {"A0": [5], **outputs},
        "port_directions": {"A0": "input", **dict.fromkeys(outputs, "output")}}
    return text


@pytest.mark.parametrize("enable", [None, ENABLE])
def test_a_register_behind_a_multiplier_moves(enable):
    text = multiplied(register(0, enable=enable), register(1, enable=enable))
    assert absorb(text, top="top") == 1
    cells = text["modules"]["top"]["cells"]
    assert set(cells) == {"ram", "reader"}
    found = cells["ram"]
    assert found["parameters"]["REG_OUTPUT_CLK"] == "CLK0"
    assert found["connections"] == {"A0": [5], "P0": [20], "P1": [21], "CLK0": [CLOCK], "RST0": ["0"],
                                    "CE0": [enable or "1"]}


def test_registers_behind_a_multiplier_that_differ_stay():
    for text in (multiplied(register(0), register(1, clock=OTHER_CLOCK)),
                 multiplied(register(0), reads=[11])):
        before = copy.deepcopy(text)
        assert absorb(text, top="top") == 0
        assert text == before
