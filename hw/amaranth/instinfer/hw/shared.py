# SPDX-License-Identifier: Apache-2.0
"""Components that are converted to Verilog once and instantiated many times.

Amaranth elaborates every submodule by itself, so eight equal channels would become eight copies in the
Verilog, in synthesis and in the compiled simulation. A `SharedModule` is one Verilog module with a name of
its own; its instances are plain Verilog instances with the same ports and the same signature.
"""

import re
from collections.abc import Iterator

from amaranth.hdl import ClockSignal, Const, Instance, ResetSignal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In

PORT_SEPARATOR = "__"
"""Between the names of nested members in a flattened port name, as `amaranth.back.verilog` writes it."""


def port_name(path: tuple[str | int, ...]) -> str:
    """The Verilog port of a member."""
    return PORT_SEPARATOR.join(map(str, path))


def flat_ports(component: wiring.Component | wiring.PureInterface) -> Iterator[tuple[str, bool, Value]]:
    """(name, into the component, value) of every Verilog port (``always_ready`` gives none)."""
    for path, member, value in component.signature.flatten(component):
        if not isinstance(value, Const):
            yield port_name(path), member.flow == In, Value.cast(value)


class SharedModule:
    """One component that becomes one Verilog module.

    Parameters
    ----------
    component : the component; it must use the domain ``sync`` and no other.
    name : its Verilog module name, unique within a design.
    """

    def __init__(self, component: wiring.Component, *, name: str):
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            raise ValueError(f"module name {name!r}: give lower-case letters, digits and underscores")
        self.component = component
        self.name = name

    def instance(self) -> "SharedInstance":
        """A new instance, to be added to ``m.submodules``."""
        return SharedInstance(self)


class SharedInstance(wiring.Component):
    """An instance of a `SharedModule`: same signature, clocked and reset by the domain ``sync`` around it.

    Latency, throughput and back-pressure are those of the component. Amaranth's own simulator cannot run it.
    """

    def __init__(self, shared: SharedModule):
        self.module = shared
        super().__init__(shared.component.signature)

    def elaborate(self, platform: object) -> Instance:
        ports = {("i_" if into else "o_") + name: value for name, into, value in flat_ports(self)}
        return Instance(self.module.name, i_clk=ClockSignal(), i_rst=ResetSignal(), **ports)
