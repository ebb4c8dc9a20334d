# SPDX-License-Identifier: Apache-2.0
"""The sketch policy in hardware: scores from sketches, the choice of groups, row masks.

Each block equals its formula in ``instinfer.abi.selection`` bit for bit.
"""
