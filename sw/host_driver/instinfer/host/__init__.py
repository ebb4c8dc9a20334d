# SPDX-License-Identifier: Apache-2.0
"""The host driver: open a device, make a KV cache, write, append, attend (docs/driver.md)."""

from .device import Csd, open_csd
from .errors import (
    BusyError,
    CapacityError,
    CommandTimeout,
    DeviceError,
    DeviceFault,
    DeviceReset,
    DmaError,
    DriverError,
    InternalError,
    MalformedCommandError,
    MediaError,
    NotFiniteError,
    PolicyError,
    PositionError,
    ResourceError,
    ScaleError,
    SequenceError,
)
from .kv_cache import CacheShape, KvCache
from .pending import Pending
from .policy import Dense, Sketch, SparF
from .sequence import Sequence
from .sketchers import PCA, ChosenDims, Sketcher, TruncatedKey
from .transport.base import TransportError

__all__ = [
    "PCA",
    "BusyError",
    "CacheShape",
    "CapacityError",
    "ChosenDims",
    "CommandTimeout",
    "Csd",
    "Dense",
    "DeviceError",
    "DeviceFault",
    "DeviceReset",
    "DmaError",
    "DriverError",
    "InternalError",
    "KvCache",
    "MalformedCommandError",
    "MediaError",
    "NotFiniteError",
    "Pending",
    "PolicyError",
    "PositionError",
    "ResourceError",
    "ScaleError",
    "Sequence",
    "SequenceError",
    "Sketch",
    "Sketcher",
    "SparF",
    "TransportError",
    "TruncatedKey",
    "open_csd",
]
