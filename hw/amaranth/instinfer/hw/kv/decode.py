# SPDX-License-Identifier: Apache-2.0
"""Submission entries in bits, and the reserved ones among them."""

import functools
from collections.abc import Mapping

from amaranth.hdl import Const, Value

from instinfer.abi.commands import ADMIN_SQE, SQE, Field


class Entry:
    """Named fields of a 512-bit submission entry."""

    def __init__(self, entry: Value, fields: Mapping[str, Field]):
        self._entry = entry
        self._fields = fields

    def __getitem__(self, name: str) -> Value:
        field = self._fields[name]
        return self._entry[field.low:field.low + field.width]

    @property
    def reserved(self) -> Value:
        """One of the bits that belong to no field is set."""
        used = functools.reduce(int.__or__, (((1 << f.width) - 1) << f.low for f in self._fields.values()))
        return (self._entry & Const(~used & ((1 << 512) - 1), 512)).any()


def io_entry(entry: Value) -> Entry:
    return Entry(entry, SQE)


def admin_entry(entry: Value) -> Entry:
    return Entry(entry, ADMIN_SQE)
