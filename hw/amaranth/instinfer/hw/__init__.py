# SPDX-License-Identifier: Apache-2.0
"""The engine in Amaranth. `engine.py` connects; each folder holds one subsystem."""
