# SPDX-License-Identifier: Apache-2.0
"""Language models whose decode attention runs on a CSD.

``attention`` holds the attention backends, which know nothing of any model; each model is a package
of its own beside it. All of it needs numpy alone.
"""

from .attention import (
    AttentionBackend,
    AttentionCheck,
    CheckedAttention,
    DeviceAttention,
    FloatAttention,
    KvSequence,
)

__all__ = [
    "AttentionBackend",
    "AttentionCheck",
    "CheckedAttention",
    "DeviceAttention",
    "FloatAttention",
    "KvSequence",
]
