# SPDX-License-Identifier: Apache-2.0
"""Measurements on the simulated RTL: every figure is a difference of the device's own counters."""
