# SPDX-License-Identifier: Apache-2.0
"""Whole systems: what a step asks of each resource, how long that takes, what fits where."""
