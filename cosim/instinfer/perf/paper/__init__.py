# SPDX-License-Identifier: Apache-2.0
"""The figures of arXiv 2409.04992, section 5, and of FlexGen's table, computed again."""
