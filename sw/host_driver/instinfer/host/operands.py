# SPDX-License-Identifier: Apache-2.0
"""Rows as the driver's user gives and gets them, and the records that cross PCIe for them."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from instinfer.abi import arith
from instinfer.abi.records import Records

if TYPE_CHECKING:
    from .kv_cache import CacheShape

Half = NDArray[np.float16]
Quantised = tuple[NDArray[np.int8], Half]
"""int8 rows (..., head_dim) and their scales (...): a row is int8 * scale."""
Rows = Half | Quantised
"""K or V: float16 for every cache, ready int8 rows for caches of ``dtype="int8"`` alone."""

CHUNK_TOKENS = 4096
"""Tokens that are quantised at a time, so that the float64 copies stay small."""


def elements(rows: object) -> object:
    """The array of elements of rows in either form."""
    return rows[0] if isinstance(rows, tuple) and rows else rows


def token_axis(rows: Rows) -> bool:
    """Whether rows are (tokens, kv_heads, head_dim) and not those of one token."""
    array = elements(rows)
    return not isinstance(array, np.ndarray) or array.ndim != 2


def as_one_token(rows: Rows) -> Rows:
    """Rows (kv_heads, head_dim) as (1, kv_heads, head_dim); what is no array is left for the check."""
    if isinstance(rows, tuple):
        return tuple(each[None] if isinstance(each, np.ndarray) else each for each in rows)  # type: ignore[return-value]
    return rows[None] if isinstance(rows, np.ndarray) else rows


def count_tokens(rows: Rows) -> int:
    """Length of the token axis, 0 where there is none (the check will say so)."""
    array = elements(rows)
    return len(array) if isinstance(array, np.ndarray) and array.ndim else 0


def records_of(name: str, rows: Rows, shape: "CacheShape", lead: tuple[int, ...], meaning: str) -> Records:
    """Rows (*lead, kv_heads, head_dim), checked; quantised where the cache holds int8.

    Raises:
        ValueError: wrong type or shape, ready int8 rows for an fp16 cache, or (int8) a NaN, an Inf or a scale
            that the device would refuse.
    """
    wanted = (*lead, shape.kv_heads, shape.head_dim)
    if not shape.shape.scaled:
        if isinstance(rows, tuple):
            raise ValueError(f"{name} is a tuple; this cache holds float16 rows: give a float16 array of "
                             f"shape {meaning} = {wanted}, or make the cache with dtype='int8'")
        return Records(require_array(name, rows, np.float16, wanted, meaning))
    if isinstance(rows, tuple):
        if len(rows) != 2:
            raise ValueError(f"{name} has {len(rows)} parts; ready rows are (int8 rows, float16 scales)")
        values = require_array(f"{name}[0]", rows[0], np.int8, wanted, meaning)
        scale = require_array(f"{name}[1]", rows[1], np.float16, wanted[:-1], "(one scale per row)")
        _named(name, arith.scale_fields, scale)
        return Records(values, scale)
    require_array(name, rows, np.float16, wanted, meaning)
    values, scale = np.empty(wanted, np.int8), np.empty(wanted[:-1], np.float16)
    for start in range(0, len(rows), CHUNK_TOKENS):
        part = slice(start, start + CHUNK_TOKENS)
        values[part], scale[part] = _named(name, arith.quantise_rows, rows[part])
    return Records(values, scale)


def rows_of(records: Records) -> Rows:
    """Copies in the form in which the user gets rows back."""
    if records.scale is None:
        return records.rows.copy()
    return records.rows.copy(), records.scale.copy()


def joined(parts: list[Rows]) -> Rows:
    """Rows of consecutive tokens, one after the other."""
    if isinstance(parts[0], tuple):
        values, scales = zip(*parts, strict=True)
        return np.concatenate(values), np.concatenate(scales)
    return np.concatenate(parts)


def require_array(name: str, array: Any, dtype: type[np.generic], shape: tuple[int, ...],
                  meaning: str) -> NDArray[Any]:
    """Raises ValueError unless ``array`` has this type and shape."""
    wanted = np.dtype(dtype)
    if not isinstance(array, np.ndarray) or array.dtype != wanted or array.shape != shape:
        given = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise ValueError(f"{name} is {given}; it must be a {wanted} array of shape {meaning} = {shape}: "
                         f"convert with .astype(numpy.{wanted}) and reshape")
    return array


def _named(name: str, function: Any, *arguments: Any) -> Any:
    """The result; a ValueError says which argument it is about."""
    try:
        return function(*arguments)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
