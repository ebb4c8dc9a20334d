# SPDX-License-Identifier: Apache-2.0
"""The default table of policies."""

TABLE = (
    "dense", "dense:dtype=int8", "sketch:keep=1/2", "sketch:keep=1/4", "sketch", "sketch:keep=1/16",
    "sparf:keep=1/2", "sparf:keep=1/4", "sparf", "sparf:keep=1/16", "sketch:keep=0,sinks=0",
    "sketch:sketcher=pca-of-keys", "sketch:sketcher=pca-full-weight", "sketch:sketcher=chosen",
    "sketch:sketcher=truncated,dims=64,bits=2", "sketch:group=1", "sketch:group=16", "sketch:group=32",
    "sketch:dims=32", "sketch:bits=8", "sketch:bits=2", "sketch:dims=32,keep=1/16", "sketch:dtype=fp16",
    "sparf:dims=8", "sparf:dims=32", "sparf:dims=32,keep=1/16", "sparf:dtype=int8", "sparf:mean_v=true",
)
"""``sketch:keep=0,sinks=0`` is the control that must fail."""
CONTROLS = (
    "sparf-float", "sparf-float:keep=1/16", "sparf-float:dims_by=max", "sparf-float:dims_by=share",
    "sparf-float:dims_by=each", "sparf-float:tokens_by=max", "sparf-float:tokens_by=exp",
    "sparf-float:tokens_by=logits", "sparf-float:dims_by=each,tokens_by=each",
)
"""No device policies, measured on demand: SparF in float64, and ways in which query heads could share."""
