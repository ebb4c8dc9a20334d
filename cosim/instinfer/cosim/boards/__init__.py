# SPDX-License-Identifier: Apache-2.0
"""Checks of board outputs with open tools."""
