# SPDX-License-Identifier: Apache-2.0
"""Small stream stages that every subsystem shares."""
