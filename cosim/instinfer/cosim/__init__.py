# SPDX-License-Identifier: Apache-2.0
"""Co-simulation: bit-exact functional model, Verilator builds, native harness, simulated transports."""
