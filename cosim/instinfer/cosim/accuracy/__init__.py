# SPDX-License-Identifier: Apache-2.0
"""Perplexity and copy test of a real model whose attention follows a policy, in the engine's arithmetic."""
