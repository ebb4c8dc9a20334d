# SPDX-License-Identifier: Apache-2.0
"""One drive: what a policy asks of its buses, dies and tail core, and how long that takes."""
