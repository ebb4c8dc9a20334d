# SPDX-License-Identifier: Apache-2.0
"""Bus interfaces of the wrapper, out of the engine's signature: nothing here is written down twice."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from amaranth.lib import wiring

from ..axi.bus import ADDRESS_BITS, BOUNDARY, ID_BITS, AxiBus, AxiLiteBus
from ..shared import PORT_SEPARATOR, flat_ports, port_name
from ..signatures import AXI_BYTES

CONTROL = "s_axi_control"
BURST_BEATS = BOUNDARY // AXI_BYTES
"""The longest burst: none crosses 4 KiB."""


@dataclasses.dataclass(frozen=True)
class Port:
    """A Verilog port of the wrapper. ``info`` and ``parameter`` are its X_INTERFACE attributes."""

    name: str
    direction: str
    width: int
    info: str = ""
    parameter: str = ""


@dataclasses.dataclass(frozen=True)
class Signal:
    """One signal of a bus: its logical name, the engine's port, the wrapper's port."""

    logical: str
    inner: str
    outer: str
    width: int
    into: bool
    """Into the engine."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bus:
    """An AXI interface of the wrapper. ``member``: of the engine's signature; ``mode``: Master or Slave, as
    Vivado's catalogue calls them."""

    name: str
    member: str
    mode: str
    parameters: Mapping[str, Any]
    signals: tuple[Signal, ...]

    def ports(self) -> Iterator[Port]:
        text = ", ".join(f"{name} {value}" for name, value in self.parameters.items())
        for number, each in enumerate(self.signals):
            yield Port(
                each.outer, "input" if each.into else "output", each.width,
                f"xilinx.com:interface:aximm:1.0 {self.name} {each.logical}",
                f"XIL_INTERFACENAME {self.name}, {text}" if number == 0 else "",
            )


def buses(engine: wiring.PureInterface, *, control_bits: int) -> list[Bus]:
    """The AXI interfaces of an engine: its AXI4-Lite subordinate is s_axi_control, with addresses of
    ``control_bits``, its AXI4 managers are m00_axi and so on, in the order of its signature."""
    found = []
    managers = 0
    for name, member in engine.signature.members.items():
        if not member.is_signature:
            continue
        places = itertools.product(*(range(size) for size in member.dimensions))
        if isinstance(member.signature, AxiLiteBus):
            cut = {"awaddr": control_bits, "araddr": control_bits}
            parameters = {"PROTOCOL": "AXI4LITE", "DATA_WIDTH": 32, "ADDR_WIDTH": control_bits,
                          "HAS_BURST": 0}
            found.append(_bus(engine, name, CONTROL, "Slave", parameters, cut))
        elif isinstance(member.signature, AxiBus):
            parameters = {"PROTOCOL": "AXI4", "DATA_WIDTH": 8 * AXI_BYTES, "ADDR_WIDTH": ADDRESS_BITS,
                          "ID_WIDTH": ID_BITS,
                          "MAX_BURST_LENGTH": BURST_BEATS, "SUPPORTS_NARROW_BURST": 0,
                          "HAS_LOCK": 0, "HAS_QOS": 0, "HAS_REGION": 0}
            for place in places:
                path = port_name((name, *place))
                found.append(_bus(engine, path, f"m{managers:02}_axi", "Master", parameters, {}))
                managers += 1
    return found


def _bus(engine: wiring.PureInterface, member: str, name: str, mode: str, parameters: Mapping[str, Any],
         cut: Mapping[str, int]) -> Bus:
    prefix = member + PORT_SEPARATOR
    signals = []
    for port, into, value in flat_ports(engine):
        if port.startswith(prefix):
            short = port.removeprefix(prefix)
            signals.append(Signal(short.upper(), port, f"{name}_{short}", cut.get(short, len(value)), into))
    return Bus(name=name, member=member, mode=mode, parameters=parameters, signals=tuple(signals))
