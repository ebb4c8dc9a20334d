# SPDX-License-Identifier: Apache-2.0
"""Bus signatures with the standard signal names, so that a port ``host`` becomes ``host__araddr`` and so on.

Only what the engine uses is present: INCR bursts of full-width beats, one ID (all answers in order), no
locks, no regions, no quality of service, no user signals; a subordinate takes the standard's defaults for
those.
"""

from amaranth.lib import enum, wiring
from amaranth.lib.wiring import In, Out

from instinfer.hw.signatures import AXI_BYTES

ADDRESS_BITS = 64
ID_BITS = 1
LITE_ADDRESS_BITS = 32
BOUNDARY = 4096
"""No burst crosses a multiple of this address (bytes)."""
BEAT_SIZE = AXI_BYTES.bit_length() - 1
"""AxSIZE of a full-width beat."""


class Burst(enum.Enum, shape=2):
    """AxBURST."""

    FIXED = 0
    INCR = 1
    WRAP = 2


class Response(enum.Enum, shape=2):
    """xRESP. The upper bit means error."""

    OKAY = 0
    EXOKAY = 1
    SLVERR = 2
    DECERR = 3


CACHE_BUFFERABLE = 0b0011
"""AxCACHE: normal, non-cacheable, bufferable; interconnects may merge and split."""
PROT_DATA = 0b010
"""AxPROT: unprivileged, non-secure, data."""


def _address_channel(prefix: str) -> dict[str, wiring.Member]:
    return {
        f"{prefix}id": Out(ID_BITS),
        f"{prefix}addr": Out(ADDRESS_BITS),
        f"{prefix}len": Out(8),
        f"{prefix}size": Out(3),
        f"{prefix}burst": Out(2),
        f"{prefix}cache": Out(4),
        f"{prefix}prot": Out(3),
        f"{prefix}valid": Out(1),
        f"{prefix}ready": In(1),
    }


def _read_members() -> dict[str, wiring.Member]:
    return {
        **_address_channel("ar"),
        "rid": In(ID_BITS), "rdata": In(8 * AXI_BYTES), "rresp": In(2), "rlast": In(1), "rvalid": In(1),
        "rready": Out(1),
    }


def _write_members() -> dict[str, wiring.Member]:
    return {
        **_address_channel("aw"),
        "wdata": Out(8 * AXI_BYTES), "wstrb": Out(AXI_BYTES), "wlast": Out(1), "wvalid": Out(1),
        "wready": In(1),
        "bid": In(ID_BITS), "bresp": In(2), "bvalid": In(1), "bready": Out(1),
    }


class AxiReadBus(wiring.Signature):
    """Read channels (AR, R) of AXI4, seen from the manager."""

    def __init__(self) -> None:
        super().__init__(_read_members())


class AxiWriteBus(wiring.Signature):
    """Write channels (AW, W, B) of AXI4, seen from the manager."""

    def __init__(self) -> None:
        super().__init__(_write_members())


class AxiBus(wiring.Signature):
    """All channels of AXI4, seen from the manager."""

    def __init__(self) -> None:
        super().__init__({**_write_members(), **_read_members()})


class AxiLiteBus(wiring.Signature):
    """AXI4-Lite with 32-bit data, seen from the manager."""

    def __init__(self) -> None:
        super().__init__({
            "awaddr": Out(LITE_ADDRESS_BITS), "awprot": Out(3), "awvalid": Out(1), "awready": In(1),
            "wdata": Out(32), "wstrb": Out(4), "wvalid": Out(1), "wready": In(1),
            "bresp": In(2), "bvalid": In(1), "bready": Out(1),
            "araddr": Out(LITE_ADDRESS_BITS), "arprot": Out(3), "arvalid": Out(1), "arready": In(1),
            "rdata": In(32), "rresp": In(2), "rvalid": In(1), "rready": Out(1),
        })
