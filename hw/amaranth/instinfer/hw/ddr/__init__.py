# SPDX-License-Identifier: Apache-2.0
"""Pages in DDR behind AXI4 in place of NAND: the second source of an attention core's slots."""
