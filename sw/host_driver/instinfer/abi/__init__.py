# SPDX-License-Identifier: Apache-2.0
"""Contracts shared by RTL, driver, model and documents: pure definitions, numpy at most."""
