# SPDX-License-Identifier: Apache-2.0
"""Fixed-point building blocks. Each equals its formula in ``instinfer.abi.arith`` bit for bit."""
