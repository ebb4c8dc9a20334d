# SPDX-License-Identifier: Apache-2.0
"""Ways to reach a device; the contract is in :mod:`instinfer.host.transport.base`."""
