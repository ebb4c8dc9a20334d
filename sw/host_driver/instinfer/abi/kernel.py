# SPDX-License-Identifier: Apache-2.0
"""Registers of the engine as an XRT kernel: control, interrupt and arguments in front of the BAR.

The layout of the first 16 bytes is the one that XRT knows (UG1393, "Control Register Signals of the RTL
Kernel"); the BAR of `instinfer.abi.registers` follows at BAR_OFFSET.
"""

import enum
from collections.abc import Mapping

from .registers import Access, Field

CONTROL_BYTES = 0x4000
"""The whole window; a power of two, the BAR takes its upper half."""
BAR_OFFSET = 0x2000


class KernelRegister(enum.IntEnum):
    """Byte offsets."""

    AP_CTRL = 0x00
    """Starting the kernel takes over the arguments, and that is all: the engine itself runs on queues."""
    GIE = 0x04
    """Global interrupt enable."""
    IER = 0x08
    """Interrupt enable."""
    ISR = 0x0C
    """Interrupt status."""
    HOST_MEMORY = 0x10
    """Argument, 64 bits: a buffer in the memory that m00_axi reaches; it ties that port to a memory bank."""
    DEVICE_MEMORY = 0x1C
    """Argument, 64 bits: where the engine's DRAM begins in the memory that m01_axi reaches."""
    PAGES_0 = 0x28
    """Argument, 64 bits: ties m02_axi, a port for pages in DDR, to the memory bank of DEVICE_MEMORY."""
    PAGES_1 = 0x34
    """The same of m03_axi."""
    PAGES_2 = 0x40
    """The same of m04_axi."""
    PAGES_3 = 0x4C
    """The same of m05_axi."""


ARGUMENTS = (
    KernelRegister.HOST_MEMORY, KernelRegister.DEVICE_MEMORY, KernelRegister.PAGES_0, KernelRegister.PAGES_1,
    KernelRegister.PAGES_2, KernelRegister.PAGES_3,
)
"""64 bits each, low word first; one for each of the engine's managers, m00_axi and so on."""

KERNEL_FIELDS: Mapping[KernelRegister, tuple[Field, ...]] = {
    KernelRegister.AP_CTRL: (
        Field("AP_START", 0, 1, Access.W1S, "Take over the arguments, while CC.EN is 0; reads 0."),
        Field("AP_DONE", 1, 1, Access.RO, "Set by a start, cleared by reading."),
        Field("AP_IDLE", 2, 1, Access.RO, "Always 1."),
        Field("AP_READY", 3, 1, Access.RO, "As AP_DONE."),
    ),
    KernelRegister.GIE: (Field("ENABLE", 0, 1, Access.RW, "Interrupts reach the host."),),
    KernelRegister.IER: (Field("ENGINE", 0, 1, Access.RW, "That of the engine does."),),
    KernelRegister.ISR: (
        Field("ENGINE", 0, 1, Access.W1C, "The engine's interrupt has been high; comes back while it is."),
    ),
    KernelRegister.HOST_MEMORY: (Field("ADDRESS", 0, 64, Access.RW, "Bytes."),),
    KernelRegister.DEVICE_MEMORY: (Field("ADDRESS", 0, 64, Access.RW, "Bytes, a multiple of 4096."),),
    **{register: (Field("ADDRESS", 0, 64, Access.RW, "Kept, not used."),) for register in ARGUMENTS[2:]},
}
