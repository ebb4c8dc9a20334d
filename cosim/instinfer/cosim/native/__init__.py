# SPDX-License-Identifier: Apache-2.0
"""The native harness: a Verilated design, its memories and its clock loop in one shared library."""
