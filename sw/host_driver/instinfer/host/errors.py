# SPDX-License-Identifier: Apache-2.0
"""What goes wrong, as exceptions: each says what happened, to which command, and what to do about it."""

from collections.abc import Mapping

from instinfer.abi.commands import CURES, Status
from instinfer.abi.registers import Fault


class DriverError(RuntimeError):
    """Base of everything the driver raises beside ValueError (a bad argument) and TransportError."""


class ResourceError(DriverError):
    """The driver has no handle, sequence number, window or device DRAM left."""


class CommandTimeout(DriverError):
    """A command did not complete in time. Its buffers stay reserved until the device is reset."""


class DeviceFault(DriverError):
    """The device stopped (CSTS.CFS) and needs :meth:`instinfer.host.Csd.reset`."""

    def __init__(self, fault: Fault):
        self.fault = fault
        super().__init__(f"the device stopped with fault {fault.name} and refuses commands: call Csd.reset()")


class DeviceReset(DriverError):
    """The device was reset while this command was under way, or the object belonged to the time before."""


class DeviceError(DriverError):
    """A command ended with a status other than SUCCESS.

    ``fields`` are those of the command, ``result`` the completion's {DW1, DW0}.
    """

    def __init__(self, status: Status, command: str, fields: Mapping[str, int], result: int):
        self.status = status
        self.command = command
        self.fields = dict(fields)
        self.result = result
        given = ", ".join(f"{name} {value:#x}" if name.startswith("prp") else f"{name} {value}"
                          for name, value in fields.items())
        super().__init__(f"{command} ended with {status.name} ({int(status):#05x}): {CURES[status]} "
                         f"[{given}]")


class MalformedCommandError(DeviceError):
    """BAD_OPCODE, BAD_FIELD, DTYPE, QUEUE_ID, QUEUE_SIZE: the command itself is wrong."""


class SequenceError(DeviceError):
    """NO_SEQUENCE, STALE_GENERATION: the sequence is gone."""


class PositionError(DeviceError):
    """RANGE, POSITION, CONTEXT: layer, heads or tokens do not fit what is stored."""


class CapacityError(DeviceError):
    """CAPACITY: no room; what was stored stays."""


class NotFiniteError(DeviceError):
    """NOT_FINITE: an operand held NaN or Inf."""


class ScaleError(DeviceError):
    """SCALE: the scale of an int8 row or of a sketch is outside its range."""


class PolicyError(DeviceError):
    """POLICY: the cache was not made for this policy."""


class DmaError(DeviceError):
    """TRANSFER_ERROR, PRP_OFFSET, WINDOW: host memory could not be used."""


class MediaError(DeviceError):
    """WRITE_FAULT, UNRECOVERED_READ, GUARD, REFERENCE_TAG: flash failed."""


class BusyError(DeviceError):
    """BUSY: retry."""


class InternalError(DeviceError):
    """INTERNAL: a time-out inside the device."""


_FAMILIES: Mapping[Status, type[DeviceError]] = {
    Status.BAD_OPCODE: MalformedCommandError, Status.BAD_FIELD: MalformedCommandError,
    Status.DTYPE: MalformedCommandError, Status.QUEUE_ID: MalformedCommandError,
    Status.QUEUE_SIZE: MalformedCommandError,
    Status.NO_SEQUENCE: SequenceError, Status.STALE_GENERATION: SequenceError,
    Status.RANGE: PositionError, Status.POSITION: PositionError, Status.CONTEXT: PositionError,
    Status.CAPACITY: CapacityError, Status.NOT_FINITE: NotFiniteError, Status.BUSY: BusyError,
    Status.SCALE: ScaleError, Status.POLICY: PolicyError,
    Status.TRANSFER_ERROR: DmaError, Status.PRP_OFFSET: DmaError, Status.WINDOW: DmaError,
    Status.WRITE_FAULT: MediaError, Status.UNRECOVERED_READ: MediaError, Status.GUARD: MediaError,
    Status.REFERENCE_TAG: MediaError, Status.INTERNAL: InternalError,
}


def device_error(status: Status, command: str, fields: Mapping[str, int], result: int) -> DeviceError:
    """The exception of a status's family."""
    return _FAMILIES[status](status, command, fields, result)
