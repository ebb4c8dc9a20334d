# SPDX-License-Identifier: Apache-2.0
"""Bit-exact functional model of the device: same queues, tables, NAND contents and results as the RTL, no time."""
