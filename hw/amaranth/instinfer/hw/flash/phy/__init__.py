# SPDX-License-Identifier: Apache-2.0
"""From `PhyPort` to the pins of a NAND package."""
