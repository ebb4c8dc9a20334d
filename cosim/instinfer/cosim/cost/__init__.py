# SPDX-License-Identifier: Apache-2.0
"""What the engine costs on an FPGA: resources of its blocks, and the clock they reach."""
