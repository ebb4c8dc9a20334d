# SPDX-License-Identifier: Apache-2.0
"""Bit-exact functional model of the device: queues, tables, NAND contents and results of the RTL, no time."""
