# SPDX-License-Identifier: Apache-2.0
"""The flash channel: request queues, die scheduler, bus sequencer, slot ring, page encoder."""
