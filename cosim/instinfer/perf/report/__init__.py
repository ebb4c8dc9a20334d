# SPDX-License-Identifier: Apache-2.0
"""``perf report``: pictures, their tables as CSV, and one page that holds them all."""
