# SPDX-License-Identifier: Apache-2.0
"""Figures that the paper does not have: tables of rows, each with the query it came from."""
