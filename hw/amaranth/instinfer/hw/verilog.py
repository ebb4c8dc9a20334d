# SPDX-License-Identifier: Apache-2.0
"""What is done to the Verilog that Yosys writes for Amaranth: two thirds of it say nothing, and they go.

`condense` is a function of text and keeps what a module does: ports, registers, instances and memories stay.
"""

import re
from collections import Counter

NAME = re.compile(r"\\\S+|\$?\b[A-Za-z_][\w$]*")
NUMBER = re.compile(r"\d+'s?[bodh][0-9a-fxz]+")
WIRE = re.compile(r"  wire (?:signed )?(?:\[\d+:\d+\] )?(\\\S+|\w+) *;$")
ASSIGNMENT = re.compile(r"  assign (\\\S+|\w+) +(?:\[[\d:]+\] )?= .*;$")
ATTRIBUTE = "  (*"
INITIAL_BLOCK = re.compile(
    r"^  initial begin\n"
    r"    (?P<memory>\w+|\\\S+ )\[0\] = (?P<value>\d+'[hd][0-9a-f]+);\n"
    r"(?P<rest>(?:    (?P=memory)\[\d+\] = (?P=value);\n)+)"
    r"  end\n",
    re.MULTILINE,
)
"""How Yosys writes the contents of a memory whose words all start with one value: a line a word."""


def condense(text: str) -> str:
    """Verilog of the same function: loops fill memories of equal words, wires that nobody reads are left out.

    Those wires are names for the fields of payloads, four in ten lines; the payloads themselves stay.
    """
    modules = re.split(r"(?<=^endmodule\n)", INITIAL_BLOCK.sub(_initial_loop, text), flags=re.MULTILINE)
    return "".join(map(_without_unread_wires, modules))


def _initial_loop(block: re.Match[str]) -> str:
    memory, words = block["memory"], block["rest"].count("\n") + 1
    word = re.sub(r"\W", "_", memory.strip("\\ ")) + "_word"
    return (
        f"  integer {word};\n"
        f"  initial begin\n"
        f"    for ({word} = 0; {word} < {words}; {word} = {word} + 1)\n"
        f"      {memory}[{word}] = {block['value']};\n"
        f"  end\n"
    )


def _without_unread_wires(module: str) -> str:
    """A wire goes with its assignments when these and its declaration are all that names it."""
    lines = module.splitlines(keepends=True)
    names = [NAME.findall(NUMBER.sub("", line)) for line in lines]
    uses = Counter(name for each in names for name in each)
    declared, assigned = {}, dict[str, list[int]]()
    for number, line in enumerate(lines):
        if match := WIRE.match(line):
            declared[match[1]] = number
        elif match := ASSIGNMENT.match(line):
            assigned.setdefault(match[1], []).append(number)
    gone = set[int]()
    work = list(declared)
    while work:
        wire = work.pop()
        if wire not in declared or uses[wire] != 1 + len(assigned.get(wire, ())):
            continue
        number = declared.pop(wire)
        gone.add(number)
        while lines[number - 1].startswith(ATTRIBUTE):
            number -= 1
            gone.add(number)
        for number in assigned.pop(wire, ()):
            gone.add(number)
            uses.subtract(names[number])
            work += names[number]
    return "".join(line for number, line in enumerate(lines) if number not in gone)
