# SPDX-License-Identifier: Apache-2.0
"""Commands, tables, write path, map and the sequencing of attention (docs/blocks/kv.md)."""

from .engine import KvEngine

__all__ = ["KvEngine"]
