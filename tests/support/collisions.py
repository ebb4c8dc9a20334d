# SPDX-License-Identifier: Apache-2.0
"""What is read of a memory in the cycle in which it is written, made wrong on purpose."""

import re

_NAME = r"(?P<memory>\\\S+ |\w+)"
_MEMORY = re.compile(
    rf"\(\* no_rw_check = 32'd1 \*\)\n  reg \[\d+:0\] {_NAME} ?\[\d+:0\];(?: // @ [^\n]*)?\n"
    r"(?P<ports>.*?)\n  assign ",
    re.DOTALL)
_WRITE = re.compile(
    rf"if \((?P<enable>[^\n]+)\)\n\s+{_NAME}\[(?P<address>[^\n]+?)\](?:\[\d+(?::\d+)?\])? <= ")
_READ = re.compile(rf"(?P<before>_\d+_ <= )(?P<word>{_NAME}\[(?P<address>[^\n]+)\]);")


def spoiled(verilog: str) -> tuple[str, int]:
    """The Verilog with words of memories that are `instinfer.hw.memory.COLLISION_FREE` inverted where they
    are read and written at once, and how many reads that concerns."""
    number = 0

    def memory(text: re.Match[str]) -> str:
        nonlocal number
        writes = [(each["enable"], each["address"]) for each in _WRITE.finditer(text["ports"])]

        def read(each: re.Match[str]) -> str:
            nonlocal number
            number += 1
            meets = " || ".join(f"(({enable}) && ({address}) == ({each['address']}))"
                                for enable, address in writes)
            return f"{each['before']}({meets}) ? ~{each['word']} : {each['word']};"

        return text[0].replace(text["ports"], _READ.sub(read, text["ports"]))

    return _MEMORY.sub(memory, verilog), number
