# SPDX-License-Identifier: Apache-2.0
"""The register map as data, C header, Markdown and HTML, all out of `instinfer.abi.registers` and
`instinfer.abi.kernel`: offsets and fields from the definitions, sentences from their docstrings."""

import ast
import dataclasses
import enum
import inspect
from typing import Any

from instinfer.abi import kernel, registers
from instinfer.abi.config import EngineConfig
from instinfer.abi.registers import FIELDS, Access, Counter, Fault, Field, Register

from .templates import render


@dataclasses.dataclass(frozen=True)
class Entry:
    """One register: ``bits`` 32 or 64, ``offset`` within the window. ``constant``: what it always reads."""

    name: str
    offset: int
    bits: int
    text: str
    fields: tuple[Field, ...]
    constant: int | None = None

    @property
    def access(self) -> str:
        """RO, RW, WO or both kinds that its fields have."""
        return "/".join(dict.fromkeys(field.access.name for field in self.fields))


def member_texts(cls: type[enum.Enum]) -> dict[str, str]:
    """The docstrings behind the members of an enumeration, a line each; members without one are absent."""
    tree = ast.parse(inspect.getsource(cls)).body[0]
    assert isinstance(tree, ast.ClassDef)
    found, last = {}, None
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            last = node.targets[0].id
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and last:
            found[last] = " ".join(str(node.value.value).split())
            last = None
    return found


def bar_entries(config: EngineConfig) -> list[Entry]:
    """Every word of the BAR, tables written out, in order of offset."""
    texts = member_texts(Register)
    found = []
    for register in Register:
        fields, text = FIELDS[register], texts.get(register.name, "")
        if register is Register.IDENTITY:
            words = zip(("magic", *registers.IDENTITY_WORDS),
                        (registers.MAGIC, *registers.identity_words(config)), strict=True)
            for number, (name, value) in enumerate(words):
                what = "The magic number." if number == 0 else f"`{name}` of the configuration."
                found.append(Entry(f"IDENTITY_{name.upper()}", register + 4 * number, 32, what, fields,
                                   value))
        elif register is Register.COUNTERS:
            counters = member_texts(Counter)
            wide = tuple(dataclasses.replace(field, width=64) for field in fields)
            found += [Entry(f"COUNTER_{each.name}", register + 8 * each, 64,
                            counters.get(each.name, f"{each.name.replace('_', ' ').capitalize()}."), wide)
                      for each in Counter]
        elif register is Register.DOORBELLS:
            for queue in range(config.io_queues + 1):
                kind = "admin queue" if queue == 0 else f"I/O queue {queue}"
                found.append(Entry(f"SQ{queue}TDBL", register + 8 * queue, 32,
                                   f"Submission tail of the {kind}.", fields))
                found.append(Entry(f"CQ{queue}HDBL", register + 8 * queue + 4, 32,
                                   f"Completion head of the {kind}.", fields))
        else:
            found.append(Entry(register.name, register, 32, text, fields,
                               {Register.CAP_LO: config.queue_entries_max - 1,
                                Register.VS: registers.VERSION}.get(register)))
    return sorted(found, key=lambda entry: entry.offset)


def kernel_entries(managers: int) -> list[Entry]:
    """The words in front of the BAR, of an XRT kernel whose engine has ``managers``."""
    texts = member_texts(kernel.KernelRegister)
    return [Entry(register.name, register, 64 if register in kernel.ARGUMENTS else 32,
                  texts[register.name], fields) for register, fields in kernel.KERNEL_FIELDS.items()
            if register not in kernel.ARGUMENTS[managers:]]


def document(config: EngineConfig, *, managers: int) -> dict[str, Any]:
    """The map as JSON has it; with ``managers``, of an XRT kernel whose engine has so many."""
    xrt = managers > 0
    base = kernel.BAR_OFFSET if xrt else 0

    def plain(entry: Entry, first: int) -> dict[str, Any]:
        fields = [{"name": field.name, "low": field.low, "width": field.width, "access": field.access.name,
                   "text": field.text} for field in entry.fields]
        return {"name": entry.name, "offset": first + entry.offset, "bits": entry.bits,
                "access": entry.access, "text": entry.text, "constant": entry.constant, "fields": fields}

    return {
        "configuration": config.name,
        "window_bytes": kernel.CONTROL_BYTES if xrt else registers.BAR_BYTES,
        "bar_offset": base,
        "access": {access.name: access.value for access in Access},
        "faults": {fault.name: fault.value for fault in Fault},
        "registers": [*(plain(entry, 0) for entry in (kernel_entries(managers) if xrt else [])),
                      *(plain(entry, base) for entry in bar_entries(config))],
    }


def files(config: EngineConfig, *, managers: int) -> dict[str, str]:
    """C header, table to read, page without scripts (which is XML, too): file name -> text."""
    values = document(config, managers=managers)
    templates = {"instinfer_registers.h": "registers.h.j2", "registers.md": "registers.md.j2",
                 "registers.html": "registers.html.j2"}
    return {name: render(template, map=values) for name, template in templates.items()}
