# SPDX-License-Identifier: Apache-2.0
"""Attention: a core beside each flash channel, one hub that quantises queries, merges and normalises."""
